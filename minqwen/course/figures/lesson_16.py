"""Figures of lesson 16, Scaling out."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...plots import FAINT, INK, KEEPS, ON_DARK, PALETTE, WRITES, new_figure


def put_together(ranks: int = 4, layers: int = 4) -> Figure:
    """What is in the memory of one rank while it computes forward: its piece of each layer, and one layer as a whole.

    A row for each moment, from the top down; in it a bar for each layer, cut into one piece for each rank.
    """
    figure, (ax,) = new_figure(1, (8.4, 0.42 * layers + 1.3))
    for now in range(layers):
        for layer in range(layers):
            for piece in range(ranks):
                own, here = piece == 1, layer == now
                ax.add_patch(Rectangle((layer * 1.15 + piece / ranks, -now - 0.34), 0.92 / ranks, 0.68,
                                       facecolor=KEEPS if own else WRITES if here else "none",
                                       edgecolor=FAINT, linewidth=0.8))
    legend = ((KEEPS, "rank 1 keeps it"), (WRITES, "gathered from the others, for a moment"), ("none", "the others'"))
    handles = [Rectangle((0, 0), 1, 1, facecolor=colour, edgecolor=FAINT, label=name) for colour, name in legend]
    ax.set_xticks([layer * 1.15 + 0.46 for layer in range(layers)], [f"layer {layer}" for layer in range(layers)])
    ax.set_yticks([-now for now in range(layers)], [f"computes layer {now}" for now in range(layers)])
    ax.set(xlim=(-0.08, layers * 1.15 - 0.1), ylim=(-layers + 0.45, 0.5))
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.xaxis.tick_top()
    ax.legend(handles=handles, fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    figure.alt = (
        f"{layers} moments, one below the other, of rank 1 of {ranks}, which computes layer after layer. In each it "
        f"has one piece of {ranks} of every layer, always the same. Of the layer that it computes it has the other "
        "pieces as well, gathered from the others for a moment.")
    return figure


def waves(ranks: int, layers: int) -> Figure:
    """Who is in which layer at what time, where each rank has its own part of a text and waits only for what is handed
    on by the one before."""
    figure, (ax,) = new_figure(1, (8.4, 0.5 * ranks + 1.1))
    for rank in range(ranks):
        colour = PALETTE[rank % len(PALETTE)]
        for layer in range(layers):
            ax.add_patch(Rectangle((rank + layer + 0.04, -rank - 0.36), 0.92, 0.72, facecolor=colour))
            ax.text(rank + layer + 0.5, -rank, str(layer), ha="center", va="center", fontsize=8, color=ON_DARK)
            if rank + 1 < ranks:
                ax.annotate("", (rank + layer + 1.05, -rank - 0.7), (rank + layer + 0.9, -rank - 0.3),
                            arrowprops={"arrowstyle": "->", "color": INK, "linewidth": 1})
    ax.set(xlim=(0, ranks + layers - 1), ylim=(-ranks + 0.45, 0.5), xlabel="time, in layers")
    ax.xaxis.label.set(color=INK, fontsize=9)
    ax.set_yticks([-rank for rank in range(ranks)], [f"rank {rank}" for rank in range(ranks)])
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.alt = (
        f"{ranks} ranks over time: each goes through layers 0 to {layers - 1} without a break, and each begins one "
        "layer later than the one before, from which an arrow comes for each layer.")
    return figure
