"""The gated delta rule on a GPU, in Triton: the chunked form forward and backward, and the step that decodes.

Read `delta_rule.py` first: the letters are the same. A GPU has three places to keep a number, each about ten times
as fast as the one before it: global memory (tens of gigabytes), shared memory (about 200 kB in each multiprocessor)
and registers (256 kB in each, and the tensor cores add up into them). A kernel is written for one tile of the work,
and thousands of such programs run side by side. So the rule is cut where the work can be done side by side:

    prepare    for each chunk and value head, all at once: what does not depend on the memory. The gates become decays;
               M, the inverse of the chunk's triangular system, and P, what each query finds in its own chunk:

                   L = tril(beta k k^T . Gamma, -1)      M = (I + L)^-1      P = scale tril(q k^T . Gamma)

    walk       for each sequence, value head and block of the values' columns, from chunk to chunk. The memory S never
               leaves the registers. With E = exp(c), F = exp(c_C - c), all that remains is five products:

                   u = M (beta v - beta E (k S))     o = scale E (q S) + P u     S <- exp(c_C) S + (F k)^T u

    walk_back  the same way backward, with the gradient dS of the memory in the registers:

                   du = P^T do + F (k dS)     dr = M^T du     dS <- exp(c_C) dS + (scale E q)^T do - (beta E k)^T dr

    gradients  for each chunk and key head, all at once: what the above means for q, k, v, g and beta.

In the walks everything stands on its side: S^T with the values' columns as rows, u^T, r^T. Then what one product
leaves in the registers is the left factor of the next, and only what comes from global memory passes through shared
memory on its way to the tensor cores.

Several sequences are laid one behind the other, whether they came as rows of a batch or packed: a chunk never crosses
the border between two. Products take their factors in the dtype of v and add up in float32, as the memory does.

Source: as `delta_rule.py`; the gradients are derived from the equations above.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from .delta_rule import check_shapes

__all__ = ["decode_step", "triton_gated_delta_rule"]


# ----------------------------------------------------------------------------------------- tiles of global memory


@triton.jit
def tile(x, row, rows, stride, column, columns):
    """Pointers to the entries (row, column) of a matrix whose rows are `stride` apart, and which of them exist."""
    return x + row[:, None].to(tl.int64) * stride + column[None, :], (row < rows)[:, None] & (column < columns)[None, :]


@triton.jit
def read(x, row, rows, stride, column, columns):
    """A tile of a matrix; zeros where there is nothing."""
    where, exists = tile(x, row, rows, stride, column, columns)
    return tl.load(where, mask=exists, other=0.0)


@triton.jit
def write(x, row, rows, stride, column, columns, value):
    where, exists = tile(x, row, rows, stride, column, columns)
    tl.store(where, value.to(x.dtype.element_ty), mask=exists)


@triton.jit
def product(a, b, PRECISION: tl.constexpr):
    """a b on the tensor cores, added up in float32 registers."""
    if PRECISION == "ieee":                              # Triton's interpreter, which cannot multiply bfloat16
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def place(Hv: tl.constexpr, Dv: tl.constexpr, BV: tl.constexpr):
    """Which part of the memories is this program's: sequence, value head, and columns of the values, (BV,)."""
    BLOCKS: tl.constexpr = (Dv + BV - 1) // BV
    head = tl.program_id(0) // BLOCKS
    return head // Hv, head % Hv, tl.program_id(0) % BLOCKS * BV + tl.arange(0, BV)


# ------------------------------------------------------------------------------------- what the forward pass does


@triton.jit
def decays(g, C: tl.constexpr):
    """(Gamma, E, F) of a chunk's log decays g (C,): between two tokens, from the start and to the end.

    Gamma_ij = exp(c_i - c_j) is wanted to all digits, also where c is a sum of thousands. So g is taken apart: steps of
    1/1024, whose sums are exact, and a rest, whose sums are small. A gate of -inf counts as one of -80, which leaves as
    little: differences of -inf are no numbers.
    """
    g = tl.where(g < -80, -80.0, g)
    coarse = tl.floor(g * 1024) / 1024
    fine = g - coarse
    c, rest, i = tl.cumsum(coarse, 0), tl.cumsum(fine, 0), tl.arange(0, C)
    between = (c[:, None] - c[None, :]) + (rest[:, None] - rest[None, :])
    decay = tl.exp(tl.where(i[:, None] >= i[None, :], between, float("-inf")))   # masked first: exp never overflows
    return decay, tl.exp(c + rest), tl.exp((tl.sum(coarse, 0) - c) + (tl.sum(fine, 0) - rest))


