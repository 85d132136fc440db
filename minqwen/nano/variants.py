"""The hybrid with one of its parts taken out, or put together in another way: what each part is good for.

    model = VARIANTS["no correction"].grow(plan)        # as it is, but for that
    with as_another(layer.linear_attn, Additive):       # for a while, one layer of a model that has learnt with it
        model(input_ids)

A variant is a class beside the model's own: the same weights, another forward. `model.py` knows nothing of it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor, nn
from torch.nn import functional as F

from ..delta_rule import full_precision
from ..errors import QwenError
from ..model import GatedAttention, GatedDeltaNet, GatedRMSNorm, Qwen, Step

# ------------------------------------------------------------------------------------------- layers without a part


class Additive(GatedDeltaNet):
    """No correction: S = alpha S + beta k v^T, whatever the memory answered before. Plain linear attention with gates.

    Source: "Transformers are RNNs" (Katharopoulos et al. 2020, arXiv 2006.16236); with a gate: "Gated Linear Attention"
    (Yang et al. 2023, arXiv 2312.06635).
    """

    def delta_rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None,
                   cu_seqlens: Tensor | None = None) -> tuple[Tensor, None]:
        """All tokens at once, as the map that they are to each other: it grows with their square, and keeps no state.

        Raises:
            QwenError: there is a cache, or sequences are packed.
        """
        if state is not None or cu_seqlens is not None:
            raise QwenError("A memory without correction reads whole texts, row by row: without cache and cu_seqlens.")
        q, k = (repeat(full_precision(x), "b t h d -> b (h r) t d", r=v.shape[2] // q.shape[2]) for x in (q, k))
        c, v = g.cumsum(1).transpose(1, 2), (full_precision(v) * beta[..., None]).transpose(1, 2)   # (B, Hv, T, ...)
        future = torch.ones(c.shape[-1], c.shape[-1], dtype=torch.bool, device=c.device).triu(1)
        decay = (c[..., :, None] - c[..., None, :]).masked_fill(future, -torch.inf).exp()           # (B, Hv, T, T)
        o = (q @ k.mT * decay) @ v * q.shape[-1] ** -0.5
        return o.transpose(1, 2), None


class NeverFading(GatedDeltaNet):
    """No decay: alpha is 1 at every token."""

    def delta_rule(self, q, k, v, g, beta, state, cu_seqlens=None):
        return super().delta_rule(q, k, v, torch.zeros_like(g), beta, state, cu_seqlens)


class WithoutConvolution(GatedDeltaNet):
    """No convolution: what a token writes and asks is made of that token alone."""

    def convolve(self, x: Tensor, step: Step, cache=None) -> Tensor:
        return F.silu(x)


class PlainNorm(GatedRMSNorm):
    """No output gate behind the delta rule."""

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return (self.weight * F.rms_norm(full_precision(x), self.weight.shape, eps=self.eps)).to(x.dtype)


class OpenAttention(GatedAttention):
    """No output gate behind softmax attention."""

    def gated(self, o: Tensor, gate: Tensor) -> Tensor:
        return o


@contextmanager
def as_another(module: nn.Module, kind: type[nn.Module]) -> Iterator[None]:
    """A module computes as `kind` does, a class beside its own, until the `with` ends."""
    own, module.__class__ = module.__class__, kind
    try:
        yield
    finally:
        module.__class__ = own


def become(*kinds: type[nn.Module]) -> Callable[[Qwen], None]:
    """What changes a whole model: each of its modules of a kind's parent class becomes of that kind."""

    def change(model):
        for module in model.modules():
            for kind in kinds:
                if type(module) is kind.__base__:
                    module.__class__ = kind

    return change


@torch.no_grad()
def with_official_steps(model: Qwen) -> None:
    """`dt_bias` is 1, as `transformers` leaves it: the time step is 1.3 at first, and a token wipes the memory."""
    for mixer in model.modules():
        if isinstance(mixer, GatedDeltaNet):
            mixer.dt_bias.fill_(1.0)


# ------------------------------------------------------------------------------------------------------- all of them


@dataclass(frozen=True)
class Variant:
    """What is not as it is in the hybrid of lesson 13.

    layers: D for a Gated DeltaNet, A for gated attention, from the lowest to the highest.
    change: what is done to the fresh model.
    memory: it starts where recall is near (`train.begin_as_a_memory`); else by `Qwen.init_weights` alone.
    """

    layers: str = "DDDADDDA"
    change: Callable[[Qwen], None] | None = None
    memory: bool = True


VARIANTS = {
    "as it is, 3:1": Variant(),
    "no correction": Variant(change=become(Additive)),
    "no decay": Variant(change=become(NeverFading)),
    "no convolution": Variant(change=become(WithoutConvolution)),
    "no output gate": Variant(change=become(PlainNorm, OpenAttention)),
    "all attention": Variant("AAAAAAAA"),
    "1:1": Variant("DADADADA"),
    "7:1": Variant("DDDDDDDA"),
    "all delta": Variant("DDDDDDDD"),
    "all delta, no correction": Variant("DDDDDDDD", become(Additive)),
    "dt_bias of 1": Variant(change=with_official_steps),
    "plain initialisation": Variant(memory=False),
}
