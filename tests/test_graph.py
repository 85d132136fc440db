"""Decoding by a graph: without a GPU the very same step runs, only not captured."""

from functools import partial
from importlib import import_module
from types import MethodType

import pytest
import torch
from support import random_qwen, small_config, tokens
from torch.utils._python_dispatch import TorchDispatchMode

import minqwen
from minqwen import graph
from minqwen.generate import decode_one_token, generate, prefill
from minqwen.graph import Decoder, untouched
from minqwen.model import GatedAttention, GatedDeltaNet
from minqwen.verify import error


@pytest.fixture(scope="module")
def qwen():
    return random_qwen(small_config(tie_word_embeddings=False))


@pytest.fixture
def caches(qwen):
    """Two that have read the same: rows of 20, 13 and 5 tokens, padded on the left."""
    ids, mask = tokens(3, 20), torch.ones(3, 20, dtype=torch.long)
    mask[1, :7] = mask[2, :15] = 0
    caches = [qwen.new_cache(3, 100) for _ in range(2)]
    for cache in caches:
        prefill(qwen, ids, cache, mask)
    return caches


def same_tokens(qwen, decoder, plain, cache, steps, ids=(7, 8, 9)):
    ids = torch.tensor(ids)
    for _ in range(steps):
        right, logits = decode_one_token(qwen, ids, plain), decoder(ids)
        assert error(logits, right) < 1e-5
        ids = right.argmax(-1)
    assert cache.length == plain.length and torch.equal(cache.positions, plain.positions)
    return ids


@pytest.mark.parametrize("shortest", [8, 32, 512])
def test_a_decoder_reads_as_a_forward_does(qwen, caches, shortest, monkeypatch):
    """Over several reaches, too, and with pads that nobody may look at."""
    monkeypatch.setattr(graph, "SHORTEST", shortest)
    same_tokens(qwen, Decoder.of(qwen, caches[1]), *caches, steps=45)


def test_slots_that_are_not_filled_are_not_seen(qwen, caches):
    for layer in caches[1].layers:
        if hasattr(layer, "keys"):
            layer.keys[:, :, 20:], layer.values[:, :, 20:] = 100, 100
    same_tokens(qwen, Decoder.of(qwen, caches[1]), *caches, steps=3)


def test_the_cache_may_be_used_without_the_decoder_in_between(qwen, caches):
    """A prefill gives the layers other tensors for their memories; so does going back to a snapshot."""
    decoder = Decoder.of(qwen, caches[1])
    same_tokens(qwen, decoder, *caches, steps=3)
    for cache in caches:
        qwen(tokens(3, 6, seed=5), cache=cache)
    here = [cache.snapshot() for cache in caches]
    first = same_tokens(qwen, decoder, *caches, steps=4)
    for cache, snapshot in zip(caches, here, strict=True):
        cache.restore(snapshot)
    assert torch.equal(same_tokens(qwen, decoder, *caches, steps=4), first)
    for cache in caches:
        qwen(tokens(3, 2, seed=6), cache=cache)
    assert error(*(qwen(tokens(3, 1, seed=7), cache=cache) for cache in caches)) < 1e-5


def test_there_is_one_decoder_until_weights_or_kernels_change(qwen, caches):
    decoder = Decoder.of(qwen, caches[1])
    assert Decoder.of(qwen, caches[1]) is decoder
    assert Decoder.of(qwen, caches[0]) is not decoder
    mixer = qwen.model.language_model.layers[0].linear_attn
    mixer.kernel = "recurrent"
    assert Decoder.of(qwen, caches[1]) is not decoder
    del mixer.kernel
    decoder = Decoder.of(qwen, caches[1])
    norm = qwen.model.language_model.norm
    norm.weight = torch.nn.Parameter(norm.weight.detach().clone(), requires_grad=False)
    assert Decoder.of(qwen, caches[1]) is not decoder


class Blindfold(TorchDispatchMode):
    """Nobody looks at a number in a tensor, nor makes a tensor whose shape depends on one."""

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("kernel", ["auto", "recurrent", "chunk"])
def test_the_step_looks_at_no_number(kernel, caches):
    """A graph could not: the number would have to come from the GPU first."""
    other = random_qwen(small_config(tie_word_embeddings=False))
    for module in other.modules():
        if isinstance(module, GatedDeltaNet):
            module.kernel = kernel
    decoder = Decoder.of(other, caches[1])
    decoder(torch.tensor([7, 8, 9]))
    before = caches[1].snapshot()
    with Blindfold():
        logits = decoder(torch.tensor([3, 2, 1])).clone()
    caches[1].restore(before)
    assert error(decode_one_token(other, torch.tensor([3, 2, 1]), caches[1]), logits) < 1e-5


def test_a_full_cache_is_told(qwen):
    cache = qwen.new_cache(1, 3)
    decoder = Decoder.of(qwen, cache)
    for _ in range(3):
        decoder(torch.tensor([5]))
    with pytest.raises(ValueError, match="3 of 3 tokens and 1 more do not fit"):
        decoder(torch.tensor([5]))


def test_neither_model_nor_cache_is_kept_alive(qwen):
    model, lives = random_qwen(small_config()), []
    cache = model.new_cache(1, 8)
    Decoder.of(model, cache)(torch.tensor([5]))
    for thing in (model, cache):
        lives.append(graph.ref(thing))
    del thing, model, cache
    import gc
    gc.collect()
    assert [life() for life in lives] == [None, None]


