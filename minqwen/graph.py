"""Decoding on a GPU at the speed of its memory: one step of the model as a CUDA graph.

To read one token a model runs some hundred small kernels. Each is done within microseconds, and to launch it from
Python takes longer than that. A CUDA graph is the list of all of them, taken down once and launched as a whole. So
everything that differs from one token to the next has to lie in tensors of its own: which ids are read, where their
keys and values go, how far back they may look.

    decoder = Decoder.of(model, cache)
    logits = decoder(ids)                       # (B,) -> (B, V), as `generate.decode_one_token`, in one launch

Keys and values are read up to `reach` slots, of which those not filled yet are masked; a graph is captured for each
reach, a power of two, when it is first needed. Without a GPU a decoder runs the very same step without a graph.

Symbols are those of `model.py`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import FunctionType
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor

from .cache import AttentionCache, Cache, DeltaCache
from .model import Qwen, Step

__all__ = ["Decoder", "lent_cache", "untouched"]

SHORTEST = 512                                           # slots that the shortest graph reaches


class Slots:
    """An attention layer's cache while a step runs: this step's keys and values go to `slot`, a tensor."""

    def __init__(self, cache: AttentionCache, slot: Tensor, reach: int):
        self.keys, self.values, self.slot, self.reach = cache.keys, cache.values, slot, reach

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[:, :, self.slot], self.values[:, :, self.slot] = k, v
        return self.keys[:, :, : self.reach], self.values[:, :, : self.reach]               # (B, Hkv, reach, D)


class State:
    """A Gated DeltaNet layer's cache while a step runs, in two tensors that stay where they are."""

    def __init__(self, cache: DeltaCache):
        self.cache = cache
        self.own = self.recurrent_state, self.conv_state = tuple(
            x.contiguous() for x in (cache.recurrent_state, cache.conv_state))

    def take(self) -> None:
        """What the layer holds now: whatever came between two steps may have given it other tensors."""
        for own, name in zip(self.own, ("recurrent_state", "conv_state"), strict=True):
            if getattr(self.cache, name) is not own:
                own.copy_(getattr(self.cache, name))
                setattr(self.cache, name, own)

    def keep(self) -> None:
        """What the step has left goes back into the two tensors."""
        for own, name in zip(self.own, ("recurrent_state", "conv_state"), strict=True):
            if getattr(self, name).data_ptr() != own.data_ptr():                            # else written in place
                own.copy_(getattr(self, name))
            setattr(self, name, own)


