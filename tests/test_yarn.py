"""Longer contexts by YaRN: the official frequencies and factor, for text and pictures, wherever the settings lie."""

import copy
import json
import random

import pytest
import torch
from support import SMALL, error, for_transformers, prompt, random_qwen, seeing_config, small_config, tokens

import minqwen
from minqwen.checkpoint import load_model, save_model
from minqwen.config import Config, TextConfig
from minqwen.errors import QwenError
from minqwen.generate import generate
from minqwen.model import Step, rotary_frequencies
from minqwen.verify import official_modules, official_mtp_logits, official_twin, verify

EXACT, PADDED = 2e-5, 1e-4                               # largest error over largest logit
ROPE = SMALL["rope_parameters"]
# trained on 64 tokens: of eight pairs the first keeps its frequency, the next two are between, the others are slowed
# down; the context is 256
STRETCHED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {"rope_parameters": ROPE | STRETCHED, "max_position_embeddings": 64}
CARD = {  # what the model cards write into config.json for 1,010,000 tokens
    "mrope_interleaved": True, "mrope_section": [11, 11, 10], "rope_type": "yarn", "rope_theta": 10_000_000,
    "partial_rotary_factor": 0.25, "factor": 4.0, "original_max_position_embeddings": 262_144,
}  # fmt: skip


@pytest.fixture(scope="module")
def official():
    pytest.importorskip("transformers", minversion="5.23")
    return official_modules()


@pytest.fixture(scope="module")
def qwen():
    """With a tower and a head for multi-token prediction."""
    return random_qwen(seeing_config(**LONG))


@pytest.fixture(scope="module")
def twin(qwen, official):
    return official_twin(qwen, pictures=True)


def rotary_of(official, text: dict):
    return official.Qwen3_5TextRotaryEmbedding(official.Qwen3_5TextConfig(**copy.deepcopy(text)))


def same_step(official, text: dict, positions) -> float:
    """How far cosines and sines at these positions are from the official ones."""
    config = Config.from_dict({"model_type": "qwen3_5_text", **text}).text_config
    ours, right = Step.at(positions, config, torch.float32), rotary_of(official, text)(torch.zeros(()), positions)
    return max(error(torch.cat((x, x), dim=-1).squeeze(2), y) for x, y in zip((ours.cos, ours.sin), right, strict=True))


# --------------------------------------------------------------------------------------------- frequencies and factor


SETTINGS = [
    {}, {"factor": 1.5}, {"factor": 40}, {"original_max_position_embeddings": 16},
    {"original_max_position_embeddings": 262_144, "rope_theta": 10_000_000}, {"beta_fast": 3.5}, {"beta_slow": 0.25},
    {"beta_fast": 8, "beta_slow": 4, "truncate": False}, {"truncate": False}, {"attention_factor": 1.3},
    {"attention_factor": 1.3, "mscale": 2.0, "mscale_all_dim": 0.5}, {"mscale": 2.0, "mscale_all_dim": 0.5},
    {"mscale": 2.0}, {"mscale_all_dim": 0.5}, {"mscale": 0.7, "mscale_all_dim": 0.7},
    {"beta_fast": None, "beta_slow": None, "attention_factor": None, "mscale": None}, {"beta_fast": 0, "mscale": 0},
]  # fmt: skip


@pytest.mark.parametrize("changes", SETTINGS, ids=str)
def test_trap_17_frequencies_and_factor_are_the_official_ones_to_the_last_bit(official, changes):
    text = SMALL | {"rope_parameters": ROPE | STRETCHED | changes, "max_position_embeddings": 16}
    config = Config.from_dict({"model_type": "qwen3_5_text", **text}).text_config
    rotary = rotary_of(official, text)
    assert torch.equal(rotary_frequencies(config), rotary.inv_freq)
    assert config.attention_factor == pytest.approx(rotary.attention_scaling, rel=1e-12)


