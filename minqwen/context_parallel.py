"""One long sequence on several machines: each reads its own part, and what the earlier ones know is handed on.

    o, state = delta_rule_across(q, k, v, g, beta)      # on each rank, with its own tokens

A Gated DeltaNet layer needs of all earlier tokens one matrix for each value head, and of the convolution's inputs the
last few: as many bytes after a million tokens as after a thousand (`info.memory` counts them). So the parts of a
sequence are read one behind the other, each beginning with the state in which the one before ended, and the result is
that of one machine. Attention needs of all earlier tokens their keys and values, which grow with the text.

Nobody waits for long: while rank 1 is in layer 0, rank 0, which never needs what comes later, is in layer 1. Ranks run
through the layers as a wave, and gradients come back the other way.

Source: "Linear Attention Sequence Parallelism" (Sun et al. 2024, arXiv 2404.02882), its ring of states; for attention
"Context Parallelism for Scalable Million-Token Inference" (Yang et al. 2024, arXiv 2411.01783).
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from .delta_rule import chunk_gated_delta_rule
from .ranks import rank, ranks

__all__ = ["attention_across", "delta_rule_across", "on_own_part"]


class FromBefore(torch.autograd.Function):
    """What the rank before sends; nothing on the first. Its gradient goes back to where it came from."""

    @staticmethod
    def forward(ctx, nothing: Tensor) -> Tensor:
        received = torch.zeros_like(nothing)
        if rank() > 0:
            dist.recv(received, rank() - 1)
        return received

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        if rank() > 0:
            dist.send(gradient.contiguous(), rank() - 1)
        return gradient


class ToNext(torch.autograd.Function):
    """Send a state to the next rank, and wait for its gradient on the way back. `o` passes through: whoever asks for
    its gradient asks for the state's, too."""

    @staticmethod
    def forward(ctx, o: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        if rank() < ranks() - 1:
            dist.send(state.contiguous(), rank() + 1)
        return o.clone(), state.clone()

    @staticmethod
    def backward(ctx, do: Tensor, dstate: Tensor) -> tuple[Tensor, Tensor]:
        if rank() < ranks() - 1:
            later = torch.empty_like(dstate)
            dist.recv(later, rank() + 1)
            dstate = dstate + later
        return do, dstate


def delta_rule_across(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **options) -> tuple[Tensor, Tensor]:
    """The gated delta rule over a sequence whose tokens lie on several ranks, in order.

    Args:
        q, k, v, g, beta: this rank's own tokens, as at the top of `delta_rule.py`; parts may differ in length.
        options: of `chunk_gated_delta_rule`, such as `use_qk_l2norm_in_kernel`.
    Returns:
        o (B, T, Hv, Dv) of its own tokens, and the state behind the last of them. With gradients all ranks call
        `backward()` on what they made of o (`torch.autograd.grad` would leave out what is for the rank before).
    """
    (B, _, _, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    nothing = v.new_zeros(B, Hv, Dk, Dv, dtype=torch.promote_types(v.dtype, torch.float32))
    before = FromBefore.apply(nothing.requires_grad_(torch.is_grad_enabled()))
    o, state = chunk_gated_delta_rule(q, k, v, g, beta, initial_state=before, output_final_state=True, **options)
    return ToNext.apply(o, state)


def attention_across(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention likewise, to compare what it sends. All parts are of one length; no gradients.

    q: (B, Hq, T, D), k and v: (B, Hkv, T, D), this rank's own tokens -> (B, Hq, T, D)
    """
    past = k.new_empty(2, *k.shape[:2], rank() * k.shape[2], k.shape[3])
    if rank() > 0:
        dist.recv(past, rank() - 1)
    k, v = (torch.cat((old, new), dim=2) for old, new in zip(past, (k, v)))
    if rank() < ranks() - 1:
        dist.send(torch.stack((k, v)), rank() + 1)
    mask = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril(k.shape[2] - q.shape[2])
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)


def on_own_part(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
    """To try it by `ranks.together`: every rank is given a whole sequence, and reads its own part.

    Returns:
        o of the part, the state behind it, and the gradients of all parts' sum(o ^ 2) for its own q, k, v, g and beta.
    """
    own = [x.tensor_split(ranks(), dim=1)[rank()].clone().requires_grad_() for x in (q, k, v, g, beta)]
    o, state = delta_rule_across(*own)
    o.square().sum().backward()
    return o.detach(), state.detach(), [x.grad for x in own]
