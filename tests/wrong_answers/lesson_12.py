"""Wrong answers to the exercises of lesson 12."""

import torch

from . import slip, wrong


def my_codes(groups, bits, part):
    """Stands here for the first exercise's, which an answer finds beside it."""


def my_gated_delta_rule(q, k, v, g, beta, state):
    """And this for lesson 03's."""


# ---- my_codes

slip("my_codes", "part is not used", "part * widest.clamp", "1.0 * widest.clamp")
slip("my_codes", "the largest number falls on the last code", "(last + 0.5)", "last")
slip("my_codes", "a whole code beyond", "(last + 0.5)", "(last + 1)")
slip("my_codes", "a negative one may be larger", "groups.abs().amax", "groups.amax")
slip("my_codes", "all groups have one scale", "groups.abs().amax(-1, keepdim=True)",
     "groups.abs().amax().expand(*groups.shape[:-1], 1)")
slip("my_codes", "the mean size", "groups.abs().amax", "groups.abs().mean")
slip("my_codes", "turned round", ", scale", ", 1 / scale")
slip("my_codes", "codes are whole numbers", ".round()", "")
slip("my_codes", "the last code is 7", ".clamp(-last - 1, last)", "")
slip("my_codes", "codes begin at", ".clamp(-last - 1, last)", ".clamp(max=last)")
slip("my_codes", "cut off, and should be rounded", ".round()", ".trunc()")
slip("my_codes", "rounded down", ".round()", ".floor()")
slip("my_codes", "is never used", "-last - 1, last)", "-last, last)")
slip("my_codes", "keep the scale away from 0", ".clamp(min=1e-30)", "")
slip("my_codes", "far smaller, such as 1e-30", "clamp(min=1e-30)", "clamp(min=1e-5)")


@wrong("my_codes", "over 3.5")
def knows_four_bits_only(groups, bits, part=1.0):
    scale = part * groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 7.5
    return (groups / scale).round().clamp(-8, 7), scale


@wrong("my_codes", "it changes groups")
def divides_in_place(groups, bits, part=1.0):
    last = 2 ** (bits - 1) - 1
    scale = part * groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / (last + 0.5)
    return groups.div_(scale).round().clamp(-last - 1, last), scale


@wrong("my_codes", "2 things are wanted")
def gives_the_numbers_back(groups, bits, part=1.0):
    last = 2 ** (bits - 1) - 1
    scale = part * groups.abs().amax(-1, keepdim=True).clamp(min=1e-30) / (last + 0.5)
    return (groups / scale).round().clamp(-last - 1, last) * scale


# ---- my_best_codes

slip("my_best_codes", "the first part everywhere", "for part in parts[1:]", "for part in parts[:1]")
slip("my_best_codes", "always the last part", "lost < least ", "lost < torch.inf ")
slip("my_best_codes", "do not go together", "torch.where(better, codes, best_codes)", "best_codes")
slip("my_best_codes", "one part is taken for all groups", "lost < least ",
     "(lost.sum() < least.sum()).expand(lost.shape) ")


@wrong("my_best_codes", "the worst scale")
def takes_what_loses_most(groups, bits, parts):
    made = [my_codes(groups, bits, part) for part in parts]
    lost = torch.stack([(groups - c * s).square().sum(-1, keepdim=True) for c, s in made])
    worst = lost.argmax(0, keepdim=True)
    codes = torch.stack([c for c, _ in made]).gather(0, worst.expand(1, *groups.shape))[0]
    return codes, torch.stack([s for _, s in made]).gather(0, worst)[0]


@wrong("my_best_codes", "should be squared first")
def adds_the_sizes(groups, bits, parts):
    made = [my_codes(groups, bits, part) for part in parts]
    lost = torch.stack([(groups - c * s).abs().sum(-1, keepdim=True) for c, s in made])
    best = lost.argmin(0, keepdim=True)
    codes = torch.stack([c for c, _ in made]).gather(0, best.expand(1, *groups.shape))[0]
    return codes, torch.stack([s for _, s in made]).gather(0, best)[0]


@wrong("my_best_codes", "only the largest error counts")
def looks_at_the_largest_error(groups, bits, parts):
    made = [my_codes(groups, bits, part) for part in parts]
    lost = torch.stack([(groups - c * s).abs().amax(-1, keepdim=True) for c, s in made])
    best = lost.argmin(0, keepdim=True)
    codes = torch.stack([c for c, _ in made]).gather(0, best.expand(1, *groups.shape))[0]
    return codes, torch.stack([s for _, s in made]).gather(0, best)[0]


@wrong("my_best_codes", "by which each group loses least")
def always_cuts_the_same(groups, bits, parts):
    return my_codes(groups, bits, 0.7)


# ---- my_pack

slip("my_pack", "the halves are swapped", "first | second << 4", "second | first << 4")
slip("my_pack", "counted from 0", "(codes + 8).to(torch.uint8)", "(codes.to(torch.int8).view(torch.uint8) & 15)")
slip("my_pack", "two neighbours share a byte", "counted[..., ::2], counted[..., 1::2]", "counted.chunk(2, dim=-1)")
slip("my_pack", "only every other code is there", "first | second << 4", "first")
slip("my_pack", "not moved into the upper half", "second << 4", "second")
slip("my_pack", "should be torch.uint8", "first | second << 4", "(first | second << 4).int()")


@wrong("my_pack", "should have the shape")
def packs_nothing(codes):
    return (codes + 8).to(torch.uint8)


# ---- my_rule_in

slip("my_rule_in", "nothing is rounded on the way", "state.to(dtype).to(v.dtype)", "state")
slip("my_rule_in", "another dtype", "state.to(dtype)", "state.bfloat16()")
slip("my_rule_in", "the outputs are rounded", "outputs.append(o)", "outputs.append(o.to(dtype).to(v.dtype))")
slip("my_rule_in", "the state that it is given is not used", "outputs = []", "outputs, state = [], None")
slip("my_rule_in", "q, k and v are rounded", "    outputs = []",
     "    q, k, v, outputs = *(x.to(dtype).to(x.dtype) for x in (q, k, v)), []")
slip("my_rule_in", "2 things are wanted", "return torch.cat(outputs, dim=1), state", "return torch.cat(outputs, dim=1)")


@wrong("my_rule_in", "nothing is rounded on the way")
def rounds_at_the_end(dtype, q, k, v, g, beta, state=None):
    o, state = my_gated_delta_rule(q, k, v, g, beta, state)
    return o, state.to(dtype).to(v.dtype)


@wrong("my_rule_in", "is not rounded: it is kept in dtype")
def rounds_before_each_token(dtype, q, k, v, g, beta, state=None):
    outputs = []
    for t in range(q.shape[1]):
        o, state = my_gated_delta_rule(*(x[:, t : t + 1] for x in (q, k, v, g, beta)),
                                       state if t == 0 else state.to(dtype).to(v.dtype))
        outputs.append(o)
    return torch.cat(outputs, dim=1), state


@wrong("my_rule_in", "read from the rounded memory")
def reads_what_is_kept(dtype, q, k, v, g, beta, state=None):
    outputs, nothing = [], torch.zeros_like(g[:, :1])
    for t in range(q.shape[1]):
        token = [x[:, t : t + 1] for x in (q, k, v)]
        _, state = my_gated_delta_rule(*token, g[:, t : t + 1], beta[:, t : t + 1], state)
        state = state.to(dtype).to(v.dtype)
        outputs.append(my_gated_delta_rule(*token, nothing, nothing, state)[0])
    return torch.cat(outputs, dim=1), state
