"""By which form of the gated delta rule a layer computes: what `kernel=` of `minqwen.load` means.

    auto         on a GPU the Triton kernels, where they can be had and proved right; else chunks, and for the one token
                 of a decoding step the recurrence
    chunk, recurrent
                 always this one, to compare
    triton       the Triton kernels, or one sentence that says why not

Triton is imported when tensors on a GPU first ask for it: a machine without a GPU needs none.
"""

import os
import re
import warnings
from functools import lru_cache, partial

import torch
from torch import Tensor

from .delta_rule import chunk_gated_delta_rule, l2norm, recurrent_gated_delta_rule
from .errors import QwenError, short

__all__ = ["KERNELS", "check_kernel", "delta_rule_by"]

KERNELS = ("auto", "chunk", "recurrent", "triton")
ELSE = 'or take kernel="chunk"'
SOUND = (3, 7, 1)                                        # Triton; from 3.4 on, earlier ones have failed on Hopper GPUs


def delta_rule_by(kernel: str, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None = None,
                  cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(o, new state) by one of `KERNELS`. Shapes: see the top of `delta_rule.py`. A decoding step, which is one token
    with a state and without gradients, changes `state` in place.

    Raises:
        QwenError: no such kernel; kernel="triton", and it cannot be had here, or is wrong here.
    """
    if kernel not in KERNELS:
        check_kernel(kernel)
    decoding = k.shape[1] == 1 and state is not None and not torch.is_grad_enabled()
    if kernel == "auto":
        kernel = "triton" if _triton_serves(q, k, v, g, beta, state) else "recurrent" if decoding else "chunk"
    elif kernel == "triton" and (problem := no_triton(v.device, v.dtype) or _fault(q, k, v, g, beta, state)):
        raise QwenError(problem)
    options = {"initial_state": state, "output_final_state": True, "cu_seqlens": cu_seqlens}
    if kernel == "chunk":
        return chunk_gated_delta_rule(q, k, v, g, beta, **options)
    if kernel == "recurrent":
        return recurrent_gated_delta_rule(q, k, v, g, beta, inplace_final_state=decoding, **options)
    from .delta_rule_triton import decode_step, triton_gated_delta_rule

    if decoding:
        return decode_step(q, k, v, g, beta, state), state
    return triton_gated_delta_rule(q, k, v, g, beta, **options)


def check_kernel(kernel: str, device: torch.device | str = "cpu") -> None:
    """Raise a QwenError if there is no such kernel, or not on this device."""
    if kernel not in KERNELS:
        raise QwenError(f"There is no kernel {kernel!r}; there are {', '.join(KERNELS)}.")
    if kernel == "triton" and (problem := no_triton(torch.device(device))):
        raise QwenError(problem)


# ------------------------------------------------------------------------------------------------- can it be had here


@lru_cache
def no_triton(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> str | None:
    """Why the Triton kernels cannot compute there, in a sentence; None if they can."""
    if os.environ.get("TRITON_INTERPRET") != "1":                                # "1": line by line on a CPU, in tests
        if device.type != "cuda" or torch.version.cuda is None:
            return f'kernel="triton" needs an NVIDIA GPU and device="cuda", not {device.type!r}: take one, {ELSE}.'
        if torch.cuda.get_device_capability(device) < (8, 0):
            return f'kernel="triton" needs a newer GPU than {torch.cuda.get_device_name(device)}: take one, {ELSE}.'
    try:
        import triton  # noqa: F401
    except ImportError:
        return f'kernel="triton" needs the package triton, which is not installed: pip install triton, {ELSE}.'
    if dtype not in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        return f'kernel="triton" computes in float32 or bfloat16, not {name}: load with dtype="bfloat16", {ELSE}.'
    return None


def _triton_serves(*tensors):
    """Without a sentence where it was not to be expected; a fault is told."""
    v = tensors[2]
    if not v.is_cuda or torch.compiler.is_compiling() or no_triton(v.device, v.dtype):      # a compiler fuses by itself
        return False
    if fault := _fault(*tensors):
        warnings.warn(fault, stacklevel=2)
    return fault is None


# --------------------------------------------------------------------------------------------------- is it right here


def _fault(q, k, v, g, beta, state):
    learning = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, g, beta, state))
    return fault(v.device, v.dtype, *k.shape[2:], *v.shape[2:], learning)


@lru_cache
def fault(device: torch.device, dtype: torch.dtype, Hk: int, Dk: int, Hv: int, Dv: int, learning: bool) -> str | None:
    """What is wrong with the Triton kernels on this very machine, in a sentence; None if they are right.

    Triton from 3.4 to before 3.7.1 has built wrong backward kernels for Hopper GPUs (flash-linear-attention #640). So
    no version is trusted by its number: once in a process the kernels that these heads will run are tried on a few
    chunks beside the recurrence, backward too before anything is learnt. It costs little besides compiling them.
    """
    import triton

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "machine"
    whose = f"Triton {triton.__version__} on this {name}"
    try:
        off = errors(device, dtype, Hk, Dk, Hv, Dv, learning)
    except Exception as problem:                         # a GPU with too little shared memory, a compiler that gives up
        return f"{whose} cannot run the delta rule ({type(problem).__name__}: {short(problem)}): update it, {ELSE}."
    worst = max(off, key=lambda x: off[x] if off[x] == off[x] else float("inf"))
    if off[worst] <= (1e-3 if dtype == torch.float32 else 0.05):
        return None
    what, version = "gradients" if learning else "values", tuple(map(int, re.findall(r"\d+", triton.__version__)[:3]))
    update = "take Triton 3.7.1 or newer (PyTorch 2.13 brings it)" if version < SOUND else "take another Triton"
    return f"{whose} makes wrong {what} ({worst} is off by {off[worst]:.0%}): {update}, {ELSE}."


def errors(device, dtype, Hk, Dk, Hv, Dv, learning, T=144) -> dict[str, float]:
    """How far o, the state and, if learning, each gradient are from those of the recurrence in float64.

    Only the last key head and its value heads are compared: heads do not know of each other, and the recurrence keeps
    every state for its gradients.
    """
    from .delta_rule_triton import triton_gated_delta_rule

    random = torch.Generator(device).manual_seed(0)
    normal = partial(torch.randn, generator=random, device=device)
    gates = -normal(1, T, Hv) ** 2, normal(1, T, Hv).sigmoid()
    x = [*(t.to(dtype) for t in (*l2norm(normal(2, 1, T, Hk, Dk)), normal(1, T, Hv, Dv))), *gates]
    state, towards = normal(2, 1, Hv, Dk, Dv).to(dtype).float()                  # rounded, as the products round it
    x, towards = [*x, state], (normal(1, T, Hv, Dv).to(dtype), towards)

    def last_heads(tensors, axes):
        return [t.narrow(axis, t.shape[axis] // Hk * (Hk - 1), t.shape[axis] // Hk) for t, axis in zip(tensors, axes)]

    of_x, of_values = (2, 2, 2, 2, 2, 1), (2, 1)         # the axis of the heads
    ours = values_and_gradients(triton_gated_delta_rule, x, towards, learning)
    right = values_and_gradients(recurrent_gated_delta_rule, [t.double() for t in last_heads(x, of_x)],
                                 [t.double() for t in last_heads(towards, of_values)], learning)
    names = ("o", "the state", "dq", "dk", "dv", "dg", "dbeta", "the state's gradient")
    return {name: ((a.double() - b).norm() / b.norm()).item()
            for name, a, b in zip(names, last_heads(ours, of_values + of_x), right)}


@torch.enable_grad()
def values_and_gradients(rule, x, towards, learning):
    x = [t.detach().requires_grad_(learning) for t in x]
    values = rule(*x[:5], initial_state=x[5], output_final_state=True)
    return [t.detach() for t in values] + list(torch.autograd.grad(values, x, towards) if learning else ())
