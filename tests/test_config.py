"""Numbers, names and shapes of the published models; everything here runs on the meta device, without memory."""

import json
import re
import warnings
from collections import Counter
from pathlib import Path

import pytest
import torch
from support import SMALL, SMALL_VISION, small_config

from minqwen.config import OF_MIXTURES, Config, TextConfig, VisionConfig
from minqwen.model import Qwen, rotary_angles

PUBLISHED = json.loads(Path(__file__).with_name("official_sizes.json").read_text())   # from the checkpoints' own files
SHARED = PUBLISHED.pop("every size")
sizes = pytest.mark.parametrize("name", PUBLISHED)


def official_json(name):
    """The published `config.json`, put together again."""
    size, kind, family = PUBLISHED[name], "qwen3_5", "Qwen3_5"
    if has_experts(name):
        kind, family = "qwen3_5_moe", "Qwen3_5Moe"
    return {**SHARED["config"], "architectures": [f"{family}ForConditionalGeneration"], "model_type": kind,
            "tie_word_embeddings": size["tie_word_embeddings"],
            "text_config": {"model_type": f"{kind}_text", **SHARED["text_config"], **size["text_config"]},
            "vision_config": {"model_type": kind, **SHARED["vision_config"], **size["vision_config"]}}


def has_experts(name):
    return "num_experts" in PUBLISHED[name]["text_config"]


def on_meta(config):
    with torch.device("meta"):
        return Qwen(config)


@sizes
def test_named_sizes_are_the_published_ones(name):
    config = Config.named(name)
    for part in ("text_config", "vision_config"):
        for key, value in {**SHARED[part], **PUBLISHED[name][part]}.items():
            assert getattr(getattr(config, part), key) == value, (part, key)
    for key in SHARED["config"].keys() - {"model_type"}:
        assert getattr(config, key) == SHARED["config"][key]
    assert config.tie_word_embeddings == PUBLISHED[name]["tie_word_embeddings"]
    assert config == Config.from_dict(official_json(name))


def test_names_may_carry_their_owner_and_base():
    assert Config.named("Qwen/Qwen3.5-4B-Base") == Config.named("Qwen3.5-4B")


