"""Lesson 08: patches, a size that fits, a stretched row, and the positions of a chat."""

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from ...media import smart_resize
from ..judging import call, compare, demand, hints


@hints(
    "Go through slices, tokens, and the patches of a token, in this order. Which pixels of `frames` belong to the very "
    "first patch?",
    "Loops inside one another: over slices (steps of per_slice), tokens down and across (steps of patch * merge), and "
    "in a token its patches down and across; or one rearrange. Of each patch the colours come first, in each colour "
    "its frames, then rows and columns of pixels.",
    "With rearrange: name the axes of frames (t f) c (h mh p) (w mw q), with f=per_slice, mh=mw=merge and p=q=patch. "
    "What comes out has two axes: one of all that says which patch, one of all that says which number in it.",
)
def my_patches(mine):
    """token by token, in each its patches, and in each of these the colours first"""
    ways = "(t f) c (h mh p) (w mw q) -> "
    for T, C, H, W, patch, merge, per_slice in ((4, 3, 8, 12, 2, 2, 2), (1, 1, 4, 4, 1, 2, 1), (3, 2, 9, 9, 1, 3, 3)):
        frames = torch.randn(T, C, H, W, generator=torch.Generator().manual_seed(H))
        sizes = {"f": per_slice, "mh": merge, "mw": merge, "p": patch, "q": patch}

        def cut(rows, numbers, frames=frames, sizes=sizes):
            return rearrange(frames, f"{ways}({rows}) ({numbers})", **sizes)

        compare(call(mine, frames, patch, merge, per_slice), cut("t h w mh mw", "c f p q"), {
            "the patches come row by row: the patches of a token should be neighbours": cut("t h mh w mw", "c f p q"),
            "a token's patches are read downwards: read them row by row": cut("t h w mw mh", "c f p q"),
            "tokens are read downwards: read them row by row": cut("t w h mh mw", "c f p q"),
            "frames come before colours: in a patch all of a colour stands together": cut("t h w mh mw", "f c p q"),
            "colours come last in a patch: they come first": cut("t h w mh mw", "f p q c"),
            "the pixels of a patch are read downwards: read them row by row": cut("t h w mh mw", "c f q p"),
            "the slices come last: all of the first slice comes before the second": cut("h w mh mw t", "c f p q"),
        }, "the numbers are there, but in another order.")


