"""Solutions of lesson 06: each piece of code goes in place of the exercise's cell."""

# %% exercise 1
def my_convolution(x, weight):
    T, K = x.shape[1], weight.shape[2]
    x = F.pad(x, (0, 0, K - 1, 0))                      # K - 1 zeros before the first token
    return F.silu(sum(weight[:, 0, i] * x[:, i : i + T] for i in range(K)))

# %% exercise 2
def my_decay(a, A_log, dt_bias):
    time_step = F.softplus(a + dt_bias)                 # positive, whatever the token says
    return -A_log.exp() * time_step

# %% exercise 3
def my_gated_norm(x, z, weight, eps):
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * weight * F.silu(z)                       # the weight is plain, the gate comes last

# %% exercise 4
def my_gated_delta_net(x, weights, config, rule):
    Hk, Hv = config.linear_num_key_heads, config.linear_num_value_heads
    Dk, Dv = config.linear_key_head_dim, config.linear_value_head_dim

    qkv = my_convolution(F.linear(x, weights["in_proj_qkv.weight"]), weights["conv1d.weight"])
    q, k, v = qkv.split([Hk * Dk, Hk * Dk, Hv * Dv], dim=-1)
    q, k = (my_unit(y.unflatten(-1, (Hk, Dk))) for y in (q, k))         # (B, T, Hk, Dk)
    v = v.unflatten(-1, (Hv, Dv))                                       # (B, T, Hv, Dv)
    beta = torch.sigmoid(F.linear(x, weights["in_proj_b.weight"]))      # (B, T, Hv)
    a = F.linear(x, weights["in_proj_a.weight"])
    g = my_decay(a, weights["A_log"], weights["dt_bias"])               # (B, T, Hv)
    o, _ = rule(q, k, v, g, beta)                                       # (B, T, Hv, Dv)

    z = F.linear(x, weights["in_proj_z.weight"]).unflatten(-1, (Hv, Dv))
    o = my_gated_norm(o, z, weights["norm.weight"], config.rms_norm_eps)
    return F.linear(o.flatten(2), weights["out_proj.weight"])           # (B, T, d)

# %% exercise 5
def my_layer(x, weights, config, i, cos, sin):
    part = my_part(weights, f"model.language_model.layers.{i}.")
    normed = my_rms_norm(x, part["input_layernorm.weight"], config.rms_norm_eps)
    if config.layer_types[i] == "full_attention":
        mixed = my_gated_attention(normed, my_part(part, "self_attn."), config, cos, sin)
    else:
        mixer = my_part(part, "linear_attn.")
        mixed = my_gated_delta_net(normed, mixer, config, my_chunk_gated_delta_rule)
    x = x + mixed
    normed = my_rms_norm(x, part["post_attention_layernorm.weight"], config.rms_norm_eps)
    return x + my_mlp(normed, my_part(part, "mlp."))