@triton.jit
def pairs(M, L, level: tl.constexpr, PRECISION: tl.constexpr):
    """One level up: from the inverses M of blocks on the diagonal, 2^level wide, to those of blocks twice as wide.

        [[X, 0], [Y, Z]]^-1  =  [[X^-1, 0], [-Z^-1 Y X^-1, Z^-1]],    for all pairs of blocks X, Z in two products
    """
    i = tl.arange(0, M.shape[-1])
    block, before = i[:, None] >> level, i[None, :] >> level
    B = tl.where((block == before + 1) & (block % 2 == 1), L, 0.0)
    return M - product(product(M, B, PRECISION), M, PRECISION)


@triton.jit
def inverse(L, C: tl.constexpr, PRECISION: tl.constexpr):
    """(I + L)^-1 for a strictly lower triangular L (C, C): of blocks of 2, of 4, of 8 ... each from the two before.

    Up to 16 the blocks on the diagonal are a batch of small matrices; from there on they stand in one.
    """
    N: tl.constexpr = C // 16
    n, i = tl.arange(0, N), tl.arange(0, 16)
    on_diagonal = n[:, None, None, None] == n[None, None, :, None]
    blocks = tl.sum(tl.where(on_diagonal, tl.reshape(L, (N, 16, N, 16)), 0.0), 2)             # (N, 16, 16)
    first = (i[:, None] == i[None, :] + 1) & (i[:, None] % 2 == 1)
    X = tl.where(i[:, None] == i[None, :], 1.0, 0.0)[None] - tl.where(first[None], blocks, 0.0)    # of blocks of 2
    for level in tl.static_range(1, 4):
        X = pairs(X, blocks, level, PRECISION)
    M = tl.reshape(tl.where(on_diagonal, X[:, :, None, :], 0.0), (C, C))
    for level in tl.static_range(4, 6):
        if (1 << level) < C:
            M = pairs(M, L, level, PRECISION)
    return M


