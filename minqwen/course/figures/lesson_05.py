"""Figures of lesson 05, Gated attention."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from ... import spoken
from ...plots import (
    FAINT,
    INK,
    KEEPS,
    ON_DARK,
    RECALLS,
    RULE,
    WRITES,
    as_numpy,
    colour_bar,
    new_figure,
    tokens_on,
    told,
)


def gated_attention(config) -> Figure:
    """A gated attention layer, from left to right: what is done to a token, and how wide each part is.

    Args:
        config: a `TextConfig`.
    """
    figure, (ax,) = new_figure(1, (10.5, 3.5))
    d, D = config.hidden_size, config.head_dim
    Hq, Hkv = config.num_attention_heads, config.num_key_value_heads

    def box(x, y, text, colour, width=1.15, height=0.62):
        ax.add_patch(Rectangle((x, y - height / 2), width, height, facecolor=colour, linewidth=0))
        ax.text(x + width / 2, y, text, color=ON_DARK, fontsize=9, ha="center", va="center", linespacing=1.4)

    def arrow(*points):                                  # along these corners
        for a, b in zip(points, points[1:]):
            style = "-|>" if b == points[-1] else "-"
            ax.annotate("", b, a, arrowprops={"arrowstyle": style, "color": FAINT, "shrinkA": 0, "shrinkB": 0})

    gate, query, key, value = 3, 2, 1, 0
    learned, fixed = WRITES, INK
    ax.text(0, 1.5, f"x\n{d} wide", color=INK, fontsize=9, ha="center", va="center", linespacing=1.4)
    for y, name, height in ((2.5, "q_proj", 1.62), (key, "k_proj", 0.62), (value, "v_proj", 0.62)):
        arrow((0.42, 1.5), (0.62, 1.5), (0.62, y), (0.9, y))
        box(0.9, y, name, learned, 0.9, height)
    for y, name, heads in ((gate, "gate", Hq), (query, "query", Hq), (key, "key", Hkv), (value, "value", Hkv)):
        ax.text(2.33, y + 0.06, f"{name}\n{heads} × {D}", color=INK, fontsize=8, ha="center", va="bottom")
        arrow((1.8, y), (2.9 if y else 5.6, y))
    for y, norm in ((query, "q_norm"), (key, "k_norm")):
        box(2.9, y, norm, learned, 0.95)
        arrow((3.85, y), (4.1, y))
        box(4.1, y, "rotate\nby its place", fixed)
        arrow((5.25, y), (5.6, y))
    words = "attention:\nthe values of\nall tokens so far,\nby how well their\nkeys fit the query"
    box(5.6, 1, words, KEEPS, 1.6, 2.62)
    box(2.9, gate, "sigmoid", fixed, 0.95)
    arrow((3.85, gate), (7.7, gate), (7.7, 1.25))
    arrow((7.2, 1), (7.45, 1))
    box(7.45, 1, "×", fixed, 0.5, 0.5)
    arrow((7.95, 1), (8.2, 1))
    box(8.2, 1, "o_proj", learned, 0.9)
    arrow((9.1, 1), (9.35, 1))
    ax.text(9.75, 1, f"{d} wide", color=INK, fontsize=9, ha="center", va="center")
    ax.text(7.8, gate + 0.22, "lets through or holds back", color=INK, fontsize=8, ha="right", va="center")
    ax.set(xlim=(-0.5, 10.2), ylim=(-0.5, 3.5))
    ax.axis("off")
    figure.alt = (f"The layer from left to right. A token x, {d} wide, goes into three matrices: q_proj makes a query "
                  f"and a gate for each of {Hq} heads, {D} wide, k_proj and v_proj keys and values of {Hkv} heads. "
                  "Queries and keys are normed, by q_norm and k_norm, and rotated by their place. Attention mixes "
                  "the values of all tokens so far, by how well their keys fit the query; its answer is multiplied "
                  f"by the sigmoid of the gate, and o_proj leads back to a width of {d}.")
    return figure


def turned(panels: dict) -> Figure:
    """Arrows of length one, turned: a small circle for each panel, under its title.

    Args:
        panels: title -> {name of the arrow: its angle in radians, counterclockwise from the right}.
    """
    figure, axes = new_figure(len(panels), (2.25 * len(panels), 2.95))
    for ax, (title, arrows) in zip(axes, panels.items()):
        ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor=RULE, linewidth=0.8))
        for (name, angle), colour in zip(arrows.items(), (WRITES, KEEPS, RECALLS)):
            x, y = np.cos(angle), np.sin(angle)
            ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2,
                                                        "shrinkA": 0, "shrinkB": 0})
            ax.text(1.18 * x, 1.18 * y, name, color=colour, ha="center", va="center")
        ax.set_title(title, fontsize=10, color=INK)
        ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
        ax.axis("off")
    figure.alt = "Arrows of length one in a circle, by degrees from the right, counterclockwise. " + " ".join(
        f"{spoken.heard(title)}: {', '.join(f'{name} at {np.degrees(at) % 360:.0f}' for name, at in arrows.items())}."
        for title, arrows in panels.items())
    return figure


def openness(gates: dict, tokens: list[str], title: str = "") -> Figure:
    """How open gates are, over the tokens: a row for each gate, 0 (closed, dark) to 1 (open, bright).

    Args:
        gates: name -> (T,) between 0 and 1.
    """
    rows = np.stack([as_numpy(gate) for gate in gates.values()])
    figure, (ax,) = new_figure(1, (max(5.0, min(11, 2.4 + 0.17 * len(tokens))), 1.3 + 0.21 * len(rows)))
    image = ax.imshow(rows, cmap="viridis", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    ax.set_yticks(range(len(rows)), list(gates), fontsize=8)
    ax.set_title(title, fontsize=10, color=INK)
    tokens_on(ax.xaxis, tokens)
    colour_bar(figure, image, [ax])
    figure.alt = (f"A table of {len(rows)} heads by {len(tokens)} tokens, {title}: from 0, closed, to 1, open. On "
                  f"average over the tokens, {spoken.bars(gates, rows.mean(axis=1))}. On average over the heads, "
                  f"{spoken.bars(told(tokens), rows.mean(axis=0))}.")
    return figure


def open_and_first(gates, on_first: dict, evenly: float) -> Figure:
    """How open gates are, as a histogram; and what share of its attention each head gives to the first token.

    Args:
        gates: (N,) between 0 and 1.
        on_first: the head's name -> its share.
        evenly: the share of a head that looks at all tokens alike: a dashed line.
    """
    figure, (left, right) = new_figure(2, (9, 2.9))
    left.hist(as_numpy(gates), bins=40, range=(0, 1), color=KEEPS)
    left.set(yticks=[], xlim=(0, 1))
    left.set_title("how open: every number of every gate", fontsize=10, color=INK)
    right.bar(range(len(on_first)), as_numpy(list(on_first.values())), width=0.8, color=RECALLS)
    right.axhline(evenly, color=WRITES, linewidth=1.2, linestyle="--", label="a head that looks at all tokens alike")
    right.legend(fontsize=8, frameon=False, loc="upper right", borderaxespad=0)
    shown = range(0, len(on_first), -(-len(on_first) // 16))
    right.set_xticks(shown, [list(on_first)[i] for i in shown], rotation=90)
    right.set(ylim=(0, 1.15), yticks=np.linspace(0, 1, 6))           # room above for the legend
    right.set_title("share of attention on the first token", fontsize=10, color=INK)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    fifths = np.histogram(as_numpy(gates), bins=5, range=(0, 1))[0] / len(gates)
    spread = spoken.bars(("0 to 0.2", "to 0.4", "to 0.6", "to 0.8", "to 1"), 100 * fifths)
    figure.alt = (f"Left, how the gates are spread, in percent of them: {spread}. Right, the share of each head's "
                  "attention that goes to the first token: "
                  f"{spoken.bars(on_first, as_numpy(list(on_first.values())))}. A dashed line at "
                  f"{spoken.numbers([evenly, 1])[0]} is a head that looks at all tokens alike.")
    return figure
