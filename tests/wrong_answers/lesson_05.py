"""Wrong answers to the exercises of lesson 05."""

import torch

from . import slip, wrong

# ---- my_rms_norm

slip("my_rms_norm", "offset from one", "(1 + weight.float())", "weight.float()")
slip("my_rms_norm", "the weight is not used", " * (1 + weight.float())", "")
slip("my_rms_norm", "the root is missing", ".sqrt()", "")
slip("my_rms_norm", "not their sum", ".mean(-1, keepdim=True)", ".sum(-1, keepdim=True)")
slip("my_rms_norm", "the last axis alone", ".mean(-1, keepdim=True)", ".mean()")
slip("my_rms_norm", "eps is not used", " + eps", "")
slip("my_rms_norm", "outside of the root", " + eps).sqrt()", ").sqrt() + eps")
slip("my_rms_norm", "eps is not used", " + eps", " + 1e-6")
slip("my_rms_norm", "divide", "x32 / rms", "x32 * rms")
slip("my_rms_norm", "lost digits", "x32 = x.float()", "x32 = x")
slip("my_rms_norm", "should be torch.bfloat16", ".to(x.dtype)", "")
slip("my_rms_norm", "stops with", ", keepdim=True", "")
slip("my_rms_norm", "stops with", ".to(x.dtype)", ".to(x.dtype).view(5, 8)")


@wrong("my_rms_norm", "leave the mean of x where it is")
def layer_norm(x, weight, eps=1e-6):
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (1 + weight)


@wrong("my_rms_norm", "changes x")
def divides_in_place(x, weight, eps=1e-6):
    x /= (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * (1 + weight)


slip("my_rms_norm", "where no eps is given", "eps=1e-6", "eps=1e-5")
slip("my_rms_norm", "these are not x / rms(x)", ".mean(-1, keepdim=True)", ".mean(min(1, x.ndim - 1), keepdim=True)")

# ---- my_split

slip("my_split", "two halves", "(-1, 2, head_dim)).unbind(3)", "(2, -1, head_dim)).unbind(2)")
slip("my_split", "every other number", "(-1, 2, head_dim)).unbind(3)", "(-1, head_dim, 2)).unbind(4)")
slip("my_split", "this is the gate", "return query, gate", "return gate, query")
slip("my_split", "a second time", "return query, gate", "return query, query")
slip("my_split", "still in one piece", "return query, gate", "return query.flatten(2), gate.flatten(2)")
slip("my_split", "things are wanted", "return query, gate", "return query")
slip("my_split", "stops with", "(-1, 2, head_dim)", "(3, 2, head_dim)")
slip("my_split", "shape", "return query, gate", "return query[:1], gate[:1]")
slip("my_split", "shape", "(-1, 2, head_dim)", "(-1, 2, 4)")


# ---- my_rotate

slip("my_rotate", "clockwise", "a * cos - b * sin, a * sin + b * cos", "a * cos + b * sin, b * cos - a * sin")
slip("my_rotate", "mirrored", "a * sin + b * cos", "a * sin - b * cos")
slip("my_rotate", "changed places", "a * cos - b * sin, a * sin + b * cos", "a * sin + b * cos, a * cos - b * sin")
slip("my_rotate", "passed on as they are", ", rest), dim=-1)", "), dim=-1)")
slip("my_rotate", "cosine and sine", "cos[:, :, None], sin[:, :, None]", "sin[:, :, None], cos[:, :, None]")
slip("my_rotate", "stops with", "cos[:, :, None], sin[:, :, None]", "cos, sin")
slip("my_rotate", "stops with", "pairs = cos.shape[-1]", "pairs = 3")
slip("my_rotate", "nothing is turned", "a * cos - b * sin, a * sin + b * cos", "a, b")


@wrong("my_rotate", "neighbours are paired")
def pairs_neighbours(x, cos, sin):
    pairs = cos.shape[-1]
    a, b, rest = x[..., : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2], x[..., 2 * pairs :]
    cos, sin = cos[:, :, None], sin[:, :, None]
    turned = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2)
    return torch.cat((turned, rest), dim=-1)


