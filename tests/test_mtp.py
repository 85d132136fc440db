"""The head for multi-token prediction, beside a reference made of the official layer, norms and rotary embedding."""

import copy

import pytest
import torch
from support import IMAGE, error, one_by_one, prompt, random_qwen, seeing_config, small_config, tokens
from torch.nn import functional as F

from minqwen.model import AttentionCache, Qwen, Step
from minqwen.verify import official_mtp_logits, official_twin

EXACT, PADDED = 2e-5, 1e-4                               # largest error over largest logit


@pytest.fixture(scope="module")
def qwen():
    return random_qwen(seeing_config())


@pytest.fixture(scope="module")
def twin(qwen):
    pytest.importorskip("transformers", minversion="5.23")
    return official_twin(qwen, pictures=True)


def at(qwen, positions):
    return Step.at(positions, qwen.config.text_config, qwen.head_weight.dtype)


def reference(qwen, twin, inputs, **options):
    assert "attention_mask" not in inputs
    return official_mtp_logits(qwen, twin, inputs, **options)


# ------------------------------------------------------------------------------------------------- what it should say


@pytest.mark.parametrize("T", [2, 3, 64, 65, 66, 200])
def test_logits(qwen, twin, T):
    inputs = prompt([T])
    logits = qwen.mtp_logits(**inputs)
    assert logits.shape == (1, T - 1, 300)
    assert error(logits, reference(qwen, twin, inputs)) < EXACT


@pytest.mark.parametrize("changes", [
    {"num_attention_heads": 8, "num_key_value_heads": 2}, {"num_attention_heads": 3, "num_key_value_heads": 3},
    {"mtp_num_hidden_layers": 2}, {"attention_bias": True}, {"tie_word_embeddings": False},
], ids=str)
def test_logits_of_other_models(changes):
    pytest.importorskip("transformers", minversion="5.23")
    other = random_qwen(small_config(**{"mtp_num_hidden_layers": 1, **changes}))
    for name, parameter in other.named_parameters():
        if name.endswith("bias"):
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    x = tokens(1, 70)
    assert error(other.mtp_logits(x), reference(other, official_twin(other), {"input_ids": x})) < EXACT


@pytest.mark.parametrize("row", [
    [3, (4, 6), 5], [(4, 6)], [2, (12, 4), 1, (2, 8), 60], [3, (3, 4, 4), 5], [(2, 2, 4), 4, (6, 4), 9],
], ids=str)
def test_logits_with_pictures(qwen, twin, row):
    """What the head hears of a picture's tokens is what the tower sees, and it stands where the model stands."""
    inputs = prompt(row)
    logits = qwen.mtp_logits(**inputs)
    assert error(logits, reference(qwen, twin, inputs)) < EXACT
    assert error(logits, qwen.mtp_logits(inputs["input_ids"])) > 1e-2


def test_logits_at_given_positions(qwen):
    """Its tokens stand where those stand that it reads the hidden states of, not one further."""
    x = tokens(1, 30)
    positions = torch.randint(0, 40, (3, 1, 30), generator=torch.Generator().manual_seed(0))
    given = qwen.mtp_logits(x, position_ids=positions)
    hidden = qwen.hidden_states(x, position_ids=positions)
    by_hand = qwen.mtp(hidden[:, :-1], qwen.embed(x)[:, 1:], at(qwen, positions[..., :-1]))
    assert error(given, F.linear(by_hand, qwen.head_weight)) < EXACT
    assert error(given, qwen.mtp_logits(x)) > 1e-3
    assert error(qwen.mtp_logits(x, position_ids=positions[0]), qwen.mtp_logits(x)) > 1e-3


def says_something(inputs):
    """(B, T - 1): where a token and its next one are both there."""
    real = inputs["attention_mask"].bool()
    return real[:, :-1] & real[:, 1:]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("rows", [
    [[70], [30], [2]], [[3, (4, 6), 60], [(2, 8), 9], [40]], [[9, (2, 4, 4)], [1, (2, 2)], [(12, 4), 5, (1, 2, 2), 1]],
], ids=str)
def test_a_padded_row_is_the_row_alone(qwen, rows, side):
    inputs = prompt(*rows, side=side)
    logits, said = qwen.mtp_logits(**inputs), says_something(inputs)
    assert logits.isfinite().all()
    for row, alone in one_by_one(inputs):
        assert error(logits[row, said[row]], qwen.mtp_logits(**alone)[0]) < PADDED


