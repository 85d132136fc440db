"""Edits: the model computes what was asked for, by hand and in every form, and is itself again afterwards."""

import numpy as np
import pytest
import torch
from support import error, random_qwen, small_config, tokens

import minqwen
from minqwen.edits import Edit, edited
from minqwen.errors import QwenError

T = 40                                          # longer than a chunk
DELTA = [Edit("clear", layer=1, head=4, token=33), Edit("clear", token=7), Edit("alpha", layer=[0, 2], token=5),
         Edit("alpha", head=[1, 5], value=0.3), Edit("alpha", layer=2, token=3, value=0.0), Edit("beta", token=20),
         Edit("beta", layer=0, head=2, token=36, value=0.9)]
FORGET = [Edit("forget", token=17), Edit("forget", layer=3, token=38)]
GATE = [Edit("gate"), Edit("gate", layer=3, head=1, token=11), Edit("gate", head=[0, 2], token=4, value=0.5)]


@pytest.fixture(scope="module")
def model():
    return random_qwen()


def by_hand(model, edit, ids):
    """The logits when each memory is walked through token by token, and edited on the way."""

    def rule_of(layer):
        def rule(q, k, v, g, beta, state, cu_seqlens=None):
            (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
            S, o = torch.zeros(B, Hv, Dk, Dv), torch.zeros(B, T, Hv, Dv)
            for t in range(T):
                for h in range(Hv):
                    touched = (edit.layer is None or layer in torch.tensor(edit.layer).reshape(-1).tolist()) and (
                        edit.head is None or h in torch.tensor(edit.head).reshape(-1).tolist())
                    alpha, strength = g[:, t, h].exp(), beta[:, t, h]
                    if touched and edit.what == "clear" and t == edit.token:
                        S[:, h] = 0
                    if touched and edit.what == "alpha" and t >= edit.token:
                        alpha = torch.full_like(alpha, 1.0 if edit.value is None else edit.value)
                    if touched and edit.what == "beta" and t >= edit.token:
                        strength = torch.full_like(strength, edit.value or 0.0)
                    k_t, q_t = k[:, t, h // (Hv // Hk)], q[:, t, h // (Hv // Hk)]
                    S[:, h] *= alpha[:, None, None]
                    u = strength[:, None] * (v[:, t, h] - torch.einsum("bk,bkv->bv", k_t, S[:, h]))
                    S[:, h] += torch.einsum("bk,bv->bkv", k_t, u)
                    o[:, t, h] = torch.einsum("bk,bkv->bv", q_t, S[:, h]) * Dk**-0.5
            return o, S
        return rule

    for i, layer in enumerate(model.model.language_model.layers[:3]):
        layer.linear_attn.delta_rule = rule_of(i)
    try:
        return model(ids)
    finally:
        for layer in model.model.language_model.layers[:3]:
            del layer.linear_attn.delta_rule


@pytest.mark.parametrize("edit", DELTA, ids=str)
def test_the_recurrence_edited_by_hand(model, edit):
    ids = tokens(2, T)
    with edited(model, edit):
        ours = model(ids)
    assert error(ours, by_hand(model, edit, ids)) < 1e-4
    assert error(ours, model(ids)) > 1e-3                    # and it is a change at all
    if edit.token:
        assert error(ours[:, : edit.token], model(ids)[:, : edit.token]) < 1e-5


@pytest.mark.parametrize("edit", GATE, ids=str)
def test_a_gate_closed_by_hand(model, edit):
    ids, mixer = tokens(2, T), model.model.language_model.layers[3].self_attn
    gated = mixer.gated

    def by_hand(o, gate):
        through = gated(o, gate).clone()
        for h in range(4) if edit.head is None else torch.tensor(edit.head).reshape(-1).tolist():
            through[:, edit.token :, h] = (edit.value or 0.0) * o[:, edit.token :, h]
        return through

    mixer.gated = by_hand
    expected = model(ids)
    del mixer.gated
    with edited(model, edit):
        ours = model(ids)
    assert error(ours, expected) < 1e-6 and error(ours, model(ids)) > 1e-3


@pytest.mark.parametrize("edit", FORGET, ids=str)
def test_a_past_forgotten_by_hand(model, edit):
    ids, mixer = tokens(2, T), model.model.language_model.layers[3].self_attn

    def by_hand(q, k, v, mask):
        scores = torch.einsum("bhtd,bhsd->bhts", q, k.repeat_interleave(q.shape[1] // k.shape[1], dim=1))
        scores = scores / q.shape[-1] ** 0.5
        for t in range(T):
            scores[:, :, t, t + 1 :] = -torch.inf
            if t >= edit.token:
                scores[:, :, t, : edit.token] = -torch.inf
        return scores.softmax(-1) @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1)

    mixer.attend = by_hand
    expected = model(ids)
    del mixer.attend
    with edited(model, edit):
        ours = model(ids)
    assert error(ours, expected) < 1e-5 and error(ours, model(ids)) > 1e-3


@pytest.mark.parametrize("edit", [*DELTA, *GATE, *FORGET], ids=str)
def test_piece_by_piece_with_a_cache(model, edit):
    """A token's number counts what the cache has read before."""
    ids = tokens(2, T)
    with edited(model, edit):
        whole, cache = model(ids), model.new_cache(2, T)
        pieces = [model(piece, cache=cache) for piece in ids.split([10, 1, 22, 1, 1, 1, 4], dim=1)]
    assert error(torch.cat(pieces, dim=1), whole) < 1e-4


@pytest.mark.parametrize("edit", [*DELTA, *GATE, *FORGET], ids=str)
@pytest.mark.parametrize("side", ["left", "right"])
def test_pads_are_not_counted(model, edit, side):
    ids, mask = tokens(2, T + 6), torch.ones(2, T + 6, dtype=torch.long)
    real = slice(6, None) if side == "left" else slice(0, T)
    mask[0] = 0
    mask[0, real] = 1
    with edited(model, edit):
        alone, padded = model(ids[:1, real]), model(ids, attention_mask=mask)
        cache = model.new_cache(2, T + 6)
        pieces = [model(ids[:, a:b], attention_mask=mask[:, a:b], cache=cache) for a, b in ((0, 15), (15, T + 6))]
    assert error(padded[:1, real], alone) < 1e-4
    assert error(torch.cat(pieces, dim=1)[:1, real], alone) < 1e-4


def test_several_edits(model):
    """A later one overrules an earlier one, but what is cleared is empty."""
    ids = tokens(1, T)

    def with_edits(*edits):
        with edited(model, *edits):
            return model(ids)

    assert with_edits(Edit("beta", value=0.2), Edit("beta", value=0.7)).equal(with_edits(Edit("beta", value=0.7)))
    both = Edit("clear", token=9), Edit("alpha")
    assert with_edits(*both).equal(with_edits(*both[::-1]))
    assert error(with_edits(*both), with_edits(Edit("alpha"))) > 1e-3
    with edited(model, Edit("alpha")), edited(model, Edit("gate")):
        nested = model(ids)
    assert nested.equal(with_edits(Edit("alpha"), Edit("gate"))) and with_edits().equal(model(ids))


def test_a_trace_around_it_sees_the_edited_memories(model):
    with minqwen.trace(model) as t, edited(model, Edit("clear", head=3, token=12), Edit("beta", layer=1, token=20)):
        model(tokens(1, T))
    for layer in t.layers[:3]:
        assert (layer.alpha[0, 12, 3] == 0) and (layer.alpha[0, 11, 3] > 0) and (layer.alpha[0, 12, 2] > 0)
        torch.testing.assert_close(layer.state(12, 3), layer.write(12, 3))
    assert not t.layers[1].beta[:, 20:].any() and t.layers[1].beta[:, :20].all() and t.layers[0].beta.all()


def test_a_trace_around_it_sees_who_may_still_look(model):
    with minqwen.trace(model) as t, edited(model, Edit("forget", token=12)):
        model(tokens(1, T))
    attention = t.layers[3].attention[0]
    assert not attention[:, 12:, :12].any() and attention[:, :12, :12].any()


def test_the_model_is_itself_again(model):
    """Also after an error inside."""
    ids, before = tokens(1, T), model(tokens(1, T))
    with pytest.raises(ZeroDivisionError), edited(model, *DELTA, *GATE, *FORGET):
        assert error(model(ids), before) > 1e-3
        raise ZeroDivisionError
    assert model(ids).equal(before)
    assert not any(name in vars(module) for module in model.modules()
                   for name in ("delta_rule", "gated", "attend", "hidden_states"))


@pytest.mark.parametrize("make, said", [
    (lambda: Edit("gamma"), "no edit 'gamma'; there are clear, alpha, beta, gate, forget"),
    (lambda: Edit("clear", value=0.5), "cleared or it is not"),
    (lambda: Edit("forget", value=0.5), "cleared or it is not"),
    (lambda: Edit("forget", head=1), "forgets for all of its heads"),
    (lambda: Edit("alpha", value=1.5), "from 0 to 1, not 1.5"),
    (lambda: Edit("beta", token=-1), "counted from 0, so an edit cannot begin at -1"),
    (lambda: Edit("clear", token=2.5), "is a whole number, .* not token=2.5"),              # which no token ever is
    (lambda: Edit("clear", token=None), "not token=None"), (lambda: Edit("beta", layer=3.0), "layer=3.0"),
    (lambda: Edit("beta", layer="3"), "layer='3'"), (lambda: Edit("beta", head=[1, "2"]), r"head=\[1, '2'\]"),
    (lambda: Edit("beta", value="1"), "from 0 to 1, not '1'"),
])
def test_edits_that_cannot_be(make, said):
    with pytest.raises(QwenError, match=said):
        make()


def test_numbers_of_other_libraries_are_numbers():
    edit = Edit("gate", layer=np.int64(3), head=torch.tensor([0, 2]), token=torch.tensor(5))
    assert edit.layers(small_config().text_config) == [3] and edit.heads(4).tolist() == [True, False, True, False]


@pytest.mark.parametrize("edit, said", [
    (Edit("beta", layer=3), r"Layer 3 has no 'beta' to edit; the Gated DeltaNet layers are \[0, 1, 2\]"),
    (Edit("gate", layer=0), r"Layer 0 has no 'gate' to edit; the attention layers are \[3\]"),
    (Edit("alpha", head=6), "no head 6 to edit; Gated DeltaNet layers have 6"),
    (Edit("gate", head=[0, 4]), "no head 4 to edit; attention layers have 4"),
    ("beta", "'beta' is none"),
])
def test_edits_that_do_not_fit_change_nothing(model, edit, said):
    with pytest.raises(QwenError, match=said), edited(model, Edit("alpha"), edit):
        pass
    assert not any("delta_rule" in vars(module) for module in model.modules())


def test_what_it_needs_is_told(model):
    with pytest.raises(QwenError, match="not a dict"), edited({}, Edit("alpha")):
        pass
    only = random_qwen(small_config(layer_types=["full_attention"] * 4))
    with pytest.raises(QwenError, match="no Gated DeltaNet layer, so there is no alpha"), edited(only, Edit("alpha")):
        pass
    with pytest.raises(QwenError, match="run packed sequences"), edited(model, Edit("alpha")):
        model(tokens(1, 4), cu_seqlens=torch.tensor([0, 2, 4]))
    assert "hidden_states" not in vars(model)