@wrong("my_rotate", "the new a")
def uses_the_new_a(x, cos, sin):
    pairs = cos.shape[-1]
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = cos[:, :, None], sin[:, :, None]
    a = a * cos - b * sin
    return torch.cat((a, a * sin + b * cos, rest), dim=-1)


@wrong("my_rotate", "changes x")
def turns_in_place(x, cos, sin):
    pairs = cos.shape[-1]
    a, b = x[..., :pairs].clone(), x[..., pairs : 2 * pairs].clone()
    cos, sin = cos[:, :, None], sin[:, :, None]
    x[..., :pairs], x[..., pairs : 2 * pairs] = a * cos - b * sin, a * sin + b * cos
    return x


@wrong("my_rotate", "should be torch.bfloat16")
def always_float32(x, cos, sin):
    pairs = cos.shape[-1]
    a, b, rest = x[..., :pairs].float(), x[..., pairs : 2 * pairs].float(), x[..., 2 * pairs :]
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), dim=-1)


@wrong("my_rotate", "stops with")
def for_a_single_text(x, cos, sin):
    pairs = cos.shape[-1]
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    cos, sin = cos[0, :, None], sin[0, :, None]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), dim=-1).view(1, *x.shape[1:])


# ---- my_angles

slip("my_angles", "height and width have changed places", "position_ids[listens]", "position_ids[[0, 2, 1]][listens]")
slip("my_angles", "each other's share", "_, height, width = ", "_, width, height = ")
slip("my_angles", "the position that it listens to", "3 * height : 3] = 1", ": 3] = 1")
slip("my_angles", "shape", "(1, 2, 0) * frequency", "(2, 1, 0) * frequency")
slip("my_angles", "changed places", "return angles.cos(), angles.sin()", "return angles.sin(), angles.cos()")
slip("my_angles", "things are wanted", "return angles.cos(), angles.sin()", "return angles")
slip("my_angles", "at one speed", ".permute(1, 2, 0) * frequency", ".permute(1, 2, 0)")
slip("my_angles", "begin at 0", "position_ids[listens]", "(position_ids[listens] + 1)")
slip("my_angles", "turned round", "* frequency", "* frequency.flip(0)")
slip("my_angles", "the position that it listens to", "* frequency", "/ frequency")
slip("my_angles", "too slowly", "* frequency", "* frequency**0.5")


@wrong("my_angles", "these are blocks")
def in_blocks(position_ids, config):
    section = torch.tensor(config.rope_parameters["mrope_section"])
    angles = position_ids[torch.arange(3).repeat_interleave(section)].permute(1, 2, 0) * my_frequencies(config)
    return angles.cos(), angles.sin()


@wrong("my_angles", "listen to time")
def listens_to_time_alone(position_ids, config):
    angles = position_ids[0, ..., None] * my_frequencies(config)                # right for words
    return angles.cos(), angles.sin()


@wrong("my_angles", "you deal out for ever")
def in_turn_without_an_end(position_ids, config):
    frequency = my_frequencies(config)                                          # even for [11, 11, 10]
    angles = position_ids[torch.arange(len(frequency)) % 3].permute(1, 2, 0) * frequency
    return angles.cos(), angles.sin()


@wrong("my_angles", "should have the shape")
def knows_the_official_model_by_heart(position_ids, config):
    frequency = 1e7 ** (-torch.arange(32) / 32)
    angles = position_ids[torch.arange(32) % 3].permute(1, 2, 0) * frequency
    return angles.cos(), angles.sin()


# ---- my_gated_attention

