"""Figures of lesson 10, Multi-token prediction."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from ... import spoken
from ...plots import FAINT, INK, KEEPS, RECALLS, WRITES, as_numpy, new_figure


def drafting(words: list[str], drafts: list[str]) -> Figure:
    """How drafts come about: the model has read `words`; the head reads on by itself, from its own output.

    Args:
        words: tokens that the model has read, and the last of them, which it has written itself and not read yet.
        drafts: what the head guesses behind them.
    """
    columns, last = [*words, *drafts], len(words) - 1
    figure, (ax,) = new_figure(1, (9, 3.4))
    rows = {"token": 0, "model": 1.1, "head": 2.3, "guess": 3.4}

    def box(x, row, text, colour, there=True):
        ax.add_patch(Rectangle((x - 0.4, rows[row] - 0.28), 0.8, 0.56, edgecolor=colour, linewidth=1.5,
                               facecolor="none", linestyle="-" if there else "--"))
        ax.text(x, rows[row], text.replace("$", r"\$"), ha="center", va="center", fontsize=9, color=INK)

    def arrow(start, end, colour=FAINT):
        (x, row), (u, goal) = start, end
        up = 0.3 if rows[goal] > rows[row] else 0.0
        ax.add_patch(FancyArrowPatch((x + (0.42 if up == 0 else 0), rows[row] + up),
                                     (u - (0.42 if up == 0 else 0), rows[goal] - up),
                                     arrowstyle="-|>", mutation_scale=10, color=colour, linewidth=1.3))

    for x, word in enumerate(columns):
        box(x, "token", word, INK if x <= last else KEEPS, there=x <= last)
        if x < last:
            box(x, "model", "model", WRITES)
            arrow((x, "token"), (x, "model"))
        if 0 < x < len(columns) - 1:                     # the head at place x - 1 hears of the token at x
            box(x - 1, "head", "head", KEEPS)
            arrow((x, "token"), (x - 1, "head"), RECALLS)
        if x < last:
            arrow((x, "model"), (x, "head"), WRITES)
    for x in range(last - 1, len(columns) - 3):
        arrow((x, "head"), (x + 1, "head"), WRITES)
    for i, word in enumerate(drafts):
        box(last - 1 + i, "guess", word, KEEPS)
        arrow((last - 1 + i, "head"), (last - 1 + i, "guess"))
    names = {"token": "tokens", "model": "what the model\nmade of them", "head": "the head", "guess": "drafts"}
    for row, name in names.items():
        ax.text(-0.65, rows[row], name, ha="right", va="center", fontsize=9, color=INK)
    ax.set(xlim=(-2.1, len(columns) - 0.4), ylim=(-0.5, 3.9))
    ax.axis("off")
    read, drafted = (spoken.listed(f"“{word}”" for word in some) for some in (words, drafts))
    figure.alt = (
        f"Tokens in a row: {read}, of which the model has read all but the last. Above each that it has read stands "
        "what the model made of it, and above that the head, which reads this and the next token. From there on the "
        f"head goes on by itself, from its own output and the token that it has drafted: {drafted}.")
    return figure


def overlap(p, q, words: list[str]) -> Figure:
    """Two distributions over each other: where both are, drafts are taken; what only q has is refused, and what only p
    has comes instead.

    Args:
        p, q: (V,), of the model and of the head.
    """
    p, q = as_numpy(p), as_numpy(q)
    both, x = np.minimum(p, q), np.arange(len(words))
    figure, (ax,) = new_figure(1, (min(8.6, 2.6 + 0.9 * len(words)), 3.0))
    ax.bar(x, both, 0.6, color=KEEPS, label="drafted and taken: min(p, q)")
    ax.bar(x, q - both, 0.6, bottom=both, color="none", edgecolor=WRITES, linewidth=1.5, linestyle="--",
           label="drafted and refused: q above p")
    ax.bar(x, p - both, 0.6, bottom=both, color=RECALLS, label="comes instead: p above q")
    ax.set_xticks(x, [word.replace("$", r"\$") for word in words])
    ax.set(ylim=(0, 1.08 * max(p.max(), q.max())))
    ax.set_ylabel("probability", fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    parts = {"drafted and taken": both, "drafted and refused": q - both, "instead of others": p - both}
    figure.alt = "Bars of probability for each word. " + " ".join(f"{word}: " + spoken.listed(
        f"{part[i]:.0%} {what}" for what, part in parts.items() if part[i] > 0.005) + "."
        for i, word in enumerate(words))
    return figure
