"""Wrong answers to the exercises of lesson 06."""

import torch
from torch.nn import functional as F

from . import slip, wrong

# ---- my_convolution


@wrong("my_convolution", "silu is missing")
def forgets_the_silu(x, weight):
    T, K = x.shape[1], weight.shape[2]
    x = F.pad(x, (0, 0, K - 1, 0))
    return sum(weight[:, 0, i] * x[:, i : i + T] for i in range(K))


@wrong("my_convolution", "wrong way round")
def turns_the_taps(x, weight):
    T, K = x.shape[1], weight.shape[2]
    x = F.pad(x, (0, 0, K - 1, 0))
    return F.silu(sum(weight[:, 0, K - 1 - i] * x[:, i : i + T] for i in range(K)))


@wrong("my_convolution", "looks ahead")
def pads_behind(x, weight):
    T, K = x.shape[1], weight.shape[2]
    x = F.pad(x, (0, 0, 0, K - 1))
    return F.silu(sum(weight[:, 0, i] * x[:, i : i + T] for i in range(K)))


@wrong("my_convolution", "should have the shape")
def knows_the_length_of_the_kernel_by_heart(x, weight):
    return F.silu(F.conv1d(F.pad(x.mT, (3, 0)), weight, groups=x.shape[-1]).mT)


@wrong("my_convolution", "the end of the text")
def rolls(x, weight):
    K = weight.shape[2]
    return F.silu(sum(weight[:, 0, i] * x.roll(K - 1 - i, dims=1) for i in range(K)))


@wrong("my_convolution", "each has its own")
def one_kernel_for_all_channels(x, weight):
    T, K = x.shape[1], weight.shape[2]
    x = F.pad(x, (0, 0, K - 1, 0))
    return F.silu(sum(weight[0, 0, i] * x[:, i : i + T] for i in range(K)))


@wrong("my_convolution", "should have the shape")
def works_for_a_single_text(x, weight):
    T, K = x.shape[1], weight.shape[2]
    x = F.pad(x[:1], (0, 0, K - 1, 0))
    return F.silu(sum(weight[:, 0, i] * x[:, i : i + T] for i in range(K)))


@wrong("my_convolution", "changes weight")
def turns_what_it_was_given(x, weight):
    T, K = x.shape[1], weight.shape[2]
    weight *= 1.0 + 1e-3
    x = F.pad(x, (0, 0, K - 1, 0))
    return F.silu(sum(weight[:, 0, i] * x[:, i : i + T] for i in range(K)))


# ---- my_decay


@wrong("my_decay", "minus in front")
def would_grow(a, A_log, dt_bias):
    return A_log.exp() * F.softplus(a + dt_bias)


@wrong("my_decay", "wants its logarithm")
def gives_alpha(a, A_log, dt_bias):
    return (-A_log.exp() * F.softplus(a + dt_bias)).exp()


@wrong("my_decay", "take its exponential")
def leaves_the_logarithm(a, A_log, dt_bias):
    return -A_log * F.softplus(a + dt_bias)


@wrong("my_decay", "dt_bias is not used")
def never_looks_at_dt_bias(a, A_log, dt_bias):
    return -A_log.exp() * F.softplus(a)


@wrong("my_decay", "rate A is not used")
def never_looks_at_the_rate(a, A_log, dt_bias):
    return -F.softplus(a + dt_bias)


@wrong("my_decay", "inside of softplus")
def adds_behind(a, A_log, dt_bias):
    return -A_log.exp() * (F.softplus(a) + dt_bias)


@wrong("my_decay", "more than a computer")
def overflows(a, A_log, dt_bias):
    return -A_log.exp() * torch.log(1 + (a + dt_bias).exp())


@wrong("my_decay", "changes a,")
def adds_in_place(a, A_log, dt_bias):
    a += dt_bias
    return -A_log.exp() * F.softplus(a)


@wrong("my_decay", "should have the shape")
def works_for_one_text(a, A_log, dt_bias):
    return -A_log.exp() * F.softplus(a[0] + dt_bias)


# ---- my_gated_norm


