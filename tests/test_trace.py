"""A trace shows exactly what the model did, and leaves no trace."""

import copy

import pytest
import torch
from support import prompt, random_qwen, seeing_config, tokens
from torch.testing import assert_close

from minqwen.errors import QwenError
from minqwen.trace import trace

T = 23


@pytest.fixture(scope="module")
def model():
    return random_qwen()


@pytest.fixture
def ids():
    return tokens(3, T)


@pytest.fixture(autouse=True)
def no_grad():
    with torch.no_grad():
        yield


def own_methods(model):
    """What hangs on the mixers' instances and is not a parameter, a module or a hook."""
    mixers = [getattr(layer, "linear_attn", None) or layer.self_attn for layer in model.model.language_model.layers]
    methods = {name for mixer in mixers for name, x in vars(mixer).items() if callable(x)}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return methods, sum(hooks)


# ---- what is recorded is what happened

def test_the_model_says_the_same_under_a_trace(model, ids):
    with trace(model) as t:
        logits = model(ids)
    assert torch.equal(logits, model(ids))
    assert torch.equal(t.logits, logits) and torch.equal(t.input_ids, ids)
    assert [layer.kind for layer in t.layers] == model.config.text_config.layer_types
    assert t.tokens == [str(id) for id in ids[0].tolist()] and len(t) == T


def test_last_state_is_the_caches(model, ids):
    cache = model.new_cache(3, 40)
    with trace(model) as t:
        model(ids, cache=cache)
    for layer in t.delta_layers:
        expected = cache.layers[layer.index].recurrent_state
        for row in range(3):
            states = layer.states(row=row)
            assert states.shape == (T + 1, 6, 16, 24)
            assert_close(states[-1], expected[row])
            assert not states[0].any()


def test_read_is_query_times_state(model, ids):
    layer = trace(model).run(ids).delta_layers[1]
    states = torch.stack([layer.states(row=row)[1:] for row in range(3)])                # (B, T, Hv, Dk, Dv)
    q = layer.q.repeat_interleave(3, dim=2) * 16 ** -0.5               # value heads 0, 1, 2 share key head 0
    assert_close(torch.einsum("bthk, bthkv -> bthv", q, states), layer.o)


