"""Solutions of lesson 03: each piece of code goes in place of the exercise's cell."""

# %% exercise 1


def my_delta_step(S, k, v, beta):
    """The memory after one token: the error of its answer to k is mended. S (Dk, Dv), k (Dk,), v (Dv,)."""
    u = beta * (v - k @ S)                  # (Dv,): what the answer lacks, or a share of it
    return S + torch.outer(k, u)            # written under the key

# %% exercise 2


def my_knobs(wish):
    """The pair (g, beta) with which one token of the gated delta rule does what is wished."""
    return {
        "ignore": (0.0, 0.0),               # alpha = 1: nothing fades; beta = 0: nothing is written
        "replace": (0.0, 1.0),
        "fade": (math.log(0.5), 0.0),       # alpha = exp(g) = 1/2
        "new story": (-50.0, 1.0),          # exp(-50) is about 2e-22: as good as nothing
    }[wish]

# %% exercise 3


def my_gated_delta_step(S, k, v, g, beta):
    """The memory after one token of the gated delta rule. S (Dk, Dv), k (Dk,), v (Dv,), g and beta one number each."""
    return my_delta_step(g.exp() * S, k, v, beta)       # forget a little first, then mend what is left

# %% exercise 4


def my_gated_delta_rule(q, k, v, g, beta, initial_state=None):
    """The gated delta rule: o (B, T, Hv, Dv), and the state after the last token (B, Hv, Dk, Dv)."""
    (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    q, k = (x.repeat_interleave(Hv // Hk, dim=2) for x in (q * Dk**-0.5, k))    # in blocks
    S = v.new_zeros(B, Hv, Dk, Dv) if initial_state is None else initial_state
    o = torch.zeros_like(v)
    for t in range(T):
        S = g[:, t, :, None, None].exp() * S                                    # forget
        answer = torch.einsum("bhkv, bhk -> bhv", S, k[:, t])                   # ask
        u = beta[:, t, :, None] * (v[:, t] - answer)                            # (B, Hv, Dv)
        S = S + torch.einsum("bhk, bhv -> bhkv", k[:, t], u)                    # mend
        o[:, t] = torch.einsum("bhkv, bhk -> bhv", S, q[:, t])                  # read
    return o, S

# %% exercise 5


def my_effective_attention(q, k, g, beta):
    """A (B, Hv, T, T): how much of the value of token j is in the answer of token i."""
    B, T, Hv = g.shape
    values = torch.eye(T, dtype=k.dtype).view(1, T, 1, T).expand(B, T, Hv, T)   # v_j: a one in place j
    o, _ = my_gated_delta_rule(q, k, values, g, beta)                           # (B, T, Hv, T)
    return o.transpose(1, 2)
