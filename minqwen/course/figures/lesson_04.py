"""Figures of lesson 04, The chunked delta rule."""

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from ... import spoken
from ...plots import FAINT, INK, KEEPS, RECALLS, RULE, WRITES, as_numpy, name_axes, new_figure


def chunks(tokens: int, chunk_size: int) -> Figure:
    """Which pairs of tokens meet inside a chunk, and which only through the state that is handed on.

    Each row is a token that reads, each column one that has written. `tokens` is a multiple of `chunk_size`.
    """
    figure, (ax,) = new_figure(1, (7.6, 4.1))
    row, column = np.mgrid[:tokens, :tokens]
    inside, before = row // chunk_size == column // chunk_size, column // chunk_size < row // chunk_size
    picture = np.where(inside & (column <= row), 2, np.where(before, 1, 0))
    ax.imshow(picture, cmap=ListedColormap(["none", "#fbe3cc", KEEPS]), vmin=0, vmax=2, interpolation="nearest")
    edges = np.arange(0.5, tokens - 1)
    for lines in (ax.hlines, ax.vlines):
        lines(edges, -0.5, tokens - 0.5, color=RULE, linewidth=0.8)
    arrow = {"arrowstyle": "-|>", "color": WRITES, "linewidth": 1.8, "connectionstyle": "arc3,rad=-0.45"}
    for end in range(chunk_size, tokens, chunk_size):        # from above a chunk's last token to the first of the next
        ax.annotate("", (end + 0.3, end - 0.7), (end - 1.3, end - chunk_size - 0.1), arrowprops=arrow)
        ax.text(end + 0.75, end - chunk_size / 2 - 0.9, "$S$", color=WRITES, fontsize=12, va="center")
    for colour, words in ((KEEPS, "inside a chunk: matrix products,\nall chunks at the same time"),
                          ("#fbe3cc", "across chunks: only through\nthe state $S$, handed on")):
        ax.scatter([], [], marker="s", s=90, color=colour, label=words)
    ax.set_xlabel("token that has written", fontsize=9, color=INK)
    ax.set_ylabel("token that reads", fontsize=9, color=INK)
    ax.set(xticks=range(tokens), yticks=range(tokens))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=1.4)
    figure.alt = (f"A triangle of {tokens} tokens that read by {tokens} that have written. {tokens // chunk_size} "
                  f"small triangles along the diagonal, of {chunk_size} tokens, are the chunks: matrix products, all "
                  "at the same time. All below is reached only through the state S, which arrows hand on.")
    return figure


def errors(x, lines: dict, xlabel: str, ylabel: str, log: bool = False, points: bool = False) -> Figure:
    """Errors over many powers of ten. A grey line is at 1, where the error is as large as the result.

    Args:
        lines: name -> as many numbers as x has. One that is not finite is a cross at the top.
        log: whether x is logarithmic, too.
        points: no lines between them.
    """
    figure, (ax,) = new_figure(1, (7.8, 3.4))
    finite = np.concatenate([as_numpy(y)[np.isfinite(as_numpy(y))] for y in lines.values()])
    low, high = np.floor(np.log10(max(finite.min(), 1e-12))), np.ceil(np.log10(max(finite.max(), 1)))
    for (name, y), colour, look in zip(lines.items(), (WRITES, KEEPS, RECALLS), ("o-", "s--", "^:")):
        x_, y_ = as_numpy(x), as_numpy(y)
        there = np.isfinite(y_)
        few = points or len(x_) <= 16
        ax.plot(x_[there], y_[there], look[: 1 if points else 2] if few else look[1:], color=colour, linewidth=1.8,
                markersize=4, label=name)
        if not there.all():
            top = np.full((~there).sum(), 10 ** (high + 0.5))
            ax.plot(x_[~there], top, "x", color=colour, markersize=5, label=f"{name}: not a number")
    ax.set_yscale("log")
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set_ylim(10 ** (low - 0.3), 10 ** (high + 1))
    ax.axhline(1, color=FAINT, linewidth=1)
    ax.yaxis.set_minor_formatter(NullFormatter())
    name_axes(ax, xlabel, ylabel)
    order = np.argsort(as_numpy(x), kind="stable")
    x = as_numpy(x)[order]
    told = "; ".join(f"{name} {_largest(x, as_numpy(y)[order])}" for name, y in lines.items())
    figure.alt = (f"{ylabel[:1].upper()}{ylabel[1:]}, over: {xlabel}, from {spoken.place(x[0])} to "
                  f"{spoken.place(x[-1])}. A line is at 1, where it is as large as the result. In powers of ten, "
                  f"{told}.")
    return figure


def _largest(x, errors) -> str:
    """How large errors get, as a power of ten, for their digits are the machine's own; and where they end."""
    broken = ~np.isfinite(errors)
    if broken.all():
        return "is not a number anywhere"
    first, *_ = finite = errors[~broken]
    largest = finite.max()
    most = f"as large as {10.0 ** np.round(np.log10(max(largest, 3e-4))):g}" if largest < 10 else "far above 1"
    told = "stays next to 0" if largest < 3e-4 else "begins next to 0 and " * bool(first < 3e-4) + f"gets {most}"
    if not broken.any():
        return told
    begin = broken.argmax()
    where = f"from {spoken.place(x[begin])} on" if broken[begin:].all() else (
        f"at {spoken.listed(spoken.place(at) for at in x[broken])}")
    return f"{told}, and is not a number {where}"
