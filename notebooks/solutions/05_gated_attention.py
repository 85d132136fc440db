"""Solutions of lesson 05: each piece of code goes in place of the exercise's cell."""

# %% exercise 1


def my_rms_norm(x, weight, eps=1e-6):
    """x (..., n) divided by its root mean square, times (1 + weight); weight (n,)."""
    x32 = x.float()                                     # the digits are needed here
    rms = (x32.square().mean(-1, keepdim=True) + eps).sqrt()
    return (x32 / rms * (1 + weight.float())).to(x.dtype)

# %% exercise 2


def my_split(q_proj_output, head_dim):
    """What q_proj gave, (B, T, Hq * 2 * head_dim), as query and gate: each (B, T, Hq, head_dim)."""
    query, gate = q_proj_output.unflatten(-1, (-1, 2, head_dim)).unbind(3)     # heads, then two, then numbers
    return query, gate

# %% exercise 3


def my_rotate(x, cos, sin):
    """Turn the first 2 * pairs numbers of every head. x (B, T, H, D), cos and sin (B, T, pairs)."""
    pairs = cos.shape[-1]
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = cos[:, :, None], sin[:, :, None]         # (B, T, 1, pairs): the same for all heads
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), dim=-1)

# %% exercise 4


def my_angles(position_ids, config):
    """M-RoPE: cosine and sine of each pair's angle, (B, T, pairs) each, for position_ids (3, B, T)."""
    _, height, width = config.rope_parameters["mrope_section"]
    frequency = my_frequencies(config).to(position_ids.device)                  # (pairs,)
    listens = torch.zeros_like(frequency, dtype=torch.long)                     # to time, but
    listens[1 : 3 * height : 3] = 1                                             # height
    listens[2 : 3 * width : 3] = 2                                              # and width have their share
    angles = position_ids[listens].permute(1, 2, 0) * frequency                 # (B, T, pairs)
    return angles.cos(), angles.sin()

# %% exercise 5


def my_gated_attention(x, weights, config, cos, sin):
    """The mixer of every fourth layer: x (B, T, hidden), cos and sin (B, T, pairs) -> (B, T, hidden)."""
    D, eps = config.head_dim, config.rms_norm_eps
    q, gate = my_split(x @ weights["q_proj.weight"].T, D)                       # (B, T, Hq, D)
    k = (x @ weights["k_proj.weight"].T).unflatten(-1, (-1, D))                 # (B, T, Hkv, D)
    v = (x @ weights["v_proj.weight"].T).unflatten(-1, (-1, D))
    q = my_rotate(my_rms_norm(q, weights["q_norm.weight"], eps), cos, sin)      # first the norm, then the turn
    k = my_rotate(my_rms_norm(k, weights["k_norm.weight"], eps), cos, sin)
    o = my_attention(q, k, v) * torch.sigmoid(gate)                             # it shares heads in blocks
    return o.flatten(2) @ weights["o_proj.weight"].T
