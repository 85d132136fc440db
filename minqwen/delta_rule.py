"""The gated delta rule: a memory that decays, erases and writes - as pure functions.

Per head the memory is one matrix S of shape (Dk, Dv). At each token it meets a key k and a query q of width Dk, a
value v of width Dv, a log decay g <= 0 and a writing strength beta in (0, 1):

    S  <-  exp(g) S                       forget a little of everything       (the gate, alpha = exp(g))
    u   =  beta (v - S^T k)               the error: what the memory would have answered to k, set against v
    S  <-  S + k u^T                      write the correction under k - the old answer goes, the new one stays
    o   =  S^T (q scale)                  read

Decay comes first, then the error. Source: "Gated Delta Networks" (Yang, Kautz, Hatamizadeh 2024, arXiv 2412.06464),
equation 10; the chunked form is its section 3.3, after "Parallelizing Linear Transformers with the Delta Rule over
Sequence Length" (Yang et al. 2024, arXiv 2406.06484).

Layout and names of the arguments are those of `flash-linear-attention` and of `transformers`, for every function here:

    q, k    (B, T, Hk, Dk)    Hk key heads
    v       (B, T, Hv, Dv)    Hv value heads, R to a key head: value heads i R ... i R + R - 1 share key head i
    g, beta (B, T, Hv)        log decay (natural logarithm, <= 0; -inf forgets all) and writing strength
    state   (B, Hv, Dk, Dv)   float32 always (float64 when v is): a half-precision memory degenerates in a few tokens

Tensors may be of any floating dtype and any strides. All of it can be differentiated, backward and forward and more
than once, and goes through `torch.func` (what `vmap` maps must be v and the initial state at least), `torch.compile`
and `torch.export` (for one T: the walk is unrolled). Only `cu_seqlens`, whose numbers say what is to be done, breaks a
graph.
"""

from functools import wraps

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn import functional as F

__all__ = ["chunk_gated_delta_rule", "effective_attention", "l2norm", "recurrent_gated_delta_rule"]


