"""A model that `transformers` has loaded, on the very same parameters: whatever one sees of it, the other sees too."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from support import error, prompt, random_qwen, seeing_config, small_config, tokens

import minqwen
from minqwen.chat import NANO
from minqwen.errors import QwenError
from minqwen.verify import official_modules, official_twin

pytest.importorskip("transformers", minversion="5.23")
QUESTION = "Ann has a red cup. Ann now has a gold key. What does Ann have?"


def loaded(folder=NANO, kind="Qwen3_5ForConditionalGeneration", **options):
    return getattr(official_modules(), kind).from_pretrained(folder, **options)


def without_drafts(config):
    return replace(config, text_config=replace(config.text_config, mtp_num_hidden_layers=0))


@pytest.fixture(scope="module")
def processor():
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(NANO)


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(NANO)


def check_shared(qwen, model):
    """Every parameter is the very object that is in theirs."""
    ours, theirs = ({id(parameter) for parameter in one.parameters()} for one in (qwen.model, model))
    assert ours == theirs


def learning(model):
    """{name: whether it takes a gradient}"""
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


# ------------------------------------------------------------------------------------------------------ what is shared


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_parameters_are_the_same_objects(frozen, training, processor):
    model = loaded().train(training).requires_grad_(not frozen)
    model.model.visual.requires_grad_(False)
    before = learning(model)
    qwen = minqwen.from_transformers(model, processor)
    check_shared(qwen, model)
    assert qwen.source is model and minqwen.verify(qwen).ok
    check_shared(qwen, model)
    assert learning(model) == learning(qwen.model) == before and set(before.values()) == {False, not frozen}
    assert model.training == qwen.model.training == training


def test_a_change_of_a_weight_is_seen_by_both():
    model = loaded()
    qwen, ids = minqwen.from_transformers(model), tokens(2, 9)
    with torch.no_grad():
        before = qwen.model(ids)
        model.model.language_model.layers[3].self_attn.o_proj.weight.mul_(2)
        assert error(qwen.model(ids), before) > 0.01 and error(qwen.model(ids), model(ids).logits) < 2e-5
        qwen.model.model.language_model.layers[0].linear_attn.A_log.zero_()
        assert error(qwen.model(ids), model(ids).logits) < 2e-5
    model.bfloat16()
    assert qwen.model.head_weight.dtype == torch.bfloat16


def test_one_optimizer_serves_both():
    model = loaded().train()
    qwen, ids = minqwen.from_transformers(model), tokens(1, 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    first = torch.nn.functional.cross_entropy(qwen.model(ids)[0, :-1], ids[0, 1:])
    first.backward()
    assert all(parameter.grad is not None for name, parameter in model.named_parameters() if "visual" not in name)
    optimizer.step()
    with torch.no_grad():
        assert torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:]) < first


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("sees", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_folders_that_transformers_saved(tmp_path, tied, sees, dtype):
    config = without_drafts((seeing_config if sees else small_config)(tie_word_embeddings=tied))
    source = official_twin(random_qwen(config), pictures=sees).to(getattr(torch, dtype))
    source.save_pretrained(tmp_path)
    model = loaded(tmp_path, type(source).__name__)
    qwen = minqwen.from_transformers(model)
    check_shared(qwen, model)
    assert qwen.config == replace(config, text_config=replace(config.text_config, dtype=dtype))
    assert "lm_head.weight" in dict(qwen.model.named_parameters()) or tied
    report = minqwen.verify(qwen)
    assert report.ok, report.failed
    assert "the model it was made from" in str(report)


def test_a_head_that_is_not_what_the_configuration_says():
    """`transformers` does not tie two tensors that differ: what it does counts."""
    model = loaded()
    model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
    qwen, ids = minqwen.from_transformers(model), tokens(1, 9)
    check_shared(qwen, model)
    assert not qwen.config.tie_word_embeddings
    with torch.no_grad():
        assert error(qwen.model(ids), model(ids).logits) < 2e-5


def test_the_language_model_of_a_whole_one(tokenizer):
    model = loaded(kind="Qwen3_5ForCausalLM")
    qwen = minqwen.from_transformers(model, tokenizer)
    check_shared(qwen, model)
    assert qwen.config.vision_config is None and qwen.chat(QUESTION) == minqwen.load().chat(QUESTION)


def test_a_merged_adapter():
    peft = pytest.importorskip("peft")
    lora = peft.LoraConfig(r=4, target_modules=["q_proj", "in_proj_qkv", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(loaded(), lora)
    with pytest.raises(QwenError, match=r"merge_and_unload\(\) first"):
        minqwen.from_transformers(model)
    with pytest.raises(QwenError, match="merge them first"):
        minqwen.from_transformers(model.get_base_model())
    merged, ids = model.merge_and_unload(), tokens(1, 30)
    qwen = minqwen.from_transformers(merged)
    check_shared(qwen, merged)
    with torch.no_grad():
        logits = merged(ids).logits
        assert error(qwen.model(ids), logits) < 2e-5 and error(minqwen.load().model(ids), logits) > 0.01


def test_verify_sees_settings_that_were_not_understood():
    """A twin built from our own configuration would agree with any misreading: the source does not."""
    model = loaded()
    qwen = minqwen.from_transformers(model)
    model.model.language_model.norm.eps = model.model.language_model.layers[2].input_layernorm.eps = 1.0
    (failed,) = minqwen.verify(qwen).failed
    assert failed.compared == "the model it was made from"


def test_pictures(tmp_path):
    model = official_twin(random_qwen(without_drafts(seeing_config())), pictures=True)
    inputs = prompt([3, (4, 6), 5], [2])
    qwen = minqwen.from_transformers(model)
    theirs = model(**inputs, mm_token_type_ids=(inputs["input_ids"] == 290).int()).logits
    real = inputs["attention_mask"].bool()
    assert error(qwen.model(**inputs)[real], theirs[real]) < 2e-5


# ------------------------------------------------------------------------------------------------ all that is done here


@pytest.fixture(scope="module")
def adopted(processor):
    """As a user has it: parameters that would take gradients."""
    return minqwen.from_transformers(loaded(), processor)


@pytest.fixture(scope="module")
def nano():
    return minqwen.load()


def test_chat(adopted, nano):
    picture = "data/media/three_shapes.png"
    assert adopted.chat(QUESTION) == nano.chat(QUESTION)
    assert adopted.chat("What colour is the circle?", images=[picture]) == \
        nano.chat("What colour is the circle?", images=[picture])
    assert adopted.chat("What is 478 + 356?", thinking=True).thinking == \
        nano.chat("What is 478 + 356?", thinking=True).thinking
    assert adopted.defaults == nano.defaults and adopted.tokenizer.stop_ids == nano.tokenizer.stop_ids
    assert adopted.tokenizer.added_tokens == nano.tokenizer.added_tokens and adopted.processor == nano.processor
    assert adopted.folder is None and repr(adopted).startswith("This model: ")
    talk = adopted.conversation()
    assert talk("Ann has a red cup.") is not None and "cup" in talk("What does Ann have?")


def test_looking_inside(adopted, nano):
    ours, theirs = (minqwen.trace(qwen).run("Ann has a red cup.") for qwen in (nano, adopted))
    assert error(theirs.layers[0].state(5, 2), ours.layers[0].state(5, 2)) < 1e-6
    edit = minqwen.Edit("beta", layer=0, token=3)
    with minqwen.edited(adopted, edit):
        assert isinstance(adopted.chat(QUESTION), str)
    assert minqwen.verify(adopted).ok


@pytest.mark.parametrize("name", ["AttentionExplorer", "GateExplorer", "MemoryLab", "StateExplorer"])
def test_explorers(adopted, name, tmp_path):
    shown = getattr(minqwen, name)(adopted, QUESTION)
    assert shown.to_html(tmp_path / "page.html").exists()


def test_vision_explorer(adopted, tmp_path):
    shown = minqwen.VisionExplorer(adopted, [{"role": "user", "content": [
        {"type": "image", "image": "data/media/three_shapes.png"}, {"type": "text", "text": "what is this?"}]}])
    assert shown.to_html(tmp_path / "page.html").exists()


# -------------------------------------------------------------------------------------------- tokenizers and processors


def test_the_processor_that_was_given_is_compared_with(processor, tokenizer):
    """Its own settings, whatever they are; where there is none, that is remarked."""
    prepared = [check for check in minqwen.verify(minqwen.from_transformers(loaded(), processor)).checks
                if check.compared == "official processor"]
    assert len(prepared) == 5 and all(check.ok for check in prepared)
    other = copy.deepcopy(processor)
    qwen = minqwen.from_transformers(loaded(), other)
    other.image_processor.image_mean = [0.4, 0.5, 0.5]                          # after we have read it
    assert {check.piece for check in minqwen.verify(qwen).failed} == {"pixels of pictures"}
    for given in (None, tokenizer):
        report = minqwen.verify(minqwen.from_transformers(loaded(), given))
        assert report.ok and any("not given what AutoProcessor loads" in remark for remark in report.remarks)


def test_without_a_tokenizer():
    qwen = minqwen.from_transformers(loaded())
    assert qwen.tokenizer is None and qwen.processor is None
    with pytest.raises(QwenError, match="no tokenizer"):
        qwen.chat("Hi")


def test_a_tokenizer_alone_prepares_no_pictures(tokenizer):
    qwen = minqwen.from_transformers(loaded(), tokenizer)
    assert qwen.chat(QUESTION) == "a gold key"
    with pytest.raises(QwenError, match="how its pictures are prepared"):
        qwen.chat("what is this?", images=["data/media/three_shapes.png"])


def test_what_was_done_to_a_tokenizer(tokenizer):
    """Tokens and a template of the user's own are taken along; what a call asked for is not."""
    from copy import deepcopy

    tokenizer = deepcopy(tokenizer)
    tokenizer.add_tokens(["<new>"], special_tokens=True)
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}<new>{% endfor %}"
    tokenizer("Ann has a red cup.", truncation=True, max_length=2, padding="max_length")
    ours = minqwen.from_transformers(loaded(), tokenizer).tokenizer
    text = "Ann has a red cup.<new> Bob"
    assert ours.encode(text) == tokenizer.encode(text) and ours.encode(text).count(ours.id_of("<new>")) == 1
    assert ours.render([{"role": "user", "content": "Hi"}]) == "Hi<new>"


