"""Figures of lesson 15, A GPU kernel."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from ... import spoken
from ...plots import FAINT, INK, KEEPS, PALETTE, RECALLS, RULE, WRITES, name_axes, new_figure

PLACES = {"global memory": (6.2, KEEPS), "shared memory": (3.5, RECALLS), "registers": (0.6, WRITES)}
UNIT = 1 / 64                                            # of the picture, for a row or column of a tile


def walk_step(C: int = 64, Dk: int = 128, BV: int = 32) -> Figure:
    """One step of `walk` for one program: which tile lies where, and which five products there are, in their order.

    Args:
        C, Dk, BV: tokens of the chunk, width of the keys, and how many columns of the values the program has.
    """
    figure, (ax,) = new_figure(1, (9, 5.2))
    for place, (y, colour) in PLACES.items():
        ax.text(-1.75, y + 0.8, place.replace(" ", "\n"), color=colour, fontsize=10, va="center", weight="bold")
        if place != "registers":
            ax.axhline(y - 0.6, color=RULE, linewidth=0.8)

    def tile(place, x, name, rows, columns):
        y, colour = PLACES[place]
        width, height = max(columns, 24) * UNIT, max(rows, 24) * UNIT
        ax.add_patch(Rectangle((x - width / 2, y + 0.8 - height / 2), width, height, facecolor=colour + "33",
                               edgecolor=colour, linewidth=1.5))
        ax.text(x, y + 0.8 - height / 2 - 0.38, f"{name}  {rows} × {columns}", color=INK, fontsize=8, ha="center")
        return x, y + 0.8, width / 2, height / 2

    def strip(x, name):
        """A matrix of all tokens, of which one chunk is at work."""
        y, colour = PLACES["global memory"]
        for chunk in range(6):
            ax.add_patch(Rectangle((x - 0.25, y + 0.1 + 0.24 * chunk), 0.5, 0.24, edgecolor=colour, linewidth=1,
                                   facecolor=colour if chunk == 3 else "none"))
        ax.text(x, y - 0.25, name, color=INK, fontsize=9, ha="center")

    def arrow(start, end, words="", colour=FAINT, bend=0.0):
        ax.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1.4,
                                     connectionstyle=f"arc3,rad={bend}"))
        ax.text((start[0] + end[0]) / 2 + 0.12, (start[1] + end[1]) / 2, words, color=colour, fontsize=10, va="center")

    places = {"S": 0.6, "r": 3.2, "u": 5.2, "o": 8.1, "after": 10.9}
    S, r, u, o, after = (tile("registers", x, "$S^T$" if name == "S" else "$S^T$ after" if name == "after" else
                              f"${name}^T$", BV, Dk if name in ("S", "after") else C) for name, x in places.items())
    factors = [("①", "k", 3.2, r, Dk), ("②", "M", 5.2, u, C), ("③", "q", 6.85, o, Dk), ("④", "P", 9.05, o, C),
               ("⑤", "k", 10.9, after, Dk)]
    for number, name, x, result, columns in factors:
        _, y, _, half = tile("shared memory", x, f"${name}$", C, columns)
        if number != "⑤":                                # the keys are there already
            strip(x, f"${name}$")
            arrow((x, PLACES["global memory"][0] - 0.4), (x, y + half + 0.04))
        arrow((x, y - half - 0.5), (result[0] + 0.25 * (x - result[0]), result[1] + result[3] + 0.04), number, WRITES)
    strip(1.3, "$v$")
    _, y, wide, half = tile("shared memory", 1.3, "$v$", C, BV)
    arrow((1.3, PLACES["global memory"][0] - 0.4), (1.3, y + half + 0.04))
    arrow((1.3, y - half - 0.5), (r[0] - r[2] + 0.1, r[1] + r[3] + 0.04))
    strip(8.1, "$o$")
    arrow((8.1, o[1] + o[3] + 0.04), (8.1, PLACES["global memory"][0] - 0.4))
    for left, right in ((S, r), (r, u), (u, o)):
        arrow((left[0] + left[2] + 0.05, left[1]), (right[0] - right[2] - 0.05, right[1]))
    arrow((u[0] + 0.1, u[1] - u[3] - 0.5), (after[0] - after[2], after[1] - after[3] - 0.5), bend=0.12)
    ax.text(5.6, -0.95, "the memory S stays in the registers: the next chunk begins with what this one leaves",
            color=WRITES, fontsize=9, ha="center")
    ax.set(xlim=(-1.9, 12.1), ylim=(-1.2, 7.9), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    figure.alt = (
        f"Three floors. Global memory holds v, k, M, q, P and o of all chunks. The current chunk's tiles, of {C} "
        "tokens, are fetched into shared memory. In the registers r, u, o and the next S follow from S by five "
        "products: of k and S, which with v makes r; of M and r, which is u; of q and S and of P and u, which make o; "
        "and of k and u, which goes into S. The new S stays there for the next chunk, and o goes to global memory.")
    return figure


def roofline(gigabytes: float, teraflops: float, points: dict, title: str) -> Figure:
    """Operations a second over operations a byte: the roof that a machine puts over all programs, and some programs.

    Args:
        gigabytes: what its memory carries in a second.
        teraflops: what its tensor cores do in a second.
        points: name -> (operations a byte, operations a second).
        title: the machine and the day.
    """
    figure, (ax,) = new_figure(1, (8.6, 3.8))
    ridge = 1e3 * teraflops / gigabytes
    x = np.array([0.1, ridge, 1e4])
    ax.plot(x, np.minimum(x * gigabytes * 1e9, teraflops * 1e12), color=INK, linewidth=1.8, label="the roof")
    ax.axvline(ridge, color=FAINT, linewidth=1, linestyle=":")
    for (name, (intensity, speed)), colour, look in zip(points.items(), PALETTE, "os^dvP"):
        ax.plot([intensity], [speed], look, color=colour, markersize=9, markerfacecolor="none", markeredgewidth=2,
                label=name)                              # hollow: two that lie together are both seen
    ax.set(xscale="log", yscale="log", xlim=(0.1, 1e4), ylim=(1e11, 1e16))
    ax.set_xticks([0.1, 1, 10, 100, 1000, 10_000], ["0.1", "1", "10", "100", "1,000", "10,000"])
    ax.set_yticks([1e11, 1e12, 1e13, 1e14, 1e15, 1e16], ["0.1 T", "1 T", "10 T", "100 T", "1,000 T", "10,000 T"])
    ax.minorticks_off()
    ax.set_title(title, fontsize=10, color=INK)
    name_axes(ax, "operations for each byte of global memory", "operations a second")
    shares = {name: speed / min(1e9 * intensity * gigabytes, 1e12 * teraflops)
              for name, (intensity, speed) in points.items()}
    figure.alt = (
        f"{spoken.heard(title)}: a roof over operations for each byte, a slope up to {ridge:,.0f} of them, then flat "
        f"at {teraflops:,.0f} T operations a second. Below it stand " + spoken.listed(
            f"{name} at {points[name][0]:,.1f} with {share:.0%} of the roof" for name, share in shares.items()) + ".")
    return figure


def durations(rows: dict, unit: str, title: str) -> Figure:
    """Lying bars, each with its length in numbers. rows: name -> how long."""
    figure, (ax,) = new_figure(1, (8.2, 0.8 + 0.4 * len(rows)))
    for y, (length, colour) in enumerate(zip(rows.values(), PALETTE)):
        ax.barh(y, length, height=0.62, color=colour)
        ax.text(length, y, f"  {length:.3g} {unit}", color=INK, fontsize=9, va="center")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlim=(0, 1.25 * max(rows.values())), xticks=[])
    ax.tick_params(length=0)
    ax.spines[["top", "right", "bottom"]].set_visible(False)
    ax.set_title(title, fontsize=10, color=INK)
    lengths = "; ".join(f"{name}, {length:.2g} {unit}" for name, length in rows.items())
    figure.alt = f"Bars. {', '.join(title.splitlines())}. {lengths}."
    return figure