def test_what_stands_under_a_pad_does_not_matter(qwen):
    inputs = prompt([40], [25])
    other = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], tokens(2, 40, IMAGE, seed=7))
    said = says_something(inputs)
    assert torch.equal(qwen.mtp_logits(**inputs)[said], qwen.mtp_logits(other, inputs["attention_mask"])[said])


def test_it_guesses_from_what_was_before_alone(qwen):
    """The guess at row i may know the tokens up to i + 1, and must: that one changes it, the one behind does not."""
    x = tokens(1, 30)
    other = x.clone()
    other[0, 20] = (other[0, 20] + 1) % IMAGE
    changed = (qwen.mtp_logits(x) - qwen.mtp_logits(other)).abs().amax(-1)[0] > 1e-6
    assert not changed[:19].any() and changed[19:].all()


# ------------------------------------------------------------------------------------------------------------ trap 21


def swapped(qwen):
    """The head as it would be if `fc` took the hidden state first."""
    other = copy.deepcopy(qwen)
    other.mtp.fc.weight.copy_(torch.cat(other.mtp.fc.weight.chunk(2, dim=1)[::-1], dim=1))
    return other


def test_trap_21_the_embedding_comes_before_the_hidden_state(qwen, twin):
    """The other order is another model: far off, and not a little."""
    inputs = prompt([2, (4, 6), 60])
    logits = qwen.mtp_logits(**inputs)
    assert error(logits, reference(qwen, twin, inputs)) < EXACT
    assert error(logits, reference(swapped(qwen), twin, inputs)) > 0.1


def test_trap_21_the_halves_are_normed_each_by_its_own_norm(qwen, twin):
    other, inputs = copy.deepcopy(qwen), prompt([40])
    norms = other.mtp
    norms.pre_fc_norm_embedding, norms.pre_fc_norm_hidden = norms.pre_fc_norm_hidden, norms.pre_fc_norm_embedding
    assert error(qwen.mtp_logits(**inputs), reference(other, twin, inputs)) > 1e-2


def test_trap_21_the_hidden_state_is_the_one_behind_the_last_norm(qwen, twin):
    inputs = prompt([2, (4, 6), 60])
    logits = qwen.mtp_logits(**inputs)
    assert error(logits, reference(qwen, twin, inputs)) < EXACT
    assert error(logits, reference(qwen, twin, inputs, normed=False)) > 1e-2


# ----------------------------------------------------------------------------------------------- drafting, step by step


def cache_of(qwen, B, length):
    weight = qwen.head_weight
    return [AttentionCache(qwen.config.text_config, B, length, weight.dtype, weight.device) for _ in qwen.mtp.layers]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("start", [1, 20])
def test_step_by_step_with_a_cache_is_at_once(layers, start):
    """What speculative decoding stands on: the head reads its prompt, then one token at a time."""
    qwen = random_qwen(seeing_config(mtp_num_hidden_layers=layers))
    inputs = prompt([3, (4, 6), 30], [5, (2, 8), 30])
    x, ids = qwen.embed(**inputs), inputs["input_ids"]
    positions = qwen.positions(ids, image_grid_thw=inputs["image_grid_thw"])
    hidden, following = qwen.hidden_states(ids, None, positions, inputs_embeds=x)[:, :-1], x[:, 1:]
    positions = positions[..., :-1]
    at_once, caches = qwen.mtp(hidden, following, at(qwen, positions)), cache_of(qwen, 2, 60)
    steps = [start] + [1] * (hidden.shape[1] - start)
    out = [qwen.mtp(h, e, at(qwen, p), caches) for h, e, p in zip(
        hidden.split(steps, dim=1), following.split(steps, dim=1), positions.split(steps, dim=-1), strict=True)]
    assert caches[-1].length == hidden.shape[1]
    assert error(torch.cat(out, dim=1), at_once) < EXACT