def test_a_folder_saved_after_a_call_that_truncated(tokenizer, tmp_path):
    """`transformers` writes into tokenizer.json how its last call cut; a chat must not be cut so."""
    tokenizer("Ann has a red cup.", truncation=True, max_length=2, padding="max_length")
    tokenizer.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["truncation"]
    ours = minqwen.Tokenizer.from_folder(tmp_path)
    assert ours.decode(ours.encode("Ann has a red cup.")) == "Ann has a red cup."
    assert ours.decode(ours.encode("Ann has a red cup.", special=False)) == "Ann has a red cup."
    tokenizer("a")


def test_settings_of_generation(tokenizer):
    model = loaded()
    model.generation_config.update(do_sample=True, temperature=0.7, top_k=5, top_p=0.5)
    qwen = minqwen.from_transformers(model, tokenizer)
    assert {"temperature": 0.7, "top_k": 5, "top_p": 0.5}.items() <= qwen.defaults.items()


# ------------------------------------------------------------------------------------------------------ what is refused


def quantized(model):
    weight = model.model.language_model.layers[0].mlp.gate_proj
    weight.weight = torch.nn.Parameter(weight.weight.to(torch.float8_e4m3fn), requires_grad=False)


def quantized_otherwise(model):
    del model.model.language_model.layers[0].mlp.gate_proj.weight
    model.config.quantization_config = {"quant_method": "gptq"}


