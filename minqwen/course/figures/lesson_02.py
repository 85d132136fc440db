"""Figures of lesson 02, Attention as memory."""

import numpy as np
from matplotlib.figure import Figure

from ... import spoken
from ...plots import FAINT, GRID, INK, KEEPS, RECALLS, SEQUENTIAL, WRITES, as_numpy, colour_bar, new_figure, states


def heads(maps: dict, limit: float = 1.0, columns: int = 8) -> Figure:
    """The softmax maps of many heads, small, on one scale: a row looks, a column is looked at, and never ahead.

    Args:
        maps: title -> (T, S)
        limit: the weight that has the full colour, and all above it.
        columns: how many stand side by side.
    """
    across = min(columns, len(maps))
    down = -(-len(maps) // across)
    figure, axes = new_figure((down, across), (1.6 * across + 0.7, 1.85 * down))
    for ax, (title, weights) in zip(axes, maps.items()):
        past = np.ma.array(as_numpy(weights), mask=~np.tri(*weights.shape, dtype=bool))
        image = ax.imshow(past, cmap=SEQUENTIAL, vmin=0, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=8, color=INK)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax in axes[len(maps) :]:
        ax.axis("off")
    colour_bar(figure, image, axes)
    shares = {"the first token": [], "the token before": [], "itself": []}
    for weights in map(as_numpy, maps.values()):
        for kind, share in zip(shares, (weights[:, 0], weights.diagonal(-1), weights.diagonal())):
            shares[kind].append(share.mean())
    figure.alt = (f"Softmax maps of {len(maps)} heads, as small triangles. How much of its weight a token gives, on "
                  "average, " + "; ".join(f"to {kind}, {spoken.bars(maps, its)}" for kind, its in shares.items()) + ".")
    return figure


def tables(pictures: dict, rows: list[str], columns: list[str], limit: float = 1.5, height: float = 1.7) -> Figure:
    """Memories that can be read: matrices side by side whose rows and columns have names. As `plots.states`, else."""
    figure = states(pictures, limit, height)
    for ax in figure.axes[: len(pictures)]:
        ax.set_yticks(range(len(rows)), rows)
        ax.set_xticks(range(len(columns)), columns, rotation=90)
        ax.set(xlabel="", ylabel="")
    figure.alt = f"Tables of {spoken.listed(rows)} by {spoken.listed(columns)}. " + " ".join(
        f"{spoken.heard(title).rstrip('.')}: {_entries(as_numpy(table), rows, columns)}."
        for title, table in pictures.items())
    return figure


def _entries(table, rows, columns) -> str:
    """What is in a table, row by row."""
    there = {row: entries != 0 for row, entries in zip(rows, table)}
    return "; ".join(f"{row} has {spoken.bars(np.array(columns)[there[row]], entries[there[row]])}"
                     for row, entries in zip(rows, table) if there[row].any()) or "empty"


def beside_theory(x, measured: dict, theory: dict, xlabel: str, ylabel: str) -> Figure:
    """Dots for what was measured, and a line for what theory says, in the same colour; both axes are logarithmic.

    Args:
        measured: name -> as many numbers as x has.
        theory: the same for some of these names.
    """
    figure, (ax,) = new_figure(1, (7.5, 3.4))
    looks = zip((KEEPS, WRITES, RECALLS, INK), "os^d")
    for (name, y), (colour, marker) in zip(measured.items(), looks):
        ax.plot(as_numpy(x), as_numpy(y), marker, color=colour, markersize=5, label=name)
        if name in theory:
            ax.plot(as_numpy(x), as_numpy(theory[name]), color=colour, linewidth=1.2)
    ax.plot([], [], color=FAINT, linewidth=1.2, label="lines: theory")
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color=GRID, linewidth=0.8)
    ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    off = max(np.abs(as_numpy(measured[name]) / as_numpy(line) - 1)[1:].max(initial=0) for name, line in theory.items())
    figure.alt = (f"{ylabel.capitalize()} over {xlabel}, from {x[0]} to {x[-1]}, both logarithmic. In round numbers, "
                  f"{spoken.curves(x, measured, logarithmic=True)}. Lines are what theory says: the dots "
                  f"{'lie on them' if off < 0.31 else 'are not all on them'}.")
    return figure
