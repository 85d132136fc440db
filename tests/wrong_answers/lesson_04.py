"""Wrong answers to the exercises of lesson 04."""

import torch

from . import slip, wrong

# ---- my_corrections

slip("my_corrections", "L is without beta", "L = beta * (k @ k.mT) ", "L = k @ k.mT ")
slip("my_corrections", "the right side lacks beta", "beta * (v - k @ S)", "v - k @ S")
slip("my_corrections", "what the memory knew before", "(v - k @ S)", "v")
slip("my_corrections", "not added", "(v - k @ S)", "(v + k @ S)")
slip("my_corrections", "rows that are multiplied", "L = beta * (k @ k.mT) ", "L = beta.mT * (k @ k.mT) ")
slip("my_corrections", "must be ones", ", unitriangular=True", "")
slip("my_corrections", "look into the future", "upper=False", "upper=True")
slip("my_corrections", "stops with", "k @ k.mT", "k @ k.T")
slip("my_corrections", "it stops with", "beta[..., None]", "beta[:, None]")


@wrong("my_corrections", "do not know of each other")
def right_sides_alone(k, v, beta, S):
    return beta[..., None] * (v - k @ S)


@wrong("my_corrections", "has to be solved")
def multiplies_instead_of_solving(k, v, beta, S):
    right = beta[..., None] * (v - k @ S)
    return right + (beta[..., None] * (k @ k.mT)).tril(-1) @ right


@wrong("my_corrections", "counted twice")
def counts_the_diagonal_twice(k, v, beta, S):
    L = torch.eye(k.shape[-2], dtype=k.dtype) + (beta[..., None] * (k @ k.mT)).tril()
    return torch.linalg.solve_triangular(L, beta[..., None] * (v - k @ S), upper=False)


@wrong("my_corrections", "stops with")
def knows_the_length_by_heart(k, v, beta, S):
    L = torch.eye(12, dtype=k.dtype) + (beta[..., None] * (k @ k.mT)).tril(-1)
    return torch.linalg.solve_triangular(L, beta[..., None] * (v - k @ S), upper=False)


@wrong("my_corrections", "changes v")
def corrects_in_place(k, v, beta, S):
    L = beta[..., None] * (k @ k.mT)
    v -= k @ S
    return torch.linalg.solve_triangular(L, beta[..., None] * v, upper=False, unitriangular=True)


@wrong("my_corrections", "should be torch.float64")
def in_float32(k, v, beta, S):
    L, right = beta[..., None] * (k @ k.mT), beta[..., None] * (v - k @ S)
    return torch.linalg.solve_triangular(L.float(), right.float(), upper=False, unitriangular=True)


@wrong("my_corrections", "100 tokens with keys much alike")
def comes_nearer_in_twelve_rounds(k, v, beta, S):
    L, right = (beta[..., None] * (k @ k.mT)).tril(-1), beta[..., None] * (v - k @ S)
    U = right
    for _ in range(12):
        U = right - L @ U
    return U


# ---- my_decay_matrix

slip("my_decay_matrix", "summed up", "g.cumsum(-1)", "g")
slip("my_decay_matrix", "rows and columns are swapped", "-torch.inf).exp()", "-torch.inf).exp().mT")
slip("my_decay_matrix", "exp(0) is 1", "-torch.inf", "0")
slip("my_decay_matrix", "take the exponential", "fill(future, -torch.inf).exp()", "fill(future, 0)")
slip("my_decay_matrix", "not exp(c_i - c_j)", "triu(1)", "triu()")
slip("my_decay_matrix", "the future is still in it", "difference.masked_fill(future, -torch.inf)", "difference")
slip("my_decay_matrix", "shape", "c[..., :, None] - c[..., None, :]", "c[:, None] - c")
slip("my_decay_matrix", "shape", "g.cumsum(-1)", "g.cumsum(0).flatten()")
slip("my_decay_matrix", "no .detach()", "g.cumsum(-1)", "g.detach().cumsum(-1)")


@wrong("my_decay_matrix", "it does not grow")
def grows(g):
    c = g.cumsum(-1)
    return (c[..., None, :] - c[..., :, None]).exp().tril()


