"""Figures of lesson 12, Quantization."""

import numpy as np
from matplotlib.figure import Figure

from ... import spoken
from ...plots import GRID, INK, KEEPS, RULE, WRITES, as_numpy, name_axes, new_figure


def on_a_grid(groups: dict) -> Figure:
    """Numbers of a group, each beside the rung that it goes to: panels below each other.

    Args:
        groups: title -> (numbers (n,), rungs, what each becomes (n,)).
    """
    figure, axes = new_figure((len(groups), 1), (8.6, 2.1 * len(groups)), sharex=True)
    for ax, (title, (numbers, rungs, becomes)) in zip(axes, groups.items()):
        numbers, becomes = as_numpy(numbers), as_numpy(becomes)
        x = np.arange(len(numbers))
        ax.hlines(as_numpy(rungs), -1, len(numbers), color=GRID, linewidth=0.8, zorder=0)
        ax.vlines(x, numbers, becomes, color=WRITES, linewidth=1.1)
        ax.plot(x, numbers, "o", color=KEEPS, markersize=2.6, label="the number")
        ax.plot(x, becomes, "_", color=WRITES, markersize=4.5, label="what it becomes")
        ax.set(xlim=(-1, len(numbers)))
        ax.set_title(title, fontsize=10, color=INK, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes[-1].set_xlabel("place in the group", fontsize=9, color=INK)
    figure.alt = "A group's numbers as dots, each with a line to the level that it becomes. " + " ".join(
        f"{title}: {len(rungs)} levels, and {(as_numpy(becomes) == 0).sum()} of {len(numbers)} numbers become 0."
        for title, (numbers, rungs, becomes) in groups.items())
    return figure


def smaller_groups(lines: dict) -> Figure:
    """What is lost over the bits that a weight takes: a line with a point for each size of its groups, named there.

    Args:
        lines: name -> {size of a group: (bits of a weight, what is lost)}.
    """
    figure, (ax,) = new_figure(1, (7.5, 3.2))
    for (name, points), colour, marker, side in zip(lines.items(), (KEEPS, WRITES), "os", (7, -13)):
        ax.plot(*zip(*points.values()), f"{marker}-", color=colour, linewidth=1.8, markersize=4, label=name)
        for size, at in points.items():
            ax.annotate(str(size), at, (0, side), textcoords="offset points", fontsize=8, color=INK, ha="center")
    ax.margins(0.06, 0.16)
    name_axes(ax, "bits of a weight, its share of a scale included", "what is lost of it")
    figure.alt = "What is lost over the bits that a weight takes: " + "; ".join(
        spoken.curves(sorted(points, reverse=True), {
            f"{name} {max(points)} down to {min(points)}": [points[size][1] for size in sorted(points, reverse=True)]})
        for name, points in lines.items()) + "."
    return figure


def layer_by_layer(nats: list, attention: list, together: float) -> Figure:
    """By how many nats each layer moves the odds, a bar each; and beside it what they are added up, and all at once.

    Args:
        attention: for each layer whether it is one of attention.
    """
    figure, (each, whole) = new_figure(2, (8.6, 2.8), width_ratios=(4, 1.5))
    for kind, colour, name in ((False, KEEPS, "Gated DeltaNet"), (True, WRITES, "gated attention")):
        here = [i for i, is_attention in enumerate(attention) if is_attention == kind]
        each.bar(here, [nats[i] for i in here], color=colour, label=name)
    each.set_xlabel("the layer in 4 bits", fontsize=9, color=INK)
    each.xaxis.get_major_locator().set_params(integer=True)
    each.legend(fontsize=8, frameon=False, loc="upper right")
    bars = whole.bar(("added up", "all at once"), (sum(nats), together), color=INK)
    whole.bar_label(bars, fmt="{:.2g}", fontsize=8, color=INK, padding=2)
    whole.margins(y=0.15)
    for ax in (each, whole):
        ax.set_ylabel("nats", fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)
    added, once = spoken.numbers([sum(nats), together], rough=True)
    figure.alt = (
        f"By how many nats the odds move, a bar for each of {len(nats)} layers: the most by layer {np.argmax(nats)}, "
        f"the least by layer {np.argmin(nats)}. Beside it two bars: about {added} added up, and {once} all at once.")
    return figure


def price(kinds: dict, bits: int) -> Figure:
    """What each kind of weight loses in few bits, what it saves, and the one over the other: a row each, by the last.

    Args:
        kinds: name -> (bytes saved, nats lost, whether the package quantizes it).
    """
    rows = sorted(kinds.items(), key=lambda row: row[1][1] / row[1][0])
    figure, axes = new_figure(3, (9.2, 0.24 * len(rows) + 1.2), sharey=True)
    y = np.arange(len(rows))
    saved, lost = (np.array([row[i] for _, row in rows], dtype=float) for i in (0, 1))
    lost = lost.clip(1e-7)
    small = np.array([row[2] for _, row in rows])
    panels = {f"kB saved by {bits} bits": saved / 1000, "nats lost": lost, "nats lost for each kB": 1000 * lost / saved}
    for ax, (title, x) in zip(axes, panels.items()):
        ax.hlines(y, x.min() / 2, x, color=RULE, linewidth=0.8)
        for kind, colour, marker, name in ((small, KEEPS, "o", "quantized"), (~small, WRITES, "D", "kept as it is")):
            ax.plot(x[kind], y[kind], marker, color=colour, markersize=5.5, label=name)
        ax.set(xscale="log", xlim=(x.min() / 2, 2 * x.max()))
        ax.xaxis.set_major_formatter("{x:,g}")
        ax.set_title(title, fontsize=9, color=INK)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.grid(axis="x", color=GRID, linewidth=0.8)
    axes[0].set_yticks(y, [name for name, _ in rows])
    axes[1].legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2)
    figure.alt = (
        f"A row for each kind of weight: what {bits} bits save, what they cost, and the cost of each kilobyte, by "
        f"which the rows are in order, the dearest at the top: {spoken.listed(name for name, _ in rows[::-1])}. Dots "
        f"are quantized; diamonds, kept as they are, stand at "
        f"{spoken.listed(name for name, (_, _, few) in kinds.items() if not few)}.")
    return figure
