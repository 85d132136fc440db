"""Lesson 05: the norm, the split, the turning, the angles, and gated attention put together from them."""

from dataclasses import replace

import torch
from torch.nn import functional as F

from ...config import Config
from ..judging import call, compare, demand, hints, parts


def _norm(x, weight, eps=1e-6):
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * (1 + weight)


def _rotate(x, cos, sin):
    a, b, rest = x.tensor_split((cos.shape[-1], 2 * cos.shape[-1]), dim=-1)
    cos, sin = cos[:, :, None], sin[:, :, None]
    return torch.cat((a * cos - b * sin, a * sin + b * cos, rest), dim=-1)


@hints(
    "The formula has two steps. First one number for each vector, its root mean square; then one factor for each of "
    "its numbers, the weight.",
    "The mean runs over the last axis only, and has to stay as an axis of length 1, so that the division finds it. eps "
    "belongs under the root, and 1 to the weight.",
    "x.square().mean(-1, keepdim=True) is the mean square. For the digits: x.float() at the beginning, .to(x.dtype) of "
    "the result at the end.",
)
def my_rms_norm(mine):
    """each vector by itself, with a weight that is counted from one"""
    random = torch.Generator().manual_seed(0)
    for shape in ((2,), (5, 8), (1, 3, 2, 4), (2, 3, 4, 6)):
        x = 3 * torch.randn(shape, generator=random) + 1
        w = torch.randn(shape[-1], generator=random)
        for eps in (1e-6, 0.5):
            found = call(mine, x, w) if eps == 1e-6 else call(mine, x, w, eps)
            square, x_0 = x.square().mean(-1, keepdim=True), x - x.mean(-1, keepdim=True)
            compare(found, _norm(x, w, eps), {
                "the weight is an offset from one: multiply by 1 + weight": _norm(x, w - 1, eps),
                "the weight is not used": _norm(x, 0 * w, eps),
                "the root is missing: divide by the root of the mean square": x / (square + eps) * (1 + w),
                "nothing is taken away here: divide, and leave the mean of x where it is": _norm(x_0, w, eps),
                "it is the mean of the squares, and not their sum":
                    x / (x.square().sum(-1, keepdim=True) + eps).sqrt() * (1 + w),
                "each vector by itself: the mean runs over the last axis alone":
                    x / (x.square().mean() + eps).sqrt() * (1 + w),
                "eps is not used: add the one that is given to the mean square": _norm(x, w, 0),
                "eps stands outside of the root: add it to the mean square": x / (square.sqrt() + eps) * (1 + w),
                "you multiply by the root mean square: divide": x * (square + eps).sqrt() * (1 + w),
            }, "these are not x / rms(x) times (1 + weight).", tolerance=1e-5)
    x, w = 1e-3 * torch.randn(3, 4, generator=random), torch.zeros(4)
    compare(call(mine, x, w), _norm(x, w), otherwise="where no eps is given it is another than 1e-6.")
    demand(call(mine, torch.zeros(3, 4), torch.zeros(4)).isfinite().all(), "a vector of zeros should stay zero.")
    x, w = torch.randn(64, 32, generator=random).bfloat16(), torch.randn(32, generator=random).bfloat16()
    right, found = _norm(x.float(), w.float()).bfloat16(), call(mine, x, w)
    compare(found, right, what="the norm of bfloat16 numbers", tolerance=0.02)
    demand((found == right).float().mean() > 0.95, "of bfloat16 numbers it has lost digits: compute in float32, and go "
                                                   "back to the dtype of x at the end.")


