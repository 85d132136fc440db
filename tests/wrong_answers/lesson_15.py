"""Wrong answers to the exercises of lesson 15."""

import torch
from einops import rearrange

from . import slip, wrong

# ---- my_decode_kernel

slip("my_decode_kernel", "the memory does not fade", "tl.exp(tl.load(g + h)) * S ", "S")
slip("my_decode_kernel", "logarithm of what stays", "tl.exp(tl.load(g + h)) * S ", "tl.load(g + h) * S ")
slip("my_decode_kernel", "beta is missing", "tl.load(beta + h) * (v_t", "(v_t")
slip("my_decode_kernel", "the old answer stays", "v_t - tl.sum(k_t[:, None] * S, 0)", "v_t")
slip("my_decode_kernel", "store S where it was loaded", "    tl.store(tile, S, mask=there)", "    #")
slip("my_decode_kernel", "writes beside o", ", 0), mask=e < Dv)", ", 0))")
slip("my_decode_kernel", "writes beside the memory", "tl.store(tile, S, mask=there)", "tl.store(tile, S)")
slip("my_decode_kernel", "both of its numbers count", "h, block = tl.program_id(0), tl.program_id(1)",
     "h, block = tl.program_id(0), 0")
slip("my_decode_kernel", "both of its numbers count", "h, block = tl.program_id(0), tl.program_id(1)",
     "h, block = 0, tl.program_id(1)")
slip("my_decode_kernel", "query of head 0", "q + h * Dk + d", "q + d")
slip("my_decode_kernel", "read with the key", "tl.sum(q_t[:, None] * S, 0)", "tl.sum(k_t[:, None] * S, 0)")
slip("my_decode_kernel", "compare the pointers", "d[:, None] * Dv + e[None, :]", "d[:, None] + e[None, :] * Dk")
slip("my_decode_kernel", "but o is not S^T q", "tl.sum(q_t[:, None] * S, 0)", "tl.sum(q_t * S, 0)")
slip("my_decode_kernel", "at `S = tl.e_to_the(tl.load(g + h)) * S", "tl.exp(tl.load", "tl.e_to_the(tl.load")


# ---- my_intensity

slip("my_intensity", "are two operations", "2 * tokens * Hv * products", "tokens * Hv * products")
slip("my_intensity", "both in and out", "D * D * 4  ", "D * D * 2")
slip("my_intensity", "both in and out", "2 * Hv * D * D * 4", "Hv * D * D * 4")
slip("my_intensity", "memory's bytes are missing", "(vectors + memories)", "vectors")
slip("my_intensity", "o has to be written", "2 * (Hk + Hv) * D * 2", "(2 * Hk + Hv) * D * 2")
slip("my_intensity", "q and k have Hk heads", "2 * (Hk + Hv) * D * 2", "4 * Hv * D * 2")
slip("my_intensity", "v and o have Hv heads", "2 * (Hk + Hv) * D * 2", "4 * Hk * D * 2")
slip("my_intensity", "has products of its own", "2 * tokens * Hv * products", "2 * tokens * Hk * products")
slip("my_intensity", "has a memory of its own", "2 * Hv * D * D * 4", "2 * Hk * D * D * 4")
slip("my_intensity", "not for each token", "memories = 2 * Hv", "memories = 2 * tokens * Hv")
slip("my_intensity", "the other way round", "operations / (vectors + memories)", "(vectors + memories) / operations")
slip("my_intensity", "(1, 16, 48, 128, 1) it is too large", "4 * C * D", "4 * 64 * D")
slip("my_intensity", "(7, 2, 6, 24, 16) it is too large", "C * D + 3 * D * D", "C * D + 3 * 128 * D")


@wrong("my_intensity", "products and memories belong to value heads")
def key_heads_alone(tokens, Hk, Hv, D, C):
    return 2 * tokens * Hk * (4 * C * D + 3 * D * D) / (4 * tokens * (Hk + Hv) * D + 8 * Hk * D * D)