def l2norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / |x| along the last dimension, in float32, as x * rsqrt(sum(x^2) + eps): its gradient is finite at x = 0."""
    x32 = full_precision(x)
    return (x32 * torch.rsqrt((x32 * x32).sum(-1, keepdim=True) + eps)).to(x.dtype)


def _as_it_is(rule):
    """Under `torch.autocast`, too, a rule computes in the dtypes that are written here."""

    @wraps(rule)
    def exact(q, *args, **options):
        if q.is_meta or not torch.is_autocast_enabled(q.device.type):
            return rule(q, *args, **options)
        with torch.autocast(q.device.type, enabled=False):
            return rule(q, *args, **options)

    return exact


@_as_it_is
def recurrent_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    inplace_final_state: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """The rule itself, token by token: the definition, and the way to decode.

    Args:
        q, k: (B, T, Hk, Dk) queries and keys, T >= 1.
        v: (B, T, Hv, Dv) values, Hv a multiple of Hk.
        g, beta: (B, T, Hv) log decay, <= 0, and writing strength, from 0 to 1.
        scale: factor on q; Dk ** -0.5 if None.
        initial_state: the memory before the first token, (B, Hv, Dk, Dv); zeros if None. Never changed, unless:
        inplace_final_state: the final state is written into `initial_state`'s own storage, which saves decoding a copy
            (contiguous, float32 or, when v is, float64; not with gradients or cu_seqlens).
        cu_seqlens: (N + 1,) ends of N sequences packed one after the other into B = 1: the memory starts anew at
            each, and states are (N, Hv, Dk, Dv).
        use_qk_l2norm_in_kernel: normalise q and k first.

    Returns:
        o (B, T, Hv, Dv) in v's dtype, and the final state (B, Hv, Dk, Dv) or None.

    Raises:
        ValueError: shapes that do not fit together, integers, an `initial_state` that cannot be written into.
    """
    check_shapes(q, k, v, g, beta, initial_state, cu_seqlens)
    needs_grad = _needs_grad(q, k, v, g, beta, initial_state)
    if inplace_final_state:
        _check_storage(initial_state, v, needs_grad or cu_seqlens is not None)
    if cu_seqlens is not None:
        return _sequence_by_sequence(
            recurrent_gated_delta_rule, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens,
            use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel,
        )
    dtype, (B, T, Hk, Dk), (Hv, Dv) = v.dtype, k.shape, v.shape[2:]
    q, k, v, g, beta = _prepare(q, k, v, g, beta, scale, use_qk_l2norm_in_kernel)
    N = B * Hv                                           # one memory per row of the batch and value head
    state = v.new_zeros(N, Dk, Dv) if initial_state is None else initial_state.to(v.dtype).reshape(N, Dk, Dv)
    if initial_state is not None and not inplace_final_state:
        state = state.clone()

    if Hv > Hk:                                          # each key head serves its block of R value heads
        q, k = (x.unsqueeze(3).expand(B, T, Hk, Hv // Hk, Dk).flatten(2, 3) for x in (q, k))

    inputs, outputs = (q, k, v, g.exp(), beta), []
    steps = zip(*(x.unbind(1) for x in inputs), strict=True) if T > 1 else [inputs]         # decoding is one step
    for *vectors, alpha_t, beta_t in steps:
        q_t, k_t, v_t = (x.reshape(N, 1, x.shape[-1]) for x in vectors)                  # (N, 1, Dk) and (N, 1, Dv)
        alpha_t, beta_t = alpha_t.reshape(N, 1, 1), beta_t.reshape(N, 1, 1)
        state = state * alpha_t if needs_grad else state.mul_(alpha_t)                   # (N, Dk, Dv)
        u = (v_t - torch.bmm(k_t, state)) * beta_t                                       # (N, 1, Dv)
        state = torch.addcmul(state, k_t.mT, u) if needs_grad else state.addcmul_(k_t.mT, u)
        outputs.append(torch.bmm(q_t, state).view(B, Hv, Dv))

    return torch.stack(outputs, dim=1).to(dtype), (state.view(B, Hv, Dk, Dv) if output_final_state else None)


@_as_it_is
def chunk_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    chunk_size: int = 32,
) -> tuple[Tensor, Tensor | None]:
    """`recurrent_gated_delta_rule`, a chunk of C tokens at a time: matrix products instead of a walk.

    Within a chunk let c_i be the sum of g up to token i, Gamma_ij = exp(c_i - c_j) for j <= i the decay between two
    tokens, and S the memory before the chunk. Unrolling the rule, the corrections u obey a unit-triangular system,

        u_i  +  sum_{j<i} beta_i (k_i . k_j) Gamma_ij u_j  =  beta_i (v_i - exp(c_i) S^T k_i),

    and with them

        o_i  =  exp(c_i) S^T q_i  +  sum_{j<=i} (q_i . k_j) Gamma_ij u_j,
        S   <-  exp(c_C) S        +  sum_j exp(c_C - c_j) k_j u_j^T.

    With M the inverse of the system's matrix, I + tril(beta k k^T . Gamma, -1), they are
    u = M (beta v - beta exp(c) k S).

    What does not depend on S is made for a few chunks at once, as many as stay in the processor's cache, and laid out
    as the products want it: five products and one decay are all that the walk from chunk to chunk has to do. On a CPU
    chunks of 32 tokens were the fastest. The decay is always the exponential of a difference that is masked first:
    exp(-c) alone overflows. M comes from substitution, in blocks: doubling the Neumann series of the whole inverse is
    unstable on correlated keys.

    Args:
        chunk_size: C. The others, what is returned and what is raised are as for `recurrent_gated_delta_rule`; the
            initial state is never changed. On a GPU `delta_rule_triton.triton_gated_delta_rule` takes the same ones.
    """
    check_shapes(q, k, v, g, beta, initial_state, cu_seqlens)
    if not isinstance(chunk_size, int) or chunk_size < 1:
        raise ValueError(f"chunk_size must be a whole number of tokens, 1 or more, but is {chunk_size!r}.")
    if cu_seqlens is not None:
        return _sequence_by_sequence(
            chunk_gated_delta_rule, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens,
            use_qk_l2norm_in_kernel=use_qk_l2norm_in_kernel, chunk_size=chunk_size,
        )
    (B, T, Hk, Dk), (Hv, Dv), dtype = k.shape, v.shape[2:], torch.promote_types(v.dtype, torch.float32)
    N = B * Hv                                           # one memory per row of the batch and value head
    state = v.new_zeros(N, Dk, Dv) if initial_state is None else initial_state.reshape(N, Dk, Dv)
    needs_grad = _needs_grad(q, k, v, g, beta, initial_state)
    state = state.to(dtype, copy=initial_state is not None and not needs_grad)           # updated in place, then
    scale = Dk ** -0.5 if scale is None else scale

    outputs = []
    for here, C in _groups_of_chunks(T, chunk_size):     # G chunks; R value heads share a key head's keys and queries
        k_c, q_c = (rearrange(x[:, here], "b (g c) h d -> g b h 1 c d", c=C) for x in (k, q))
        kq = torch.cat((k_c, q_c), dim=-2).to(dtype)                                     # (G, B, Hk, 1, 2C, Dk)
        k_c, q_c = (kq := l2norm(kq) if use_qk_l2norm_in_kernel else kq).chunk(2, dim=-2)
        v_c, g_c, beta_c = (rearrange(x[:, here].to(dtype), "b (g c) (h r) ... -> g b h r c ...", c=C, h=Hk)
                            for x in (v, g, beta.unsqueeze(-1)))                         # (G, B, Hk, R, C, ...)
        g_c = g_c.clamp(min=GONE)
        c = g_c.cumsum(-1)
        future = c.new_full((C, C), -torch.inf).triu(1)
        between = _decay(c[..., :, None] - c[..., None, :] + future)                     # (G, B, Hk, R, C, C)
        from_start, to_end = _decay(c)[..., None], between[..., -1, :, None]             # (G, B, Hk, R, C, 1)

        kk, qk = (kq @ k_c.mT).chunk(2, dim=-2)                                          # (G, B, Hk, 1, C, C)
        M = UnitTriangularInverse.apply(beta_c * kk * between)
        chunks = (M, beta_c * v_c, beta_c * from_start * k_c, scale * from_start * q_c, scale * qk * between,
                  to_end * k_c, from_start[..., -1:, :])
        for M, value, erase, read, look, write, decay in zip(*(x.flatten(1, 3) for x in chunks), strict=True):
            u = M @ torch.baddbmm(value, erase, state, alpha=-1)                         # (N, C, Dv)
            outputs.append((read @ state).baddbmm_(look, u).view(B, Hv, C, Dv))
            if needs_grad:
                state = torch.baddbmm(state * decay, write.mT, u)                        # (N, Dk, Dv)
            else:
                state.mul_(decay).baddbmm_(write.mT, u)

    o = torch.cat([x.transpose(1, 2) for x in outputs], dim=1).to(v.dtype)               # (B, T, Hv, Dv)
    return o, (state.view(B, Hv, Dk, Dv) if output_final_state else None)


@_as_it_is
def effective_attention(
    q: Tensor, k: Tensor, g: Tensor, beta: Tensor,
    scale: float | None = None,
    use_qk_l2norm_in_kernel: bool = False,
) -> Tensor:
    """The token-to-token map that a delta-rule layer applies: A with o = A v, exactly, from the unrolled rule.

    With Gamma and the triangular system of `chunk_gated_delta_rule`, the whole sequence being one chunk and S zero:

        A  =  (q k^T . Gamma)  (I + tril(beta k k^T . Gamma, -1))^-1  diag(beta).

    Unlike softmax weights, its entries may be negative (an erasure passed on) and its rows need not sum to one.

    Returns:
        (B, Hv, T, T), float32 (float64 when k is); row i says how much of each v_j is in o_i; zero above the diagonal.
        Quadratic in T, to be looked at rather than computed with.
    """
    Hk, Hv, T = k.shape[2], g.shape[2], k.shape[1]
    check_shapes(q, k, beta.unsqueeze(-1), g, beta, None, None)
    q, k, _, g, beta = _prepare(q, k, beta, g, beta, scale, use_qk_l2norm_in_kernel)
    q, k = (repeat(x, "b t h d -> b (h r) t d", r=Hv // Hk) for x in (q, k))             # (B, Hv, T, Dk)
    c, beta = (rearrange(x, "b t h -> b h t") for x in (g.clamp(min=GONE).cumsum(1), beta))
    future = torch.ones(T, T, dtype=torch.bool, device=q.device).triu(1)
    between = (c[..., :, None] - c[..., None, :]).masked_fill(future, -torch.inf).exp()  # (B, Hv, T, T)
    system = beta[..., :, None] * (k @ k.mT) * between
    A = torch.linalg.solve_triangular(system, (q @ k.mT) * between, upper=False, left=False, unitriangular=True)
    return A * beta[..., None, :]


# ---------------------------------------------------------------------------------------------------- what they share


class UnitTriangularInverse(torch.autograd.Function):
    """M = (I + tril(L, -1))^-1 of L (..., C, C): only what is below L's diagonal is read.

    As dM = -M dL M, its gradient takes two products; autograd by itself would solve two more systems.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(L):
        return _inverse_by_halves(L)

    @staticmethod
    def setup_context(ctx, inputs, M):
        ctx.save_for_backward(M)
        ctx.save_for_forward(M)

    @staticmethod
    def backward(ctx, dM):
        [M] = ctx.saved_tensors
        return -(M.mT @ dM @ M.mT).tril(-1)

    @staticmethod
    def jvp(ctx, dL):
        [M] = ctx.saved_tensors
        return -(M @ dL.tril(-1) @ M)


