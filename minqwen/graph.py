"""Decoding on a GPU: the step that reads one token, taken down as a CUDA graph.

To read one token a model runs more than a hundred kernels, each for some microseconds, and to launch one from Python
can take longer than that. A CUDA graph is the list of all of them, taken down once and launched as a whole. So
everything that differs from one token to the next has to lie in tensors of its own: which ids are read, where their
keys and values go, how far back they may look. Slot and positions count up by themselves.

    decoder = Decoder.of(model, cache)
    logits = decoder(ids)                       # (B,) -> (B, V), as `generate.decode_one_token`, in one launch

There are two such steps. The fused one has kernels of its own, and one graph serves all lengths: see
`decode_triton.py`, also for which models. It is taken once its first token has agreed with the plain step's. That one
is made of the model's own layers. It looks at the first `reach` slots, of which those not filled yet are masked; a
graph is captured for each reach, a power of two times `SHORTEST`, when it is first needed. Without a GPU a decoder runs
the plain step without a graph.

Symbols are those of `model.py`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor
from torch.nn.modules import module as torch_module

from .cache import AttentionCache, Cache, DeltaCache
from .errors import short
from .kernels import no_triton
from .model import Qwen, Step

__all__ = ["Decoder", "fits_a_graph", "lent_cache", "on_gpu", "untouched"]

SHORTEST = 512                                           # slots that the plain step reaches at least


class Slots:
    """An attention layer's cache while the plain step runs: its keys and values go to `slot`, a tensor."""

    def __init__(self, cache: AttentionCache, slot: Tensor, reach: int):
        self.keys, self.values, self.slot, self.reach = cache.keys, cache.values, slot, reach

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        self.keys[:, :, self.slot], self.values[:, :, self.slot] = k, v
        return self.keys[:, :, : self.reach], self.values[:, :, : self.reach]               # (B, Hkv, reach, D)