@wrong("my_intensity", "it is too large: go through both counts, factor by factor.")
def one(tokens, Hk, Hv, D, C):
    return 1.0


@wrong("my_intensity", "it is too small")
def none(tokens, Hk, Hv, D, C):
    return 0.0


# ---- my_block_inverse

slip("my_block_inverse", "are not joined", "while size < L", "while 2 * size < L")
slip("my_block_inverse", "a minus is missing", "M - M @", "M + M @")
slip("my_block_inverse", "a minus is missing", "M @ (L * below)", "M @ (-L * below)")
slip("my_block_inverse", "both of its neighbours", " & (block[:, None] % 2 == 1)", "")
slip("my_block_inverse", "begin with two tokens", "% 2 == 1", "% 2 == 0")


slip("my_block_inverse", "to have the same dtype", "dtype=L.dtype, ", "")


@wrong("my_block_inverse", "you call torch.linalg, or an inverse of torch's: inside")
def by_the_library(L):
    eye = torch.eye(L.shape[-1], dtype=L.dtype)
    return torch.linalg.solve_triangular(eye + L, eye.expand_as(L), upper=False)


@wrong("my_block_inverse", "you call torch.linalg, or an inverse of torch's: inside")
def by_its_inverse(L):
    return (torch.eye(L.shape[-1], dtype=L.dtype) + L).inverse()


@wrong("my_block_inverse", "twice as many steps")
def row_by_row(L):
    X = torch.eye(L.shape[-1], dtype=L.dtype).expand_as(L).clone()
    for row in range(1, L.shape[-1]):
        X[..., row, :] -= (L[..., row, None, :] @ X)[..., 0, :]
    return X


@wrong("my_block_inverse", "adds up powers")
def a_power_series(L):
    N, total, reached = -L, torch.eye(L.shape[-1], dtype=L.dtype) - L, 2
    while reached < L.shape[-1]:
        N, total, reached = N @ N, total + N @ N @ total, 2 * reached
    return total


@wrong("my_block_inverse", "changes L")
def in_place(L):
    L.neg_()
    for row in range(1, L.shape[-1]):
        L[..., row, :row] += (L[..., row, None, :row].clone() @ L[..., :row, :row].clone())[..., 0, :]
    return L + torch.eye(L.shape[-1], dtype=L.dtype)


@wrong("my_block_inverse", "stops with ")
def for_a_single_chunk(L):
    X = torch.eye(len(L), dtype=L.dtype)
    for row in range(1, len(L)):
        X[row] -= L[row] @ X
    return X


@wrong("my_block_inverse", "first two terms")
def two_terms(L):
    return torch.eye(L.shape[-1], dtype=L.dtype) - L


# ---- my_chunk_index

slip("my_chunk_index", "whole numbers", "torch.tensor(rows)", "torch.tensor(rows) * 1.0")
slip("my_chunk_index", "of its own", "zip(ends.tolist(), ends.tolist()[1:])", "[(0, ends.tolist()[-1])]")
slip("my_chunk_index", "not where the chunk ends", "[[first, end] for", "[[first, min(first + C, end)] for")
slip("my_chunk_index", "left over", "range(start, end, C)", "range(start, end - C + 1, C)")
slip("my_chunk_index", "and not two", "range(start, end, C)", "range(start, end + 1, C)")
slip("my_chunk_index", "the rows are", "[[first, end] for", "[[first - start, end] for")
slip("my_chunk_index", "are 4 chunks, and not 3", "range(start, end, C)", "range(start, end, 64)")


@wrong("my_chunk_index", "two columns")
def only_where_they_begin(ends, C):
    return torch.cat([torch.arange(start, end, C) for start, end in zip(ends, ends[1:], strict=False)])


@wrong("my_chunk_index", "two columns")
def a_list(ends, C):
    return rearrange(ends[None], "a b -> b a").tolist()
