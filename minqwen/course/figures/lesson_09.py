"""Figures of lesson 09, Long context."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ... import spoken
from ...info import in_thousands
from ...plots import FAINT, GRID, INK, KEEPS, PALETTE, RULE, WRITES, as_numpy, new_figure

KINDS = {"linear_attention": ("Gated DeltaNet", KEEPS, "o"), "full_attention": ("attention", WRITES, "s")}


def costs(recorded: dict, live: dict) -> Figure:
    """What a layer of each kind takes as a text grows, both axes logarithmic: lines were recorded, rings are of now.

    Args:
        recorded, live: from `minqwen.long_context.work`.
    """
    figure, axes = new_figure(2, (8.8, 3.4))
    titles = {"prefill": "a token of the prompt", "decode": "a token of the answer"}
    for ax, (phase, title) in zip(axes, titles.items()):
        for kind, (name, colour, marker) in KINDS.items():
            ax.plot(recorded["contexts"], recorded[phase][kind], marker + "-", color=colour, linewidth=1.8,
                    markersize=4, label=name)
            ax.plot(live["contexts"], live[phase][kind], marker, color=colour, markersize=9, markerfacecolor="none")
        ax.set(xscale="log", yscale="log")
        ax.xaxis.set_major_locator(LogLocator(base=2, numticks=20))
        ax.xaxis.set_major_formatter(lambda tokens, _: f"{tokens / 1024:.0f}k")
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda seconds, _: in_thousands(1e9 * seconds, ("ns", "µs", "ms", "s")))
        ax.yaxis.set_minor_formatter(NullFormatter())
        ax.set_title(title, fontsize=10, color=INK)
        ax.set_xlabel("tokens before it", fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(color=GRID, linewidth=0.8)
    axes[0].set_ylabel("one layer", fontsize=9, color=INK)
    axes[0].plot([], [], "o", color=FAINT, markersize=9, markerfacecolor="none", label="on this machine, now")
    axes[0].legend(fontsize=8, frameon=False, loc="upper left")
    def told(phase, kind):
        first, *_, last = (in_thousands(1e9 * seconds, ("ns", "µs", "ms", "s")) for seconds in recorded[phase][kind])
        return f"{KINDS[kind][0]} from {first} to {last}"

    first, *_, last = (f"{tokens // 1024}k" for tokens in recorded["contexts"])
    figure.alt = f"What one layer takes after {first} to {last} tokens, as it was recorded. " + " ".join(
        f"For {title}: {spoken.listed(told(phase, kind) for kind in KINDS)}." for phase, title in titles.items()) + (
        " Rings: the same on this machine, now.")
    return figure


def recall(panels: dict, what: str = "recalled") -> Figure:
    """The share of facts that is still known: panels side by side, a line for each kind of text.

    Args:
        panels: title -> (label of the axis below, names of the places along it, {name of a line: its shares}); a share
            is from 0 to 1, or nan where nothing was asked.
        what: these are shares of.
    """
    figure, axes = new_figure(len(panels), (4.4 * len(panels), 3.1), sharey=True)
    for ax, (title, (label, places, lines)) in zip(axes, panels.items()):
        for (name, shares), colour, look in zip(lines.items(), PALETTE, ("o-", "s--", "^:", "d-.", "v-")):
            ax.plot(range(len(places)), as_numpy(shares), look, color=colour, linewidth=1.8, markersize=5, label=name)
        ax.set_xticks(range(len(places)), places)
        ax.set(xlim=(-0.3, len(places) - 0.7), ylim=(-0.04, 1.04))
        ax.set_title(title, fontsize=10, color=INK)
        ax.set_xlabel(label, fontsize=9, color=INK)
        ax.yaxis.set_major_formatter("{x:.0%}")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        if len(lines) > 1:
            ax.legend(fontsize=8, frameon=False, loc="lower left")
    axes[0].set_ylabel(what, fontsize=9, color=INK)
    figure.alt = " ".join(
        f"{title}, the share that is {what} over {label}, {places[0]} up to {places[-1]}: "
        f"{spoken.curves(places, lines)}." for title, (label, places, lines) in panels.items())
    return figure


def worn(measured: dict, theory: dict) -> Figure:
    """What is left of a value that was written, over the writes that came since.

    Args:
        measured: name -> {writes since: what is left}, from 0 to 1: dots.
        theory: the same for some of these names: a line in the same colour.
    """
    figure, (ax,) = new_figure(1, (7.8, 3.2))
    for (name, left), colour, marker in zip(measured.items(), PALETTE, "os^d"):
        ax.plot(list(left), list(left.values()), marker, color=colour, markersize=4, label=name)
        if name in theory:
            ax.plot(list(theory[name]), list(theory[name].values()), color=colour, linewidth=1.2)
    ax.plot([], [], color=FAINT, linewidth=1.2, label="lines: theory")
    ax.set_ylim(-0.08, 1.04)
    ax.set_xlabel("writes since", fontsize=9, color=INK)
    ax.set_ylabel("what is left of a value", fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    lines, dots = ("; ".join(spoken.curves(list(left), {name: list(left.values())}) for name, left in some.items())
                   for some in (theory, {name: left for name, left in measured.items() if name not in theory}))
    off = max(abs(x - measured[name][n]) for name, left in theory.items() for n, x in left.items())
    figure.alt = (f"What is left of a value over the writes since. Lines of theory: {lines}. The dots that belong to "
                  f"them are off by {spoken.numbers([off])[0]} at most. Other dots: {dots}.")
    return figure


def heads_of_layers(rows: dict, label: str, log: bool = False, marks: dict | None = None) -> Figure:
    """A number of each head: a row for each layer, a dot for each head.

    Args:
        rows: name of the row -> {name of the series: (Hv,) numbers}.
        marks: words -> the number at which a line stands.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure, (ax,) = new_figure(1, (8.4, 0.34 * len(rows) + 1.3))
    for i, (name, marker, colour) in enumerate(zip(series, "os^d", PALETTE)):
        for y, row in enumerate(rows.values()):
            numbers = as_numpy(row.get(name, []))
            lift = (i - (len(series) - 1) / 2) * 0.24
            ax.plot(numbers, np.full(len(numbers), y + lift), marker, color=colour, markersize=6, alpha=0.85,
                    label=name if y == 0 and len(series) > 1 else None)
    for words, x in (marks or {}).items():
        ax.axvline(x, color=RULE, linewidth=1.4)
        ax.text(x, -0.75, f"{words} ", fontsize=8, color=INK, ha="right", va="center")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(ylim=(len(rows) - 0.5, -1.1 if marks else -0.5))
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlabel(label, fontsize=9, color=INK)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    if len(series) > 1:
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    every = [np.concatenate([as_numpy(numbers) for numbers in row.values()]) for row in rows.values()]
    told = spoken.numbers([end for numbers in every for end in (numbers.min(), numbers.max())], rough=log)
    figure.alt = f"A dot for each head, {label}: " + "; ".join(
        f"{name}, {low} to {high}" if low != high else f"{name}, all at {low}"
        for name, low, high in zip(rows, told[::2], told[1::2])) + "." + "".join(
        f" A line at {x:,.0f}: {words}." for words, x in (marks or {}).items())
    return figure