def test_trap_17_they_are_for_any_settings_together(official):
    draw = random.Random(0)
    choices = {"factor": [1, 2.0, 3.853], "original_max_position_embeddings": [16, 100, 4096, 262_144],
               "rope_theta": [77.5, 10_000, 10_000_000], "partial_rotary_factor": [0.25, 0.5, 1],
               "beta_fast": [32, 16, 3.5], "beta_slow": [1, 0.5, 2], "truncate": [True, False], "mscale": [1, 0.7],
               "mscale_all_dim": [1, 0.5]}
    for _ in range(100):
        rope = ROPE | STRETCHED | {name: draw.choice(x) for name, x in choices.items() if draw.random() < 0.6}
        text = SMALL | {"head_dim": draw.choice([32, 256]), "rope_parameters": rope, "max_position_embeddings": 16}
        config = Config.from_dict({"model_type": "qwen3_5_text", **text}).text_config
        rotary = rotary_of(official, text)
        assert torch.equal(rotary_frequencies(config), rotary.inv_freq), rope
        assert config.attention_factor == pytest.approx(rotary.attention_scaling, rel=1e-12), rope


@pytest.mark.parametrize("start", [0, 100_000, 262_100, 900_000, 1_009_900])
def test_angles_far_beyond_the_original_positions(official, start):
    """As the model cards have it, with time, height and width apart; before, at and behind the original 262,144."""
    positions = start + torch.randint(0, 100, (3, 2, 50), generator=torch.Generator().manual_seed(start))
    text = SMALL | {"head_dim": 256, "rope_parameters": CARD, "max_position_embeddings": 262_144}
    assert same_step(official, text, positions) < EXACT


# ------------------------------------------------------------------------------------------------------ the whole model


@pytest.mark.parametrize("T", [1, 63, 64, 65, 256, 300])
def test_logits(qwen, twin, T):
    x = tokens(2, T, 290)
    assert error(qwen(x), twin(x).logits) < EXACT