class Decoder:
    """Reads one token of each row: `logits = decoder(ids)`, (B,) -> (B, V). The cache moves on as it would without.

    The logits lie in a tensor that the next call writes anew. Nothing here waits for the GPU.

    Args:
        cache: of `model`, wherever it stands; it may be used without the decoder in between, as by a prefill.
        compiled: let `torch.compile` make the kernels first, which fuses nearly all that lies between two matrices: a
            minute at the first token.
    """

    def __init__(self, model: Qwen, cache: Cache, compiled: bool = False):
        device = model.head_weight.device
        self._model, self._cache, self.compiled = ref(model), ref(cache), compiled
        self.ids, self.slot = (torch.zeros(n, dtype=torch.long, device=device) for n in (cache.batch_size, 1))
        self.positions, self.valid = torch.zeros_like(cache.positions), cache.valid
        self.layers = [State(layer) if isinstance(layer, DeltaCache) else layer for layer in cache.layers]
        self.layer = torch.compile(read_layer, fullgraph=True, dynamic=False) if compiled else read_layer
        self.fused = fused_step(model, cache)
        self.graphs = {}                                 # reach: (graph, the logits that it leaves)

    @classmethod
    def of(cls, model: Qwen, cache: Cache, compiled: bool = False) -> "Decoder":
        """The decoder of this model and cache: there is one, as long as the weights stay where they are."""
        weights = compiled, *(x.data_ptr() for x in model.parameters())
        decoder, made_for = _DECODERS.get(cache, (None, None))
        if made_for != weights:
            _DECODERS[cache] = decoder, _ = cls(model, cache, compiled), weights
        return decoder

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Raises: ValueError: the cache is full, or a forward pass of it broke off."""
        cache = self._cache()
        cache.check_room(len(ids), 1)
        self.ids.copy_(ids)
        self.slot.fill_(cache.length)
        self.positions.copy_(cache.positions)
        for state in self.states:
            state.take()
        cache.advance(self.positions[:, None].expand(3, -1, 1), None)
        reach = cache.max_length if self.fused else SHORTEST
        while reach < cache.length:
            reach *= 2
        logits = self._run(min(reach, cache.max_length))
        for layer in cache.layers:
            if isinstance(layer, AttentionCache):
                layer.length = cache.length
        cache.midway = False
        return logits

    @property
    def states(self) -> list[State]:
        return [layer for layer in self.layers if isinstance(layer, State)]

    def _run(self, reach):
        if self.ids.device.type != "cuda":
            return self._read(reach)
        if reach not in self.graphs:
            self.graphs[reach] = self._capture(reach)
        graph, logits = self.graphs[reach]
        graph.replay()
        return logits

    def _capture(self, reach):
        """A step's kernels, taken down. It is run before, so that all of them exist; then the memories are put back."""
        before = [tuple(x.clone() for x in state.own) for state in self.states]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                self._read(reach)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._read(reach)
        for state, saved in zip(self.states, before, strict=True):
            for own, x in zip(state.own, saved, strict=True):
                own.copy_(x)
        return graph, logits

    def _read(self, reach):
        """What `Qwen.forward` is for one token, and with nothing in it that looks at a number."""
        if self.fused:
            return self.fused(self.layers, self.ids, self.slot, self.positions)             # (B, V)
        layers = [layer if isinstance(layer, State) else Slots(layer, self.slot, reach) for layer in self.layers]
        model = self._model()
        text = model.model.language_model
        x = text.embed_tokens(self.ids)[:, None]                                            # (B, 1, hidden_size)
        filled = torch.arange(reach, device=x.device) <= self.slot                          # (reach,)
        mask = (self.valid[:, :reach] & filled)[:, None, None]                              # (B, 1, 1, reach)
        step = Step.at(self.positions[:, None].expand(3, -1, 1), text.config, x.dtype, mask=mask)
        with torch._dynamo.config.patch(recompile_limit=64):                                # one for each reach
            for layer, cache in zip(text.layers, layers, strict=True):
                x = self.layer(layer, x, step, cache)
        for state in self.states:
            state.keep()
        return model.head(text.norm(x))[:, -1]                                              # (B, V)


def fused_step(model: Qwen, cache: Cache):
    """The step in kernels of its own, where there is a GPU, a Triton, and kernels for this model; else None."""
    if not model.head_weight.is_cuda:
        return None
    try:
        from .decode_triton import FusedStep
    except ImportError:
        return None
    return FusedStep(model, cache.valid) if FusedStep.fits(model, cache.batch_size) else None


def read_layer(layer, x, step, cache):
    """One layer of the step, which is what a compiler gets: once for each kind, and not for each of them."""
    return layer(x, step, cache)


# -------------------------------------------------------------------------------------------- caches that are lent out


_DECODERS = WeakKeyDictionary()                          # cache: (its decoder, what that was made for)
_IDLE = WeakKeyDictionary()                              # model: (the cache that was given back last, and it empty)


@contextmanager
def lent_cache(model: Qwen, batch_size: int, length: int) -> Iterator[Cache]:
    """An empty cache of at least this length. On a GPU it is kept for the next one who asks: its graphs serve again."""
    if not model.head_weight.is_cuda:
        yield model.new_cache(batch_size, length)
        return
    cache, empty = _IDLE.pop(model, (None, None))
    if cache is None or cache.batch_size != batch_size or cache.max_length < length:
        cache = model.new_cache(batch_size, -(-length // SHORTEST) * SHORTEST)
        empty = cache.snapshot()
    cache.restore(empty)
    try:
        yield cache
    finally:
        _IDLE[model] = cache, empty


def untouched(model: Qwen) -> bool:
    """Is the model as it was made? A graph does not notice hooks, nor what a trace or an edit has put in between."""
    return not any(module._forward_hooks or module._forward_pre_hooks
                   or any(isinstance(x, FunctionType) for x in vars(module).values()) for module in model.modules())
