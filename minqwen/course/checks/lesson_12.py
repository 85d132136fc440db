"""Lesson 12: a group on its grid, the scale that fits it best, two codes in a byte, and a state in few bits."""

import torch
from torch import Tensor

from ...delta_rule import recurrent_gated_delta_rule
from ...verify import rule_inputs
from ..judging import call, compare, demand, hints, parts

PARTS = (1.0, 0.9, 0.8, 0.7, 0.6)


def _groups(*shape: int) -> Tensor:
    """Numbers of different sizes in each group."""
    random = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=random) * torch.rand(*shape[:-1], 1, generator=random)


def _codes(groups: Tensor, bits: int, part: float = 1.0, beyond: float = 0.5) -> tuple[Tensor, Tensor]:
    """beyond: by how much of a code the largest number is beyond the last one."""
    last = 2 ** (bits - 1) - 1
    scale = part * (groups.abs().amax(-1, keepdim=True) / (last + beyond)).clamp(min=1e-30)
    return (groups / scale).round().clamp(-last - 1, last), scale


def _lost(groups: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    return (groups - codes * scale).square().sum(-1, keepdim=True)


@hints(
    "Begin with the scale: the largest number of a group, its sign aside, is to be half a code beyond the last code. "
    "Then divide, and round.",
    "In 4 bits the last code is 7, so the largest number is 7.5 scales. `part` makes the scale smaller; what is then "
    "beyond the last code becomes the last code, on either side.",
    "groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 0.5) is the widest scale; clamp(min=1e-30) keeps it away "
    "from 0. Codes are (groups / scale).round(), and what .clamp(least, last) makes of them.",
)
def my_codes(mine):
    """whole numbers of a scale that the largest number of each group decides"""
    for shape, bits, part in (((3, 5, 16), 4, 1.0), ((7, 128), 3, 1.0), ((2, 32), 8, 1.0), ((4, 24), 2, 1.0),
                              ((5, 64), 4, 0.7), ((6, 8), 3, 0.5)):
        groups = _groups(*shape)
        codes, scale = parts(call(mine, groups, bits, part), "codes", "scale")
        right, fits = _codes(groups, bits, part)
        last = 2 ** (bits - 1) - 1
        compare(scale, fits, {
            "part is not used: the scale is that part of the widest one": _codes(groups, bits)[1],
            "the largest number falls on the last code, and is to be half a code beyond it":
                _codes(groups, bits, part, 0)[1],
            "the largest number is a whole code beyond the last one: half a code is enough":
                _codes(groups, bits, part, 1)[1],
            "the largest positive number decides: a negative one may be larger":
                part * groups.amax(-1, keepdim=True) / (last + 0.5),
            "all groups have one scale: each has its own": fits.amax().expand(fits.shape),
            "it is the mean size that decides: the largest is to be in range, too":
                part * groups.abs().mean(-1, keepdim=True) / (last + 0.5),
            "it is turned round, and is one over the scale: a number is its code times the scale": 1 / fits,
        }, f"the scale of a group should be its largest number, sign aside, over {last + 0.5}, and of that the part.",
            "the scale")
        demand(isinstance(codes, Tensor) and codes.shape == groups.shape,
               "there is a code for each number: codes have the shape of the groups.")
        demand((codes == codes.round()).all(), "codes are whole numbers: round them.")
        demand(codes.max() <= last, f"in {bits} bits the last code is {last}, and there is one of {codes.max():.0f}.")
        demand(codes.min() >= -last - 1, f"in {bits} bits codes begin at {-last - 1}, and there is one of "
                                         f"{codes.min():.0f}.")
        halfway = ((groups / fits) % 1 - 0.5).abs() < 1e-3                                  # either neighbour will do
        steps = groups / fits
        compare(codes.float().masked_fill(halfway, 0), right.masked_fill(halfway, 0), {
            name: wrong.masked_fill(halfway, 0) for name, wrong in {
                "codes are cut off, and should be rounded": steps.trunc().clamp(-last - 1, last),
                "all are rounded down: round to the nearest": steps.floor().clamp(-last - 1, last),
                f"the code {-last - 1} is never used: there is one more below 0 than above":
                    right.clamp(min=-last),
            }.items()}, "these are not the nearest codes.", "codes")
    tiny = 1e-6 * _groups(3, 16)
    codes, scale = parts(call(mine, tiny, 4), "codes", "scale")
    compare(scale, _codes(tiny, 4)[1], otherwise=(
        "groups of tiny numbers have a tiny scale: what keeps it away from 0 should be far smaller, such as 1e-30."),
        what="the scale")
    codes, scale = parts(call(mine, torch.zeros(2, 8), 4), "codes", "scale")
    demand(isinstance(codes, Tensor) and (codes == 0).all() and scale.isfinite().all() and (scale > 0).all(),
           "a group of zeros has codes of 0: keep the scale away from 0.")


@hints(
    "What is lost of a group is the sum of the squares of what its numbers are off. Which part makes that least, group "
    "by group?",
    "Try the parts one after the other, and remember for each group the codes and the scale that lost least so far. "
    "One group's best is not another's.",
    "The squares of groups - codes * scale, summed along the last axis with keepdim=True, are a number for each group. "
    "torch.where(lost < least, scale, best_scale) takes of each group the better one, and so it goes for the codes.",
)
def my_best_codes(mine):
    """each group has the scale that loses least of it"""
    for shape, bits, tried in (((40, 16), 4, (0.9, 0.3, 1.0, 0.8)), ((40, 16), 4, PARTS), ((9, 4, 32), 3, PARTS),
                               ((30, 128), 2, PARTS), ((50, 8), 4, (1.0, 0.5))):
        groups = _groups(*shape)
        groups[::3, ..., 0] *= 4                         # some have an outlier
        codes, scale = parts(call(mine, groups, bits, tried), "codes", "scale")
        made = [_codes(groups, bits, part) for part in tried]
        lost = torch.stack([_lost(groups, *one) for one in made])                           # (parts, ..., 1)
        scales = torch.stack([each for _, each in made])

        def taken(choice, scales=scales):
            return scales.gather(0, choice[None])[0]

        size = torch.stack([(groups - c * s).abs().sum(-1, keepdim=True) for c, s in made])
        worst = torch.stack([(groups - c * s).abs().amax(-1, keepdim=True) for c, s in made])
        whole = lost.flatten(1).sum(1).argmin()
        right = taken(lost.argmin(0))
        compare(scale, right, {
            "it is the worst scale that is taken: the sum of squares should be the least": taken(lost.argmax(0)),
            "nothing is tried: this is the first part everywhere": scales[0],
            "it is always the last part": scales[-1],
            "the sizes of the errors are added, and should be squared first": taken(size.argmin(0)),
            "only the largest error counts: add the squares of all": taken(worst.argmin(0)),
            "one part is taken for all groups: each has a best of its own": scales[whole],
        }, "these are not the scales by which each group loses least.", "the scale")
        demand(isinstance(codes, Tensor) and codes.shape == groups.shape,
               "there is a code for each number: codes have the shape of the groups.")
        demand(torch.allclose(_lost(groups, codes, scale), lost.amin(0), rtol=1e-3),
               "codes and scale do not go together: the codes are to be those of the best scale.")


@hints(
    "A byte has eight bits, and a code four. Which numbers can four bits hold, if they cannot be negative?",
    "Add 8, so that codes go from 0 to 15. The first of two neighbours is the lower half of its byte as it is; to the "
    "upper half a number comes by 16 times, or by << 4.",
    "With codes + 8 as torch.uint8, [..., ::2] are the first of each two, and [..., 1::2] the second; a | b << 4 puts "
    "two of them together.",
)
def my_pack(mine):
    """two codes lie in each byte, the first in the lower half"""
    for shape in ((3, 8), (2, 4, 6), (1, 128), (10,)):
        random = torch.Generator().manual_seed(len(shape))
        codes = torch.randint(-8, 8, shape, generator=random).float()
        n = (codes + 8).to(torch.uint8)
        first, second, half = n[..., ::2], n[..., 1::2], shape[-1] // 2
        plain = codes.to(torch.int8).view(torch.uint8) & 15
        compare(call(mine, codes), first | second << 4, {
            "the halves are swapped: the first code belongs in the lower one": second | first << 4,
            "8 is not added: codes are to be counted from 0": plain[..., ::2] | plain[..., 1::2] << 4,
            "the first half of the row is put together with the second: two neighbours share a byte":
                n[..., :half] | n[..., half:] << 4,
            "the upper halves are empty: only every other code is there": first,
            "the second code is not moved into the upper half": first | second,
        }, "these are not the bytes.", "what it returns")


def _rule_in(dtype, q, k, v, g, beta, state) -> tuple[Tensor, ...]:
    """o, the memory behind the last token as it is kept, and before; and what would be read of each as it is kept."""
    found, again = [], []
    for t in range(q.shape[1]):
        token = [x[:, t : t + 1] for x in (q, k, v, g, beta)]
        o, written = recurrent_gated_delta_rule(*token, initial_state=state, output_final_state=True)
        state = written.to(dtype).to(v.dtype)
        nothing = [torch.zeros_like(x) for x in token[3:]]
        found.append(o)
        again.append(recurrent_gated_delta_rule(*token[:3], *nothing, initial_state=state)[0])
    return torch.cat(found, dim=1), state, written, torch.cat(again, dim=1)


@hints(
    "Lesson 03's rule reads as many tokens as it gets, and goes on from the state that it gets. How do you get hold of "
    "the state behind each token?",
    "Give it one token at a time, q[:, t : t + 1] and so on, with the state that the token before has left. Between "
    "two tokens the state goes into dtype, and comes back.",
    "o, state = my_gated_delta_rule(..., state); then state.to(dtype).to(v.dtype). Collect the outputs, and join them "
    "by torch.cat(..., dim=1).",
)
def my_rule_in(mine):
    """between two tokens the memory is kept in that dtype, and all else is as before"""
    for dtype, (B, T, Hk, Hv, Dk, Dv) in ((torch.bfloat16, (1, 24, 2, 2, 8, 8)), (torch.float16, (2, 9, 1, 3, 6, 4)),
                                          (torch.float32, (1, 12, 2, 4, 4, 4)), (torch.bfloat16, (3, 1, 1, 1, 5, 7))):
        inputs, start = rule_inputs(B, T, Hk, Hv, Dk, Dv, -1.0, torch.Generator().manual_seed(T))
        q, k, v, *gates = inputs                         # float64: so close to halfway that it matters is nothing
        rough = [x.to(dtype).to(x.dtype) for x in (q, k, v)]
        for state in (None, start):
            o, S = parts(call(mine, dtype, *inputs, state), "o", "state")
            right, kept, written, again = _rule_in(dtype, *inputs, state)
            exact, never, *_ = _rule_in(torch.float64, *inputs, state)
            once = never.to(dtype).to(v.dtype)           # and on the way nothing
            slips = {
                "nothing is rounded on the way: the state is to go into dtype and back between two tokens": exact,
                "the state that it is given is not used": _rule_in(dtype, *inputs, None)[0],
                "the outputs are rounded: only the memory is": right.to(dtype).to(v.dtype),
                "the outputs are read from the rounded memory: a token reads first, and what it leaves is rounded":
                    again,
                "the memory is kept in another dtype than the one that is asked for":
                    _rule_in(torch.bfloat16 if dtype != torch.bfloat16 else torch.float16, *inputs, state)[0],
                "q, k and v are rounded: only the memory is": _rule_in(dtype, *rough, *gates, state)[0],
            }
            tight = 1e-10                                # what is lost in these dtypes is far more
            compare(o, right, slips, "these are not the outputs of a rule whose memory is rounded behind each token.",
                    "o", tight)
            compare(S, kept, {
                "the state behind the last token is not rounded: it is kept in dtype, too": written,
                "the state is rounded once, at the end: behind each token it is": once,
            }, "this is not the memory behind the last token, as it is kept.", "the state", tight)