def elsewhere(model):
    model.model.visual.to("meta")


def of_another_shape(model):
    model.lm_head.weight = model.model.language_model.embed_tokens.weight = torch.nn.Parameter(torch.zeros(7, 128))


def with_other_positions(model):
    model.config.text_config.rope_parameters["rope_type"] = "dynamic"


@pytest.mark.parametrize("change, says", [
    (quantized, "are quantized .*gate_proj.weight is a Parameter of torch.float8_e4m3fn"),
    (quantized_otherwise, "are quantized .*it has no .*gate_proj.weight"),
    (elsewhere, "not in memory"),
    (of_another_shape, r"embed_tokens.weight is \(7, 128\), but"),
    (with_other_positions, "rope_type"),
])
def test_models_that_cannot_be(change, says):
    model = loaded()
    change(model)
    with pytest.raises(QwenError, match=says) as caught:
        minqwen.from_transformers(model)
    assert "\n" not in str(caught.value)


def test_what_is_no_such_model(tokenizer):
    model = loaded()
    for other, says in ((model.model, "type Qwen3_5Model"), (torch.nn.Linear(2, 2), "type Linear"),
                        (str(NANO), "minqwen.load"), (None, "type NoneType"), (minqwen.load(), "type Assistant")):
        with pytest.raises(QwenError, match=says):
            minqwen.from_transformers(other)
    for other in (str(NANO), object(), torch.nn.Linear(2, 2)):
        with pytest.raises(QwenError, match="is no tokenizer"):
            minqwen.from_transformers(model, other)


def official():
    transformers = pytest.importorskip("transformers", minversion="5.23")
    from support import SMALL
    kinds = ["linear_attention"] * 3 + ["full_attention"]
    return transformers.Qwen3_5ForCausalLM(transformers.Qwen3_5TextConfig(**SMALL, layer_types=kinds))


def test_a_parameter_that_only_looks_like_one_is_refused():
    """Quantized tensors may say that they are bfloat16, and be a class of their own."""
    class Packed(torch.nn.Parameter):
        pass

    model = official()
    model.model.norm.weight = Packed(model.model.norm.weight.detach())
    with pytest.raises(QwenError, match="model.language_model.norm.weight is a Packed"):
        minqwen.from_transformers(model)


def test_a_model_on_several_devices_is_refused(monkeypatch):
    model, where = official(), property(lambda self: torch.device("cuda:0" if self.dim() == 1 else "cpu"))
    monkeypatch.setattr(torch.nn.Parameter, "device", where, raising=False)   # there may be but one here
    with pytest.raises(QwenError, match="several devices .cpu, cuda:0."):
        minqwen.from_transformers(model)