BLOCK = 16                                               # MKL shares larger systems out among threads: 4 times slower


def _inverse_by_halves(L):
    """[[A, 0], [X, B]]^-1 = [[A^-1, 0], [-B^-1 X A^-1, B^-1]], down to blocks that are solved at once."""
    C = L.shape[-1]
    if C <= BLOCK:
        identity = torch.eye(C, dtype=L.dtype, device=L.device)
        # the diagonal is taken for ones; transposed, nothing is reordered
        return torch.linalg.solve_triangular(L.mT, identity, upper=True, left=False, unitriangular=True).mT
    half, M = C // 2, torch.zeros_like(L)
    M[..., :half, :half] = A = _inverse_by_halves(L[..., :half, :half])
    M[..., half:, half:] = B = _inverse_by_halves(L[..., half:, half:])
    M[..., half:, :half] = -(B @ L[..., half:, :half] @ A)
    return M


def full_precision(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _prepare(q, k, v, g, beta, scale, normalise):
    """Everything in float32 (or float64), q and k normalised if asked, q scaled."""
    q, k, v, g, beta = (full_precision(x) for x in (q, k, v, g, beta))
    if normalise:
        q, k = l2norm(torch.stack((q, k))).unbind()
    return q * (k.shape[-1] ** -0.5 if scale is None else scale), k, v, g, beta


CHUNKS_AT_ONCE = 4
FAINT = -40.0                                            # exp(-40) is 4e-18: ten digits below what float32 tells from 1
GONE = FAINT - 1                                         # a stronger gate counts as this: sums of small numbers keep
                                                         # their digits, and -inf - -inf is no number


def _groups_of_chunks(T, chunk_size):
    """(slice of tokens, tokens in each chunk): a few whole chunks at a time, and in the end what is left over."""
    whole, step = T - T % chunk_size, CHUNKS_AT_ONCE * chunk_size
    for start in range(0, whole, step):
        yield slice(start, min(start + step, whole)), chunk_size
    if whole < T:
        yield slice(whole, T), T - whole


def _decay(c):
    """exp(c), and 0 below exp(FAINT): products of fainter numbers are denormal, and many times slower on a CPU."""
    return F.threshold(c, FAINT, -torch.inf).exp()


def _needs_grad(*tensors):
    return torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in tensors)


