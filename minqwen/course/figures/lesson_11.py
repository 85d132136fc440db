"""Figures of lesson 11, Mixture of experts."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ... import spoken
from ...plots import FAINT, INK, KEEPS, ON_DARK, ON_LIGHT, SEQUENTIAL, WRITES, as_numpy, colour_bar, new_figure


def mixture(experts: int, chosen: dict[int, float]) -> Figure:
    """A layer's experts, of which a token is read by a few, and by the shared one. chosen: expert -> its weight."""
    figure, (ax,) = new_figure(1, (8.6, 3.9))
    places = {e: 1.1 * e for e in range(experts)}
    middle = 1.1 * (experts - 1) / 2

    def box(x, y, words, width=0.9, colour="#f4f5f7", ink=ON_LIGHT):
        ax.add_patch(Rectangle((x - width / 2, y - 0.3), width, 0.6, facecolor=colour, edgecolor="#9aa3ad",
                               linewidth=0.8, zorder=3))
        ax.text(x, y, words, fontsize=8.5, color=ink, ha="center", va="center", zorder=4)

    def arrow(start, end, strength=1.0):
        ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": WRITES if strength else FAINT,
                                                "linewidth": 0.8 + 2.5 * strength, "shrinkA": 0, "shrinkB": 0})

    box(middle, 0, "x, normed", 1.5)
    box(middle, 1.2, "router", 1.5, "#fbe3c8")
    arrow((middle, 0.3), (middle, 0.9), 0)
    for e, x in places.items():
        weight = chosen.get(e, 0.0)
        counts = f"\n× {weight:.2f}" if weight else ""
        box(x, 2.7, f"expert {e}{counts}", colour=KEEPS if weight else "#f4f5f7", ink=ON_DARK if weight else ON_LIGHT)
        if weight:
            arrow((middle, 1.5), (x, 2.4), weight)
            arrow((x, 3.0), (middle, 4.0), weight)
    shared = places[experts - 1] + 1.6
    box(shared, 2.7, "shared expert\n× its gate", 1.5, KEEPS, ON_DARK)
    arrow((middle + 0.75, 0), (shared, 2.4), 0.1)
    arrow((shared, 3.0), (middle + 0.3, 4.1), 0.1)
    box(middle, 4.3, "+", 0.6)
    ax.set(xlim=(-0.7, shared + 1.2), ylim=(-0.5, 4.8))
    ax.axis("off")
    figure.alt = (
        f"From the token's normed vector arrows lead to a router, and on to a few of the {experts} experts that stand "
        "in a row: " + spoken.listed(f"expert {e}, times {weight:.2f}," for e, weight in chosen.items()) + " and from "
        "there to a sum. To it leads the shared expert beside them, too, times its gate.")
    return figure


def readers(shares: dict[int, np.ndarray], kinds: list[str], top: float = 1.0) -> Figure:
    """Who reads what: for each layer a map, kinds of tokens by experts.

    Args:
        shares: layer -> (kinds, E), of a kind's tokens the share that each expert reads.
        top: the share that has the full colour.
    """
    figure, axes = new_figure(len(shares), (min(9, 1.6 + 1.9 * len(shares)), 0.9 + 0.27 * len(kinds)), sharey=True)
    for ax, (layer, share) in zip(axes, shares.items()):
        image = ax.imshow(as_numpy(share), cmap=SEQUENTIAL, vmin=0, vmax=top, aspect="auto", interpolation="nearest")
        ax.set_title(f"layer {layer}", fontsize=9, color=INK)
        ax.set_xlabel("expert", fontsize=8, color=INK)
        ax.set_xticks(range(0, share.shape[1], -(-share.shape[1] // 8)))
    axes[0].set_yticks(range(len(kinds)), kinds)
    colour_bar(figure, image, axes)
    def darkest(share, number):
        row, expert = np.unravel_index(share.argmax(), share.shape)
        return f"{kinds[row]} at expert {expert}, {number}" if share.max() > top / 50 else "all are pale"

    maps = {layer: as_numpy(share) for layer, share in shares.items()}
    numbers = spoken.numbers([share.max() for share in maps.values()])
    figure.alt = (
        f"A map for each of {len(maps)} layers: a row for each of {'; '.join(kinds)}; a column for each expert. The "
        "darkest field: " + ". ".join(f"In layer {layer} {darkest(share, number)}"
                                      for (layer, share), number in zip(maps.items(), numbers)) + ".")
    return figure


def loads(runs: dict[str, dict], top_k: int) -> Figure:
    """Two trainings, one of them without the balancing loss: the loss over the steps, and the loads it came to.

    Args:
        runs: name -> {"steps", "balance": the loss after so many steps; "loads": (layers, E), shares of the tokens}.
    """
    figure, axes = new_figure(3, (9, 2.9), width_ratios=(1.3, 1, 1))
    for (name, run), colour in zip(runs.items(), (KEEPS, WRITES)):
        axes[0].plot(run["steps"], run["balance"], color=colour, linewidth=2, label=f"{name} it")
    axes[0].axhline(top_k, color=FAINT, linewidth=0.8, linestyle="--")
    axes[0].set_xlabel("steps", fontsize=8, color=INK)
    axes[0].set_title("balancing loss", fontsize=9, color=INK)
    axes[0].legend(fontsize=8, frameon=False)
    axes[0].spines[["top", "right"]].set_visible(False)
    most = max(np.max(run["loads"]) for run in runs.values())
    for ax, (name, run) in zip(axes[1:], runs.items()):
        image = ax.imshow(as_numpy(run["loads"]), cmap=SEQUENTIAL, vmin=0, vmax=most, aspect="auto", origin="lower",
                          interpolation="nearest")
        ax.set_title(f"shares of tokens, {name} it", fontsize=9, color=INK)
        ax.set_xlabel("expert", fontsize=8, color=INK)
        ax.set_ylabel("layer", fontsize=8, color=INK)
        ax.set_yticks(range(len(run["loads"])))
    colour_bar(figure, image, axes[1:])
    losses = spoken.listed(f"from {run['balance'][0]:.2f} to {run['balance'][-1]:.2f} {name} it"
                           for name, run in runs.items())
    spread = spoken.listed(f"from {np.min(run['loads']):.0%} to {np.max(run['loads']):.0%} {name} it"
                           for name, run in runs.items())
    figure.alt = (
        f"Left the balancing loss over the steps: {losses}; a dashed line at {top_k:g} is where even loads would be. "
        f"Right two maps, layers by experts, of the shares of the tokens that an expert reads: {spread}.")
    return figure


def times(ratios: dict[str, dict[str, float]]) -> Figure:
    """What layers cost, beside the cheapest: a panel for each cost. ratios: cost -> {layer: how many times as much}."""
    figure, axes = new_figure(len(ratios), (9, 2.3), sharey=True)
    for ax, (cost, layers) in zip(axes, ratios.items()):
        names, heights = list(layers), list(layers.values())
        bars = ax.barh(range(len(names)), heights, color=[KEEPS if "experts" in name else INK for name in names])
        ax.bar_label(bars, [f"{height:.1f}" for height in heights], fontsize=8, padding=2, color=INK)
        ax.set_xlim(0, 1.25 * max(heights))
        ax.set_title(cost, fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xticks([])
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    figure.alt = "Bars, how many times as much as the cheapest layer. " + " ".join(
        f"{cost}: {'; '.join(f'{ratio:.1f} for {name}' for name, ratio in layers.items())}."
        for cost, layers in ratios.items())
    return figure