def test_a_step_is_decay_minus_erasure_plus_writing(model, ids):
    """Exactly, to the last bit; and the three are what their names say."""
    layer = trace(model).run(ids).delta_layers[0]
    for t in (0, 1, T - 1):
        for head in range(6):
            decayed, erase, write = (f(t, head) for f in (layer.decayed, layer.erase, layer.write))
            assert torch.equal(layer.state(t, head), decayed - erase + write)
            before = layer.states(head)[t]
            k, v = layer.k[0, t, head // 3], layer.v[0, t, head]
            assert_close(decayed, layer.alpha[0, t, head] * before)
            assert_close(erase, layer.beta[0, t, head] * torch.outer(k, decayed.T @ k))
            assert_close(write, layer.beta[0, t, head] * torch.outer(k, v))
            assert_close(layer.error(t, head), v - decayed.T @ k)
    assert torch.equal(layer.state(5, 1), layer.states(1)[6])           # back, then forth: the same walk
    assert torch.equal(layer.state(-1, 1), layer.states(1)[-1])


def test_effective_attention_times_values_is_the_read(model, ids):
    for layer in trace(model).run(ids).delta_layers:
        o = torch.einsum("bhts, bshv -> bthv", layer.attention, layer.v)
        assert_close(o, layer.o, atol=1e-5, rtol=1e-4)


def test_softmax_map_times_values_is_the_read(model, ids):
    for layer in trace(model).run(ids).attention_layers:
        assert layer.attention.shape == (3, 4, T, T)
        assert_close(layer.attention.sum(-1), torch.ones(3, 4, T))
        assert_close(layer.attention @ layer.v.repeat_interleave(2, dim=1), layer.o)


def test_gates(model, ids):
    """Output gates are those that the layer's result went through."""
    t = trace(model).run(ids)
    decoder = model.model.language_model.layers
    seen = {}
    hooks = [decoder[0].linear_attn.out_proj.register_forward_pre_hook(lambda m, x: seen.update({0: x[0]})),
             decoder[3].self_attn.o_proj.register_forward_pre_hook(lambda m, x: seen.update({3: x[0]}))]
    model(ids)
    for hook in hooks:
        hook.remove()
    assert_close(decoder[0].linear_attn.norm(t.layers[0].o, t.layers[0].z).flatten(2), seen[0])
    assert_close((t.layers[3].o.transpose(1, 2) * torch.sigmoid(t.layers[3].gate)).flatten(2), seen[3])


# ---- several forwards, padding

def pieces(model, ids, cache, cuts):
    for start, end in zip(cuts, cuts[1:]):
        model(ids[:, start:end], cache=cache)


def assert_same_record(t, other, rows=slice(None)):
    for mine, theirs in zip(t.layers, other.layers):
        for name in mine.pieces:
            a, b = getattr(mine, name)[rows], getattr(theirs, name)[rows]
            assert_close(a, b, atol=2e-5 * b.float().abs().max().item(), rtol=0)         # the project's float32 bound


def test_prefill_and_decode_are_one_record(model, ids):
    whole = trace(model).run(ids)
    with trace(model) as t:
        pieces(model, ids, model.new_cache(3, 40), (0, 10, 11, 12, 20, T))
    assert_same_record(t, whole)
    assert torch.equal(t.input_ids, ids) and t.logits.shape == whole.logits.shape
    assert_close(t.layers[3].attention, whole.layers[3].attention)
    assert_close(t.layers[0].states(2), whole.layers[0].states(2), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("cuts", [(9, T), (9, 10, 11, T), (9, 10)], ids=str)
def test_beginning_in_the_middle_of_a_conversation(model, ids, cuts):
    cache = model.new_cache(3, 40)
    model(ids[:, :9], cache=cache)
    before = [layer.recurrent_state.clone() for layer in cache.layers[:3]]
    with trace(model) as t:
        pieces(model, ids, cache, cuts)
    end = cuts[-1]
    whole = trace(model).run(ids[:, :end])
    for i, layer in enumerate(t.delta_layers):
        assert_close(layer.initial_state, before[i])                                     # though decoding wrote into it
        assert_close(layer.states()[-1], cache.layers[i].recurrent_state[0])
        assert_close(layer.states(), whole.layers[i].states()[9:], atol=1e-5, rtol=1e-4)
    assert_close(t.layers[3].attention, whole.layers[3].attention[:, :, 9:])  # it looks at what was before, too
    assert t.layers[3].k.shape[2] == end and len(t) == end - 9


def test_keys_do_not_change_when_the_cache_is_overwritten(model, ids):
    cache = model.new_cache(3, 40)
    start = cache.snapshot()
    with trace(model) as t:
        model(ids, cache=cache)
    cache.restore(start)
    model(ids.flip(1), cache=cache)
    assert_same_record(t, trace(model).run(ids))


def test_padding_stands_in_its_place_and_changes_nothing(model, ids):
    mask = torch.ones(3, T, dtype=torch.long)
    mask[0, :7], mask[1, 15:] = 0, 0
    with trace(model) as t:
        model(ids, attention_mask=mask)
    assert torch.equal(t.valid, mask.bool())
    left, right = trace(model).run(ids[:1, 7:]), trace(model).run(ids[1:2, :15])
    for i in range(3):
        states = t.layers[i].states(row=0)
        assert not states[:8].any()
        assert_close(states[7:], left.layers[i].states(), atol=1e-5, rtol=1e-4)
        states = t.layers[i].states(row=1)
        assert_close(states[:16], right.layers[i].states(), atol=1e-5, rtol=1e-4)
        assert torch.equal(states[15:], states[15:16].expand(9, -1, -1, -1))
        o = torch.einsum("bhts, bshv -> bthv", t.layers[i].attention, t.layers[i].v)
        assert_close(o, t.layers[i].o, atol=1e-5, rtol=1e-4)
    assert_close(t.layers[3].attention[0, :, 7:, 7:], left.layers[3].attention[0])
    assert not t.layers[3].attention[0, :, 7:, :7].any()


def test_a_forward_that_does_not_carry_on_begins_anew(model, ids):
    with trace(model) as t:
        model(ids)
        model(ids[:1, :5])
        assert len(t) == 5
        cache = model.new_cache(3, 40)
        model(ids[:, :4], cache=cache)
        here = cache.snapshot()
        model(ids[:, 4:8], cache=cache)
        assert len(t) == 8
        cache.restore(here)
        model(ids[:, 8:10], cache=cache)
        assert len(t) == 2 and t.layers[3].k.shape[2] == 6


def test_half_precision_memories_are_float32(ids):
    model = random_qwen().to(torch.bfloat16)
    cache = model.new_cache(3, 40)
    with trace(model) as t:
        model(ids, cache=cache)
    assert t.layers[0].states().dtype == torch.float32
    assert_close(t.layers[0].states()[-1], cache.layers[0].recurrent_state[0])


# ---- what the memory answers

def test_answers_recall_what_was_written():
    """Orthogonal keys, no decay, beta = 1: perfect recall; a key that comes again answers its latest value."""
    model = random_qwen()
    t = trace(model).run([1, 2, 3, 4])
    layer = t.layers[0]
    keys = torch.eye(16)[[0, 1, 2, 0]].view(1, 4, 1, 16).expand(1, 4, 2, 16)
    for name, x in {"k": keys, "g": torch.zeros(1, 4, 6), "beta": torch.ones(1, 4, 6)}.items():
        layer.pieces[name] = [x]
    before, after = layer.answers(2, head=3), layer.answers(3, head=3)
    assert_close(before.cosine, torch.ones(3))
    assert before.latest.tolist() == [0, 1, 2]
    assert_close(after.values[0], layer.v[0, 3, 3])
    assert after.latest.tolist() == [3, 1, 2, 3]
    assert_close(after.cosine_latest, torch.ones(4))
    assert after.cosine[0] < 0.99 and after.cosine[1] > 0.99


def test_answers_are_what_the_state_says(model, ids):
    layer = trace(model).run(ids).layers[2]
    answers = layer.answers(11, head=4, row=1)
    state = layer.states(4, row=1)[12]
    for j in range(12):
        value = state.T @ layer.k[1, j, 1]
        assert_close(answers.values[j], value)
        assert_close(answers.cosine[j], torch.cosine_similarity(value, layer.v[1, j, 4], dim=0))


# ---- it comes and goes

def test_nothing_stays_behind(model, ids):
    assert own_methods(model) == (set(), 0)
    with trace(model):
        methods, hooks = own_methods(model)
        assert methods == {"delta_rule", "attend", "gated"} and hooks == 2 + 3 * 2
    assert own_methods(model) == (set(), 0)
    with pytest.raises(ZeroDivisionError), trace(model):
        raise ZeroDivisionError
    assert own_methods(model) == (set(), 0)


def test_a_forward_that_fails_is_not_recorded(model, ids):
    cache = model.new_cache(3, 12)
    with trace(model) as t:
        model(ids[:, :10], cache=cache)
        with pytest.raises(ValueError, match="do not fit"):
            model(ids[:, 10:], cache=cache)
        interrupted = model.model.language_model.layers[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):               # in the middle: two layers have been seen already
            model(ids)
        interrupted.remove()
        model(ids[:, 10:12], cache=cache)
    assert len(t) == 12
    assert_same_record(t, trace(model).run(ids[:, :12]))


def test_traces_nest_and_repeat(model, ids):
    with trace(model) as outer:
        with trace(model) as inner:
            model(ids)
        model(ids[:, :5])
    assert len(inner) == T and len(outer) == 5
    with inner:
        model(ids[:, :3])
    assert len(inner) == 3
    assert own_methods(model) == (set(), 0)
    with outer, pytest.raises(QwenError, match="open already"), outer:
        pass


def test_what_comes_with_a_tokenizer(model):
    class Letters:
        def encode(self, text):
            return [ord(c) - 32 for c in text]

        def decode(self, ids, skip_special_tokens=True):
            assert not skip_special_tokens
            return "".join(chr(i + 32) for i in ids)

        def encode_chat(self, messages):
            return self.encode(messages[0]["content"])

    class Loaded:
        tokenizer = Letters()

    Loaded.model = model
    assert trace(Loaded).run("Ann has").tokens == list("Ann has")
    assert trace(Loaded).run([{"role": "user", "content": "hi"}]).tokens == ["h", "i"]


@pytest.mark.parametrize("text", [["Ann has", "Bob has"], b"Ann has", 3.5, [1.5, 2], [True, False], [10**30],
                                  [[1], [2, 3]]])
def test_what_is_no_text_is_told_in_one_sentence(model, text):
    """Several texts, bytes; fractions are not cut to ids."""
    with pytest.raises(QwenError, match=r"^What is read is one text, one chat, or token ids, [^\n]+ and not [^\n]+\.$"):
        trace(model).run(text)


def test_clear_errors(model, ids):
    with pytest.raises(QwenError, match="not a str"):
        trace("data/nano")
    with pytest.raises(QwenError, match="Nothing is traced yet"):
        _ = trace(model).layers
    with pytest.raises(QwenError, match="no tokenizer"):
        trace(model).run("Ann has a red cup.")
    with pytest.raises(QwenError, match="one by one"), trace(model):
        model(ids[:1], cu_seqlens=torch.tensor([0, 5, T]))
    layer = trace(model).run(ids).layers[0]
    with pytest.raises(QwenError, match="no token 23"):
        layer.state(T, 0)
    with pytest.raises(QwenError, match="no token 0, head 6"):
        layer.state(0, 6)
    with pytest.raises(QwenError, match="head 0, row 3 here"):
        layer.erase(0, 0, row=3)


def test_what_the_other_kind_of_layer_has_is_told_in_a_sentence():
    layers = trace(random_qwen()).run(tokens(1, 5)).layers
    for error in (QwenError, AttributeError):                                               # both: hasattr says no
        with pytest.raises(error, match="^Layer 3 is gated attention and has no state: ask one of delta_layers[.]$"):
            layers[3].state(0, 0)
        with pytest.raises(error, match="^Layer 0 is Gated DeltaNet and has no gate: ask one of attention_layers[.]$"):
            _ = layers[0].gate
    assert not hasattr(layers[3], "beta") and hasattr(layers[0], "beta")
    with pytest.raises(AttributeError, match="^A DeltaRecord has no colour[.]$"):
        _ = layers[0].colour
    assert torch.equal(copy.copy(layers[0]).beta, layers[0].beta)


def test_media_is_what_the_model_looked_at():
    """However the pictures come in: with a forward, embedded before pieces of a prompt, or turn by turn."""
    model, given = random_qwen(seeing_config()), prompt([3, (4, 6), 5, (2, 4, 4), 2])
    ids = given.pop("input_ids")
    with trace(model) as t:
        model(ids, **given)
        assert set(t.media) == set(given) and all(t.media[name].equal(x) for name, x in given.items())

        cache, x = model.new_cache(1, 100), model.embed(ids, **given)
        positions = model.positions(ids, None, given["image_grid_thw"], given["video_grid_thw"])
        for piece in torch.arange(ids.shape[1]).split(7):
            model(ids[:, piece], position_ids=positions[..., piece], inputs_embeds=x[:, piece], cache=cache)
        assert len(t) == ids.shape[1] and all(t.media[name].equal(x) for name, x in given.items())

        model(ids, **given, cache=cache)                                # the same once more, as the next turn
        assert all(t.media[name].equal(torch.cat((x, x))) for name, x in given.items())
        model(tokens(1, 4))
        assert t.media == {}
    model(ids, **given)
    assert t.media == {}


def test_valid_is_of_the_tokens_and_not_of_those_before(model, ids):
    """A mask may be of all tokens so far; the record takes the part that is of the new ones."""
    mask = torch.ones(3, T, dtype=torch.long)
    mask[0, :4] = mask[1, 8:10] = 0
    cache = model.new_cache(3, T)
    with trace(model) as t:
        for start, end in ((0, 7), (7, T)):
            model(ids[:, start:end], attention_mask=mask[:, :end], cache=cache)
    assert t.valid.equal(mask.bool())


def test_a_key_of_nothing_is_like_no_other(model, ids):
    """What a pad should be answered is its own value, nothing, and not that of the first token."""
    mask = torch.ones(3, T, dtype=torch.long)
    mask[1, 5:8] = 0
    with trace(model) as t:
        model(ids, attention_mask=mask)
    assert t.delta_layers[0].answers(-1, 0, row=1).latest[5:8].tolist() == [5, 6, 7]
