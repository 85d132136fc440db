"""Solutions to the exercises of 02_attention_as_memory. Try first: the checks there say what is wrong."""

# %% exercise 1
def my_causal_weights(scores):
    """Softmax over the past: weights of the shape of the scores (..., T, T); row i looks at columns 0 to i."""
    past = torch.ones_like(scores, dtype=torch.bool).tril()             # j <= i
    return scores.masked_fill(~past, -torch.inf).softmax(-1)            # e to the minus infinity is 0

# %% exercise 2
def my_weights(q, k):
    """The softmax maps (B, Hq, T, T): how much token i looks at token j <= i. Each row sums to 1."""
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)            # (B, T, Hq, Dk): in blocks
    scores = torch.einsum("bihd, bjhd -> bhij", q, k) * q.shape[-1] ** -0.5
    return my_causal_weights(scores)

# %% exercise 3
def my_attention(q, k, v):
    """Causal softmax attention: q (B, T, Hq, Dk), k and v with Hq heads or fewer  ->  o (B, T, Hq, Dv)."""
    v = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)            # (B, T, Hq, Dv)
    return torch.einsum("bhij, bjhv -> bihv", my_weights(q, k), v)

# %% exercise 4
def my_linear_attention(q, k, v, state=None):
    """Linear attention: q, k (B, T, H, Dk), v (B, T, H, Dv)  ->  o (B, T, H, Dv), state (B, H, Dk, Dv)."""
    (B, T, H, Dk), Dv = k.shape, v.shape[-1]
    S = v.new_zeros(B, H, Dk, Dv) if state is None else state
    o = torch.zeros_like(v)
    for t in range(T):
        S = S + torch.einsum("bhk, bhv -> bhkv", k[:, t], v[:, t])              # write
        o[:, t] = torch.einsum("bhkv, bhk -> bhv", S, q[:, t] * Dk**-0.5)       # read
    return o, S