@pytest.mark.parametrize("start", [0, 60, 250, 200_000, 900_000])
def test_logits_at_positions_far_away(qwen, twin, start):
    """Few tokens, but with time, height and width apart, and up to 900,000 positions behind the beginning."""
    x = tokens(2, 40, 290)
    positions = start + torch.randint(0, 60, (3, 2, 40), generator=torch.Generator().manual_seed(2))
    assert error(qwen(x, position_ids=positions), twin(x, position_ids=positions).logits) < EXACT
    spread = torch.stack((torch.arange(40), torch.arange(40) * 3, torch.arange(40) * (start // 40))).unsqueeze(1)
    x = x[:1]
    assert error(qwen(x, position_ids=spread), twin(x, position_ids=spread).logits) < EXACT


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows_with_pictures_and_clips(qwen, twin, side):
    inputs = prompt([3, (4, 6), 90], [70, (3, 4, 4), 5, (6, 4)], [20], side=side)
    real = inputs["attention_mask"].bool()
    assert error(qwen(**inputs)[real], twin(**for_transformers(inputs)).logits[real]) < PADDED


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[70, 1, 1, 28], [1] * 6 + [94]], ids=str)
def test_pieces_and_decoding_with_a_cache(qwen, twin, pieces):
    x, cache = tokens(2, 100, 290), qwen.new_cache(2, 200)
    logits = torch.cat([qwen(piece, cache=cache) for piece in x.split(pieces, dim=1)], dim=1)
    assert error(logits, twin(x).logits) < EXACT


def test_decoding_goes_on_behind_a_picture(qwen, twin):
    inputs = prompt([50, (4, 6), 30])
    start = inputs | {"input_ids": inputs["input_ids"][:, :-5]}
    cache = qwen.new_cache(1, 200)
    qwen(**start, cache=cache)
    logits = torch.cat([qwen(x, cache=cache) for x in inputs["input_ids"][:, -5:].split(1, dim=1)], dim=1)
    assert error(logits, twin(**for_transformers(inputs)).logits[:, -5:]) < EXACT


@pytest.mark.parametrize("row", [[130], [40, (4, 6), 60], [3, (3, 4, 4), 90]], ids=str)
def test_multi_token_prediction(qwen, twin, row):
    inputs = prompt(row)
    assert error(qwen.mtp_logits(**inputs), official_mtp_logits(qwen, twin, inputs)) < EXACT


def test_without_yarn_it_is_another_model(qwen):
    other = random_qwen(seeing_config(rope_parameters=ROPE))
    other.load_state_dict(qwen.state_dict())
    x = tokens(1, 30, 290)
    assert error(qwen(x), other(x)) > 1e-3


def test_text_is_generated_up_to_the_longer_context(qwen):
    """The cards leave max_position_embeddings as it was, 64 here; the context is 4 times that."""
    (new,) = generate(qwen, tokens(1, 60, 290), max_new_tokens=500, stop_ids=[])
    assert len(new) == 256 - 60


def test_verification_covers_it(qwen, official):
    report = verify(qwen)
    report.raise_if_failed()
    (row,) = (check for check in report.checks if check.piece == "rotary positions")
    assert row.compared == "official, in three rows, up to 256"


# ------------------------------------------------------------------------------------------------------------- settings


BESIDE = {name: x for name, x in SMALL.items() if name != "rope_parameters"}
PLACES = {
    "in rope_parameters": {"rope_parameters": ROPE | STRETCHED},
    "under the old name of the type": {"rope_parameters": {
        name: x for name, x in (ROPE | STRETCHED | {"type": "yarn"}).items() if name != "rope_type"}},
    "in rope_scaling": {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
                        "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    "rope_scaling before rope_parameters": {"rope_scaling": ROPE | STRETCHED, "rope_parameters": ROPE},
    "no original": {"rope_parameters": ROPE | {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 64},
    "the original beside": {"rope_parameters": ROPE | {"rope_type": "yarn", "factor": 4.0},
                            "original_max_position_embeddings": 64, "max_position_embeddings": 256},
    "the factor is that of the contexts": {"rope_parameters": ROPE | STRETCHED | {"factor": None},
                                           "max_position_embeddings": 192},
}  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_trap_32_the_settings_are_found_wherever_they_are(official, place):
    positions = torch.randint(0, 300, (3, 1, 40), generator=torch.Generator().manual_seed(0))
    text = BESIDE | {"max_position_embeddings": 256} | PLACES[place]
    assert same_step(official, text, positions) < EXACT
    config = Config.from_dict({"model_type": "qwen3_5_text", **text}).text_config
    assert config.rope_parameters["rope_type"] == "yarn" and config.attention_factor > 1
    assert config.rope_parameters["original_max_position_embeddings"] == 64


@pytest.mark.parametrize("says, changes", [
    ("YaRN needs a factor", {"factor": None, "original_max_position_embeddings": None}),
    ("factor must be a number, 1 or more, not 0.5", {"factor": 0.5}),
    ("factor must be a number, 1 or more, not '4'", {"factor": "4"}),
    ("factor (4.0) times original_max_position_embeddings (1000000000) must be at most",
     {"original_max_position_embeddings": 10**9}),
    ("original_max_position_embeddings must be a number, 1 or more, not 0", {"original_max_position_embeddings": 0}),
    ("original_max_position_embeddings must be a whole number, not 64.5", {"original_max_position_embeddings": 64.5}),
    ("beta_fast (1) must be more than beta_slow (32)", {"beta_fast": 1, "beta_slow": 32}),
    ("beta_slow must be a number, 0 or more, not -1", {"beta_slow": -1}),
    ("attention_factor must be a number, 0 or more, not True", {"attention_factor": True}),
    ("mscale must be a number, 0 or more, not nan", {"mscale": float("nan")}),
    ("mscale_all_dim must be a number, 0 or more, not [1]", {"mscale_all_dim": [1]}),
    ("truncate must be true or false, not None", {"truncate": None}),
    ("with YaRN, rope_theta must be more than 1, not 1", {"rope_theta": 1}),
])  # fmt: skip
def test_what_cannot_be_is_told_in_one_sentence(says, changes):
    with pytest.raises(ValueError) as caught:
        small_config(**LONG | {"rope_parameters": ROPE | STRETCHED | changes})
    message = str(caught.value)
    assert says in message and message.endswith(".") and "\n" not in message and len(message) < 250


def test_two_original_contexts_contradict_each_other():
    with pytest.raises(ValueError, match="is 64 among the rotary settings and 32 beside them[.]$"):
        small_config(**LONG, original_max_position_embeddings=32)


def test_what_yarn_does_not_reach_and_what_nobody_knows_is_remarked_on():
    with pytest.warns(UserWarning, match=r"\(257\) is more than YaRN makes room for: 4.0 times 64[.]$"):
        small_config(**LONG | {"max_position_embeddings": 257})
    with pytest.warns(UserWarning, match="was not read: who_knows[.]$"):
        small_config(**LONG | {"rope_parameters": ROPE | STRETCHED | {"who_knows": 1}})


def test_nothing_is_said_of_what_the_cards_write(recwarn):
    config = Config.from_dict(Config.named("Qwen3.5-4B").to_dict() | {"text_config": {
        **Config.named("Qwen3.5-4B").to_dict()["text_config"], "rope_parameters": CARD}})
    assert config.text_config.max_position_embeddings == 1_048_576
    assert not recwarn


# --------------------------------------------------------------------------------------------------------- with_context


def test_a_million_tokens_is_what_the_model_cards_write():
    config = Config.named("Qwen3.5-4B")
    long = config.with_context(1_010_000)
    assert long.text_config.rope_parameters == CARD and long.text_config.max_position_embeddings == 1_010_000
    assert config == Config.named("Qwen3.5-4B")           # which is as it was
    assert long.vision_config == config.vision_config
    assert Config.from_dict(json.loads(json.dumps(long.to_dict()))) == long


@pytest.mark.parametrize("tokens, factor", [(262_145, 2.0), (524_288, 2.0), (524_289, 3.0), (1_048_576, 4.0)])
def test_the_factor_is_that_of_the_contexts_rounded_up(tokens, factor):
    longer = Config.named("Qwen3.5-4B").with_context(tokens)
    assert longer.text_config.rope_parameters["factor"] == factor
    again = Config.named("Qwen3.5-4B").with_context(300_000).with_context(tokens)         # over the first original
    assert again.text_config.rope_parameters["factor"] == factor


@pytest.mark.parametrize("tokens", [1, 262_144])
def test_a_context_within_the_original_changes_nothing(tokens):
    assert Config.named("Qwen3.5-4B").with_context(tokens) == Config.named("Qwen3.5-4B")


@pytest.mark.parametrize("context, says", [
    (0, "from 1 to 2,147,483,647, not 0"), (-5, "not -5"), (2**31, "not 2147483648"), (1e6, "not 1000000.0"),
    ("1M", "not '1M'"), (True, "not True"),
])
def test_no_context_at_all(context, says):
    with pytest.raises(QwenError, match=rf"^A context is a whole number of tokens .*{says}[.]$"):
        Config.named("Qwen3.5-4B").with_context(context)
    with pytest.raises(QwenError, match=says):
        minqwen.load(context=context)


def test_a_factor_of_attention_is_tuned_for_one_context():
    config = small_config(**LONG | {"rope_parameters": ROPE | STRETCHED | {"attention_factor": 1.1}})
    assert config.with_context(256) == config
    with pytest.raises(QwenError, match="has an attention_factor of its own, for the factor 4.0: a context of 257"):
        config.with_context(257)


def test_a_longer_context_is_loaded_saved_and_loaded_again(official, tmp_path):
    short = random_qwen(seeing_config(max_position_embeddings=64))
    save_model(short, tmp_path / "short")
    long = minqwen.load(tmp_path / "short", context=250).model
    assert long.config == short.config.with_context(250)
    assert long.config.text_config.rope_parameters == ROPE | STRETCHED
    save_model(long, tmp_path / "long")
    again = load_model(tmp_path / "long")
    theirs = official.Qwen3_5ForConditionalGeneration.from_pretrained(tmp_path / "long").eval()
    inputs = prompt([50, (4, 6), 90])
    with torch.no_grad():
        assert again.config == long.config and torch.equal(again(**inputs), long(**inputs))
        assert error(long(**inputs), theirs(**for_transformers(inputs)).logits) < EXACT
        assert error(minqwen.from_transformers(theirs).model(**inputs), long(**inputs)) < EXACT
        assert error(short(**inputs), long(**inputs)) > 1e-3
        same = minqwen.load(tmp_path / "short", context=64).model
        assert same.config == short.config and torch.equal(same(**inputs), short(**inputs))


def test_nano_answers_with_a_longer_context():
    qwen = minqwen.load(context=2 * minqwen.load().config.text_config.max_position_embeddings)
    assert qwen.config.text_config.rope_parameters["factor"] == 2.0
    assert qwen.chat("Ann has a red cup. What does Ann have?", max_new_tokens=20)


def test_a_text_config_by_itself_says_what_it_multiplies_by():
    assert TextConfig().attention_factor == 1
    assert TextConfig(rope_parameters=CARD).attention_factor == pytest.approx(1.1386294)