slip("my_gated_attention", "the gate is missing", " * torch.sigmoid(gate)", "")
slip("my_gated_attention", "through the sigmoid", "torch.sigmoid(gate)", "gate")
slip("my_gated_attention", "looks like silu", "torch.sigmoid(gate)", "F.silu(gate)")
slip("my_gated_attention", "the keys are not normed", 'my_rms_norm(k, weights["k_norm.weight"], eps)', "k")
slip("my_gated_attention", "the queries are not normed", 'my_rms_norm(q, weights["q_norm.weight"], eps)', "q")
slip("my_gated_attention", "the keys are not turned", "k = my_rotate(", "k, *_ = (")
slip("my_gated_attention", "a norm each", 'weights["k_norm.weight"]', 'weights["q_norm.weight"]')
slip("my_gated_attention", "config.rms_norm_eps", "config.head_dim, config.rms_norm_eps", "config.head_dim, 1e-6")
slip("my_gated_attention", "no token looks at another", "my_attention(q, k, v)",
     "v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)")
slip("my_gated_attention", "in turn", "my_attention(q, k, v)",
     "my_attention(q, *(y.repeat(1, 1, q.shape[2] // y.shape[2], 1) for y in (k, v)))")
slip("my_gated_attention", "stops with", 'o.flatten(2) @ weights["o_proj.weight"].T', 'o @ weights["o_proj.weight"].T')
slip("my_gated_attention", "shape", 'o.flatten(2) @ weights["o_proj.weight"].T', "o.flatten(2)")


@wrong("my_gated_attention", "two halves")
def splits_in_halves(x, weights, config, cos, sin):
    D, eps = config.head_dim, config.rms_norm_eps
    q, gate = (x @ weights["q_proj.weight"].T).chunk(2, dim=-1)
    q, gate = q.unflatten(-1, (-1, D)), gate.unflatten(-1, (-1, D))
    k, v = ((x @ weights[f"{name}_proj.weight"].T).unflatten(-1, (-1, D)) for name in "kv")
    q = my_rotate(my_rms_norm(q, weights["q_norm.weight"], eps), cos, sin)
    k = my_rotate(my_rms_norm(k, weights["k_norm.weight"], eps), cos, sin)
    return (my_attention(q, k, v) * torch.sigmoid(gate)).flatten(2) @ weights["o_proj.weight"].T


@wrong("my_gated_attention", "first the norm")
def turns_first(x, weights, config, cos, sin):
    D, eps = config.head_dim, config.rms_norm_eps
    q, gate = my_split(x @ weights["q_proj.weight"].T, D)
    k, v = ((x @ weights[f"{name}_proj.weight"].T).unflatten(-1, (-1, D)) for name in "kv")
    q = my_rms_norm(my_rotate(q, cos, sin), weights["q_norm.weight"], eps)
    k = my_rms_norm(my_rotate(k, cos, sin), weights["k_norm.weight"], eps)
    return (my_attention(q, k, v) * torch.sigmoid(gate)).flatten(2) @ weights["o_proj.weight"].T


@wrong("my_gated_attention", "look ahead")
def looks_ahead(x, weights, config, cos, sin):
    D, eps = config.head_dim, config.rms_norm_eps
    q, gate = my_split(x @ weights["q_proj.weight"].T, D)
    k, v = ((x @ weights[f"{name}_proj.weight"].T).unflatten(-1, (-1, D)) for name in "kv")
    q = my_rotate(my_rms_norm(q, weights["q_norm.weight"], eps), cos, sin)
    k = my_rotate(my_rms_norm(k, weights["k_norm.weight"], eps), cos, sin)
    o = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)), enable_gqa=True).transpose(1, 2)
    return (o * torch.sigmoid(gate)).flatten(2) @ weights["o_proj.weight"].T


@wrong("my_gated_attention", "changes weights")
def changes_a_weight(x, weights, config, cos, sin):
    weights["q_norm.weight"] = 1 + weights["q_norm.weight"]
    return x


slip("my_gated_attention", "changes config", "    return o.flatten", "    config.head_dim += 1\n    return o.flatten")
