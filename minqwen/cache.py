"""What a model remembers of the tokens it has read, and which of them are real.

An attention layer keeps the keys and values of every token; a Gated DeltaNet layer keeps one matrix for each head and
the last few inputs of its convolution, however long the text. One can go back to where a snapshot was taken; and tokens
may be read on trial, to keep as many of them as will do.

Rows of a batch differ in length, and several texts may lie packed in one row: then a token must not be mixed with a
pad, nor with another text. Symbols are those of `model.py`.
"""

import signal
import threading
import weakref
from collections.abc import Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from .config import TextConfig
from .kernels import delta_rule_by

__all__ = ["AttentionCache", "Cache", "DeltaCache", "Padding", "Snapshot", "Trial", "interrupts_held_back", "may_look",
           "real_tokens", "sequence_of_tokens"]

# ------------------------------------------------------------------------------------------------------- caches


class AttentionCache:
    """Keys (after norm and rotary) and values of every token so far: (B, Hkv, max_length, D), filled up to `length`."""

    def __init__(self, config: TextConfig, batch_size, max_length, dtype, device):
        shape = (batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def move(self, slots: Tensor, to: Tensor) -> None:
        """What lies in these slots of each row, (B, n), lies in those from now on."""
        row = torch.arange(len(slots), device=slots.device)[:, None]
        for x in (self.keys, self.values):
            x[row, :, to] = x[row, :, slots]

    def snapshot(self):
        return self.length

    def restore(self, saved) -> None:
        self.length = saved


class DeltaCache:
    """A Gated DeltaNet layer's past, of constant size: the memory, and the convolution's last inputs.

    before: on a `Trial`, the `conv_state` of before it; else None. noted: what it takes to have read fewer tokens.
    """

    before = noted = None

    def __init__(self, config: TextConfig, batch_size, max_length, dtype, device):
        Hv, Dk, Dv = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
        channels = 2 * config.linear_num_key_heads * Dk + Hv * Dv
        self.recurrent_state = torch.zeros(batch_size, Hv, Dk, Dv, device=device)           # float32 whatever the dtype
        before = config.linear_conv_kernel_dim - 1
        self.conv_state = torch.zeros(batch_size, before, channels, dtype=dtype, device=device)

    def note(self, x: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> None:
        """What the memory is about to read, and x, (B, T, channels), what the convolution has read."""
        if self.before is not None:
            state = self.recurrent_state                 # a single token will be written into it, several to a new one
            self.noted = state.clone() if x.shape[1] == 1 else state, x, k, v, g, beta

    def keep(self, counts: Tensor) -> None:
        """Of the tokens noted each row has read its first `counts`, (B,), and no others.

        Only the rule is run again, over as many tokens as are kept: that needs none of the layer's matrices. On a CPU
        it took 2 to 7 ms for all 18 layers of the 0.8B, where something was refused. To keep a state for each of four
        tokens, in case, took 1 to 3 ms in every pass, and 75 MB a row; and layers could not read them in one go.
        """
        state, x, *inputs = self.noted
        longest = max(int(counts.max()), 1)
        k, v, g, beta = (tensor[:, :longest] for tensor in inputs)
        read = (torch.arange(longest, device=x.device) < counts[:, None])[..., None]            # (B, longest, 1)
        _, self.recurrent_state = delta_rule_by("auto", k, k, v, g * read, beta * read, state.clone())
        window = torch.cat((self.before.to(x.dtype), x), dim=1)
        last = counts[:, None] + torch.arange(self.before.shape[1], device=x.device)            # (B, K - 1)
        self.conv_state = window.gather(1, last[..., None].expand(-1, -1, x.shape[-1]))

    def snapshot(self):
        return self.recurrent_state.clone(), self.conv_state.clone()

    def restore(self, saved) -> None:
        self.recurrent_state, self.conv_state = (x.clone() for x in saved)


class Snapshot:
    """Where a cache stood. Keys and values are not copied: they stay in their slots until others are written there."""

    def __init__(self, cache: "Cache"):
        self.length, self.padded, self.positions = cache.length, cache.padded, cache.positions.clone()
        self.valid = cache.valid[:, : cache.length].clone()
        self.layers = [layer.snapshot() for layer in cache.layers]
        self.mtp = cache.mtp, None if cache.mtp is None else cache.mtp.snapshot()
        self.overwritten = False


class Trial:
    """Tokens of one forward pass, none of them a pad, that are read on trial: `Cache.trial` says how.

    Rows may keep different numbers of them. Keys and values are moved, then, so that a row's tokens lie side by side,
    and what is behind the last one of a shorter row counts as padding.
    """

    def __init__(self, cache: "Cache"):
        self.cache, self.tokens = cache, None            # how many were read: known once they are
        self.length, self.positions = cache.length, cache.positions.clone()
        slots = torch.arange(1, cache.length + 1, device=cache.valid.device)
        none = cache.positions.new_zeros(cache.batch_size, 1)
        self.ends = torch.cat((none, cache.valid[:, : cache.length] * slots), dim=1).amax(-1)   # (B,), of the rows
        self._attention = [layer for layer in cache.layers if isinstance(layer, AttentionCache)]
        self._memories = [layer for layer in cache.layers if isinstance(layer, DeltaCache)]

    def __enter__(self) -> "Trial":
        for layer in self._memories:
            layer.before = layer.conv_state
        return self

    def __exit__(self, *exception) -> None:
        for layer in self._memories:
            layer.before = layer.noted = None

    def keep(self, counts: Sequence[int]) -> None:
        """Row r has read its first counts[r] tokens and no others. May be said again, with fewer."""
        cache, start, kept = self.cache, self.length, torch.tensor(counts, device=self.ends.device)  # (B,)
        if self.tokens is None:
            self.tokens = cache.length - start
            if (self.ends < start).any():
                place = torch.arange(self.tokens, device=kept.device)
                for layer in self._attention:
                    layer.move((start + place).expand(len(kept), -1), to=self.ends[:, None] + place)
        cache.length, cache.positions = int((self.ends + kept).max()), self.positions + kept
        new = torch.arange(start + self.tokens, device=kept.device) - self.ends[:, None]         # (B, slots), from 0 on
        valid = cache.valid[:, : start + self.tokens]
        valid[:] = torch.where(new < 0, valid, new < kept[:, None])
        cache.padded = not valid[:, : cache.length].all()
        for layer in self._attention:
            layer.length = cache.length
        for layer in self._memories:
            if min(counts) < self.tokens:
                layer.keep(kept)


class Cache:
    """What the model remembers of the tokens it has read, layer by layer. `Qwen.new_cache` makes it.

    Attributes:
        length: slots filled so far, pads included.
        positions: (B,) the next text position of each row: its count of real tokens, and less than that after a
            picture, whose tokens lie side by side.
        valid: (B, max_length) which slots hold a real token.
        midway: a forward pass is on its way, or broke off: some layers have read its tokens and others have not.
        mtp: the multi-token head's own cache, where it drafts (see `drafts.py`); None elsewhere.
        top: where it drafts, (B, T, hidden_size): what stood at the top of the model for the tokens read last.
    """

    def __init__(self, config: TextConfig, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device):
        kinds = {"full_attention": AttentionCache, "linear_attention": DeltaCache}
        self.layers = [kinds[kind](config, batch_size, max_length, dtype, device) for kind in config.layer_types]
        self.batch_size, self.max_length = batch_size, max_length
        self.length, self.padded, self.midway = 0, False, False
        self.positions = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.valid = torch.ones(batch_size, max_length, dtype=torch.bool, device=device)
        self.mtp, self.top = None, None
        self._snapshots = weakref.WeakSet()

    def check_room(self, batch_size: int, tokens: int) -> None:
        if self.midway:
            raise ValueError("A forward pass broke off and left the layers of this cache at different tokens: restore "
                             "a snapshot of it, or make a new one.")
        if batch_size != self.batch_size:
            raise ValueError(f"This cache was made for {self.batch_size} rows, but the batch has {batch_size}: "
                             f"make a new one.")
        if self.length + tokens > self.max_length:
            raise ValueError(f"The cache holds {self.length} of {self.max_length} tokens and {tokens} more do not fit: "
                             f"make it longer with new_cache(max_length=...).")

    def fill(self, tokens: int, valid: Tensor | None = None) -> None:
        """Take so many more slots, for tokens of which `valid`, (B, tokens), are real (None: all)."""
        for snapshot in self._snapshots:
            snapshot.overwritten |= snapshot.length > self.length
        end = self.length + tokens
        self.valid[:, self.length : end] = True if valid is None else valid
        self.padded |= valid is not None
        self.length, self.midway = end, True

    def advance(self, position_ids: Tensor, valid: Tensor | None) -> None:
        """Make room for tokens at these positions, (3, B, T), of which `valid`, (B, T), are real (None: all)."""
        self.fill(position_ids.shape[-1], valid)
        past = position_ids.amax(0) + 1                                                     # (B, T)
        past = past if valid is None else past.masked_fill(~valid, 0)
        self.positions = torch.maximum(self.positions, past.amax(-1))

    def snapshot(self) -> Snapshot:
        """Remember this place: a recurrent state cannot be cropped, so one can only go back to where it was kept."""
        snapshot = Snapshot(self)
        self._snapshots.add(snapshot)
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to `snapshot`, as often as you like.

        Raises:
            ValueError: tokens it counted on were overwritten meanwhile, after going back further than it.
        """
        if snapshot.overwritten:
            raise ValueError("This snapshot cannot be restored: after going back to an earlier one, new tokens were "
                             "written over its keys and values.")
        self.length, self.padded, self.positions = snapshot.length, snapshot.padded, snapshot.positions.clone()
        self.valid[:, : self.length], self.midway = snapshot.valid, False
        for layer, saved in zip(self.layers, snapshot.layers, strict=True):
            layer.restore(saved)
        self.mtp, saved = snapshot.mtp
        if self.mtp is not None:
            self.mtp.restore(saved)

    def trial(self) -> Trial:
        """Read tokens on trial: they may be given back, row by row, as if they had never been read.

        What is not kept goes back at the end:

            with cache.trial() as trial:
                logits = model(ids, cache=cache)         # (B, T)
                trial.keep([3, 1])                       # of row 0 three tokens, of row 1 one
        """
        return Trial(self)


@contextmanager
def interrupts_held_back():
    """Ctrl-C during this block is heard at its end.

    A forward pass moves the cache on layer by layer and in place: broken off midway, it would leave the layers at
    different tokens. Signals reach the main thread only, so in another one there is nothing to do.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:     # None: not Python's to put back
        yield
        return
    came = []
    signal.signal(signal.SIGINT, lambda *_: came.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


# ------------------------------------------------------------------------- which tokens are real, and who sees whom


def real_tokens(input_ids: Tensor, attention_mask: Tensor | None, cache: Cache | None = None) -> Tensor | None:
    """(B, T) bool, False for padding; None where all tokens are real, which is cheaper to go on with.

    Args:
        attention_mask: (B, T), 0 = padding; with a cache also (B, tokens before + T).
    Raises:
        ValueError: a mask of another shape.
    """
    (B, T), before = input_ids.shape, 0 if cache is None else cache.length
    if attention_mask is None:
        return None
    given = isinstance(attention_mask, Tensor)
    if not given or attention_mask.shape not in ((B, T), (B, before + T)):
        what = tuple(attention_mask.shape) if given else f"a {type(attention_mask).__name__}"
        raise ValueError(f"attention_mask must be a tensor, {(B, T)}" + (f" or {(B, before + T)}" if before else "")
                         + f" for these tokens, but is {what}.")
    valid = attention_mask[:, -T:].bool()
    traced = torch.compiler.is_compiling()               # a graph cannot depend on the numbers
    return valid if traced or not valid.all() else None


class Padding:
    """Which tokens of a batch are real, and how to close the gaps.

    A recurrent layer has no positions, only an order: moving every row's real tokens to the front, with the pads as
    exact no-ops behind them, makes a padded row the same computation as the row alone - padded left, right or in the
    middle, and whatever the memory held before.
    """

    def __init__(self, valid: Tensor):
        """valid: (B, T) bool, True for a real token."""
        self.lengths = valid.sum(-1)                                                        # (B,)
        self.packed = torch.arange(valid.shape[1], device=valid.device) < self.lengths[:, None]
        self.order = torch.argsort((~valid).byte(), dim=1, stable=True)  # where each packed token stands in its row
        self.place = torch.argsort(self.order, dim=1)                    # and where each token of a row is packed

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, C): the rows' real tokens first, then zeros."""
        return x.gather(1, self.order[..., None].expand_as(x)).masked_fill(~self.packed[..., None], 0)

    def unpack(self, x: Tensor) -> Tensor:
        """(B, T, C): every token back in its place, zeros for the pads."""
        return x.masked_fill(~self.packed[..., None], 0).gather(1, self.place[..., None].expand_as(x))


def sequence_of_tokens(cu_seqlens: Tensor, T: int) -> Tensor:
    """(T,): which of the packed sequences each token belongs to."""
    return torch.bucketize(torch.arange(T, device=cu_seqlens.device), cu_seqlens[1:], right=True)


def may_look(B: int, T: int, valid: Tensor | None, cache: Cache | None = None, cu_seqlens: Tensor | None = None,
             device: torch.device | None = None) -> Tensor | None:
    """(B or 1, 1, T, S), True where a query may look; None where it may at all of the past, and attention knows how.

    valid: (B, T) from `real_tokens`; cache: as it stood before these tokens; cu_seqlens: (N + 1,) of packed sequences.
    """
    if cu_seqlens is not None:
        sequence = sequence_of_tokens(cu_seqlens, T)
        return (sequence[:, None] == sequence).tril()[None, None]
    before, padded = (0, False) if cache is None else (cache.length, cache.padded)
    on_cpu = device is not None and device.type == "cpu"
    if valid is None and not padded and (before == 0 or T == 1 or on_cpu):
        return None
    causal = torch.ones(T, before + T, dtype=torch.bool, device=device).tril(before)
    if valid is None and not padded:
        return causal[None, None]
    now = torch.ones(B, T, dtype=torch.bool, device=device) if valid is None else valid
    real = now if cache is None else torch.cat((cache.valid[:, :before], now), dim=1)       # (B, S)
    # a pad may look at itself, so that its softmax has something to sum over: its answer is finite, and never read
    itself = torch.eye(T, dtype=torch.bool, device=device)
    return ((causal & real[:, None]) | F.pad(itself, (before, 0)))[:, None]
