"""Lesson 06: the parts of a Gated DeltaNet, the whole of it, and a layer of the decoder."""

import torch
from torch.nn import functional as F

from ...config import TextConfig
from ...delta_rule import recurrent_gated_delta_rule
from ...model import DecoderLayer, GatedDeltaNet, Step
from ..judging import call, compare, demand, hints


@hints(
    "Take one channel, and the output of one token. Which K inputs does it see, and what does it see of them where the "
    "text has only just begun?",
    "Put K - 1 zeros in front of the text. Then tap i meets the padded text from token i on, for T tokens, and the "
    "convolution is a sum of K products.",
    "F.pad(x, (0, 0, K - 1, 0)) puts the zeros there, weight[:, 0, i] is tap i of every channel, and "
    "padded[:, i : i + T] what it meets. The silu comes last, around the sum.",
)
def my_convolution(mine):
    """each token hears itself and those just before it, every channel for itself"""
    for B, T, channels, K in ((1, 7, 3, 4), (3, 2, 5, 4), (2, 6, 4, 3)):
        random = torch.Generator().manual_seed(T)
        x = torch.randn(B, T, channels, generator=random)
        weight = torch.randn(channels, 1, K, generator=random)

        def mixed(front=K - 1, weight=weight, x=x, T=T, K=K):
            padded = F.pad(x, (0, 0, front, K - 1 - front))
            return sum(weight[:, 0, i] * padded[:, i : i + T] for i in range(K))

        around = torch.cat((x, x, x), dim=1)[:, -T - K + 1 :]
        compare(call(mine, x, weight), F.silu(mixed()), {
            "the silu is missing: it goes around the sum": mixed(),
            "the taps are the wrong way round: the last one belongs to the token itself":
                F.silu(mixed(weight=weight.flip(-1))),
            "it looks ahead: all of the zeros belong in front of the first token": F.silu(mixed(front=0)),
            "it looks ahead: the zeros belong in front of the first token, and not on both sides":
                F.silu(mixed(front=K // 2)),
            "the silu comes after the mixing, not before it": mixed(x=F.silu(x)),
            "all channels are mixed by the taps of the first: each has its own": F.silu(mixed(weight=weight[:1])),
            "before the first token stands the end of the text: zeros belong there":
                F.silu(sum(weight[:, 0, i] * around[:, i : i + T] for i in range(K))),
            "the token hears only itself: K taps, K tokens": F.silu(weight[:, 0, -1] * x),
        }, "this is another convolution: compare it with the sum, and look at which tap meets which token.")


@hints(
    "Two things make up g: a time step, from the token and the head, and a rate, from the head alone.",
    "The time step is a softplus of a sum. The rate comes out of the checkpoint as a logarithm, so that it needs an "
    "exponential. And no memory may grow.",
    "F.softplus takes a + dt_bias (they fit, as the last axis of a is the heads); A_log.exp() is the rate; multiply "
    "them, and mind the sign.",
)
def my_decay(mine):
    """how much each token lets each memory fade, and never does one grow"""
    for B, T, Hv in ((1, 3, 2), (3, 5, 4), (2, 1, 1)):
        random = torch.Generator().manual_seed(Hv)
        a = 2 * torch.randn(B, T, Hv, generator=random)
        A_log, dt_bias = torch.randn(Hv, generator=random), 2 * torch.randn(Hv, generator=random)
        A, step = A_log.exp(), F.softplus(a + dt_bias)
        right = -A * step
        compare(call(mine, a, A_log, dt_bias), right, {
            "g is positive, so that the memory would grow: there is a minus in front": -right,
            "this is alpha; the delta rule wants its logarithm": right.exp(),
            "A_log is the logarithm of A: take its exponential": -A_log * step,
            "the time step is not made positive: softplus is missing": -A * (a + dt_bias),
            "dt_bias is added inside of softplus, not behind it": -A * (F.softplus(a) + dt_bias),
            "dt_bias is not used": -A * F.softplus(a),
            "the rate A is not used: each head has its own": -step,
            "A does not depend on the token: it stands outside of softplus": -F.softplus(A * (a + dt_bias)),
            "the time step is the exponential: softplus is ln(1 + that)": -A * (a + dt_bias).exp(),
        }, "this is not the decay: compare it with the formula once more.")
    found = call(mine, torch.full((1, 1, 1), 200.0), torch.zeros(1), torch.zeros(1))
    demand(found.isfinite().all(), "it is right for small numbers, but e to the 200 is more than a computer can hold: "
                                   "F.softplus knows a way around.")
    compare(found, torch.full((1, 1, 1), -200.0), otherwise="where a is 200 and A is 1, g should be -200.")


@hints(
    "Three factors: what is normed, the weight, the gate. Over which axis does the mean of the squares go, if each "
    "head is normed by itself?",
    "The mean goes over the last axis, and keeps it (keepdim=True), so that one can divide by it. eps is added "
    "under the root. The weight is used as it is.",
    "Divide x by (mean of its squares over the last axis + eps).sqrt(); multiply by weight, and by F.silu(z).",
)
def my_gated_norm(mine):
    """a norm for each head, with a plain weight, and the gate behind it"""
    for B, T, Hv, Dv in ((2, 3, 4, 6), (1, 1, 2, 5), (3, 4, 1, 8)):
        random = torch.Generator().manual_seed(Dv)
        x, z = torch.randn(2, B, T, Hv, Dv, generator=random)
        weight, eps = 1 + 0.3 * torch.randn(Dv, generator=random), 0.1

        def normed(x, eps=eps, over=-1):
            return x / (x.square().mean(over, keepdim=True) + eps).sqrt()

        gate = F.silu(z)
        compare(call(mine, x, z, weight, eps), normed(x) * weight * gate, {
            "the weight is plain in this norm: w, and not 1 + w": normed(x) * (1 + weight) * gate,
            "the gate is silu(z), not sigmoid(z)": normed(x) * weight * torch.sigmoid(z),
            "the gate is silu(z), not z itself": normed(x) * weight * z,
            "the gate comes behind the norm: you have gated first and normed then": normed(x * gate) * weight,
            "each head is normed by itself: the mean goes over the last axis only":
                normed(x, over=(-2, -1)) * weight * gate,
            "the gate is missing": normed(x) * weight,
            "the weight is missing": normed(x) * gate,
            "x is not normed": x * weight * gate,
            "eps is missing, or another number than the one that was given": normed(x, eps=1e-6) * weight * gate,
            "eps goes under the root": x / (x.square().mean(-1, keepdim=True).sqrt() + eps) * weight * gate,
            "the squares are summed, and their mean is wanted":
                x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * weight * gate,
        }, "this is not the gated norm: compare it with the formula once more.")
        compare(call(mine, *(t.bfloat16() for t in (x, z, weight)), eps), (normed(x) * weight * gate).bfloat16(),
                what="what it makes of bfloat16 numbers", tolerance=0.05)


@hints(
    "Follow the picture from the bottom to the top: four projections; a convolution behind the first; the rule; the "
    "norm with its gate; the way out. Which of your functions does each step?",
    "in_proj_qkv, then my_convolution, then cut: Hk * Dk numbers are q, as many k, the rest is v. Each is laid out in "
    "its heads by unflatten(-1, (heads, -1)); q and k go through my_unit. beta is a sigmoid, g comes from my_decay.",
    "q, k, v = qkv.split([widths], dim=-1) cuts. o, _ = rule(...) asks the memory. z = in_proj_z, laid out in Hv "
    "heads, goes into my_gated_norm with o; then flatten(2), and F.linear with out_proj.weight.",
)
@torch.no_grad()
def my_gated_delta_net(mine):
    """four projections, a convolution, the rule, a gated norm, and the way out"""
    for batch, length, heads, widths, taps in (
            (2, 7, (2, 4), (6, 5), 4), (1, 3, (3, 3), (4, 8), 2), (3, 6, (1, 2), (5, 5), 5)):
        _judge_net(mine, batch, length, *heads, *widths, taps)


def _judge_net(mine, B, T, Hk, Hv, Dk, Dv, K):
    random = torch.Generator().manual_seed(T)
    config = TextConfig(
        hidden_size=12, num_hidden_layers=1, layer_types=["linear_attention"], rms_norm_eps=0.05,
        linear_num_key_heads=Hk, linear_num_value_heads=Hv, linear_key_head_dim=Dk, linear_value_head_dim=Dv,
        linear_conv_kernel_dim=K)
    net = _filled(GatedDeltaNet(config), random)
    x, weights = torch.randn(B, T, 12, generator=random), net.state_dict()
    heads = {"q": (Hk, Dk), "k": (Hk, Dk), "v": (Hv, Dv)}
    right, told, inner = _ask(net, x, config)
    asked = []

    def rule(q, k, v, g, beta):
        asked.append(True)
        _judge_what_the_rule_is_given({"q": q, "k": k, "v": v, "g": g, "beta": beta}, told, net, x, heads, config)
        return recurrent_gated_delta_rule(q, k, v, g, beta, output_final_state=True)

    found = call(mine, x, weights, config, rule)
    demand(asked, "it never calls `rule`, so that no memory is at work: give it q, k, v, g and beta.")
    z, out = F.linear(x, weights["in_proj_z.weight"]).unflatten(-1, (Hv, Dv)), weights["out_proj.weight"]

    def way_out(o, z, eps=config.rms_norm_eps):
        normed = F.rms_norm(o, o.shape[-1:], eps=eps) * weights["norm.weight"]
        return F.linear((normed if z is None else normed * F.silu(z)).flatten(2), out)

    compare(found, right, {
        "the gated norm is missing behind the rule": F.linear(inner.flatten(2), out),
        "the norm's eps is another than config.rms_norm_eps": way_out(inner, z, eps=1e-6),
        "o and z are swapped in the gated norm": way_out(z, inner),
        "the gate z is not used": way_out(inner, None),
    }, "up to the rule all is right; what comes behind it is not: the gated norm, then out_proj.")
    found = call(mine, x, weights, config, lambda q, k, v, g, beta: (v, None))
    compare(found, way_out(told["v"], z), {"it listens to another rule than the one that it is given": right},
            "with another rule the answer is not the right one: go on with what `rule` returns.")


def _judge_what_the_rule_is_given(given, told, net, x, heads, config):
    weights = net.state_dict()
    projected = F.linear(x, weights["in_proj_qkv.weight"])
    silent, at = net.convolve(projected, _step(x, config)), 0
    starts = {}
    for name, (H, D) in heads.items():
        starts[name], at = at, at + H * D

    def part(y, name, of=None):
        H, D = heads[name]
        return y[..., starts[of or name] :][..., : H * D].unflatten(-1, (H, D))

    for name, (H, D) in heads.items():
        whole = F.normalize(part(silent, name).flatten(2), dim=-1).unflatten(-1, (H, D))
        slips = {
            f"{name} is scaled to length 1 as a whole: do it head by head": whole,
            f"{name} is not convolved": part(projected, name),
        }
        if name == "v":
            slips |= {"v is scaled to length 1: only q and k are": F.normalize(part(silent, "v"), dim=-1),
                      "v is what stands in front: q, k and v come in this order": part(silent, "v", of="q")}
        else:
            other = "k" if name == "q" else "q"
            slips |= {
                f"{name} is not scaled to length 1, head by head, as my_unit does it": part(silent, name),
                f"{name} is not convolved": F.normalize(part(projected, name), dim=-1),
                f"{name} is what {other} should be: q, k and v come in this order":
                    F.normalize(part(silent, name, of=other), dim=-1),
            }
        compare(given[name], told[name], slips, f"{name} is not what `rule` should be given.",
                what=f"the {name} that `rule` is given")
    strength, fading = (F.linear(x, weights[f"in_proj_{name}.weight"]) for name in "ba")
    compare(given["beta"], told["beta"], {
        "beta lacks its sigmoid": strength,
        "beta is made by in_proj_a, which is for the decay: in_proj_b makes it": torch.sigmoid(fading),
    }, "beta should be the sigmoid of what in_proj_b says.", what="the beta that `rule` is given")
    from_the_other = -weights["A_log"].exp() * F.softplus(strength + weights["dt_bias"])
    compare(given["g"], told["g"], {
        "g is made by in_proj_b, which is for beta: in_proj_a makes it": from_the_other,
        "g is alpha; the rule wants its logarithm, as my_decay has it": told["g"].exp(),
    }, "g should be what my_decay makes of in_proj_a, A_log and dt_bias.", what="the g that `rule` is given")


@hints(
    "Look at the left half of the first picture. Which two parts add to the stream, and what does each of them read?",
    "Twice the same: norm the stream, let a part read that, and add what it says to the stream as it was. The mixer "
    "comes first, and the MLP reads the stream that the mixer has added to.",
    "With part = my_part(weights, ...) of layer i: my_rms_norm(x, part[...], config.rms_norm_eps) in front of each. "
    "my_gated_attention(normed, its weights, config, cos, sin) or my_gated_delta_net(normed, its weights, config, "
    "my_chunk_gated_delta_rule), by config.layer_types[i]. Then my_mlp(normed again, its weights).",
)
@torch.no_grad()
def my_layer(mine):
    """norm, mixer, norm, MLP, and both add to the stream, with either mixer"""
    other_order = ["full_attention", "linear_attention", "full_attention", "linear_attention"]
    for layer_types, cases in ((None, ((0, 2, 70), (3, 3, 5), (2, 3, 1))), (other_order, ((0, 2, 6), (3, 1, 4)))):
        _judge_layers(mine, layer_types, cases)


def _judge_layers(mine, layer_types, cases):
    config = TextConfig(
        vocab_size=8, hidden_size=16, intermediate_size=24, num_hidden_layers=4, layer_types=layer_types,
        rms_norm_eps=0.05,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=4,
        linear_key_head_dim=4, linear_value_head_dim=6,
        rope_parameters=TextConfig().rope_parameters | {"partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]})
    random = torch.Generator().manual_seed(0)
    layers = [_filled(DecoderLayer(config, kind), random) for kind in config.layer_types]
    weights = {f"model.language_model.layers.{i}.{name}": tensor
               for i, layer in enumerate(layers) for name, tensor in layer.state_dict().items()}
    for i, B, T in cases:                                # layer, texts, tokens
        x = torch.randn(B, T, 16, generator=random)
        step, layer, kind = _step(x, config), layers[i], config.layer_types[i]
        found = call(mine, x, weights, config, i, step.cos[:, :, 0], step.sin[:, :, 0])
        slips = {f"layer {i}, {kind}: {slip}": wrong for slip, wrong in _wrong_layers(x, layer, step).items()}
        others = {f"layer {i} is asked for, and this is layer {j}": layers[j](x, step) for j in range(4) if j != i}
        compare(found, layer(x, step), slips | others,
                f"layer {i}, {kind}: this is another layer; compare your lines with the picture.")


def _wrong_layers(x, layer, step):
    """What comes out of a layer that is wired wrongly, by the mistake."""
    first, second, mlp = layer.input_layernorm, layer.post_attention_layernorm, layer.mlp

    def mixer(x):
        return (layer.self_attn if layer.layer_type == "full_attention" else layer.linear_attn)(x, step)

    mixed, sloppy = mixer(first(x)), x + mixer(F.rms_norm(x, x.shape[-1:], 1 + first.weight, 1e-6))
    after, swapped, bare = x + mixed, x + mixer(second(x)), x + mixer(x)
    normed, behind = first(x) + mixed, x + first(mixer(x))
    return {
        "what the mixer says replaces the stream: add it": mixed + mlp(second(mixed)),
        "what the MLP says replaces the stream: add it": mlp(second(after)),
        "the MLP reads the stream from before the mixer: first add, then let it read": after + mlp(second(x)),
        "the MLP reads through the mixer's norm: it has its own, post_attention_layernorm": after + mlp(first(after)),
        "the two norms are swapped": swapped + mlp(first(swapped)),
        "the mixer reads the bare stream: norm what it reads": bare + mlp(second(bare)),
        "the MLP reads the bare stream: norm what it reads": after + mlp(after),
        "the stream itself is normed: only what a part reads is": normed + mlp(second(normed)),
        "the norms come behind the parts: they come in front": behind + second(mlp(behind)),
        "the MLP is missing": after,
        "the mixer is missing": x + mlp(second(x)),
        "the norms' eps is another than config.rms_norm_eps": sloppy + mlp(second(sloppy)),
    }


def _filled(part, random):
    """A part of the model with random weights; none of them is what a fresh model has, so that every slip shows."""
    for name, parameter in part.named_parameters():
        spread = 0.5 if parameter.ndim == 1 else parameter[0].numel() ** -0.5
        around = 1 if name in ("norm.weight", "linear_attn.norm.weight") else 0
        parameter.copy_(around + spread * torch.randn(parameter.shape, generator=random))
    return part


def _step(x, config):
    B, T, _ = x.shape
    return Step.at(torch.arange(T).expand(3, B, T), config, x.dtype)


def _ask(net, x, config):
    """The package's answer, what its rule was told, and what that has answered."""
    told, inner = {}, []

    def rule(q, k, v, g, beta, state, cu_seqlens):
        told.update(q=q, k=k, v=v, g=g, beta=beta)
        o, _ = recurrent_gated_delta_rule(q, k, v, g, beta)
        inner.append(o)
        return o, None

    net.delta_rule = rule
    return net(x, _step(x, config)), told, inner[0]
