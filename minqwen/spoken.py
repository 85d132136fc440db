"""Figures in words, for those who hear them: numbers, courses of curves, lists.

A lesson's outputs are compared word for word from machine to machine, and measured numbers differ there in their last
digits, or after a tie. So numbers are told roughly, and what lies in the middle between two of them is never a number
that is likely to come up, such as a half or a quarter.
"""

from collections.abc import Iterable

import numpy as np

__all__ = ["bars", "curves", "heard", "listed", "numbers"]

NOTHING = 3e-5                                          # what is smaller may be rounding, which differs


def heard(words: str) -> str:
    """A title as it is read aloud: in one line, without the signs of formulas."""
    return " ".join(words.replace("$", "").replace("\\top", "ᵀ").replace("\\", "").split())


def listed(words: Iterable[str], last: str = "and") -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    *most, end = words
    return f"{', '.join(most)} {last} {end}" if most else end


def numbers(values, rough: bool = False) -> list[str]:
    """Values as they are told, all in the same way; one that is not finite is "not a number".

    Whole numbers as they are; from -1 to 1, and some of them large, in tenths; else as one of 1, 2, 5, 10, 20, ...

    Args:
        rough: the last way, whatever they are: for logarithmic axes.
    """
    values = np.asarray(values, dtype=float)
    finite = values[np.isfinite(values)]
    largest = np.abs(finite).max(initial=0.0)
    whole = not rough and largest > 1 and np.array_equal(finite, finite.round())
    tell = _exactly if whole else _tenths if not rough and 0.3 < largest <= 1.03 else _roughly
    return [tell(value) if np.isfinite(value) else "not a number" for value in values]


def _exactly(value: float) -> str:
    return f"{value:,.0f}".replace("-", "−")


def _tenths(value: float) -> str:
    rounded = int(abs(value) * 10 + 0.5137) / 10        # 0.25 and 0.75 lie far from where one word becomes another
    return ("−" if value < 0 and rounded else "") + f"{rounded:g}"


def _roughly(value: float) -> str:
    """0.3 -> "0.2", 8 -> "10": the nearest of 1, 2, 5, 10, ... as a logarithmic ruler has them."""
    if abs(value) < NOTHING:
        return "next to 0" if value else "0"
    size = 10.0 ** np.floor(np.log10(abs(value)))
    digit = abs(value) / size
    rounded = size * (1 if digit < 2**0.5 else 2 if digit < 10**0.5 else 5 if digit < 50**0.5 else 10)
    return ("−" if value < 0 else "") + (f"{rounded:,.0f}" if rounded >= 1 else f"{rounded:.5f}".rstrip("0"))


def bars(names, values, most: int = 12) -> str:
    """Names with their values, as "red at 1, blue at 0.6"; of more than `most`, the three largest and the smallest.

    Of values that are told alike the first counts as the largest.
    """
    names, told = [heard(name) for name in names], numbers(values)
    both = [f"{name} at {value}" for name, value in zip(names, told)]
    if len(both) <= most:
        return ", ".join(both)
    height = [float(value.replace("−", "-").replace(",", "").replace("not a number", "nan")) for value in told]
    order = np.argsort(-np.array(height), kind="stable")
    return f"the largest are {listed(both[i] for i in order[:3])}; the smallest is {both[order[-1]]}"


def curves(lines: dict, logarithmic: bool = False) -> str:
    """How curves go, as "memory falls from 1 to 0.2; softmax stays at 1". A twentieth of their range is no change.

    Args:
        lines: name -> its values along the axis; those that are not finite are left out.
        logarithmic: whether they are drawn so.
    """
    lines = {name: np.asarray(values, dtype=float) for name, values in lines.items()}
    lines = {name: values[np.isfinite(values)] for name, values in lines.items()}
    every = np.concatenate(list(lines.values()))
    told = numbers(every, rough=logarithmic)            # all in the same way
    heights = np.log10(np.maximum(every, NOTHING)) if logarithmic else every
    small = 0.0513 * (heights.max(initial=-np.inf) - heights.min(initial=np.inf))
    ends = np.cumsum([len(values) for values in lines.values()])
    return "; ".join(f"{heard(name)} {_course(heights[end - len(values) : end], told[end - len(values) : end], small)}"
                     for (name, values), end in zip(lines.items(), ends))


def _course(heights, told, small) -> str:
    if not told:
        return "has no number"
    first, last, up, down = heights[0], heights[-1], heights.argmax(), heights.argmin()
    if heights[up] - heights[down] <= small:
        return f"stays at {told[0]}"
    if heights[up] - max(first, last) > 2 * small and told[up] not in (told[0], told[-1]):
        return f"rises from {told[0]} to {told[up]}, then falls to {told[-1]}"
    if min(first, last) - heights[down] > 2 * small and told[down] not in (told[0], told[-1]):
        return f"falls from {told[0]} to {told[down]}, then rises to {told[-1]}"
    if abs(last - first) <= small:
        return f"goes up and down about {told[0]}"
    return f"{'rises' if last > first else 'falls'} from {told[0]} to {told[-1]}"
