"""Low-rank adapters: what is saved is what `peft` reads, and what `peft` saved is read here, with the same logits."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import error, random_qwen, seeing_config, small_config, tokens
from tuning_support import small_checkpoint

import minqwen
from minqwen.errors import QwenError
from minqwen.lora import TARGETS, Adapter, merge
from minqwen.verify import official_modules


def moved(model, rank=3, **options):
    """An adapter that does something: B is not nothing any more."""
    adapter = Adapter(model, rank, **options)
    with torch.no_grad():
        for _, B in adapter.pairs.values():
            B.normal_(std=0.3, generator=torch.Generator().manual_seed(len(B)))
    return adapter


@pytest.fixture
def model():
    return random_qwen(seeing_config())


@torch.no_grad()
def test_it_begins_as_nothing_and_can_be_merged_and_let_go(model):
    ids, before = tokens(1, 12), model(tokens(1, 12))
    assert model(ids).equal(before) and Adapter(model, 4).detach() is None
    adapter = moved(model)
    beside = model(ids)
    assert error(beside, before) > 0.01
    adapter.detach()
    assert model(ids).equal(before)
    adapter.merge()
    assert error(model(ids), beside) < 2e-5
    with pytest.raises(QwenError, match="in the weights already.*: go on without merge"):
        adapter.merge()
    assert error(model(ids), beside) < 2e-5
    assert model.state_dict().keys() == random_qwen(seeing_config()).state_dict().keys()


def test_it_begins_as_that_of_peft_by_its_seed(model):
    one, other = Adapter(model, 64), Adapter(model, 64, seed=1)
    for name, (A, _) in one.pairs.items():
        most = A.shape[1] ** -0.5
        assert 0.9 * most < A.abs().max() <= most and error(A.var(), torch.tensor(most ** 2 / 3)) < 0.1
        assert not A.equal(other.pairs[name][0])


@torch.no_grad()
def test_an_adapter_of_some_layers_leaves_the_others(model, tmp_path):
    moved(model).save(tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    save_file({name: x for name, x in load_file(path).items() if ".layers.3." in name}, path)
    other = random_qwen(seeing_config())
    before = {name: x.clone() for name, x in other.state_dict().items()}
    merge(other, tmp_path)
    changed = {name for name, x in other.state_dict().items() if not x.equal(before[name])}
    assert changed and all(".layers.3." in name for name in changed)


@torch.no_grad()
def test_only_the_named_matrices_change(model):
    before = {name: x.clone() for name, x in model.state_dict().items()}
    adapter = moved(model, targets=["o_proj", "in_proj_a"])
    assert all(name.endswith(("o_proj", "in_proj_a")) for name in adapter.pairs) and len(adapter.pairs) == 4
    adapter.merge()
    changed = {name for name, x in model.state_dict().items() if not x.equal(before[name])}
    assert changed == {f"{name}.weight" for name in adapter.pairs}


def test_gradients_reach_the_adapter_alone_and_in_float32(model):
    model.bfloat16()
    adapter = Adapter(model, 2)
    model(tokens(1, 9)).float().square().mean().backward()
    assert {name.rpartition(".")[2] for name in adapter.pairs} == set(TARGETS)
    for A, B in adapter.pairs.values():
        assert A.dtype == B.grad.dtype == torch.float32 and B.grad.abs().max() > 0
    assert all(p.grad is None for p in model.parameters())


@torch.no_grad()
def test_merging_rounds_once(model):
    model.bfloat16()
    adapter = moved(model, targets=["down_proj"])
    name, (A, B) = next(iter(adapter.pairs.items()))
    weight = model.get_submodule(name).weight
    wanted = (weight.double() + adapter.scale * B.double() @ A.double()).bfloat16()
    adapter.merge()
    assert (weight != wanted).float().mean() < 0.01


# ---------------------------------------------------------------------------------------------------------- with peft


def theirs(folder, kind="Qwen3_5ForConditionalGeneration"):
    pytest.importorskip("transformers", minversion="5.23")
    return getattr(official_modules(), kind).from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("sees", [True, False])
@torch.no_grad()
def test_peft_loads_what_is_saved_here(tmp_path, sees):
    peft = pytest.importorskip("peft")
    model = random_qwen((seeing_config if sees else small_config)(mtp_num_hidden_layers=0))
    minqwen.save_model(model, tmp_path / "base")
    adapter, ids = moved(model), tokens(1, 15)
    adapter.save(tmp_path / "adapter", tmp_path / "base")
    base = theirs(tmp_path / "base", "Qwen3_5ForConditionalGeneration" if sees else "Qwen3_5ForCausalLM")
    before = base(ids).logits
    loaded = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert error(loaded(ids).logits, model(ids)) < 2e-5 and error(before, model(ids)) > 0.01
    settings = peft.PeftConfig.from_pretrained(tmp_path / "adapter")
    assert settings.r == 3 and settings.lora_alpha == 6 and set(settings.target_modules) == set(TARGETS)
    ours = minqwen.load_model(tmp_path / "base")
    merge(ours, tmp_path / "adapter")
    assert error(ours(ids), model(ids)) < 2e-5


@pytest.mark.parametrize("kind", ["Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"])
@pytest.mark.parametrize("rslora", [False, True])
@torch.no_grad()
def test_what_peft_saved_is_merged_here(tmp_path, kind, rslora):
    peft = pytest.importorskip("peft")
    folder, ids = small_checkpoint(tmp_path / "base"), tokens(1, 15, 256)
    lora = peft.LoraConfig(r=4, lora_alpha=5, target_modules=["q_proj", "in_proj_qkv", "in_proj_b", "down_proj"],
                           init_lora_weights=False, use_rslora=rslora)
    tuned = peft.get_peft_model(theirs(folder, kind), lora)
    tuned.save_pretrained(tmp_path / "adapter")
    model = minqwen.load_model(folder)
    before = model(ids)
    merge(model, tmp_path / "adapter")
    assert error(model(ids), tuned(ids).logits) < 2e-5 and error(before, model(ids)) > 0.01


# ------------------------------------------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("options, words", [
    ({"rank": 0}, "rank of an adapter is a whole number from 1"),
    ({"rank": -4}, "rank of an adapter is a whole number from 1"),
    ({"targets": ["q_proj", "qkv"]}, "no matrix 'qkv' that can have an adapter; it has q_proj, k_proj"),
    ({"targets": []}, "no matrix ''"),
    ({"rank": 2.5}, "whole number from 1 on, such as 16, and not 2.5"),
    ({"rank": True}, "whole number from 1 on, such as 16, and not True"),
    ({"alpha": 0}, "alpha of an adapter, .*, is a number above 0, such as 32, and not 0"),
    ({"alpha": -8.0}, "is a number above 0, such as 32, and not -8.0"),
    ({"alpha": math.nan}, "is a number above 0, such as 32, and not nan"),
    ({"alpha": math.inf}, "is a number above 0, such as 32, and not inf"),
    ({"alpha": "8"}, "is a number above 0, such as 32, and not '8'"),
])
def test_adapters_that_cannot_be(model, options, words):
    with pytest.raises(QwenError, match=words):
        Adapter(model, **options)


def test_quantized_models_have_none(model):
    with pytest.raises(QwenError, match="are quantized .*take the checkpoint in bfloat16"):
        Adapter(minqwen.quantize(model, bits=8))


def settings_of(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return change


def cut(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("change, words", [
    (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json is missing"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "is no whole adapter"),
    (cut, "is no whole adapter"),
    (settings_of(r="many"), "rank of an adapter is a whole number from 1 on, such as 16, and not 'many'"),
    (settings_of(r=3.5), "rank of an adapter is a whole number from 1 on, such as 16, and not 3.5"),
    (settings_of(lora_alpha=None), "is no whole adapter"),
    (settings_of(lora_alpha=math.nan), "is a number above 0, such as 6, and not nan"),
    (settings_of(rank_pattern={"q_proj": 8}), r"not known here \(rank_pattern is .*\): load it with peft"),
    (settings_of(alpha_pattern={"q_proj": 8}), r"not known here \(alpha_pattern is .*\): load it with peft"),
    (settings_of(use_dora=True), r"not known here \(use_dora is True\): load it with peft"),
    (settings_of(init_lora_weights="pissa"), r"not known here \(init_lora_weights is 'pissa'\): load it with peft"),
    (settings_of(peft_type="IA3"), "peft_type is 'IA3'"),
    (settings_of(bias="all"), "bias is 'all'"),
    (settings_of(modules_to_save=["lm_head"]), "modules_to_save is"),
    (settings_of(r=5), r"is for another model: of .*lora_A it has \(3, 64\), and here is place for \(5, 64\)"),
])
def test_folders_that_hold_no_adapter_for_this_model(model, tmp_path, change, words):
    Adapter(model, 3).save(tmp_path, "base")
    change(tmp_path)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(QwenError, match=words) as told:
        merge(model, tmp_path)
    assert "\n" not in str(told.value)
    assert all(x.equal(before[name]) for name, x in model.state_dict().items())


def test_an_adapter_for_another_model(model, tmp_path):
    Adapter(random_qwen(seeing_config(num_hidden_layers=8)), 3).save(tmp_path, "base")
    with pytest.raises(QwenError, match=r"is for another model: of .*layers.4.*, and here is place for None"):
        merge(model, tmp_path)
