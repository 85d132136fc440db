"""Figures of lesson 02, Attention as memory."""

import numpy as np
from matplotlib.figure import Figure

from ...plots import FAINT, GRID, INK, KEEPS, RECALLS, SEQUENTIAL, WRITES, as_numpy, colour_bar, new_figure


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
    return figure


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
    return figure
