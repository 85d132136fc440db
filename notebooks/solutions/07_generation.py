"""Solutions of lesson 07: each piece of code goes in place of the exercise's cell."""

# %% exercise 1
def my_convolution_step(x, weight, before):
    window = torch.cat((before, x), dim=1)              # (B, K - 1 + T, channels)
    y = F.silu(F.conv1d(window.mT, weight, groups=x.shape[-1]).mT)
    return y, window[:, -before.shape[1]:]              # of old and new: a piece may be short

# %% exercise 2
def my_generate(model, ids, max_new_tokens, choose, stop_ids=()):
    cache, new = model.new_cache(1, len(ids) + max_new_tokens), []
    logits = model(torch.tensor([ids]), cache=cache)[:, -1]         # prefill: (1, V)
    while True:
        new.append(choose(logits).item())
        if new[-1] in stop_ids or len(new) == max_new_tokens:
            return new
        logits = model(torch.tensor([new[-1:]]), cache=cache)[:, -1]    # decode one token

# %% exercise 3
def my_cache_numbers(kind, config, tokens):
    if kind == "full_attention":                        # a key and a value of every token
        return 2 * config.num_key_value_heads * config.head_dim * tokens
    keys = config.linear_num_key_heads * config.linear_key_head_dim
    values = config.linear_num_value_heads * config.linear_value_head_dim
    states = values * config.linear_key_head_dim        # Hv memories of Dk x Dv
    return states + (config.linear_conv_kernel_dim - 1) * (2 * keys + values)

# %% exercise 4
def my_sample(logits, u, temperature=1.0, top_p=1.0):
    if temperature == 0:
        return logits.argmax(-1)
    p, ids = (logits / temperature).softmax(-1).sort(descending=True)   # the likeliest first
    p = p.masked_fill(p.cumsum(-1) - p >= top_p, 0)     # the likelier ones suffice
    p = p / p.sum(-1, keepdim=True)                     # what is left fills the ruler again
    place = (p.cumsum(-1) > u[:, None]).int().argmax(-1, keepdim=True)  # the first beyond u
    return ids.gather(-1, place)[:, 0]
