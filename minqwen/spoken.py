"""Figures in words, for those who hear them: numbers, courses of curves, lists.

A lesson's outputs are compared word for word from machine to machine, and measured numbers differ there in their last
digits, or after a tie. So numbers are told roughly, and what lies in the middle between two of them is never a number
that is likely to come up, such as a half or a quarter.
"""

import re
from collections.abc import Iterable
from itertools import combinations

import numpy as np

__all__ = ["bars", "curves", "heard", "listed", "numbers", "place"]

NOTHING = 3e-5                                          # what is smaller may be rounding, which differs


def heard(words: str) -> str:
    """A title as it is read aloud: in one line, without the signs of formulas and those that stand for a space."""
    plain = re.sub(r"\$(.*?)\$", lambda found: found[1].replace("^\\top", "ᵀ").replace("\\", ""), words)
    return " ".join(plain.replace("·", " ").split()) or words


def listed(words: Iterable[str], last: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"; of none it is "nothing"."""
    *most, end = [*words] or ["nothing"]
    return f"{', '.join(most)} {last} {end}" if most else end


def numbers(values, rough: bool = False) -> list[str]:
    """Values as they are told, all in the same way; one that is not finite is "not a number".

    Values between -1 and 1, and not all near 0, in tenths. Others by one digit, and whole ones below ten thousand as
    they are.

    Args:
        rough: never in tenths: for logarithmic axes.
    """
    values = np.asarray(values, dtype=float)
    finite = values[np.isfinite(values)]
    largest = np.abs(finite).max(initial=0.0)
    tell = _tenths if not rough and 0.3 < largest <= 1.03 else _digit
    return [tell(value) if np.isfinite(value) else "not a number" for value in values]


def _tenths(value: float) -> str:
    tenths = int(abs(value) * 10 + 0.5137)              # 0.25 and 0.75 lie far from where one word becomes another
    return f"{'−' if value < 0 and tenths else ''}{tenths / 10:g}"


def _digit(value: float) -> str:
    """0.0027 -> "0.003", 340 -> "300": the nearest on a logarithmic ruler, so that 2.5 lies off the middle."""
    sign, size = "−" if value < 0 else "", abs(value)
    if size == 0 or 0.5 < size < 10_000 and abs(size - round(size)) < 1e-4:
        return f"{sign}{round(size):,}"
    if size < NOTHING:
        return "next to 0"
    power = 10.0 ** np.floor(np.log10(size))
    rounded = power * np.floor(0.5 + np.sqrt(0.25 + (size / power) ** 2))
    if rounded >= 1e6:
        return f"{sign}{rounded / 1e6:,.0f} million"
    return sign + (f"{rounded:,.0f}" if rounded >= 1 else f"{rounded:.5f}".rstrip("0"))


def bars(names, values, most: int = 12) -> str:
    """Names with their values, as "red at 1, blue at 0.6"; of more than `most`, the three largest and the smallest of
    those that are finite.

    Of values that are alike in three digits the first counts as the largest.
    """
    names, values = [heard(name) for name in names], np.asarray(values, dtype=float)
    told = numbers(values)
    both = [f"{name} at {value}" for name, value in zip(names, told)]
    finite = np.flatnonzero(np.isfinite(values))
    if len(both) <= most:
        return ", ".join(both)
    if not len(finite):
        return f"none of {len(both)} is a number"
    order = sorted(finite, key=lambda i: -float(f"{values[i]:.3g}"))
    others = f"; {len(both) - len(finite)} are not a number" if len(finite) < len(both) else ""
    return f"the largest are {listed(both[i] for i in order[:3])}; the smallest is {both[order[-1]]}{others}"


def curves(x, lines: dict, logarithmic: bool = False) -> str:
    """How curves go, as "memory falls from 1 to 0.2, half of it by 16; softmax stays at 1".

    A twentieth of their range is no change. Where ends that are apart are told alike, it says which is above.

    Args:
        x: (N,) where they are measured: numbers, or names.
        lines: name -> its N values; those that are not finite are left out.
        logarithmic: whether they are drawn so.
    """
    x, lines = np.asarray(x), {name: np.asarray(y, dtype=float) for name, y in lines.items()}
    places = [x[np.isfinite(values)] for values in lines.values()]
    lines = {name: values[np.isfinite(values)] for name, values in lines.items()}
    if not lines:
        return "nothing"
    every = np.concatenate(list(lines.values()))
    told = numbers(every, rough=logarithmic)            # all in the same way
    heights = np.log10(np.maximum(every, NOTHING)) if logarithmic else every
    small = 0.0513 * (heights.max(initial=-np.inf) - heights.min(initial=np.inf))
    ends = np.cumsum([len(values) for values in lines.values()])
    parts = [slice(end - len(values), end) for values, end in zip(lines.values(), ends)]
    courses = "; ".join(f"{heard(name)} {_course(where, heights[part], told[part], small)}"
                        for name, where, part in zip(lines, places, parts))
    last = {name: part.stop - 1 for name, part in zip(lines, parts) if part.stop > part.start}
    if not any(told[a] == told[b] and abs(heights[a] - heights[b]) > small for a, b in combinations(last.values(), 2)):
        return courses
    ranked = sorted(last, key=lambda name: -heights[last[name]])
    return f"{courses}. At the end, from the top: {listed(map(heard, ranked))}"


def _course(x, heights, told, small) -> str:
    if not told:
        return "has no number"
    first, last, up, down = heights[0], heights[-1], heights.argmax(), heights.argmin()
    if heights[up] - heights[down] <= small:
        return f"stays at {told[0]}"
    whole = heights[up] - heights[down]
    if np.abs(np.diff(heights)).sum() > 2.513 * whole and abs(last - first) < 0.7137 * whole:
        between = f", between {told[down]} and {told[up]}, from {told[0]} to {told[-1]}"
        return f"goes up and down{between if told[down] != told[up] else f' about {told[0]}'}"
    if heights[up] - max(first, last) > 2 * small and told[up] not in (told[0], told[-1]):
        return f"rises from {told[0]} to {told[up]}, then falls to {told[-1]}"
    if min(first, last) - heights[down] > 2 * small and told[down] not in (told[0], told[-1]):
        return f"falls from {told[0]} to {told[down]}, then rises to {told[-1]}"
    if abs(last - first) <= small:
        return f"goes up and down about {told[0]}"
    way = "rises" if last > first else "falls"
    if told[0] == told[-1]:
        return f"{way} a little from {told[0]}"
    half = np.argmax((heights - first) / (last - first) > 0.4871)
    by = f", half of it by {place(x[half])}" if len(x) > 4 else ""
    return f"{way} from {told[0]} to {told[-1]}{by}"


def place(x: float | str) -> str:
    """A place on an axis: its name; or a number, whole or with two digits."""
    if isinstance(x, str):
        return x
    if not np.isfinite(x):
        return "not a number"
    return (f"{x:,.0f}" if x == round(x) or abs(x) >= 100 else f"{x:.2g}").replace("-", "−")
