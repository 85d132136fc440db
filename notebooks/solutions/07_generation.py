"""Solutions to the exercises of 07_generation. Try first: the checks there say what is wrong."""

# %% exercise 1
def my_convolution_step(x, weight, before):
    window = torch.cat((before, x), dim=1)                      # (B, K - 1 + T, channels)
    y = F.silu(F.conv1d(window.mT, weight, groups=x.shape[-1]).mT)
    return y, window[:, -before.shape[1]:]                      # of old and new together: a piece may be short

# %% exercise 2
def my_cache_numbers(kind, config, tokens):
    if kind == "full_attention":                                # a key and a value of every token
        return 2 * config.num_key_value_heads * config.head_dim * tokens
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    states = values * config.linear_key_head_dim                # H_v memories of D_k x D_v
    return states + (config.linear_conv_kernel_dim - 1) * (2 * keys + values)

# %% exercise 3
def my_sample(logits, u, temperature=1.0, top_p=1.0):
    if temperature == 0:
        return logits.argmax(-1)
    p, ids = (logits / temperature).softmax(-1).sort(descending=True)       # (B, V), from the likeliest down
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)                         # the likelier ones suffice
    p = p / p.sum(-1, keepdim=True)                                         # what is left fills the ruler again
    place = (p.cumsum(-1) > u[:, None]).int().argmax(-1, keepdim=True)      # the first whose end is beyond u
    return ids.gather(-1, place)[:, 0]
