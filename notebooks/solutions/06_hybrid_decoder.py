"""Solutions to the exercises of 06_hybrid_decoder. Try first: the checks there say what is wrong."""

# %% exercise 1
def my_decay(a, A_log, dt_bias):
    time_step = F.softplus(a + dt_bias)                 # positive, whatever the token says
    return -A_log.exp() * time_step

# %% exercise 2
def my_gated_norm(x, z, weight, eps):
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return x * weight * F.silu(z)                       # the weight is plain, the gate comes last

# %% exercise 3
def my_layer(x, weights, config, i, cos, sin):
    weights = my_part(weights, f"model.language_model.layers.{i}.")
    normed = my_rms_norm(x, weights["input_layernorm.weight"], config.rms_norm_eps)
    if config.layer_types[i] == "full_attention":
        x = x + my_gated_attention(normed, my_part(weights, "self_attn."), config, cos, sin)
    else:
        x = x + my_gated_delta_net(normed, my_part(weights, "linear_attn."), config)
    normed = my_rms_norm(x, weights["post_attention_layernorm.weight"], config.rms_norm_eps)
    return x + my_mlp(normed, my_part(weights, "mlp."))