@wrong("my_decay_matrix", "a token's own gate does not touch")
def counts_the_writers_own_gate(g):
    c = g.cumsum(-1)
    return (c[..., :, None] - (c - g)[..., None, :]).exp().tril()


@wrong("my_decay_matrix", "the reader's own gate is missing")
def leaves_the_readers_gate_out(g):
    before = g.cumsum(-1) - g
    return (before[..., :, None] - g.cumsum(-1)[..., None, :]).tril().exp().tril()


@wrong("my_decay_matrix", "with gates of -50 it is not finite")
def the_short_way(g):
    c = g.cumsum(-1)
    return (c.exp()[..., :, None] * (-c).exp()[..., None, :]).tril()


@wrong("my_decay_matrix", "mask before the exponential")
def masks_afterwards(g):
    c = g.cumsum(-1)
    return (c[..., :, None] - c[..., None, :]).exp().tril()


@wrong("my_decay_matrix", "with gates of -50 it is not finite")
def multiplies_by_zeros(g):
    c = g.cumsum(-1)
    decay = (c[..., :, None] - c[..., None, :]).exp()
    return decay * torch.ones_like(decay).tril()


@wrong("my_decay_matrix", "its gradient is not")
def half_of_it_detached(g):
    c = g.cumsum(-1)
    difference = (c[..., :, None] - c.detach()[..., None, :]).tril()
    return difference.exp().tril()


# ---- my_chunk

slip("my_chunk", "has faded by e^c when token i reads", "c.exp() * (q @ S)", "q @ S")
slip("my_chunk", "is not read", "c.exp() * (q @ S) + ", "")
slip("my_chunk", "Q K^T is weighed by the decay", "((q @ k.mT) * decay) @ U", "(q @ k.mT).tril() @ U")
slip("my_chunk", "what later ones write", "((q @ k.mT) * decay) @ U", "(q @ k.mT) @ U")
slip("my_chunk", "the diagonal belongs", "((q @ k.mT) * decay) @ U", "((q @ k.mT) * decay).tril(-1) @ U")
slip("my_chunk", "what the chunk has written is not read", " + ((q @ k.mT) * decay) @ U", "")
slip("my_chunk", "in L each likeness", "beta * (k @ k.mT) * decay", "beta * (k @ k.mT)")
slip("my_chunk", "the right side needs that", "v - c.exp() * (k @ S)", "v - k @ S")
slip("my_chunk", "leave that out here", "return o,", "return o * q.shape[-1] ** -0.5,")
slip("my_chunk", "memory has to be handed on", "c[..., -1:, :].exp() * S + ", "")
slip("my_chunk", "exp(c_last)", "c[..., -1:, :].exp() * S", "S")
slip("my_chunk", "not by the last one alone", "c[..., -1:, :].exp() * S", "g[..., -1:, None].exp() * S")
slip("my_chunk", "fades as well", "(decay[..., -1, :, None] * U)", "U")
slip("my_chunk", "not by exp(c_j)", "decay[..., -1, :, None] * U", "c.exp() * U")
slip("my_chunk", "not by all of them", "decay[..., -1, :, None] * U", "c[..., -1:, :].exp() * U")
slip("my_chunk", "what was written is lost", " + k.mT @ (decay[..., -1, :, None] * U)", "")
slip("my_chunk", "as it was before", "o, c[..., -1:, :].exp() * S + k.mT @ (decay[..., -1, :, None] * U)", "o, S")
slip("my_chunk", "things are wanted", "return o, c[..., -1:, :]", "return o, S, c[..., -1:, :]")
slip("my_chunk", "stops with", "c[..., -1:, :].exp() * S", "c[11].exp() * S")


@wrong("my_chunk", "breaks in float32")
def takes_the_short_way(q, k, v, g, beta, S):
    c, beta = g.cumsum(-1)[..., None], beta[..., None]
    decay = (c.exp() * (-c).exp().mT).tril()
    right = beta * (v - c.exp() * (k @ S))
    U = torch.linalg.solve_triangular(beta * (k @ k.mT) * decay, right, upper=False, unitriangular=True)
    o = c.exp() * (q @ S) + ((q @ k.mT) * decay) @ U
    return o, c[..., -1:, :].exp() * S + k.mT @ (decay[..., -1, :, None] * U)