@hints(
    "First round both sides. Then ask, of the area that this gives, whether it is too much or too little.",
    "Too much: both sides, as they were given, are divided by one number and rounded down to multiples, but to one "
    "factor at least. Too little: multiplied by one, and rounded up. The number is a root, as it stands for an area.",
    "round(side / factor) * factor for each. If h * w > most: math.sqrt(height * width / most) divides, math.floor. "
    "If h * w < least: math.sqrt(least / (height * width)) multiplies, math.ceil. max(factor, ...) keeps one.",
)
def my_smart_resize(mine):
    """whole tokens, within the budget, and the shape as near as can be"""
    huge = 10**9

    def ask(height, width, factor, least, most):
        found = call(mine, height, width, factor, least, most)
        demand(isinstance(found, (tuple, list)) and len(found) == 2, "it should return two numbers, height and width.")
        demand(all(isinstance(side, int) for side in found), f"both sides should be whole numbers: {found}.")
        return tuple(found)

    def judge(what, height, width, least, most, right, slips):
        found = ask(height, width, 32, least, most)
        for slip, wrong in slips.items():
            demand(found != wrong, f"{what}: {slip}.")
        demand(found == right, f"{what}: {height} x {width} should become {right[0]} x {right[1]}, and not "
                               f"{found[0]} x {found[1]}.")

    judge("inside the budget", 100, 200, 1, huge, (96, 192), {
        "the two sides are the wrong way round": (192, 96),
        "it rounds up; the nearest multiple is wanted here": (128, 224),
        "it counts tokens; pixels are wanted": (3, 6)})
    judge("a half", 80, 112, 1, huge, (64, 128), {
        "halves are rounded up; 2.5 becomes 2 and 3.5 becomes 4, as Python's round has it": (96, 128),
        "it rounds down; the nearest multiple is wanted here": (64, 96)})
    judge("too large", 1000, 1700, 1, 500_000, (512, 896), {
        "the budget is not kept: round down here": (544, 928),
        "the budget is not looked at": (992, 1696),
        "divide by the square root: the budget is of an area": (288, 480)})
    judge("the scale comes from the picture as it was", 304, 304, 1, 90_000, (288, 288), {
        "it compares the rounded sides with the budget to get the scale; take the original ones": (256, 256)})
    judge("too large and thin", 20, 4000, 1, 16_384, (32, 1792), {
        "a side became nothing: it needs one factor at least": (0, 1792),
        "it scales the rounded sides; scale the original ones": (32, 1408)})
    judge("too small", 40, 50, 65_536, huge, (256, 288), {
        "there are too few pixels still: round up here": (224, 256),
        "the least is not looked at": (32, 64)})
    for factor, least, most in ((32, 65_536, 16_777_216), (16, 4_096, 9_216), (28, 3_136, 200_000)):
        for height in (factor // 3, *range(factor, 3_000, 241)):
            for width in range(factor, 6_000, 407):
                found, right = ask(height, width, factor, least, most), smart_resize(height, width, factor, least, most)
                demand(found == right, f"with the factor {factor}, {height} x {width} should become {right[0]} x "
                                       f"{right[1]}, and not {found[0]} x {found[1]}.")


@hints(
    "Where does each patch land among the points? u has `length` places, from 0 to n - 1.",
    "Below u lies the point floor(u), above it the next one, and r = u - floor(u) says how near the next one is. The "
    "very last patch has no next point: let it count as all the way from the one before.",
    "torch.linspace(0, n - 1, length) are the places; .floor().long().clamp(max=n - 2) the points below; r gets a last "
    "axis by [:, None], so that it fits; a point's row is row[point], the next one's row[point + 1].",
)
def my_stretch(mine):
    """end on end, and mixed in between"""
    for n, d, length in ((3, 2, 5), (4, 3, 4), (3, 1, 2), (8, 2, 21), (2, 4, 3), (5, 2, 1)):
        row = torch.randn(n, d, generator=torch.Generator().manual_seed(length))
        places = torch.linspace(0, n - 1, length)
        point = places.floor().long().clamp(max=n - 2)
        r = (places - point)[:, None]

        def resized(how, row=row, length=length, **options):
            return F.interpolate(row.T[None], size=length, mode=how, **options)[0].T

        compare(call(mine, row, length), (1 - r) * row[point] + r * row[point + 1], {
            "the ends do not lie on the ends: u = i (n - 1) / (m - 1)": resized("linear", align_corners=False),
            "it takes the nearest point: mix the two, by how far it is to each": row[places.round().long()],
            "it takes the point below: mix it with the next one": row[places.floor().long()],
            "it takes the nearest point, and the ends do not lie on the ends": resized("nearest"),
            "the shares of the two points are swapped: the nearer one counts more":
                r * row[point] + (1 - r) * row[point + 1],
        }, f"{n} points stretched to {length} are others: patch i gets a mix of the two points beside u.")


@hints(
    "Words first: what are the three positions of a run of words, and where does the next part begin?",
    "Go through the parts, with `start` as the position where the next one begins. Words: all three are start, "
    "start + 1, ... A picture: the time is start for all tokens; height and width are start plus the row, the column.",
    "Collect a triple for each token in a list; for a picture, two loops, over rows and in each over columns. Behind "
    "it start grows by its longer side. torch.tensor(list).T is (3, T); return it with start.",
)
def my_positions(mine):
    """words in a line, pictures in rows and columns, and on past the longer side"""
    for parts, start in (([2, (2, 3), 1, (3, 1), 2], 0), ([(5, 2), 1], 10), ([(2, 2), (1, 4), 1], 0), ([3], 4),
                         ([1, (1, 1)], 2)):
        found = call(mine, parts, start)
        demand(isinstance(found, (tuple, list)) and len(found) == 2,
               "two things are wanted: the positions, and the one with which a next word goes on.")
        positions, following = found
        right, right_following = _positions(parts, start)
        said = f"in {parts} from {start}: "
        compare(positions, right, {
            said + "rows and columns are counted from the picture's place, not from 0":
                _positions(parts, start, at=0)[0],
            said + "height counts rows and width columns: they are swapped": right[[0, 2, 1]],
            said + "the tokens of a picture are numbered like words: they share one time": _words(parts, start),
            said + "the time counts the tokens of a picture: they share one time":
                _positions(parts, start, counted=True)[0],
            said + "text goes on one past a picture's beginning: it goes on past the longer side":
                _positions(parts, start, past=lambda rows, columns: 1)[0],
            said + "text goes on past all tokens of a picture: it goes on past the longer side":
                _positions(parts, start, past=lambda rows, columns: rows * columns)[0],
            said + "text goes on past the shorter side of a picture: it goes on past the longer":
                _positions(parts, start, past=min)[0],
            said + "text goes on past the rows of a picture: it goes on past the longer side":
                _positions(parts, start, past=lambda rows, columns: rows)[0],
            said + "text goes on past the columns of a picture: it goes on past the longer side":
                _positions(parts, start, past=lambda rows, columns: columns)[0],
            said + "`start` is not used": _positions(parts, 0)[0],
        }, said + f"the positions should be {right.tolist()}.", what="the positions", tolerance=0)
        if start == 0:
            demand(torch.equal(call(mine, parts)[0], right), "where no start is given it begins at 0.")
        demand(following == right_following, f"{said}a next word would stand at {right_following}, not at {following}.")


def _positions(parts, start, at=None, past=max, counted=False) -> tuple[Tensor, int]:
    """What is right; or with rows and columns from `at`, text going on `past` another number, a time that counts."""
    places = []
    for part in parts:
        if isinstance(part, int):
            places += [(p, p, p) for p in range(start, start + part)]
            start += part
        else:
            first = start if at is None else at
            places += [(start + counted * (y * part[1] + x), first + y, first + x)
                       for y in range(part[0]) for x in range(part[1])]
            start += past(*part)
    return torch.tensor(places).T, start


def _words(parts, start):
    """The positions if a picture were so many words."""
    return _positions([part if isinstance(part, int) else part[0] * part[1] for part in parts], start)[0]