@triton.jit
def prepare(
    q, k, g, beta, M, P, from_start, to_end, writing,    # in: q, k, g, beta; out: M, P and (Hv, tokens) floats
    spans, tokens, q_stride, k_stride, scale,
    Hk: tl.constexpr, Hv: tl.constexpr, Dk: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
):
    """One chunk of one value head: M, P and the decays."""
    h, chunk = tl.program_id(0) % Hv, (tl.program_id(0) // Hv).to(tl.int64)
    i, d = tl.arange(0, C), tl.arange(0, BK)
    token, end = tl.load(spans + 2 * chunk) + i, tl.load(spans + 2 * chunk + 1)
    key_head = h // (Hv // Hk) * Dk
    k_c = read(k + key_head, token, end, k_stride, d, Dk)                                     # (C, Dk)
    q_c = read(q + key_head, token, end, q_stride, d, Dk)
    g_c = tl.load(g + token.to(tl.int64) * Hv + h, mask=token < end, other=0.0).to(tl.float32)
    beta_c = tl.load(beta + token.to(tl.int64) * Hv + h, mask=token < end, other=0.0).to(tl.float32)
    decay, E, F = decays(g_c, C)

    kk = product(k_c, tl.trans(k_c), PRECISION)                                # (C, C), in registers
    qk = product(q_c, tl.trans(k_c), PRECISION)
    square, line = (chunk * Hv + h) * C * C, h.to(tl.int64) * tokens + token
    write(P + square, i, C, C, i, C, scale * qk * decay)                       # its registers are free for the inverse
    tl.store(from_start + line, E, mask=token < end)
    tl.store(to_end + line, F, mask=token < end)
    tl.store(writing + line, beta_c, mask=token < end)
    L = tl.where(i[:, None] > i[None, :], beta_c[:, None] * kk * decay, 0.0)
    write(M + square, i, C, C, i, C, inverse(L, C, PRECISION))


@triton.jit
def walk(
    q, k, v, M, P, from_start, to_end, writing, initial, o, final, states, u,
    ends, chunks_before, tokens, q_stride, k_stride, v_stride, scale,
    Hk: tl.constexpr, Hv: tl.constexpr, Dk: tl.constexpr, Dv: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, READ: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
    STAGES: tl.constexpr,
):
    """One sequence, one value head, BV columns of the values. READ: the outputs o; KEEP: u, and S before each chunk."""
    n, h, e = place(Hv, Dv, BV)
    i, d = tl.arange(0, C), tl.arange(0, BK)
    begin, end = tl.load(ends + n), tl.load(ends + n + 1)
    chunk = tl.load(chunks_before + n).to(tl.int64)
    memory = (n * Hv + h).to(tl.int64) * Dk * Dv                                              # (Dk, Dv), global memory
    line, key_head, value_head = h.to(tl.int64) * tokens, h // (Hv // Hk) * Dk, h * Dv

    S = tl.zeros((BV, BK), tl.float32)                   # S^T: this program's columns of the memory, in registers
    if initial is not None:
        S += tl.trans(read(initial + memory, d, Dk, Dv, e, Dv))
    for start in tl.range(begin, end, C, num_stages=STAGES):                    # the next tiles are fetched meanwhile
        token, square = start + i, (chunk * Hv + h) * C * C
        exists = token < end
        k_c = read(k + key_head, token, end, k_stride, d, Dk)                                 # (C, Dk), shared memory
        v_c = read(v + value_head, token, end, v_stride, e, Dv)                               # (C, BV)
        M_c = read(M + square, i, C, C, i, C)                                                 # (C, C)
        beta_c = tl.load(writing + line + token, mask=exists, other=0.0)
        E = tl.load(from_start + line + token, mask=exists, other=0.0)
        F = tl.load(to_end + line + token, mask=exists, other=0.0)
        through = tl.load(from_start + line + tl.minimum(start + C, end) - 1)                 # exp(c_C)

        S_c = S.to(k_c.dtype)
        r = beta_c[None, :] * (tl.trans(v_c) - E[None, :] * product(S_c, tl.trans(k_c), PRECISION))
        u_c = product(r.to(k_c.dtype), tl.trans(M_c), PRECISION)               # (BV, C): u^T = r^T M^T
        if READ:
            q_c = read(q + key_head, token, end, q_stride, d, Dk)
            P_c = read(P + square, i, C, C, i, C)
            o_c = scale * E[None, :] * product(S_c, tl.trans(q_c), PRECISION)
            o_c = o_c + product(u_c.to(k_c.dtype), tl.trans(P_c), PRECISION)
            write(o + value_head, token, end, Hv * Dv, e, Dv, tl.trans(o_c))
        if KEEP:
            write(states + (chunk * Hv + h) * Dv * Dk, e, Dv, Dk, d, Dk, S_c)
            write(u + value_head, token, end, Hv * Dv, e, Dv, tl.trans(u_c))
        S = S * through + product((u_c * F[None, :]).to(k_c.dtype), k_c, PRECISION)
        chunk += 1
    if final is not None:
        write(final + memory, d, Dk, Dv, e, Dv, tl.trans(S))


# ------------------------------------------------------------------------------------ what the backward pass does


@triton.jit
def walk_back(
    q, k, do, M, P, from_start, to_end, writing, dfinal, dinitial, dstates, dr,
    ends, chunks_before, tokens, q_stride, k_stride, scale,
    Hk: tl.constexpr, Hv: tl.constexpr, Dk: tl.constexpr, Dv: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr,
):
    """`walk`, from the last chunk to the first: keeps dr, and the gradient of the memory after each chunk."""
    n, h, e = place(Hv, Dv, BV)
    i, d = tl.arange(0, C), tl.arange(0, BK)
    begin, end = tl.load(ends + n), tl.load(ends + n + 1)
    chunk = tl.load(chunks_before + n + 1).to(tl.int64)
    memory = (n * Hv + h).to(tl.int64) * Dk * Dv
    line, key_head, value_head = h.to(tl.int64) * tokens, h // (Hv // Hk) * Dk, h * Dv

    dS = tl.zeros((BV, BK), tl.float32)                  # on its side, as S is
    if dfinal is not None:
        dS += tl.trans(read(dfinal + memory, d, Dk, Dv, e, Dv))
    for done in tl.range(0, end - begin, C, num_stages=STAGES):
        chunk -= 1
        start = begin + (end - begin - 1) // C * C - done
        token, square = start + i, (chunk * Hv + h) * C * C
        exists = token < end
        k_c = read(k + key_head, token, end, k_stride, d, Dk)
        q_c = read(q + key_head, token, end, q_stride, d, Dk)
        do_c = tl.trans(read(do + value_head, token, end, Hv * Dv, e, Dv))                    # (BV, C)
        M_c = read(M + square, i, C, C, i, C)
        P_c = read(P + square, i, C, C, i, C)
        beta_c = tl.load(writing + line + token, mask=exists, other=0.0)
        E = tl.load(from_start + line + token, mask=exists, other=0.0)
        F = tl.load(to_end + line + token, mask=exists, other=0.0)
        through = tl.load(from_start + line + tl.minimum(start + C, end) - 1)

        dS_c = dS.to(k_c.dtype)
        write(dstates + (chunk * Hv + h) * Dv * Dk, e, Dv, Dk, d, Dk, dS_c)
        du = F[None, :] * product(dS_c, tl.trans(k_c), PRECISION)              # (BV, C)
        du = du + product(do_c, P_c, PRECISION)
        dr_c = product(du.to(k_c.dtype), M_c, PRECISION)
        write(dr + value_head, token, end, Hv * Dv, e, Dv, tl.trans(dr_c))
        dS = dS * through + product((scale * E[None, :] * do_c).to(k_c.dtype), q_c, PRECISION)
        dS = dS + product(((-beta_c * E)[None, :] * dr_c).to(k_c.dtype), k_c, PRECISION)
    if dinitial is not None:
        write(dinitial + memory, d, Dk, Dv, e, Dv, tl.trans(dS))


@triton.jit
def gradients(
    q, k, v, do, u, dr, states, dstates, g, beta, dq, dk, dv, dg, dbeta,
    spans, tokens, q_stride, k_stride, v_stride, scale,
    Hk: tl.constexpr, Hv: tl.constexpr, Dk: tl.constexpr, Dv: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr,
):
    """One chunk of one key head, BK columns of its keys. What its value heads say of q and k is added up in registers.

    The gates' gradients are sums over the keys' columns, too: each program leaves its part of them.
    """
    PARTS: tl.constexpr = (Dk + BK - 1) // BK
    R: tl.constexpr = Hv // Hk
    part, key_head = tl.program_id(0) % PARTS, tl.program_id(0) // PARTS % Hk
    chunk = (tl.program_id(0) // PARTS // Hk).to(tl.int64)
    i, d = tl.arange(0, C), part * BK + tl.arange(0, BK)
    token, end = tl.load(spans + 2 * chunk) + i, tl.load(spans + 2 * chunk + 1)
    k_c = read(k + key_head * Dk, token, end, k_stride, d, Dk)                                # (C, BK)
    q_c = read(q + key_head * Dk, token, end, q_stride, d, Dk)
    kk = product(k_c, tl.trans(k_c), PRECISION)                                # (C, C), of these columns
    qk = product(q_c, tl.trans(k_c), PRECISION)
    dq_c, dk_c = tl.zeros((C, BK), tl.float32), tl.zeros((C, BK), tl.float32)

    for r in range(R):
        h = key_head * R + r
        gate = token.to(tl.int64) * Hv + h
        beta_c = tl.load(beta + gate, mask=token < end, other=0.0).to(tl.float32)
        decay, E, F = decays(tl.load(g + gate, mask=token < end, other=0.0).to(tl.float32), C)
        do_u, dr_u = tl.zeros((C, C), tl.float32), tl.zeros((C, C), tl.float32)
        read_, erased, written, changed = (tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32),
                                           tl.zeros((C,), tl.float32), tl.zeros((C,), tl.float32))
        through = 0.0
        for left in range(0, Dv, BV):
            e = left + tl.arange(0, BV)
            do_b = read(do + h * Dv, token, end, Hv * Dv, e, Dv)                              # (C, BV)
            u_b = read(u + h * Dv, token, end, Hv * Dv, e, Dv)
            dr_b = read(dr + h * Dv, token, end, Hv * Dv, e, Dv)
            S_b = read(states + (chunk * Hv + h) * Dv * Dk, e, Dv, Dk, d, Dk)                 # S^T before the chunk
            dS_b = read(dstates + (chunk * Hv + h) * Dv * Dk, e, Dv, Dk, d, Dk)               # and dS^T after it
            do_u = do_u + product(do_b, tl.trans(u_b), PRECISION)
            dr_u = dr_u + product(dr_b, tl.trans(u_b), PRECISION)
            do_S = product(do_b, S_b, PRECISION)                               # (C, BK)
            dq_c += scale * E[:, None] * do_S
            read_ += tl.sum(do_S * q_c, 1)
            dr_S = product(dr_b, S_b, PRECISION)
            dk_c -= (beta_c * E)[:, None] * dr_S
            erased += tl.sum(dr_S * k_c, 1)
            u_dS = product(u_b, dS_b, PRECISION)
            dk_c += F[:, None] * u_dS
            written += F * tl.sum(u_dS * k_c, 1)
            through += tl.sum(S_b.to(tl.float32) * dS_b.to(tl.float32))
            if part == 0:
                v_b = read(v + h * Dv, token, end, v_stride, e, Dv)
                changed += tl.sum(dr_b.to(tl.float32) * v_b.to(tl.float32), 1)
                write(dv + h * Dv, token, end, Hv * Dv, e, Dv, beta_c[:, None] * dr_b)

        dqk = scale * do_u * decay                                                            # of q k^T
        dL = tl.where(i[:, None] > i[None, :], -dr_u * decay, 0.0)                            # of beta k k^T
        dkk = beta_c[:, None] * dL
        dq_c = dq_c + product(dqk.to(k_c.dtype), k_c, PRECISION)
        dk_c = dk_c + product(tl.trans(dqk.to(k_c.dtype)), q_c, PRECISION)
        dk_c = dk_c + product((dkk + tl.trans(dkk)).to(k_c.dtype), k_c, PRECISION)
        within = dqk * qk + dkk * kk                     # each of Gamma times its gradient: c_i gains it, c_j loses it
        dc = scale * E * read_ - beta_c * E * erased - written + tl.sum(within, 1) - tl.sum(within, 0)
        whole = tl.sum(written, 0) + tl.sum(tl.where(i == C - 1, E, 0.0), 0) * through        # of c_C
        line = part * tokens * Hv + gate
        tl.store(dbeta + line, changed - E * erased + tl.sum(dL * kk, 1), mask=token < end)
        tl.store(dg + line, whole + tl.sum(dc, 0) - tl.cumsum(dc, 0) + dc, mask=token < end)  # c_j holds g_i for j >= i
    write(dq + key_head * Dk, token, end, Hk * Dk, d, Dk, dq_c)
    write(dk + key_head * Dk, token, end, Hk * Dk, d, Dk, dk_c)


# ------------------------------------------------------------------------------------------ unit length, and decoding


@triton.jit
def normalise(x, y, rows, stride, H: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr):
    """`l2norm` of rows (tokens, H, D)."""
    row, d = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, BD)
    exists = (row < rows)[:, None] & (d < D)[None, :]
    a = tl.load(x + (row // H * stride + row % H * D)[:, None] + d[None, :], mask=exists, other=0.0).to(tl.float32)
    a *= tl.rsqrt(tl.sum(a * a, 1) + 1e-6)[:, None]
    tl.store(y + row[:, None] * D + d[None, :], a.to(y.dtype.element_ty), mask=exists)


@triton.jit
def normalise_back(x, dy, dx, rows, stride, H: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, BD: tl.constexpr):
    row, d = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, BD)
    exists = (row < rows)[:, None] & (d < D)[None, :]
    a = tl.load(x + (row // H * stride + row % H * D)[:, None] + d[None, :], mask=exists, other=0.0).to(tl.float32)
    b = tl.load(dy + row[:, None] * D + d[None, :], mask=exists, other=0.0).to(tl.float32)
    length = tl.rsqrt(tl.sum(a * a, 1) + 1e-6)[:, None]
    b = length * (b - a * length * length * tl.sum(a * b, 1)[:, None])
    tl.store(dx + row[:, None] * D + d[None, :], b.to(dx.dtype.element_ty), mask=exists)


@triton.jit
def recur(
    q, k, v, g, beta, A_log, dt_bias, state, o,
    T, q_row, q_stride, k_row, k_stride, v_row, v_stride, scale,
    Hk: tl.constexpr, Hv: tl.constexpr, Dk: tl.constexpr, Dv: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    NORMALISE: tl.constexpr,
):
    """The rule itself for a few tokens: one row, one value head, BV columns of the memory: read once, written once."""
    n, h, e = place(Hv, Dv, BV)
    d = tl.arange(0, BK)
    memory, key_head = state + (n * Hv + h).to(tl.int64) * Dk * Dv, h // (Hv // Hk) * Dk
    S = read(memory, d, Dk, Dv, e, Dv)                                                        # (BK, BV), in registers
    for t in range(T):
        q_t = tl.load(q + n.to(tl.int64) * q_row + t * q_stride + key_head + d, mask=d < Dk, other=0.0).to(tl.float32)
        k_t = tl.load(k + n.to(tl.int64) * k_row + t * k_stride + key_head + d, mask=d < Dk, other=0.0).to(tl.float32)
        v_t = tl.load(v + n.to(tl.int64) * v_row + t * v_stride + h * Dv + e, mask=e < Dv, other=0.0).to(tl.float32)
        gate = (n * T + t) * Hv + h
        g_t, beta_t = tl.load(g + gate).to(tl.float32), tl.load(beta + gate).to(tl.float32)
        if A_log is not None:                            # as the layer's projections left them: see GatedDeltaNet
            x = g_t + tl.load(dt_bias + h).to(tl.float32)
            g_t = -tl.exp(tl.load(A_log + h).to(tl.float32)) * tl.where(x > 20, x, tl.log(1 + tl.exp(x)))
            beta_t = tl.sigmoid(beta_t)
        if NORMALISE:
            q_t *= tl.rsqrt(tl.sum(q_t * q_t, 0) + 1e-6)
            k_t *= tl.rsqrt(tl.sum(k_t * k_t, 0) + 1e-6)
        S *= tl.exp(g_t)
        u = beta_t * (v_t - tl.sum(k_t[:, None] * S, 0))                                      # (BV,)
        S += k_t[:, None] * u[None, :]
        o_t = scale * tl.sum(q_t[:, None] * S, 0)
        tl.store(o + gate.to(tl.int64) * Dv + e, o_t.to(o.dtype.element_ty), mask=e < Dv)
    write(memory, d, Dk, Dv, e, Dv, S)


# ------------------------------------------------------------------------------------------------- from PyTorch


def tiles(kernel: str, Dk: int, Dv: int, dtype: torch.dtype) -> dict:
    """The sizes of a kernel's tiles, its warps and the stages of its pipeline.

    In bfloat16 they are the fastest of some dozens that were tried on an H200 (Triton 3.6.0, heads of 128, 1 x 32,768
    tokens); `python -m minqwen.gpu --only tune` tries others. Narrow blocks make more programs, and a walk has few: 32
    heads in blocks of 32 columns are 128, for 132 multiprocessors.
    """
    half = dtype == torch.bfloat16                       # float32 takes twice the registers: narrower tiles, more warps
    BK, BV = max(16, triton.next_power_of_2(Dk)), max(16, triton.next_power_of_2(Dv))
    warps = 4 if half and BK <= 128 else 8
    return {
        "prepare": {"BK": BK, "num_warps": 4},
        "walk": {"BK": BK, "BV": min(BV, 32 if half else 16), "num_warps": warps, "STAGES": 2},
        "walk_back": {"BK": BK, "BV": 16, "num_warps": warps, "STAGES": 3 if warps == 4 else 2},
        "gradients": {"BK": min(BK, 128 if half else 64), "BV": min(BV, 64 if half else 32), "num_warps": 8,
                      "num_stages": 2},
        "recur": {"BK": BK, "BV": min(BV, 16), "num_warps": 1},
    }[kernel]


def chunk_tokens(dtype: torch.dtype) -> int:
    """Tokens of a chunk: as many as fill the tensor cores' tiles; of float32 half as many fit in shared memory."""
    return 64 if dtype == torch.bfloat16 else 32


def precision(dtype: torch.dtype) -> str:
    """How float32 factors are multiplied: in bfloat16's company by their first ten bits, by themselves in full."""
    if triton.knobs.runtime.interpret:
        return "ieee"
    return "tf32" if dtype == torch.bfloat16 else "tf32x3"


def triton_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor,
    scale: float | None = None,
    initial_state: Tensor | None = None,
    output_final_state: bool = False,
    cu_seqlens: Tensor | None = None,
    use_qk_l2norm_in_kernel: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`chunk_gated_delta_rule` on a GPU: the same function and results, in float32 or bfloat16 (that of v).

    The arguments are the same but for `chunk_size`, which the dtype decides. It can be differentiated once, by
    `backward` or `torch.autograd.grad`; `torch.func` cannot look into it.

    Raises:
        ValueError: shapes that do not fit together; another dtype; tensors that are on no GPU.
    """
    check_shapes(q, k, v, g, beta, initial_state, cu_seqlens)
    check_device(v)
    if v.dtype not in (torch.float32, torch.bfloat16):
        raise ValueError(f"The Triton kernels compute in float32 or bfloat16, but v is {str(v.dtype).split('.')[1]}; "
                         f"take chunk_gated_delta_rule for others.")
    scale = k.shape[-1] ** -0.5 if scale is None else scale
    q, k = (UnitLength.apply(x.to(v.dtype)) if use_qk_l2norm_in_kernel else x.to(v.dtype) for x in (q, k))
    return GatedDeltaRule.apply(q, k, v, g, beta, initial_state, scale, cu_seqlens, output_final_state)


class UnitLength(torch.autograd.Function):
    """`l2norm` of (B, T, H, D), in one kernel each way."""

    @staticmethod
    def forward(ctx, x):
        rows = rows_of_heads(x)
        ctx.save_for_backward(rows)
        return UnitLength.run(normalise, rows, x.new_empty(x.shape))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        return UnitLength.run(normalise_back, *ctx.saved_tensors, dy.contiguous(), torch.empty_like(dy))

    @staticmethod
    def run(kernel, x, *others):
        (tokens, H, D), ROWS = x.shape, 32
        with torch.cuda.device_of(x):
            kernel[(triton.cdiv(tokens * H, ROWS),)](x, *others, tokens * H, x.stride(0), H, D, ROWS,
                                                     triton.next_power_of_2(D))
        return others[-1]


class GatedDeltaRule(torch.autograd.Function):
    """The kernels in their order. Backward, the memories before each chunk are walked through once more, not kept."""

    @staticmethod
    def forward(ctx, q, k, v, g, beta, initial, scale, cu_seqlens, output_final_state):
        (B, T, Hk, Dk), (Hv, Dv), C = q.shape, v.shape[2:], chunk_tokens(v.dtype)
        N, ends, before, spans = packing(B, T, C, v.device, cu_seqlens)
        q, k, v = (rows_of_heads(x) for x in (q, k, v))
        g, beta = g.contiguous(), beta.contiguous()
        initial = None if initial is None else initial.float().contiguous()
        sizes = {"Hk": Hk, "Hv": Hv, "Dk": Dk, "C": C, "PRECISION": precision(v.dtype)}

        M, P = v.new_empty(2, len(spans), Hv, C, C)
        rows = v.new_empty(3, Hv, B * T, dtype=torch.float32)                    # the decays E and F, and beta
        o = v.new_empty(B, T, Hv, Dv)
        final = v.new_empty(N, Hv, Dk, Dv, dtype=torch.float32) if output_final_state else None
        with torch.cuda.device_of(v):
            prepare[(len(spans) * Hv,)](q, k, g, beta, M, P, *rows, spans, B * T, q.stride(0), k.stride(0), scale,
                                        **sizes, **tiles("prepare", Dk, Dv, v.dtype))
            walk_tiles = tiles("walk", Dk, Dv, v.dtype)
            walk[(N * Hv * triton.cdiv(Dv, walk_tiles["BV"]),)](
                q, k, v, M, P, *rows, initial, o, final, None, None, ends, before, B * T,
                q.stride(0), k.stride(0), v.stride(0), scale, **sizes, Dv=Dv, READ=True, KEEP=False, **walk_tiles)
        ctx.save_for_backward(q, k, v, g, beta, initial, M, P, rows, ends, before, spans)
        ctx.sizes, ctx.scale, ctx.shape = sizes, scale, (B, T, N, Dv)
        return o, final

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dfinal):
        q, k, v, g, beta, initial, M, P, rows, ends, before, spans = ctx.saved_tensors
        (B, T, N, Dv), (Hk, Hv, Dk), scale = ctx.shape, (ctx.sizes[x] for x in ("Hk", "Hv", "Dk")), ctx.scale
        do = do.contiguous()
        dfinal = None if dfinal is None else dfinal.contiguous()
        states, dstates = v.new_empty(2, len(spans), Hv, Dv, Dk)                 # S^T and its gradient, chunk by chunk
        u, dr, dv = v.new_empty(3, B * T, Hv, Dv)
        dq, dk = v.new_empty(2, B * T, Hk, Dk)
        dinitial = None if initial is None else torch.empty_like(initial)
        across = tiles("gradients", Dk, Dv, v.dtype)
        parts = triton.cdiv(Dk, across["BK"])
        dg, dbeta = v.new_empty(2, parts, B * T, Hv, dtype=torch.float32)
        with torch.cuda.device_of(v):
            walk_tiles = tiles("walk", Dk, Dv, v.dtype)
            walk[(N * Hv * triton.cdiv(Dv, walk_tiles["BV"]),)](
                q, k, v, M, P, *rows, initial, None, None, states, u, ends, before, B * T,
                q.stride(0), k.stride(0), v.stride(0), scale, **ctx.sizes, Dv=Dv, READ=False, KEEP=True, **walk_tiles)
            walk_tiles = tiles("walk_back", Dk, Dv, v.dtype)
            walk_back[(N * Hv * triton.cdiv(Dv, walk_tiles["BV"]),)](
                q, k, do, M, P, *rows, dfinal, dinitial, dstates, dr, ends, before, B * T,
                q.stride(0), k.stride(0), scale, **ctx.sizes, Dv=Dv, **walk_tiles)
            gradients[(len(spans) * Hk * parts,)](
                q, k, v, do, u, dr, states, dstates, g, beta, dq, dk, dv, dg, dbeta, spans, B * T,
                q.stride(0), k.stride(0), v.stride(0), scale, **ctx.sizes, Dv=Dv, **across)
        dq, dk, dv = dq.view(B, T, Hk, Dk), dk.view(B, T, Hk, Dk), dv.view(B, T, Hv, Dv)
        dg, dbeta = (x.sum(0).view(B, T, Hv).to(like.dtype) for x, like in ((dg, g), (dbeta, beta)))
        return dq, dk, dv, dg, dbeta, dinitial, None, None, None


def decode_step(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor,
    scale: float | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    A_log: Tensor | None = None,
    dt_bias: Tensor | None = None,
) -> Tensor:
    """The recurrence for one token or a few, in one kernel: each number of the memory is read once and written once.

    The memory is 64 kB a head and a token brings less than one: decoding takes the time of these bytes, and whatever
    else is to be done is done on the way. So the kernel takes q and k as they left the convolution, and the gates as
    they left their projections, if it is told so. Nothing here waits for the GPU, and what is allocated - the
    outputs - depends on shapes alone: it can be captured in a CUDA graph.

    Args:
        q, k, v, g, beta, scale, use_qk_l2norm_in_kernel: see `recurrent_gated_delta_rule`.
        state: (B, Hv, Dk, Dv), float32 and contiguous; becomes the memory after the last token, in place.
        A_log, dt_bias: (Hv,). If given, g and beta are the layer's raw a and b, and the kernel makes the gates of them:
            g = -exp(A_log) softplus(a + dt_bias), beta = sigmoid(b).

    Returns:
        o (B, T, Hv, Dv), in v's dtype. No gradients.

    Raises:
        ValueError: shapes that do not fit together; a state that cannot be changed in place; tensors on no GPU.
    """
    check_shapes(q, k, v, g, beta, state, None)
    check_device(v)
    if state.dtype != torch.float32 or not state.is_contiguous():
        raise ValueError("The memory is changed in place, so `state` must be float32 and contiguous.")
    (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    q, k, v = (x if compact_heads(x) else x.contiguous() for x in (q, k, v))
    o = v.new_empty(B, T, Hv, Dv)
    step = tiles("recur", Dk, Dv, v.dtype)
    with torch.cuda.device_of(v):
        recur[(B * Hv * triton.cdiv(Dv, step["BV"]),)](
            q, k, v, g.contiguous(), beta.contiguous(), A_log, dt_bias, state, o, T,
            q.stride(0), q.stride(1), k.stride(0), k.stride(1), v.stride(0), v.stride(1),
            Dk ** -0.5 if scale is None else scale,
            Hk=Hk, Hv=Hv, Dk=Dk, Dv=Dv, NORMALISE=use_qk_l2norm_in_kernel, **step)
    return o


def check_device(v):
    if not (v.is_cuda or triton.knobs.runtime.interpret):
        raise ValueError(f"The Triton kernels need tensors on a GPU, but v is on {str(v.device)!r}; take "
                         f"chunk_gated_delta_rule or recurrent_gated_delta_rule there.")


def compact_heads(x):
    """Whether the heads of a token lie side by side, as in a slice of a projection's output: no copy is needed then."""
    return x.stride(-1) == 1 and x.stride(-2) == x.shape[-1]


def rows_of_heads(x):
    """(B, T, H, D) as (B T, H, D), each token's heads side by side; a copy only if they are not."""
    x = x.flatten(0, 1)
    return x if compact_heads(x) else x.contiguous()


def packing(B, T, C, device, cu_seqlens=None):
    """Sequences one behind the other: how many, where each ends, chunks before each; first token and end of a chunk."""
    return even_packing(B, T, C, device) if cu_seqlens is None else pack(cu_seqlens.cpu(), C, device)


@lru_cache(maxsize=64)
def even_packing(B, T, C, device):
    return pack(T * torch.arange(B + 1), C, device)


def pack(ends, C, device):
    chunks = (ends.diff() + C - 1) // C
    before = torch.cat((chunks.new_zeros(1), chunks.cumsum(0)))
    sequence = torch.repeat_interleave(chunks)                                   # of each chunk
    first = ends[sequence] + (torch.arange(len(sequence)) - before[sequence]) * C
    spans = torch.stack((first, ends[sequence + 1]), dim=1)
    return len(chunks), *(x.to(device, torch.int32) for x in (ends, before, spans))