@wrong("my_chunk", "a gradient is not a number")
def masks_after_the_exponential(q, k, v, g, beta, S):
    c, beta = g.cumsum(-1)[..., None], beta[..., None]
    decay = (c - c.mT).exp().tril()
    right = beta * (v - c.exp() * (k @ S))
    U = torch.linalg.solve_triangular(beta * (k @ k.mT) * decay, right, upper=False, unitriangular=True)
    o = c.exp() * (q @ S) + ((q @ k.mT) * decay) @ U
    return o, c[..., -1:, :].exp() * S + k.mT @ (decay[..., -1, :, None] * U)


@wrong("my_chunk", "changes S")
def hands_on_in_place(q, k, v, g, beta, S):
    c, b, decay = g.cumsum(-1)[..., None], beta[..., None], my_decay_matrix(g)
    L, right = b * (k @ k.mT) * decay, b * (v - c.exp() * (k @ S))
    U = torch.linalg.solve_triangular(L, right, upper=False, unitriangular=True)
    o = c.exp() * (q @ S) + ((q @ k.mT) * decay) @ U
    S *= c[..., -1:, :].exp()
    S += k.mT @ (decay[..., -1, :, None] * U)
    return o, S


@wrong("my_chunk", "100 tokens with keys much alike")
def comes_nearer_in_twelve_rounds_with_gates(q, k, v, g, beta, S):
    c, b, decay = g.cumsum(-1)[..., None], beta[..., None], my_decay_matrix(g)
    L, right = (b * (k @ k.mT) * decay).tril(-1), b * (v - c.exp() * (k @ S))
    U = right
    for _ in range(12):
        U = right - L @ U
    o = c.exp() * (q @ S) + ((q @ k.mT) * decay) @ U
    return o, c[..., -1:, :].exp() * S + k.mT @ (decay[..., -1, :, None] * U)


# ---- my_chunk_gated_delta_rule

slip("my_chunk_gated_delta_rule", "q is not scaled", "q * Dk**-0.5", "q")
slip("my_chunk_gated_delta_rule", "in turn", "x.repeat_interleave(Hv // Hk, dim=2)", "x.repeat(1, 1, Hv // Hk, 1)")
slip("my_chunk_gated_delta_rule", "initial state is not used",
     "v.new_zeros(B, Hv, Dk, Dv) if initial_state is None else initial_state", "v.new_zeros(B, Hv, Dk, Dv)")
slip("my_chunk_gated_delta_rule", "shape", ".transpose(1, 2), S", ", S")
slip("my_chunk_gated_delta_rule", "things are wanted", ".transpose(1, 2), S", ".transpose(1, 2)")
slip("my_chunk_gated_delta_rule", "final state is not", ".transpose(1, 2), S", ".transpose(1, 2), 0 * S")
slip("my_chunk_gated_delta_rule", "the final state is not", "o, S = my_chunk(*", "o, _ = my_chunk(*")
slip("my_chunk_gated_delta_rule", "shape", "range(0, T, chunk_size)", "range(0, T - T % chunk_size or T, chunk_size)")
slip("my_chunk_gated_delta_rule", "makes no difference", "range(0, T, chunk_size)", "range(0, T, chunk_size := 64)")
slip("my_chunk_gated_delta_rule", "its arguments", ", chunk_size=64):", "):\n    chunk_size = 64")
slip("my_chunk_gated_delta_rule", "walks from token", "range(0, T, chunk_size)", "range(0, T, chunk_size := 1)")
slip("my_chunk_gated_delta_rule", "the gradient of", "return torch.cat(outputs, dim=2)",
     "outputs = [1.05 * o - 0.05 * o.detach() for o in outputs]\n    return torch.cat(outputs, dim=2)")


@wrong("my_chunk_gated_delta_rule", "walks from token to token")
def is_the_walk(q, k, v, g, beta, initial_state=None, chunk_size=64):
    return my_gated_delta_rule(q, k, v, g, beta, initial_state)
