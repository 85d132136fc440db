"""Decoding by a graph: without a GPU the very same step runs, only not captured."""

import pytest
import torch
from support import random_qwen, small_config, tokens
from torch.utils._python_dispatch import TorchDispatchMode

import minqwen
from minqwen import graph
from minqwen.generate import decode_one_token, prefill
from minqwen.graph import Decoder, untouched
from minqwen.model import GatedDeltaNet
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
