"""Solutions of lesson 04: each piece of code goes in place of the exercise's cell."""

# %% exercise 1


def my_corrections(k, v, beta, S):
    """U (..., C, Dv), the corrections of a chunk without gate."""
    beta = beta[..., None]                              # (..., C, 1): row i of what follows, times beta_i
    L = beta * (k @ k.mT)                               # only what is below the diagonal is read
    return torch.linalg.solve_triangular(L, beta * (v - k @ S), upper=False, unitriangular=True)

# %% exercise 2


def my_decay_matrix(g):
    """decay (..., C, C): what is left for token i of what token j has written."""
    c = g.cumsum(-1)
    difference = c[..., :, None] - c[..., None, :]
    future = torch.ones_like(difference, dtype=torch.bool).triu(1)
    return difference.masked_fill(future, -torch.inf).exp()             # mask first: exp(-inf) is 0

# %% exercise 3


def my_chunk(q, k, v, g, beta, S):
    """o (..., C, Dv), and the memory after the chunk (..., Dk, Dv)."""
    c, beta, decay = g.cumsum(-1)[..., None], beta[..., None], my_decay_matrix(g)
    right = beta * (v - c.exp() * (k @ S))
    U = torch.linalg.solve_triangular(beta * (k @ k.mT) * decay, right, upper=False, unitriangular=True)
    o = c.exp() * (q @ S) + ((q @ k.mT) * decay) @ U
    return o, c[..., -1:, :].exp() * S + k.mT @ (decay[..., -1, :, None] * U)

# %% exercise 4


def my_chunk_gated_delta_rule(q, k, v, g, beta, initial_state=None, chunk_size=64):
    """The gated delta rule, a chunk at a time: o (B, T, Hv, Dv), and the state after the last token."""
    (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    q, k = (x.repeat_interleave(Hv // Hk, dim=2) for x in (q * Dk**-0.5, k))    # in blocks
    tokens = [x.transpose(1, 2) for x in (q, k, v, g, beta)]                    # heads first: (B, Hv, T, ...)
    S = v.new_zeros(B, Hv, Dk, Dv) if initial_state is None else initial_state
    outputs = []
    for start in range(0, T, chunk_size):
        o, S = my_chunk(*(x[:, :, start : start + chunk_size] for x in tokens), S)
        outputs.append(o)
    return torch.cat(outputs, dim=2).transpose(1, 2), S