@sizes
def test_three_layers_of_four_are_delta_nets(name):
    kinds = Config.named(name).text_config.layer_types
    assert kinds == (["linear_attention"] * 3 + ["full_attention"]) * (len(kinds) // 4)


@sizes
def test_parameters_and_tensors_are_as_many_as_published(name):
    state = on_meta(Config.named(name)).state_dict()
    sizes, tensors = Counter(), Counter()
    for key, tensor in state.items():
        part = {"model.visual": "vision", "mtp": "mtp"}.get(re.match(r"(model\.)?\w+", key)[0], "text")
        sizes[part] += tensor.numel()
        tensors[part] += 1
    assert sizes == PUBLISHED[name]["parameters"]
    assert tensors == PUBLISHED[name]["tensors"]


@sizes
def test_names_and_shapes_are_the_official_ones(name):
    """The language model's and the tower's; `transformers` does not build the head for multi-token prediction."""
    transformers = pytest.importorskip("transformers", minversion="5.23")
    with torch.device("meta"):
        family = "Qwen3_5Moe" if has_experts(name) else "Qwen3_5"
        config = getattr(transformers, f"{family}Config").from_dict(official_json(name))
        official = getattr(transformers, f"{family}ForConditionalGeneration")(config)
    theirs = {k: tuple(t.shape) for k, t in official.state_dict().items()}
    if PUBLISHED[name]["tie_word_embeddings"]:
        del theirs["lm_head.weight"]
    ours = {k: tuple(t.shape) for k, t in on_meta(Config.named(name)).state_dict().items()}
    assert {k: shape for k, shape in ours.items() if not k.startswith("mtp.")} == theirs


@sizes
def test_names_and_shapes_of_the_head_for_multi_token_prediction(name):
    """mtp.*: one layer of attention, as the model's own - with experts, too - and what leads into it and out of it."""
    ours = {k: tuple(t.shape) for k, t in on_meta(Config.named(name)).state_dict().items()}
    width = Config.named(name).text_config.hidden_size
    layer = "model.language_model.layers.3."
    attention = {k.replace(layer, "mtp.layers.0."): shape for k, shape in ours.items() if k.startswith(layer)}
    assert len(attention) == (15 if has_experts(name) else 11)
    norms = dict.fromkeys(("mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight"),
                          (width,))
    head = {k: shape for k, shape in ours.items() if k.startswith("mtp.")}
    assert head == attention | norms | {"mtp.fc.weight": (width, 2 * width)}


@sizes
def test_round_trip(name):
    config = Config.named(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


NEITHER_READ_NOR_KEPT = {  # beside what our numbers are: said in every official file, and for others to find in ours
    "attention_dropout", "attn_output_gate", "initializer_range", "mamba_ssm_dtype", "mlp_only_layers", "model_type",
    "mtp_use_dedicated_embeddings", "use_cache",
}  # fmt: skip


@sizes
def test_every_key_of_the_official_file_is_written(name):
    """As published with Qwen3.5; and `partial_rotary_factor` where Qwen3.6 has it, too."""
    official, ours = official_json(name), Config.named(name).to_dict()
    keys = official["text_config"].keys() | NEITHER_READ_NOR_KEPT | {"layer_types", "tie_word_embeddings"}
    if has_experts(name):
        keys |= {"router_aux_loss_coef"}
    assert ours["text_config"].keys() == keys | {"partial_rotary_factor"}
    assert ours["vision_config"].keys() == official["vision_config"].keys() | {
        "initializer_range", "deepstack_visual_indexes"}
    assert ours.keys() == official.keys()
    for part in ("text_config", "vision_config"):
        for key, value in official[part].items():
            assert ours[part][key] == value, (part, key)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Config.from_dict(ours)


def test_trap_38_the_rotary_part_is_said_where_other_engines_look_for_it():
    config = small_config(rope_parameters=SMALL["rope_parameters"] | {"partial_rotary_factor": 0.75})
    text = config.to_dict()["text_config"]
    assert text["partial_rotary_factor"] == text["rope_parameters"]["partial_rotary_factor"] == 0.75
    del text["rope_parameters"]["partial_rotary_factor"]
    assert Config.from_dict(config.to_dict() | {"text_config": text}) == config


LINEAR, FULL = ["linear_attention"], ["full_attention"]


@pytest.mark.parametrize("layers, interval", [
    ((LINEAR + FULL) * 3, 2), (FULL * 3, 1), ((2 * LINEAR + FULL) + LINEAR, 3), (3 * LINEAR, 4),
    (FULL + 3 * LINEAR, None), ((LINEAR + FULL) + 2 * LINEAR + FULL, None), (5 * LINEAR, None),
])
def test_trap_38_the_interval_says_what_the_layers_are_or_is_left_out(layers, interval):
    config = small_config(layer_types=layers, num_hidden_layers=len(layers))
    text = config.to_dict()["text_config"]
    assert text.get("full_attention_interval") == interval and text["layer_types"] == layers
    assert Config.from_dict(config.to_dict()) == config
    if interval:                                         # as those read it who look at the interval alone
        del text["layer_types"]
        assert Config.from_dict(config.to_dict() | {"text_config": text}) == config


@pytest.mark.parametrize("config", [
    Config.named("Qwen3.5-0.8B"), Config.named("Qwen3.5-27B"), Config.named("Qwen3.5-397B-A17B"),
    small_config(layer_types=["full_attention"] + ["linear_attention"] * 3),
], ids=["0.8B", "27B", "397B-A17B", "small, text only"])
def test_transformers_reads_what_we_write(config, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.23")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    mixture = config.text_config.num_experts > 0
    assert type(theirs).__name__ == ("Qwen3_5MoeConfig" if mixture else "Qwen3_5Config")
    assert theirs.tie_word_embeddings == config.tie_word_embeddings
    others = {"intermediate_size"} if mixture else set(OF_MIXTURES)
    for key, value in vars(config.text_config).items():
        if key not in {"full_attention_interval", "mtp_num_hidden_layers", "dtype"} | others:   # not kept by them
            assert getattr(theirs.text_config, key) == value, key
    for key, value in vars(config.vision_config).items() if config.vision_config else ():
        if key != "deepstack_visual_indexes":                                              # nor this, which is empty
            assert getattr(theirs.vision_config, key) == value, key


def test_we_read_what_transformers_writes(tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.23")
    transformers.Qwen3_5TextConfig(**SMALL).save_pretrained(tmp_path / "text")
    text = Config.from_dict(json.loads((tmp_path / "text" / "config.json").read_text()))
    for key, value in SMALL.items():
        assert getattr(text.text_config, key) == value, key
    config = transformers.Qwen3_5Config(text_config=SMALL, vision_config=SMALL_VISION, tie_word_embeddings=True)
    config.save_pretrained(tmp_path / "whole")
    whole = Config.from_dict(json.loads((tmp_path / "whole" / "config.json").read_text()))
    assert whole.text_config == text.text_config and whole.vision_config == VisionConfig(**SMALL_VISION)


WRONG = {
    "another model": {"model_type": "llama"},
    "no model type": {"model_type": None},
    "layers that are not listed": {"num_hidden_layers": 5, "layer_types": ["full_attention"] * 4},
    "an unknown layer": {"num_hidden_layers": 1, "layer_types": ["mamba"]},
    "value heads that do not divide": {"linear_num_value_heads": 7},
    "query heads that do not divide": {"num_attention_heads": 5},
    "another activation": {"hidden_act": "gelu"},
    "another rotary scaling": {"rope_parameters": {**SMALL["rope_parameters"], "rope_type": "linear", "factor": 2.0}},
}
WRONG_VISION = {  # and what the sentence says
    "heads that cannot be rotated in pairs": ({"num_heads": 8}, r"hidden_size \(48\) .* 4 num_heads \(32\)"),
    "learned positions that are no square": ({"num_position_embeddings": 35}, "must be a square, not 35"),
    "another activation": ({"hidden_act": "silu"}, "'gelu_pytorch_tanh', not 'silu'"),
    "features taken from inside": ({"deepstack_visual_indexes": [1, 2]}, "deepstack_visual_indexes must be empty"),
    "a width that is not the language model's": ({"out_hidden_size": 80}, r"out_hidden_size \(80\) .*\(64\)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_built_is_told_in_one_sentence(wrong):
    with pytest.raises(ValueError, match=r"^[A-Z][^\n]+\.$"):
        Config.from_dict({"model_type": "qwen3_5_text", **SMALL, **WRONG[wrong]})


@pytest.mark.parametrize("wrong", WRONG_VISION)
def test_a_tower_that_cannot_be_built_is_told_in_one_sentence(wrong):
    numbers, says = WRONG_VISION[wrong]
    with pytest.raises(ValueError, match=rf"^This configuration cannot be built: [^\n]*{says}[^\n]*\.$"):
        Config.from_dict({"model_type": "qwen3_5", "text_config": SMALL, "vision_config": SMALL_VISION | numbers})


@pytest.mark.parametrize("section", [None, [3, 3, 2], [11, 11, 10], [1, 1, 1]])
def test_sections_are_read_as_the_official_code_reads_them(section):
    """Also where they are missing, or do not add up to half of the rotated dimensions."""
    official = pytest.importorskip("transformers.models.qwen3_5.modeling_qwen3_5")
    rope = {**SMALL["rope_parameters"], "mrope_section": section}
    text = {**SMALL, "rope_parameters": {name: value for name, value in rope.items() if value is not None}}
    positions = torch.arange(30).view(3, 1, 10)
    angles = rotary_angles(positions, Config.from_dict({"model_type": "qwen3_5_text", **text}).text_config)
    rotary = official.Qwen3_5TextRotaryEmbedding(official.Qwen3_5TextConfig(**text))
    cos, _ = rotary(torch.zeros(()), positions)
    torch.testing.assert_close(torch.cat((angles, angles), dim=-1).squeeze(2).cos(), cos)


ROPE = SMALL["rope_parameters"]
BESIDE = {name: value for name, value in SMALL.items() if name != "rope_parameters"}
PLACES = {
    "theta beside": {"rope_parameters": {"mrope_section": [3, 3, 2], "partial_rotary_factor": 0.5}, "rope_theta": 500},
    "theta in both": {"rope_parameters": ROPE, "rope_theta": 500.0},
    "factor beside": {"rope_parameters": {"mrope_section": [3, 3, 2]}, "rope_theta": 500, "partial_rotary_factor": 0.5},
    "all beside": {"rope_theta": 500.0, "partial_rotary_factor": 0.75},
    "theta alone": {"rope_theta": 500.0},
    "nowhere": {}, "null": {"rope_parameters": None},
    "rope_scaling": {"rope_scaling": ROPE | {"rope_theta": 77.0}},
    "rope_scaling before rope_parameters": {"rope_scaling": {"rope_theta": 77.0, "type": "default"},
                                            "rope_parameters": ROPE},
    "rope_scaling null": {"rope_scaling": None, "rope_parameters": ROPE},
    "the old name of the type": {"rope_parameters": ROPE | {"rope_type": "default", "type": "linear"}},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_trap_32_rotary_settings_are_found_wherever_they_are(place):
    official = pytest.importorskip("transformers.models.qwen3_5.modeling_qwen3_5")
    text, positions = BESIDE | PLACES[place], torch.arange(30).view(3, 1, 10)
    angles = rotary_angles(positions, Config.from_dict({"model_type": "qwen3_5_text", **text}).text_config)
    rotary = official.Qwen3_5TextRotaryEmbedding(official.Qwen3_5TextConfig(**json.loads(json.dumps(text))))
    cos, _ = rotary(torch.zeros(()), positions)
    torch.testing.assert_close(torch.cat((angles, angles), dim=-1).squeeze(2).cos(), cos)


def whole(text=(), vision=(), **outside):
    return {"model_type": "qwen3_5", "text_config": SMALL | dict(text), "vision_config": SMALL_VISION | dict(vision),
            **outside}


def mixture(kind="qwen3_5_moe", **text):
    """The same with eight experts."""
    return {**whole({"num_experts": 8, "num_experts_per_tok": 3, **text}), "model_type": kind}


OF_3_6 = {  # what Qwen3.6-27B says beside numbers, and what `transformers` and others add
    "text": {"attention_dropout": 0.0, "attn_output_gate": True, "bos_token_id": 248044, "initializer_range": 0.02,
             "mamba_ssm_dtype": "float32", "mlp_only_layers": [], "mtp_use_dedicated_embeddings": False,
             "output_gate_type": "swish", "pad_token_id": None, "partial_rotary_factor": 0.5, "use_cache": True,
             "model_type": "qwen3_5_text"},
    "vision": {"initializer_range": 0.02, "model_type": "qwen3_5", "rope_parameters": {"rope_type": "axial",
                                                                                      "rope_theta": 10000.0}},
    "architectures": ["Qwen3_5ForConditionalGeneration"], "transformers_version": "4.57.1",
    "language_model_only": False, "tie_word_embeddings": True, "_name_or_path": "", "unsloth_fixed": True,
}  # fmt: skip


def test_what_changes_nothing_is_read_without_a_word(recwarn):
    assert Config.from_dict(whole(**OF_3_6)) == Config.from_dict(whole(tie_word_embeddings=True))
    assert not recwarn


@pytest.mark.parametrize("key, given", [
    ("who_knows", whole({"who_knows": 1})), ("who_knows", whole(vision={"who_knows": [1]})),
    ("who_knows", whole(who_knows="x")), ("rope_theta", whole(rope_theta=500.0)),
    ("hidden_size", whole(hidden_size=64)),
    ("factor", whole({"rope_parameters": ROPE | {"factor": 2.0}})),
    ("vision_config", {"model_type": "qwen3_5_text", **SMALL, "vision_config": SMALL_VISION}),
])
def test_a_key_that_nobody_knows_is_remarked_on(key, given):
    with pytest.warns(UserWarning, match=f"not known here and was not read: {key}[.]$") as told:
        assert Config.from_dict(given).text_config == Config.from_dict(whole()).text_config
    assert warnings.formatwarning(told[0].message, told[0].category, told[0].filename, told[0].lineno) == \
        f"minqwen:0: UserWarning: {told[0].message}\n"                          # one line, and none of our code


@pytest.mark.parametrize("says, given", [
    ("attn_output_gate must be True, not False", whole({"attn_output_gate": False})),
    ("output_gate_type must be 'swish' or 'silu', not 'sigmoid'", whole({"output_gate_type": "sigmoid"})),
    ("mlp_only_layers must be [], not [1]", whole({"mlp_only_layers": [1]})),
    ("num_experts must be 0 in a qwen3_5, not 8", whole({"num_experts": 8})),
    ("num_experts must be 1 or more in a qwen3_5_moe, not 0", mixture(num_experts=0)),
    ("num_experts_per_tok (9) must be at most num_experts (8)", mixture(num_experts_per_tok=9)),
    ("num_experts_per_tok must be a whole number from 1", mixture(num_experts_per_tok=0)),
    ("moe_intermediate_size must be a whole number from 1", mixture(moe_intermediate_size=0)),
    ("shared_expert_intermediate_size must be a whole number", mixture(shared_expert_intermediate_size="wide")),
    ("mlp_only_layers must be [], not [1]", mixture(mlp_only_layers=[1])),
    ("decoder_sparse_step must be 1, not 2", mixture(decoder_sparse_step=2)),
    ("norm_topk_prob must be True, not False", mixture(norm_topk_prob=False)),
    ("use_sliding_window must be False, not True", whole({"use_sliding_window": True})),
    ("sliding_window must be absent, not 4096", whole({"sliding_window": 4096})),
    ("mtp_use_dedicated_embeddings must be False", whole({"mtp_use_dedicated_embeddings": True})),
    ("mamba_ssm_dtype must be 'float32', not 'bfloat16'", whole({"mamba_ssm_dtype": "bfloat16"})),
    ("hidden_act must be 'silu', not 'gelu'", whole({"hidden_act": "gelu"})),
    ("rope_type must be 'default' or 'yarn', not 'mrope'", whole({"rope_parameters": {"type": "mrope"}})),
    ("rope_type must be 'default' or 'yarn', not 'longrope'", whole({"rope_scaling": {"type": "longrope"}})),
    ("rope_parameters must be one object", whole({"rope_parameters": {"full_attention": ROPE}})),
    ("rope_parameters must be an object, not 'x'", whole({"rope_parameters": "x"})),
    ("mrope_interleaved must be true, not False", whole({"rope_parameters": ROPE | {"mrope_interleaved": False}})),
    ("mrope_section must be three whole numbers", whole({"rope_parameters": ROPE | {"mrope_section": [3, 3]}})),
    ("rope_theta must be a number above 0, not None", whole({"rope_parameters": ROPE | {"rope_theta": None}})),
    ("at most 1, not 2", whole({"rope_parameters": ROPE | {"partial_rotary_factor": 2}})),
    ("an even number of a head's 32 dimensions, not 3",
     whole({"rope_parameters": ROPE | {"partial_rotary_factor": 0.1}})),
    ("the vision tower's rope_theta must be 10000, not 500.0.", whole(vision={"rope_theta": 500.0})),
    ("the vision tower's rope_type must be 'axial', not 'yarn'.", whole(vision={"rope_parameters": {"type": "yarn"}})),
    ("hidden_size must be a whole number from 1 to 2147483647, not '64'", whole({"hidden_size": "64"})),
    ("hidden_size must be a whole number from 1 to 2147483647, not True", whole({"hidden_size": True})),
    ("hidden_size must be a whole number from 1 to 2147483647, not 64.5", whole({"hidden_size": 64.5})),
    ("hidden_size must be a whole number from 1 to 2147483647, not -64", whole({"hidden_size": -64})),
    ("vocab_size must be a whole number from 1", whole({"vocab_size": 10**30})),
    ("num_hidden_layers must be a whole number from 1 to 1000", whole({"num_hidden_layers": 10**9})),
    ("depth must be a whole number from 1 to 1000", whole(vision={"depth": 10**9})),
    ("full_attention_interval must be", whole({"full_attention_interval": 0})),
    ("rms_norm_eps must be a number, 0 or more, not '1e-6'", whole({"rms_norm_eps": "1e-6"})),
    ("rms_norm_eps must be a number, 0 or more, not nan", whole({"rms_norm_eps": float("nan")})),
    ("attention_bias must be true or false, not 'no'", whole({"attention_bias": "no"})),
    ("tie_word_embeddings must be true or false", whole(tie_word_embeddings="yes")),
    ("layer_types must be a list of texts", whole({"layer_types": "full_attention"})),
    ("eos_token_id must be", whole({"eos_token_id": "x"})),
    ("image_token_id must be", whole(image_token_id=-1)),
    ("patch_size must be", whole(vision={"patch_size": [4, 8]})),
    ("dtype must be one of float32,", whole({"dtype": "int8"})),
])  # fmt: skip
def test_what_means_another_model_or_nothing_is_refused_by_name(says, given):
    with pytest.raises(ValueError) as error:
        Config.from_dict(given)
    message = str(error.value)
    assert says in message and "\n" not in message and len(message) < 250


def test_numbers_are_taken_where_they_are_unmistakable():
    sizes = {"hidden_size": 64.0, "num_hidden_layers": 4.0, "vocab_size": 300.0}
    config = Config.from_dict(whole(sizes, {"patch_size": [4, 4], "temporal_patch_size": [2], "depth": 3.0}))
    assert config == Config.from_dict(whole())
    assert all(type(getattr(config.text_config, name)) is int for name in sizes)
    assert Config.from_dict(whole({"hidden_act": "swish"})).text_config.hidden_act == "swish"          # which is silu


def test_of_two_dtypes_that_of_the_whole_counts_as_it_does_for_transformers():
    """It is written when weights are saved; that of a part may be left over from before."""
    assert Config.from_dict({**whole({"dtype": "float32"}), "dtype": "bfloat16"}).text_config.dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("outside, name, prefix", [(False, "dtype", "torch."), (False, "torch_dtype", ""),
                                                   (True, "dtype", ""), (True, "torch_dtype", "torch.")])
def test_the_dtype_is_found_under_its_old_name_and_outside(dtype, outside, name, prefix):
    given = {**whole(), "text_config": {key: value for key, value in SMALL.items() if key != "dtype"}}
    (given if outside else given["text_config"])[name] = prefix + dtype
    assert Config.from_dict(given).text_config.dtype == dtype


def test_a_whole_model_may_be_the_language_model_only():
    assert Config.from_dict(whole(language_model_only=True)).vision_config is None


@pytest.mark.parametrize("kind, says", [
    ("qwen4_exp", "whose layers are others"), (["qwen3_5"], "reads Qwen3.5"),
])
def test_models_that_are_easily_taken_for_this_one_are_refused_by_name(kind, says):
    with pytest.raises(ValueError, match=re.escape(repr(kind)) + f".*{says}"):
        Config.from_dict({**whole(), "model_type": kind})


@pytest.mark.parametrize("name, same", [("Qwen3.6-27B", "Qwen3.5-27B"), ("Qwen/Qwen3.8-27B", "Qwen3.5-27B"),
                                        ("Qwen3.6-35B-A3B", "Qwen3.5-35B-A3B")])
def test_later_models_of_this_architecture_have_names(name, same):
    assert Config.named(name) == Config.named(same)


def test_a_mixture_of_experts_may_be_the_language_model_alone():
    text = mixture()["text_config"]
    config = Config.from_dict({"model_type": "qwen3_5_moe_text", **text})
    assert config.text_config == Config.from_dict(mixture()).text_config and config.text_config.num_experts == 8
    assert config.to_dict()["model_type"] == "qwen3_5_moe" and Config.from_dict(config.to_dict()) == config
    assert "3 of 8 experts" in repr(config)


def test_what_a_mixture_of_experts_does_not_say_is_as_in_transformers():
    transformers = pytest.importorskip("transformers", minversion="5.23")
    ours = Config.from_dict({"model_type": "qwen3_5_moe_text"}).text_config
    theirs = transformers.Qwen3_5MoeTextConfig()
    for name in vars(ours).keys() - {"intermediate_size", "full_attention_interval", "mtp_num_hidden_layers", "dtype",
                                     "max_position_embeddings", "rope_parameters", "eos_token_id"}:
        assert getattr(ours, name) == getattr(theirs, name), name


def test_experts_and_an_mlp_do_not_stand_side_by_side(recwarn):
    """What the other kind of model has is left out on reading and on writing; a stray key of experts is remarked on."""
    config = Config.from_dict(mixture(intermediate_size=7, output_router_logits=False))
    assert config == Config.from_dict(mixture()) and "intermediate_size" not in config.to_dict()["text_config"]
    assert not recwarn
    with pytest.warns(UserWarning, match="not read: moe_intermediate_size[.]$"):
        config = Config.from_dict(whole({"moe_intermediate_size": 7, "num_experts": 0}))
    assert config == Config.from_dict(whole()) and not config.to_dict()["text_config"].keys() & set(OF_MIXTURES)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="Qwen3.5-0.8B, .*Qwen3.5-27B"):
        Config.named("Qwen3.5-1T")


def test_defaults_are_the_9b():
    assert TextConfig(mtp_num_hidden_layers=1) == Config.named("Qwen3.5-9B").text_config
    assert VisionConfig() == Config.named("Qwen3.5-9B").vision_config