class Decoder:
    """Reads one token of each row: `logits = decoder(ids)`, (B,) -> (B, V). The cache moves on as it would without.

    The logits lie in a tensor that the next call writes anew. Nothing here waits for the GPU.

    Args:
        cache: of `model`, wherever it stands; it may be used without the decoder in between, as by a prefill.
    """

    def __init__(self, model: Qwen, cache: Cache):
        self._model, self._cache = ref(model), ref(cache)
        self.ids, self.positions = (torch.zeros_like(cache.positions) for _ in range(2))    # (B,)
        self.slot, self.valid = self.ids.new_zeros(1), cache.valid
        self.memories = [(layer, name, getattr(layer, name).contiguous()) for layer in cache.layers
                         if isinstance(layer, DeltaCache) for name in ("recurrent_state", "conv_state")]
        trusted = _trusted(model)
        self.fused = None if trusted is False else fused_step(model, cache)
        self.untried = self.fused is not None and trusted is None
        self.graphs = {}                                 # reach: (graph, the logits that it leaves)

    @classmethod
    def of(cls, model: Qwen, cache: Cache) -> "Decoder":
        """The decoder of this model and cache: there is one, as long as the model is made of the same things."""
        made_of = *_kinds(model), *(x.data_ptr() for x in model.parameters())
        decoder, before = _DECODERS.get(cache, (None, None))
        if before != made_of or decoder._model() is not model:
            _DECODERS[cache] = decoder, _ = cls(model, cache), made_of
        return decoder

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        """Raises: ValueError: not an id for each row; the cache is gone or full, or a forward pass of it broke off."""
        if ids.shape != self.ids.shape or ids.is_floating_point():
            raise ValueError(f"A decoder reads one id of each row, {tuple(self.ids.shape)}, whole numbers, and not "
                             f"{tuple(ids.shape)} of {ids.dtype}.")
        cache = self._cache()
        if cache is None:
            raise ValueError("The cache of this decoder is gone: keep it as long as you decode with it.")
        cache.check_room(len(ids), 1)
        self.ids.copy_(ids)
        self._gather_memories()
        if cache.positions is not self.positions:        # somebody else has moved it
            self.slot.fill_(cache.length)
            self.positions.copy_(cache.positions)
            cache.positions = self.positions
        cache.fill(1)
        if self.untried:
            self._try_fused()
        logits = self._run(self._reach(cache))
        for layer in cache.layers:
            if isinstance(layer, AttentionCache):
                layer.length = cache.length
        cache.midway = False
        return logits

    def _gather_memories(self):
        """A graph knows tensors by their place: what the layers hold elsewhere by now goes into those it knows."""
        for layer, name, own in self.memories:
            x = getattr(layer, name)
            if x.data_ptr() != own.data_ptr():
                own.copy_(x)
            setattr(layer, name, own)

    def _try_fused(self):
        """Kernels are trusted once they have said, on this very machine, what the model's own layers say."""
        with self._only_tried():
            right = self._plain(self._cache().max_length).float()
        if not right.isfinite().all() or not right.any():
            return                                       # nothing can be said by such weights
        try:
            with self._only_tried():
                off = ((self._fused().float() - right).norm() / right.norm()).item()
            fault = f"are off by {off:.0%}"
        except Exception as problem:                     # a GPU with too little shared memory, a compiler that gives up
            off, fault = torch.inf, f"cannot run ({type(problem).__name__}: {short(problem)})"
        model = self._model()
        # both round: 24 layers of random bfloat16 weights were 4 % apart
        right = off <= (1e-3 if model.head_weight.dtype == torch.float32 else 0.3)
        _TRIED[model], self.untried = (_kinds(model), right), False
        if not right:
            warnings.warn(f"The kernels that decode in one go {fault} on this machine: decoding goes layer by layer.",
                          stacklevel=3)
            self.fused = None

    @contextmanager
    def _only_tried(self):
        """What a step moves on is put back."""
        moved = [self.slot, self.positions, *(own for _, _, own in self.memories)]
        before = [x.clone() for x in moved]
        try:
            yield
        finally:
            for x, saved in zip(moved, before, strict=True):
                x.copy_(saved)

    def _reach(self, cache):
        reach = cache.max_length if self.fused else SHORTEST
        while reach < cache.length:
            reach *= 2
        return min(reach, cache.max_length)

    def _run(self, reach):
        if self.ids.device.type != "cuda":
            return self._read(reach)
        if reach not in self.graphs:
            self.graphs[reach] = self._capture(reach)
        graph, logits = self.graphs[reach]
        graph.replay()
        return logits

    def _capture(self, reach):
        """A step's kernels, taken down. It is run before, so that all of them exist."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                with self._only_tried():
                    self._read(reach)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._read(reach)
        return graph, logits

    def _read(self, reach):
        """One token of each row, and with nothing in it that looks at a number."""
        logits = self._fused() if self.fused else self._plain(reach)                        # (B, V)
        self.slot += 1
        self.positions += 1
        return logits

    def _fused(self):
        return self.fused(self._cache().layers, self.ids, self.slot, self.positions)

    def _plain(self, reach):
        """What `Qwen.forward` is for one token."""
        model, caches = self._model(), self._cache().layers
        text = model.model.language_model
        x = text.embed_tokens(self.ids)[:, None]                                            # (B, 1, hidden_size)
        filled = torch.arange(reach, device=x.device) <= self.slot                          # (reach,)
        mask = (self.valid[:, :reach] & filled)[:, None, None]                              # (B, 1, 1, reach)
        step = Step.at(self.positions[:, None].expand(3, -1, 1), text.config, x.dtype, mask=mask)
        for layer, cache in zip(text.layers, caches, strict=True):
            x = layer(x, step, Slots(cache, self.slot, reach) if isinstance(cache, AttentionCache) else cache)
        self._gather_memories()
        return model.head(text.norm(x))[:, -1]


def fused_step(model: Qwen, cache: Cache):
    """The step in kernels of its own, where there is a GPU, a Triton, and kernels for this model; else None."""
    if not model.head_weight.is_cuda or no_triton(model.head_weight.device):
        return None
    try:
        from .decode_triton import FusedStep
    except ImportError:                                  # an older Triton
        return None
    return FusedStep(model, cache.valid) if FusedStep.fits(model, cache.batch_size) else None


# -------------------------------------------------------------------------------------------- caches that are lent out


_TRIED = WeakKeyDictionary()                             # model: (its kinds, has its fused step said what it should)
_DECODERS = WeakKeyDictionary()                          # cache: (its decoder, what that was made of)
_IDLE = WeakKeyDictionary()                              # model: (the cache that was given back last, and it empty)


@contextmanager
def lent_cache(model: Qwen, batch_size: int, length: int) -> Iterator[Cache]:
    """An empty cache of at least this length. On a GPU it is kept for the next one who asks: its graphs serve again."""
    if not on_gpu(model):
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


def on_gpu(model: Qwen) -> bool:
    return model.head_weight.is_cuda


def fits_a_graph(model: Qwen) -> bool:
    """Can a CUDA graph hold this model's step? Not one that somebody looks into, and not experts: on many a GPU and in
    many a dtype the CPU must be told how many tokens each of them is sent."""
    return untouched(model) and not model.config.text_config.num_experts


def untouched(model: Qwen) -> bool:
    """Is the model as it was made? A graph does not notice hooks, nor what a trace or an edit has put in between, and
    the fused step does not notice classes of somebody else's."""
    return not (torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks) and not any(
        module._forward_hooks or module._forward_pre_hooks or any(map(callable, vars(module).values()))
        or not type(module).__module__.startswith(("minqwen.", "torch.nn.")) for module in model.modules())


def _kinds(model):
    """What the model's parts are, and in which dtype: what decides which kernels serve."""
    return model.head_weight.dtype, *((type(module), getattr(module, "kernel", None)) for module in model.modules())


def _trusted(model):
    """True or False, once the fused step was tried on this model as it is now; else None."""
    kinds, right = _TRIED.get(model, (None, None))
    return right if kinds == _kinds(model) else None
