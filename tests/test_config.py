"""Numbers, names and shapes of the published models; everything here runs on the meta device, without memory."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from support import SMALL, SMALL_VISION, small_config

from minqwen.config import Config, TextConfig, VisionConfig
from minqwen.model import Qwen, rotary_angles

PUBLISHED = json.loads(Path(__file__).with_name("official_sizes.json").read_text())   # from the checkpoints' own files
SHARED = PUBLISHED.pop("every size")
sizes = pytest.mark.parametrize("name", PUBLISHED)


def official_json(name):
    """The published `config.json`, put together again."""
    size = PUBLISHED[name]
    return {**SHARED["config"], "architectures": ["Qwen3_5ForConditionalGeneration"],
            "tie_word_embeddings": size["tie_word_embeddings"],
            "text_config": {"model_type": "qwen3_5_text", **SHARED["text_config"], **size["text_config"]},
            "vision_config": {"model_type": "qwen3_5", **SHARED["vision_config"], **size["vision_config"]}}


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
        config = transformers.Qwen3_5Config.from_dict(official_json(name))
        official = transformers.Qwen3_5ForConditionalGeneration(config)
    theirs = {k: tuple(t.shape) for k, t in official.state_dict().items()}
    if PUBLISHED[name]["tie_word_embeddings"]:
        del theirs["lm_head.weight"]
    ours = {k: tuple(t.shape) for k, t in on_meta(Config.named(name)).state_dict().items()}
    assert {k: shape for k, shape in ours.items() if not k.startswith("mtp.")} == theirs


@sizes
def test_names_and_shapes_of_the_head_for_multi_token_prediction(name):
    """mtp.*: one layer of attention, as the model's own, and what leads into it and out of it."""
    ours = {k: tuple(t.shape) for k, t in on_meta(Config.named(name)).state_dict().items()}
    width = Config.named(name).text_config.hidden_size
    layer = "model.language_model.layers.3."
    attention = {k.replace(layer, "mtp.layers.0."): shape for k, shape in ours.items() if k.startswith(layer)}
    assert len(attention) == 11
    norms = dict.fromkeys(("mtp.norm.weight", "mtp.pre_fc_norm_embedding.weight", "mtp.pre_fc_norm_hidden.weight"),
                          (width,))
    head = {k: shape for k, shape in ours.items() if k.startswith("mtp.")}
    assert head == attention | norms | {"mtp.fc.weight": (width, 2 * width)}


@sizes
def test_round_trip(name):
    config = Config.named(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize("config", [
    Config.named("Qwen3.5-0.8B"), Config.named("Qwen3.5-27B"),
    small_config(layer_types=["full_attention"] + ["linear_attention"] * 3),
], ids=["0.8B", "27B", "small, text only"])
def test_transformers_reads_what_we_write(config, tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.23")
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    theirs = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "Qwen3_5Config"
    assert theirs.tie_word_embeddings == config.tie_word_embeddings
    for key, value in vars(config.text_config).items():
        if key not in ("full_attention_interval", "mtp_num_hidden_layers", "dtype"):   # not kept by transformers
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
    "another rotary scaling": {"rope_parameters": {**SMALL["rope_parameters"], "rope_type": "yarn"}},
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


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="Qwen3.5-0.8B, .*Qwen3.5-27B"):
        Config.named("Qwen3.5-1T")


def test_defaults_are_the_9b():
    assert TextConfig(mtp_num_hidden_layers=1) == Config.named("Qwen3.5-9B").text_config
    assert VisionConfig() == Config.named("Qwen3.5-9B").vision_config