@hints(
    "The last axis is three things in one: heads, in each head two parts, in each part head_dim numbers. In which "
    "order do they vary, from slow to fast?",
    "Open the last axis into (Hq, 2, head_dim), in this order, and take the middle axis apart.",
    "x.unflatten(-1, (-1, 2, head_dim)) opens it, -1 for as many as there are; .unbind(dim) takes an axis apart.",
)
def my_split(mine):
    """query and gate, head by head"""
    for B, T, H, D in ((1, 2, 3, 4), (3, 1, 2, 6), (2, 5, 1, 2)):
        numbers = torch.arange(B * T * H * D, dtype=torch.float32).view(B, T, H, D)
        query, gate = 1000 + numbers, 2000 + numbers    # one can see where each number came from
        whole = torch.cat((query, gate), dim=-1).flatten(2)
        found = parts(call(mine, whole, D), "query", "gate")
        for name, part in zip(("query", "gate"), found):
            demand(getattr(part, "shape", None) != (B, T, H * D) or H == 1,
                   f"the {name} is still in one piece: give each head an axis of its own.")
        halves, others = whole.unflatten(-1, (2, H, D)).unbind(2), whole.unflatten(-1, (H, D, 2)).unbind(-1)
        for i, (name, right) in enumerate({"the query": query, "the gate": gate}.items()):
            slip = "this is the query a second time" if i else "this is the gate: the query comes first"
            compare(found[i], right, {
                slip: (gate, query)[i],
                "you cut the whole in two halves: cut inside of each head": halves[i],
                "you took every other number: a head's query is its first head_dim numbers, side by side": others[i],
            }, f"the first head of the first token should have the numbers from {int(right[0, 0, 0, 0])} on.", name)


@hints(
    "Each head has three parts: the first number of every pair, the second ones, and the rest, which is passed on. "
    "How many pairs there are, cos says.",
    "With a for the first `pairs` numbers and b for the next, the formula turns all pairs at once. cos has no axis "
    "for heads; put one in, of length 1.",
    "pairs = cos.shape[-1]; x[..., :pairs] are the a; cos[:, :, None] is (B, T, 1, pairs). torch.cat puts a', b' and "
    "the rest side by side again.",
)
def my_rotate(mine):
    """pairs are turned by their token's angle, and the rest is passed on"""
    random = torch.Generator().manual_seed(0)
    for B, T, H, D, pairs in ((1, 4, 2, 10, 3), (3, 5, 1, 8, 4), (2, 3, 4, 16, 2), (1, 3, 3, 6, 2)):
        x, angles = torch.randn(B, T, H, D, generator=random), 3 * torch.randn(B, T, pairs, generator=random)
        cos, sin = angles.cos(), angles.sin()
        a, b, rest = x.tensor_split((pairs, 2 * pairs), dim=-1)
        c, s = cos[:, :, None], sin[:, :, None]
        even, odd = x[..., : 2 * pairs : 2], x[..., 1 : 2 * pairs : 2]
        neighbours = torch.stack((even * c - odd * s, even * s + odd * c), dim=-1).flatten(-2)
        found = call(mine, x, cos, sin)
        demand(getattr(found, "shape", None) != (B, T, H, 2 * pairs) or 2 * pairs == D,
               "the numbers that are not turned are missing: they are passed on as they are.")
        slips = {
            "you turned it clockwise: look at the two signs": _rotate(x, cos, -sin),
            "you mirrored it: look at the sign of b in b'": torch.cat((a * c - b * s, a * s - b * c, rest), -1),
            "the second line uses the new a, and needs the old one":
                torch.cat((a * c - b * s, (a * c - b * s) * s + b * c, rest), -1),
            "cosine and sine have changed places": _rotate(x, sin, cos),
            "neighbours are paired: number i goes with number i + pairs": torch.cat((neighbours, rest), -1),
            "nothing is turned": x,
            "the two numbers of a pair have changed places": torch.cat((a * s + b * c, a * c - b * s, rest), -1),
        }
        if B == 1 and T == H:                           # what else would fit
            slips["all heads of a token turn by its angle: cos needs an axis for heads"] = torch.cat(
                (a * cos[:, None] - b * sin[:, None], a * sin[:, None] + b * cos[:, None], rest), -1)
        if D >= 4 * pairs:
            slips["it is the first numbers of a head that are turned"] = torch.cat(
                (x[..., : D - 2 * pairs], _rotate(x[..., D - 2 * pairs :], cos, sin)), -1)
        compare(found, _rotate(x, cos, sin), slips, "a turned arrow is as long as before: compare with the two lines.",
                tolerance=1e-5)
        compare(call(mine, x.bfloat16(), cos.bfloat16(), sin.bfloat16()), _rotate(x, cos, sin).bfloat16(),
                what="what it makes of bfloat16 numbers", tolerance=0.05)


