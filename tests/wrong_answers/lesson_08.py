"""Wrong answers to the exercises of lesson 08."""

import torch
from torch.nn import functional as F

from . import slip, wrong

# ---- my_patches

slip("my_patches", "all of a colour stands together", "cut.transpose(0, 1).flatten()", "cut.flatten()")
slip("my_patches", "colours come last", "cut.transpose(0, 1).flatten()", "cut.permute(0, 2, 3, 1).flatten()")
slip("my_patches", "stops with", "side, rows = patch * merge, []", "side, rows = patch * 2, []")
slip("my_patches", "should have the shape", "range(0, T, per_slice)", "range(0, per_slice, per_slice)")
slip("my_patches", "should have the shape", "t : t + per_slice", "t : t + 1")
slip("my_patches", "changes frames", "    return torch.stack(rows)", "    frames *= 2\n    return torch.stack(rows)")


@wrong("my_patches", "come row by row")
def row_by_row(frames, patch, merge, per_slice):
    T, C, H, W = frames.shape
    return torch.stack([frames[t : t + per_slice, :, y : y + patch, x : x + patch].transpose(0, 1).flatten()
                        for t in range(0, T, per_slice) for y in range(0, H, patch) for x in range(0, W, patch)])


@wrong("my_patches", "patches are read downwards")
def reads_a_token_downwards(frames, patch, merge, per_slice):
    T, C, H, W = frames.shape
    side = patch * merge
    return torch.stack([frames[t : t + per_slice, :, y : y + patch, x : x + patch].transpose(0, 1).flatten()
                        for t in range(0, T, per_slice) for top in range(0, H, side) for left in range(0, W, side)
                        for x in range(left, left + side, patch) for y in range(top, top + side, patch)])


# ---- my_smart_resize

slip("my_smart_resize", "halves are rounded up", "round(side / factor)", "math.floor(side / factor + 0.5)")
slip("my_smart_resize", "the budget is not kept", "math.floor(side / scale", "math.ceil(side / scale")
slip("my_smart_resize", "too few pixels still", "math.ceil(side * scale", "math.floor(side * scale")
slip("my_smart_resize", "the budget is not looked at", "h * w > most", "False")
slip("my_smart_resize", "the least is not looked at", "h * w < least", "False")
slip("my_smart_resize", "divide by the square root", "math.sqrt(height * width / most)", "height * width / most")
slip("my_smart_resize", "one factor at least", "max(factor, math", "max(0, math")
slip("my_smart_resize", "scale the original ones", "        scale = math.sqrt(height * width / most)",
     "        height, width = h, w\n        scale = math.sqrt(height * width / most)")
slip("my_smart_resize", "wrong way round", "return h, w", "return w, h")
slip("my_smart_resize", "with the factor 16", "    h, w = (round(", "    factor = 32\n    h, w = (round(")
slip("my_smart_resize", "whole numbers", "return h, w", "return float(h), float(w)")
slip("my_smart_resize", "with the factor 32, 10 x", "(round(side / factor) * factor",
     "(max(factor, round(side / factor) * factor)")

# ---- my_stretch

slip("my_stretch", "the nearer one counts more", "(1 - r) * row[point] + r *", "r * row[point] + (1 - r) *")
slip("my_stretch", "mix it with the next one", "(1 - r) * row[point] + r * row[point + 1]", "row[u.floor().long()]")
slip("my_stretch", "the nearest point", "(1 - r) * row[point] + r * row[point + 1]", "row[u.round().long()]")
slip("my_stretch", "stops with IndexError", ".clamp(max=len(row) - 2)", "")
slip("my_stretch", "are others", "len(row) - 1, length", "2, length")
slip("my_stretch", "should have the shape", "[:, None]", "[:, None, None]")
slip("my_stretch", "changes row", "    return (1 - r)", "    row *= 1.5\n    return (1 - r)")


@wrong("my_stretch", "the ends do not lie on the ends")
def by_the_middle_of_pixels(row, length):
    return F.interpolate(row.T[None], size=length, mode="linear")[0].T


# ---- my_positions

slip("my_positions", "not from 0", "(start, start + row, start + column)", "(start, row, column)")
slip("my_positions", "they are swapped", "(start, start + row, start + column)", "(start, start + column, start + row)")
slip("my_positions", "one past a picture's beginning", "start += max(rows, columns)", "start += 1")
slip("my_positions", "past all tokens", "start += max(rows, columns)", "start += rows * columns")
slip("my_positions", "past the shorter side", "start += max(rows, columns)", "start += min(rows, columns)")
slip("my_positions", "past the columns", "start += max(rows, columns)", "start += columns")
slip("my_positions", "`start` is not used", "    places = []", "    places, start = [], 0")
slip("my_positions", "two things are wanted", ".T, start", ".T")
slip("my_positions", "should have the shape", "torch.tensor(places).T", "torch.tensor(places)")
slip("my_positions", "a next word would stand at", ".T, start", ".T, len(places)")
slip("my_positions", "they share one time", "(start, start + row, start + column)",
     "(start + row * columns + column, start + row, start + column)")
slip("my_positions", "where no start is given", "start=0", "start=1")