@wrong("my_gated_norm", "plain in this norm")
def takes_the_other_norm(x, z, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (1 + weight) * F.silu(z)


@wrong("my_gated_norm", "not sigmoid")
def the_gate_of_attention(x, z, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight * torch.sigmoid(z)


@wrong("my_gated_norm", "gated first")
def gates_first(x, z, weight, eps):
    x = x * F.silu(z)
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


@wrong("my_gated_norm", "each head is normed by itself")
def norms_all_heads_at_once(x, z, weight, eps):
    return x * torch.rsqrt(x.square().mean((-2, -1), keepdim=True) + eps) * weight * F.silu(z)


@wrong("my_gated_norm", "another number than the one that was given")
def never_looks_at_eps(x, z, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight * F.silu(z)


@wrong("my_gated_norm", "the weight is missing")
def never_looks_at_the_weight(x, z, weight, eps):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * F.silu(z)


@wrong("my_gated_norm", "changes x,")
def norms_in_place(x, z, weight, eps):
    x /= (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * weight * F.silu(z)


@wrong("my_gated_norm", "squares are summed")
def knows_the_width_by_heart(x, z, weight, eps):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + eps) * weight * F.silu(z)


slip("my_gated_norm", "bfloat16 numbers should be torch.bfloat16", "return x * weight", "return x.float() * weight")

# ---- my_gated_delta_net

slip("my_gated_delta_net", "q is not scaled to length 1",
     "my_unit(y.unflatten(-1, (Hk, Dk)))", "y.unflatten(-1, (Hk, Dk))")
slip("my_gated_delta_net", "q is scaled to length 1 as a whole",
     "my_unit(y.unflatten(-1, (Hk, Dk)))", "my_unit(y).unflatten(-1, (Hk, Dk))")
slip("my_gated_delta_net", "v is scaled to length 1: only q and k are",
     "v = v.unflatten(-1, (Hv, Dv))", "v = my_unit(v.unflatten(-1, (Hv, Dv)))")
slip("my_gated_delta_net", "q is what k should be", "q, k, v = qkv.split(", "k, q, v = qkv.split(")
slip("my_gated_delta_net", "not convolved",
     'my_convolution(F.linear(x, weights["in_proj_qkv.weight"]), weights["conv1d.weight"])',
     'F.linear(x, weights["in_proj_qkv.weight"])')
slip("my_gated_delta_net", "the v that `rule` is given should have the shape",
     "v = v.unflatten(-1, (Hv, Dv))", "v = v.unflatten(-1, (Hk, -1))")
slip("my_gated_delta_net", "beta is made by in_proj_a", "in_proj_b", "in_proj_a")
slip("my_gated_delta_net", "g is made by in_proj_b", "in_proj_a", "in_proj_b")
slip("my_gated_delta_net", "beta lacks its sigmoid", "torch.sigmoid(", "(")
slip("my_gated_delta_net", "never calls `rule`",
     "o, _ = rule(q, k, v, g, beta)", "o, _ = my_gated_delta_rule(q, k, v, g, beta)")
slip("my_gated_delta_net", "listens to another rule",
     "o, _ = rule(q, k, v, g, beta)", "rule(q, k, v, g, beta); o, _ = my_gated_delta_rule(q, k, v, g, beta)")
slip("my_gated_delta_net", "another than config.rms_norm_eps", "config.rms_norm_eps", "1e-6")
slip("my_gated_delta_net", "swapped in the gated norm", "my_gated_norm(o, z,", "my_gated_norm(z, o,")
slip("my_gated_delta_net", "changes x,", "    return F.linear(o", "    x += 1\n    return F.linear(o")
slip("my_gated_delta_net", "q is not what `rule` should be given", 'weights["conv1d.weight"]',
     'weights["conv1d.weight"][..., -4:]')
slip("my_gated_delta_net", "changes config,", "    return F.linear(o",
     "    config.hidden_size = 77\n    return F.linear(o")

# ---- my_layer

slip("my_layer", "what the mixer says replaces the stream", "x = x + mixed", "x = mixed")
slip("my_layer", "what the MLP says replaces the stream", "return x + my_mlp(", "return my_mlp(")
slip("my_layer", "from before the mixer",
     '    x = x + mixed\n    normed = my_rms_norm(x, part["post_attention_layernorm.weight"]',
     '    normed, x = x, x + mixed\n    normed = my_rms_norm(normed, part["post_attention_layernorm.weight"]')
slip("my_layer", "through the mixer's norm", "post_attention_layernorm", "input_layernorm")
slip("my_layer", "only what a part reads is",
     'normed = my_rms_norm(x, part["input_', 'x = normed = my_rms_norm(x, part["input_')
slip("my_layer", "stops with KeyError", '== "full_attention"', '== "nothing"')
slip("my_layer", "this is layer 0",
     "    part = my_part(", "    i = config.layer_types.index(config.layer_types[i])\n    part = my_part(")
slip("my_layer", "changes x,", "x = x + mixed", "x += mixed")
slip("my_layer", "another than config.rms_norm_eps",
     'part["input_layernorm.weight"], config.rms_norm_eps', 'part["input_layernorm.weight"], 1e-6')
slip("my_layer", "this is another layer", 'my_gated_attention(normed, my_part(part, "self_attn."), config, cos, sin)',
     'my_gated_attention(normed[:1], my_part(part, "self_attn."), config, cos[:1], sin[:1])')
slip("my_layer", "stops with KeyError", 'config.layer_types[i] == "full_attention"', "(i + 1) % 4 == 0")
slip("my_layer", "changes config,", "    x = x + mixed\n", "    x = x + mixed\n    config.hidden_size = 77\n")