def _sequence_by_sequence(rule, q, k, v, g, beta, scale, initial_state, output_final_state, cu_seqlens, **options):
    """Packed sequences: each is its own, from its own initial state to its own final one."""
    outputs, states = [], []
    ends = cu_seqlens.tolist()
    for n, (start, end) in enumerate(zip(ends, ends[1:], strict=False)):
        first = None if initial_state is None else initial_state[n : n + 1]
        o, state = rule(*(x[:, start:end] for x in (q, k, v, g, beta)), scale, first, output_final_state, **options)
        outputs.append(o)
        states.append(state)
    return torch.cat(outputs, dim=1), torch.cat(states) if output_final_state else None


def check_shapes(q, k, v, g, beta, initial_state, cu_seqlens):
    if {q.ndim, k.ndim, v.ndim} != {4} or q.shape != k.shape or v.shape[:2] != k.shape[:2] or k.shape[1] == 0:
        raise ValueError(f"q and k must be (B, T, Hk, Dk) and v (B, T, Hv, Dv) with T >= 1, "
                         f"but q is {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}.")
    (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    if Hv % Hk:
        raise ValueError(f"The number of value heads ({Hv}) must be a multiple of the number of key heads ({Hk}).")
    if g.shape != (B, T, Hv) or beta.shape != (B, T, Hv):
        raise ValueError(f"g and beta must be (B, T, Hv) = {(B, T, Hv)}, "
                         f"but are {tuple(g.shape)} and {tuple(beta.shape)}.")
    if not all(x.is_floating_point() for x in (q, k, v, g, beta)):
        raise ValueError(f"All of q, k, v, g and beta must be floating-point numbers, "
                         f"but are {', '.join(str(x.dtype).removeprefix('torch.') for x in (q, k, v, g, beta))}.")
    sequences = B if cu_seqlens is None else check_packing(cu_seqlens, B, T)
    if initial_state is not None and initial_state.shape != (sequences, Hv, Dk, Dv):
        raise ValueError(f"initial_state must be {(sequences, Hv, Dk, Dv)}, but is {tuple(initial_state.shape)}.")


def check_packing(cu_seqlens, B, T):
    """How many sequences these are; a ValueError if they are none."""
    if not isinstance(cu_seqlens, Tensor) or cu_seqlens.is_floating_point() or cu_seqlens.ndim != 1:
        raise ValueError(f"cu_seqlens must be a tensor of N + 1 integers, such as torch.tensor([0, 3, {T}]).")
    ends = cu_seqlens.tolist()
    if B != 1 or ends[:1] != [0] or ends[-1] != T or any(a >= b for a, b in zip(ends, ends[1:], strict=False)):
        raise ValueError(f"cu_seqlens must rise from 0 to T = {T} over a batch of one, but is {ends} with B = {B}.")
    return len(ends) - 1


def _check_storage(initial_state, v, otherwise_used):
    dtype = torch.promote_types(v.dtype, torch.float32)
    if initial_state is None or otherwise_used or initial_state.dtype != dtype or not initial_state.is_contiguous():
        raise ValueError(f"inplace_final_state writes into initial_state: it must be there, contiguous and of {dtype}, "
                         f"without gradients and cu_seqlens; else leave it out.")