def test_graphs_are_for_models_that_nobody_looks_into(qwen):
    assistant = minqwen.load()
    model = assistant.model
    assert untouched(model)
    with minqwen.trace(assistant):
        assert not untouched(model)
    with minqwen.edited(assistant, minqwen.Edit("beta", token=3)):
        assert not untouched(model)
    hook = model.model.language_model.layers[1].mlp.register_forward_hook(lambda *x: None)
    assert not untouched(model)
    hook.remove()
    assert untouched(model)


def test_a_trial_leaves_nothing_behind(qwen, caches):
    decoder = Decoder.of(qwen, caches[1])
    same_tokens(qwen, decoder, *caches, steps=2)
    moved = [decoder.slot, decoder.positions, *(own for _, _, own in decoder.memories)]
    before = [x.clone() for x in moved]
    with decoder._only_tried():
        decoder._read(100)
        assert not any(torch.equal(x, old) for x, old in zip(moved, before, strict=True))
    assert all(torch.equal(x, old) for x, old in zip(moved, before, strict=True))


def test_a_step_leaves_the_memories_where_a_graph_finds_them(qwen, caches):
    decoder = Decoder.of(qwen, caches[1])
    decoder._gather_memories()
    decoder._read(100)
    assert all(getattr(layer, name) is own for layer, name, own in decoder.memories)


class Louder(GatedAttention):
    """Somebody else's."""

    def gated(self, o, gate):
        return 1.2 * super().gated(o, gate)


def turned_on(*_):
    return None


@pytest.mark.parametrize("change", [
    lambda mixer: setattr(mixer, "gated", MethodType(Louder.gated, mixer)),
    lambda mixer: setattr(mixer, "gated", partial(turned_on)),
    lambda mixer: setattr(mixer, "__class__", Louder),
    lambda mixer: mixer.register_forward_pre_hook(turned_on),
    lambda mixer: mixer.register_forward_hook(turned_on),
])
def test_what_somebody_has_changed_is_touched(change):
    model = random_qwen(small_config())
    assert untouched(model)
    change(model.model.language_model.layers[3].self_attn)
    assert not untouched(model)


def test_hooks_of_all_modules_touch_every_model(qwen):
    hook = torch.nn.modules.module.register_module_forward_hook(turned_on)
    try:
        assert not untouched(qwen)
    finally:
        hook.remove()
    assert untouched(qwen)


def test_a_decoder_is_of_one_model_and_of_its_parts(qwen, caches):
    decoder, other = Decoder.of(qwen, caches[1]), random_qwen(small_config(tie_word_embeddings=False))
    for mine, theirs in zip(other.parameters(), qwen.parameters(), strict=True):
        mine.data = theirs.data                          # on the very same numbers
    assert Decoder.of(other, caches[1]) is not decoder
    decoder = Decoder.of(other, caches[1])
    other.model.language_model.layers[3].self_attn.__class__ = Louder
    assert Decoder.of(other, caches[1]) is not decoder


def test_what_a_decoder_cannot_read_is_told(qwen, caches):
    decoder = Decoder.of(qwen, caches[1])
    for ids in (torch.tensor([[5], [6], [7]]), torch.tensor(5), torch.tensor([5.0, 6.0, 7.0])):
        with pytest.raises(ValueError, match="one id of each row"):
            decoder(ids)
    decoder = Decoder.of(qwen, qwen.new_cache(1, 8))     # a cache that nobody keeps
    with pytest.raises(ValueError, match="is gone: keep it"):
        decoder(torch.tensor([5]))


# ---- the loop of `generate` as it is on a GPU


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Lent caches, decoders, and reading ahead; only the graphs are not captured."""
    for module in (graph, import_module("minqwen.generate")):
        monkeypatch.setattr(module, "on_gpu", lambda model: True)


PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [11]]
OPTIONS = [{}, {"stop_ids": range(0, 300, 4)}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.3},
           {"thinking_budget": 2, "think_ids": (1, 2), "end_think_ids": (3, 2)}, {"prefill_chunk": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_gpus_loop_says_the_same(qwen, options, as_on_a_gpu, monkeypatch):
    said = generate(qwen, PROMPTS, max_new_tokens=12, **options)
    monkeypatch.undo()
    assert said == generate(qwen, PROMPTS, max_new_tokens=12, **options)


def test_a_lent_cache_knows_nothing_of_the_text_before(qwen, as_on_a_gpu, monkeypatch):
    """It is made anew for another number of rows, or for a longer text."""
    asked = (PROMPTS, [[9, 8, 7]], [[11, 4]], [[5] * 600], PROMPTS[:2])
    said = [generate(qwen, prompts, max_new_tokens=6) for prompts in asked]
    monkeypatch.undo()
    assert said == [generate(qwen, prompts, max_new_tokens=6) for prompts in asked]


def test_a_cache_that_lives_on_reads_what_was_said_and_no_more(qwen, as_on_a_gpu, monkeypatch):
    """Nothing ahead, and nothing of a row that has stopped."""
    def kept():
        cache = qwen.new_cache(3, 60)
        said = generate(qwen, PROMPTS, max_new_tokens=9, cache=cache, stop_ids=range(0, 300, 4))
        return said, cache.length, cache.valid[:, : cache.length].tolist(), qwen(tokens(3, 1), cache=cache)

    *right, logits = kept()
    monkeypatch.undo()
    *plain, other = kept()
    assert right == plain and len({len(row) for row in right[0]}) > 1
    assert error(logits, other) < 1e-5