@hints(
    "An angle is a position times a frequency; my_frequencies has one frequency for each pair. Which of the three "
    "positions is it, for pair 0, 1, 2, 3?",
    "Make a row that says for each pair to which it listens: 0 everywhere, then 1 in every third place from place 1 "
    "on, as often as height may, and 2 in every third from place 2 on. position_ids can be asked with such a row.",
    "listens[1 : 3 * height : 3] is every third place from 1 on, `height` of them. position_ids[listens] is (pairs, B, "
    "T); put the pairs last, and multiply by the frequencies.",
)
def my_angles(mine):
    """pairs listen to time, height and width in turn, each at its own speed"""
    nine_b = Config.named("Qwen3.5-9B").text_config
    random = torch.Generator().manual_seed(0)
    cases = [(1, 5, nine_b)] + [
        (B, T, replace(nine_b, head_dim=head_dim, rope_parameters=nine_b.rope_parameters | {
            "mrope_section": section, "partial_rotary_factor": part, "rope_theta": theta}))
        for B, T, head_dim, part, section, theta in (
            (3, 4, 32, 0.25, [2, 1, 1], 100.0), (1, 1, 24, 0.5, [4, 1, 1], 10_000.0), (2, 7, 16, 1.0, [3, 3, 2], 50.0))]
    for B, T, config in cases:
        rope = config.rope_parameters
        n, section = int(config.head_dim * rope["partial_rotary_factor"]), rope["mrope_section"]
        theta = rope["rope_theta"]
        pairs = torch.arange(n // 2)
        position_ids = torch.randint(1, 500, (3, B, T), generator=random)
        in_turn = [i % 3 if i < 3 * section[i % 3] else 0 for i in range(n // 2)]

        def both(listens=in_turn, frequency=theta ** (-2 * pairs / n), position_ids=position_ids):
            angles = torch.stack([position_ids[axis] * f for axis, f in zip(listens, frequency)], dim=-1)
            return torch.stack((angles.cos(), angles.sin()))                    # (2, B, T, pairs)

        cos, sin = parts(call(mine, position_ids, config), "cos", "sin")
        slips = {
            "these are blocks: deal the pairs out in turn": both([i for i in range(3) for _ in range(section[i])]),
            "you deal out for ever: height and width have had their share at some point, and the rest is time's":
                both([i % 3 for i in range(n // 2)]),
            "all pairs listen to time, and a picture has no rows and columns": both(n // 2 * [0]),
            "height and width have changed places": both(position_ids=position_ids[[0, 2, 1]]),
            "height comes second: the first of each three pairs listens to time":
                both([(i + 1) % 3 if i < 3 * section[(i + 1) % 3] else 0 for i in range(n // 2)]),
            "the frequencies are turned round: pair 0 is the fast one":
                both(frequency=theta ** (-2 * pairs / n).flip(0)),
            "height and width have each other's share of pairs":
                both([i % 3 if i < 3 * (section[0], *section[:0:-1])[i % 3] else 0 for i in range(n // 2)]),
            "the frequencies fall too slowly: the exponent is -2 i / n, and n counts numbers, not pairs":
                both(frequency=theta ** (-pairs / n)),
            "all pairs turn at one speed": both(frequency=torch.ones(n // 2)),
            "positions begin at 0, as they are given": both(position_ids=position_ids + 1),
        }
        right = both()
        demand(getattr(cos, "shape", None) != (n // 2, B, T) or (n // 2, B, T) == (B, T, n // 2),
               "the pairs come last: (B, T, pairs).")
        for i, (name, found) in enumerate({"cos": cos, "sin": sin}.items()):
            compare(found, right[i], {
                **{sentence: wrong[i] for sentence, wrong in slips.items()},
                "cosine and sine have changed places": right[1 - i],
            }, "the angle of a pair is the position that it listens to, times its frequency.", name, tolerance=2e-3)


@hints(
    "Follow the picture of section 1 from left to right. You have a function for each of its boxes.",
    "q_proj makes queries and gates, k_proj and v_proj keys and values; x @ weight.T is such a matrix at work. Queries "
    "and keys are normed, then turned. Then my_attention looks; heads that are shared it deals out itself.",
    "x @ weights['k_proj.weight'].T has all heads in one axis, and .unflatten(-1, (-1, D)) gives them one of their "
    "own. The answer times the sigmoid of the gate, then .flatten(2), then o_proj, with its weight.",
)
def my_gated_attention(mine):
    """the whole layer: split, norm, turn, look back, gate"""
    nine_b = Config.named("Qwen3.5-9B").text_config
    random = torch.Generator().manual_seed(0)
    for B, T, Hq, Hkv, D, pairs, hidden, eps in ((1, 6, 4, 2, 8, 2, 12, 1e-6), (3, 5, 6, 2, 4, 1, 10, 0.3),
                                                 (2, 1, 2, 2, 6, 3, 12, 1e-6)):
        config = replace(nine_b, num_attention_heads=Hq, num_key_value_heads=Hkv, head_dim=D, hidden_size=hidden,
                         rms_norm_eps=eps, rope_parameters=nine_b.rope_parameters | {
                             "partial_rotary_factor": 2 * pairs / D, "mrope_section": [pairs, 0, 0]})
        shapes = {"q_proj": (Hq * 2 * D, hidden), "k_proj": (Hkv * D, hidden), "v_proj": (Hkv * D, hidden),
                  "o_proj": (hidden, Hq * D), "q_norm": (D,), "k_norm": (D,)}
        weights = {f"{name}.weight": torch.randn(shape, generator=random) for name, shape in shapes.items()}
        x, angles = torch.randn(B, T, hidden, generator=random), 3 * torch.randn(B, T, pairs, generator=random)
        given = x, weights, config, angles.cos(), angles.sin()
        compare(call(mine, *given), _attend(*given), {
            sentence: _attend(*given, **{switch: True}) for switch, sentence in SLIPS.items()
        }, "this is not the layer: compare step by step with the picture of section 1.", tolerance=1e-4)


SLIPS = {
    "no_gate": "the gate is missing: the answer times the sigmoid of the gate",
    "raw_gate": "the gate has to go through the sigmoid",
    "silu": "the gate is a sigmoid, and here it looks like silu: gate times its sigmoid",
    "halves": "query and gate are cut in two halves: cut inside of each head, as my_split does",
    "plain": "no norm: queries and keys are normed before they are turned",
    "plain_keys": "the keys are not normed",
    "plain_queries": "the queries are not normed",
    "one_norm": "queries and keys have a norm each: q_norm and k_norm",
    "late_norm": "first the norm, then the turn",
    "normed_values": "values are neither normed nor turned",
    "other_eps": "the eps of the norms is config.rms_norm_eps",
    "still": "nothing is turned: my_rotate, for queries and keys",
    "still_keys": "the keys are not turned",
    "in_turn": "key-value heads are dealt out in turn, and should serve blocks",
    "ahead": "tokens look ahead: my_attention looks back only",
    "no_look": "no token looks at another: these are the values, gated",
}


def _attend(x, weights, config, cos, sin, **slip):
    """The layer, with a switch for each mistake."""
    D, eps = config.head_dim, 1e-6 if "other_eps" in slip else config.rms_norm_eps
    w = {name.removesuffix(".weight"): weight for name, weight in weights.items()}
    whole = x @ w["q_proj"].T
    q, gate = (whole.unflatten(-1, (2, -1, D)).unbind(2) if "halves" in slip else
               whole.unflatten(-1, (-1, 2, D)).unbind(3))
    k, v = ((x @ w[name].T).unflatten(-1, (-1, D)) for name in ("k_proj", "v_proj"))
    made = {}
    for name, tensor in (("queries", q), ("keys", k)):
        norm_weight = w["q_norm" if name == "queries" or "one_norm" in slip else "k_norm"]
        normed = "plain" not in slip and f"plain_{name}" not in slip
        turned = "still" not in slip and f"still_{name}" not in slip
        if normed and "late_norm" not in slip:
            tensor = _norm(tensor, norm_weight, eps)
        if turned:
            tensor = _rotate(tensor, cos, sin)
        made[name] = _norm(tensor, norm_weight, eps) if "late_norm" in slip else tensor
    if "normed_values" in slip:
        v = _norm(v, w["k_norm"], eps)
    q, k = made["queries"], made["keys"]
    share = (lambda y, times: y.repeat(1, 1, times, 1)) if "in_turn" in slip else (
        lambda y, times: y.repeat_interleave(times, dim=2))
    k, v = (share(y, q.shape[2] // y.shape[2]) for y in (k, v))
    o = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)), is_causal="ahead" not in slip)
    o = v if "no_look" in slip else o.transpose(1, 2)
    factor = (1 if "no_gate" in slip else gate if "raw_gate" in slip else F.silu(gate) if "silu" in slip else
              torch.sigmoid(gate))
    return (o * factor).flatten(2) @ w["o_proj"].T