@torch.no_grad()
def test_trap_21_further_drafts_feed_back_the_state_behind_the_heads_own_norm(qwen):
    """Drafts with a cache are drafts without one, whose hidden states grow by the head's own output each time."""
    x = tokens(1, 12, IMAGE)
    positions = torch.arange(20).expand(3, 1, 20)
    hidden, embed = qwen.hidden_states(x), qwen.model.language_model.embed_tokens
    caches = cache_of(qwen, 1, 20)
    following = torch.cat((x[:, 1:], qwen(x)[:, -1:].argmax(-1)), dim=1)                  # the model's own next token
    state = qwen.mtp(hidden, embed(following), at(qwen, positions[..., :12]), caches)[:, -1:]
    states, drafts = [state], [F.linear(state, qwen.head_weight).argmax(-1)]
    for n in range(12, 15):
        state = qwen.mtp(states[-1], embed(drafts[-1]), at(qwen, positions[..., n : n + 1]), caches)
        states.append(state)
        drafts.append(F.linear(state, qwen.head_weight).argmax(-1))

    grown, heard = hidden, following
    for n in range(4):
        out = qwen.mtp(grown, embed(heard), at(qwen, positions[..., : grown.shape[1]]))
        assert error(states[n], out[:, -1:]) < EXACT
        grown, heard = torch.cat((grown, out[:, -1:]), dim=1), torch.cat((heard, drafts[n]), dim=1)


@torch.no_grad()
def test_drafts_that_were_refused_are_taken_back(qwen):
    """An attention cache is cropped by going back to where it was."""
    x = tokens(1, 20, IMAGE)
    hidden, e, p = qwen.hidden_states(x)[:, :-1], qwen.embed(x)[:, 1:], torch.arange(19).expand(3, 1, 19)
    right, caches = qwen.mtp(hidden, e, at(qwen, p)), cache_of(qwen, 1, 30)
    qwen.mtp(hidden[:, :10], e[:, :10], at(qwen, p[..., :10]), caches)
    here = [cache.snapshot() for cache in caches]
    for n in (10, 11, 12):                                # three steps with the wrong tokens
        qwen.mtp(hidden[:, n : n + 1], e[:, :1], at(qwen, p[..., n : n + 1]), caches)
    for cache, length in zip(caches, here, strict=True):
        cache.restore(length)
    out = [qwen.mtp(hidden[:, n : n + 1], e[:, n : n + 1], at(qwen, p[..., n : n + 1]), caches) for n in range(10, 19)]
    assert error(torch.cat(out, dim=1), right[:, 10:]) < EXACT


# ----------------------------------------------------------------------------------------------- training, and mistakes


def test_gradients_reach_the_head_and_what_it_stands_on():
    qwen = random_qwen(seeing_config()).requires_grad_(True)
    inputs = prompt([3, (4, 6), 40])
    logits = qwen.mtp_logits(**inputs)
    F.cross_entropy(logits[0, :-1], inputs["input_ids"][0, 2:]).backward()
    for name, parameter in qwen.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_a_fresh_head_is_a_model_like_any_other():
    """`init_weights` reaches it: norms are the identity, and what it says is neither nothing nor huge."""
    torch.manual_seed(0)
    fresh = Qwen(seeing_config())
    assert not any(p.any() for name, p in fresh.mtp.named_parameters() if "norm" in name)
    assert 0.1 < fresh.mtp.fc.weight.std() * (2 * 64) ** 0.5 < 1.1
    assert 0.2 < fresh.mtp_logits(tokens(2, 20)).std() < 3


def test_errors_are_one_sentence(qwen):
    without = random_qwen(small_config())
    inputs = prompt([3, (4, 6), 5])
    wrong = [
        ("no head for multi-token prediction", lambda: without.mtp_logits(tokens(1, 5))),
        ("needs two tokens or more", lambda: qwen.mtp_logits(tokens(1, 1))),
        ("Token ids run from 0 to 299", lambda: qwen.mtp_logits(tokens(1, 5) + 290)),
        ("attention_mask must be", lambda: qwen.mtp_logits(tokens(1, 5), torch.ones(1, 4))),
        ("position_ids must be", lambda: qwen.mtp_logits(tokens(1, 5), position_ids=torch.zeros(3, 1, 4).long())),
        ("placeholder", lambda: qwen.mtp_logits(**inputs | {"input_ids": inputs["input_ids"][:, :6]})),
    ]
    for says, call in wrong:
        with pytest.raises(ValueError, match=rf"^[^\n]*{says}[^\n]*\.$") as caught:
            call()
        assert ". " not in caught.value.args[0]
