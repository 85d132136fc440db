"""Figures of lesson 14, Reinforcement learning."""

import numpy as np
from matplotlib.figure import Figure

from ... import spoken
from ...plots import GRID, INK, KEEPS, PALETTE, WRITES, as_numpy, name_axes, new_figure


def courses(runs: dict[str, list], xlabel: str, ylabel: str, smooth: int = 1, share: bool = True) -> Figure:
    """How something went on in several runs: each as a thin line, and their mean as a thick one.

    Args:
        runs: name -> runs, each (x, y); those of one name have the same x. What is None is left out.
        smooth: over so many numbers the mean is taken, as far as there are as many before.
        share: is it a share, in percent?
    """
    figure, (ax,) = new_figure(1, (8.0, 3.3))
    told = []
    looks = ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))
    for (name, some), colour, look in zip(runs.items(), PALETTE, looks):
        lines = []
        for x, y in some:
            there = [(a, b) for a, b in zip(x, y) if b is not None]
            places, numbers = (np.array(part, dtype=float) for part in zip(*there))
            lines.append([numbers[max(0, i + 1 - smooth) : i + 1].mean() for i in range(len(numbers))])
            if len(some) > 1:
                ax.plot(places, lines[-1], linestyle=look, color=colour, linewidth=0.8, alpha=0.6)
        mean = np.mean(lines, axis=0)
        ax.plot(places, mean, linestyle=look, color=colour, linewidth=2, label=name)
        told.append(spoken.curves(places, {name: mean}))
    if share:
        ax.yaxis.set_major_formatter("{x:.0%}")
    name_axes(ax, xlabel, ylabel)
    several = f", a thin line for each of {len(some)} runs and a thick one for their mean" if len(some) > 1 else ""
    figure.alt = (f"Curves: {ylabel} over {xlabel} {places[0]:.0f} to {places[-1]:.0f}{several}. In round numbers, "
                  f"{'; '.join(told)}.")
    return figure


def before_after(digits: list[int], panels: dict, shares: bool = True) -> Figure:
    """What was so before learning and after it, over the length of sums: a dot for each run, a line for their mean.

    Args:
        panels: title -> (before, after), each (runs, lengths).
        shares: are they shares, in percent?
    """
    figure, axes = new_figure(len(panels), (3.0 * len(panels) + 0.6, 2.9), sharey=shares)
    for ax, (title, both) in zip(axes, panels.items()):
        looks = ((KEEPS, "o", "--", "before"), (WRITES, "s", "-", "after"))
        for numbers, (colour, marker, look, name) in zip(both, looks):
            numbers = as_numpy(numbers)
            for run in numbers:
                ax.plot(digits, run, marker, color=colour, markersize=4.5, alpha=0.7)
            ax.plot(digits, numbers.mean(0), look, color=colour, linewidth=1.8, label=name)
        ax.set_title(title, fontsize=10, color=INK)
        ax.set_xticks(digits)
        ax.set_xlabel("digits", fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        if shares:
            ax.set_ylim(-0.04, 1.04)
            ax.yaxis.set_major_formatter("{x:.0%}")
    axes[-1].legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    def told(before, after, length):
        a, b = (f"{x:.0%}" if shares else f"{x:.2g}" for x in (before, after))
        return f"{length}-digit sums {a}, then {b}"

    figure.alt = "Before learning, and after. " + " ".join(
        f"{title}: {spoken.listed(map(told, *(as_numpy(runs).mean(0) for runs in both), digits))}."
        for title, both in panels.items())
    return figure


def pulls(ratio, better: dict, worse: dict) -> Figure:
    """How hard each token is pulled, over how much likelier it is now than when it was drawn.

    Args:
        ratio: (N,), now over then.
        better, worse: name -> (N,) pulls, where the answer was better than the others, and where it was worse.
    """
    figure, axes = new_figure(2, (9.0, 3.3))
    for ax, lines, title in zip(axes, (better, worse), ("its answer was better", "its answer was worse")):
        for (name, y), colour, look in zip(lines.items(), PALETTE, ("-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)))):
            ax.plot(as_numpy(ratio), as_numpy(y), linestyle=look, color=colour, linewidth=1.8, label=name)
        ax.axvline(1, color=GRID, linewidth=1.2, zorder=0)
        ax.set_title(title, fontsize=10, color=INK)
        name_axes(ax, "how much likelier it is now", "pull" if ax is axes[0] else "")
    axes[0].get_legend().remove()
    x = as_numpy(ratio)

    def ends(y):
        """Where a pull ends: the ratios beyond which it is nothing."""
        there = np.flatnonzero(as_numpy(y))
        if not len(there):
            return ""
        first, last = there[0], there[-1]
        found = [f"below {x[first - 1 : first + 1].mean():.1f}"] if first > 0 else []
        found += [f"above {x[last : last + 2].mean():.1f}"] if last < len(x) - 1 else []
        return f", and is nothing {spoken.listed(found)}" if found else ""

    figure.alt = f"The pull of a token over its ratio, {x.min():.1f} to {x.max():.1f}. " + " ".join(
        f"Where {title}: {'; '.join(spoken.curves(x, {name: as_numpy(y)}) + ends(y) for name, y in lines.items())}."
        for lines, title in ((better, "its answer was better"), (worse, "it was worse")))
    return figure
