"""General figures, and what all figures share: colours, tokens along an axis, `show`.

    t = minqwen.trace(qwen).run("Ann has a red cup.")
    plots.show(plots.step(t.layers[0], t=5, head=2))

Every figure is a function that returns a matplotlib `Figure` and shows nothing. It also says what is to be seen: that
is the figure's `alt`, for those who hear it (its words are `spoken`'s). `show` lets it stand on the page's own ground,
light or dark: colours are of a middle brightness, and only maps, pictures and boxes bring a ground along.
Colours are safe for colour-blind eyes: blue to orange about zero, teal above.
Figures of a single lesson are in `minqwen.course.figures`, the explorers' in `minqwen.widgets.stills`.
"""

import csv
import io
from contextlib import suppress

import numpy as np
import torch
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter

from . import spoken
from .errors import QwenError
from .info import readable

__all__ = [
    "Live", "attention", "bars", "cache_bytes", "curves", "description", "dials", "diverging", "gates", "matrices",
    "png", "sequential", "shares", "show", "states", "step", "tokens_on", "training", "visible",
]

# Each is read at a contrast of 4 at least, on white and on black, so that one picture serves both.
KEEPS, WRITES, RECALLS, INK, FAINT = "#377cbe", "#c86000", "#9166b4", "#6f7680", "#7a7f87"
PALETTE = (KEEPS, WRITES, RECALLS, "#258482", "#947000", "#b9568a", INK, "#5f6fc6")
INKS = {None: INK, "light": "#2b313a", "dark": "#c9d0da"}  # of words, on a page that may be either, or is known
RULE, GRID = "#8a8f9899", "#8a8f9840"                    # lines: the axes', and those behind curves
ON_LIGHT, ON_DARK = "#171a1f", "#ffffff"                 # what is written on a figure's own grounds
LOGARITHMIC = {"": "", "x": " on a logarithmic axis", "y": ", its height logarithmic", "xy": ", both logarithmic"}
BLANKS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "⇤"}     # how they are shown


# ------------------------------------------------------------------------------------------------- colours and tokens


def diverging(dark: bool = False) -> np.ndarray:
    """(256, 3) uint8: from blue (1) through nothing (128 is zero exactly) to orange (255). Entry 0 is not used.

    On a light page nothing is nearly white, on a dark one nearly black: what is bright, or dark, is what is large.
    """
    blue_to_orange = (["#b9dcff", "#4597dc", "#1c4065", "#1b1e24", "#5f3a10", "#e08a2e", "#ffdca8"] if dark else
                      ["#0b3566", "#2f7cba", "#a6cde6", "#f3f3f1", "#f8c793", "#d8721b", "#6e2b00"])
    return _ramp(blue_to_orange, (np.arange(256) - 128) / 127 / 2 + 0.5)


def sequential(dark: bool = False) -> np.ndarray:
    """(256, 3) uint8: from nothing (0), nearly the page's own colour, through teal to the full colour (255)."""
    teal = (["#1b1e24", "#1b4250", "#1f6f7a", "#45a395", "#97d3a2", "#f1f7cb"] if dark else
            ["#f3f3f1", "#b4dad2", "#61b1b2", "#2b7d93", "#1d4b78", "#141c49"])
    return _ramp(teal, np.arange(256) / 255)


def _ramp(colours, where) -> np.ndarray:
    """(256, 3) uint8: the way through these colours, at places from 0 to 1."""
    anchors = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in colours], dtype=float)
    stops = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(where, stops, anchors[:, c]) for c in range(3)], axis=1).round().astype(np.uint8)


DIVERGING, DIVERGING_DARK = (ListedColormap(diverging(dark)[1:] / 255, name=f"blue to orange, {dark=}")
                             for dark in (False, True))
SEQUENTIAL, SEQUENTIAL_DARK = (ListedColormap(sequential(dark) / 255, name=f"grey to teal, {dark=}")
                               for dark in (False, True))


def ink_on(colour) -> str:
    """Which of `ON_LIGHT` and `ON_DARK` is read better on this (red, green, blue, alpha) from 0 to 1."""
    red, green, blue = (c ** 2.2 for c in colour[:3])         # light, not voltage
    return ON_LIGHT if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.2 else ON_DARK


def visible(token: str) -> str:
    """A token as it can be read: spaces and line ends shown, and what the plots' font lacks written as a code point."""
    def drawn(c):                        # DejaVu has Latin, Greek, Cyrillic and common signs, but not CJK or emoji
        return c.isprintable() and (c < "\u0530" or "\u2010" <= c < "\u2600")
    return "".join(BLANKS.get(c, c if drawn(c) else f"‹{ord(c):x}›") for c in token) or "∅"


def quoted(token: str) -> str:
    """A token as it is heard in a figure's `alt`."""
    return f"“{visible(token).strip('·') or visible(token)}”"


def told(tokens: list[str]) -> list[str]:
    """The same of many: one that comes more than once is told with its number, from 0."""
    return [f"{quoted(token)} ({i})" if tokens.count(token) > 1 else quoted(token) for i, token in enumerate(tokens)]


def tokens_on(axis, tokens: list[str], most: int = 48) -> None:
    """Write tokens along an axis (`ax.xaxis` or `ax.yaxis`); every n-th where there are more than `most`."""
    places = range(0, len(tokens), -(-len(tokens) // most))
    axis.set_ticks(list(places), [visible(tokens[i]).replace("$", r"\$") for i in places], family="monospace")
    axis.set_tick_params(labelsize=8 if len(places) <= 48 else 6, length=2,
                         **({"labelrotation": 90} if axis.axis_name == "x" else {}))


# ------------------------------------------------------------------------------------------------------------- figures


def states(pictures: dict, limit: float | None = None, height: float = 2.4) -> Figure:
    """Matrices side by side on one scale, each under its title.

    Args:
        pictures: title -> (Dk, Dv); a key dimension is a row, a value dimension a column.
        limit: the value that has the full colour; the largest there is if None.
    """
    matrices = {title: as_numpy(x) for title, x in pictures.items()}
    limit = limit or max(np.abs(x).max() for x in matrices.values()) or 1.0
    rows, columns = next(iter(matrices.values())).shape
    figure, axes = new_figure(len(matrices), (1.2 + len(matrices) * height * columns / rows, height + 0.75))
    for ax, (title, matrix) in zip(axes, matrices.items()):
        image = ax.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=10, color=INK)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel("value dimension", fontsize=8, color=INK)
    axes[0].set_ylabel("key dimension", fontsize=8, color=INK)
    colour_bar(figure, image, axes)
    largest = [np.abs(x).max() / limit for x in matrices.values()]
    figure.alt = (f"Matrices of {rows} key dimensions by {columns} value dimensions, side by side, all with the same "
                  f"colours: orange above zero, blue below. How strong the strongest colour of each is: "
                  f"{spoken.bars(matrices, largest)}.")
    return figure


def step(record, t: int, head: int, row: int = 0, token: str | None = None) -> Figure:
    """One step of a memory, as the sum it is: after = decayed - erased + written. `record` is a `DeltaRecord`."""
    names = {"memory after" + (f" “{visible(token)}”" if token is not None else ""): record.state,
             "=  decayed": record.decayed, "−  erased": record.erase, "+  written": record.write}
    return states({title: part(t, head, row) for title, part in names.items()})


def gates(record, tokens: list[str], head: int, row: int = 0) -> Figure:
    """Over the tokens: alpha, how much of the memory stays, and beta, how strongly the token writes."""
    figure, axes = new_figure((2, 1), (max(4.5, min(12, 1.2 + 0.17 * len(tokens))), 2.9), sharex=True)
    strips = {"α  keeps": (record.alpha, KEEPS), "β  writes": (record.beta, WRITES)}
    for ax, (name, (gate, colour)) in zip(axes, strips.items()):
        draw_strip(ax, name, as_numpy(gate[row, :, head]), colour, len(tokens))
    tokens_on(axes[1].xaxis, tokens)
    figure.alt = f"Two rows of bars over {len(tokens)} tokens. " + " ".join(
        f"{spoken.heard(name)}: {spoken.bars(told(tokens), as_numpy(gate[row, :, head]))}."
        for name, (gate, _) in strips.items())
    return figure


def attention(weights, tokens: list[str], looked_at: list[str] | None = None, title: str = "",
              limit: float | None = None) -> Figure:
    """A token-to-token map: each row is a token that looks, each column a token that is looked at.

    Softmax weights go from 0 to 1; a map with negative entries, such as an effective attention, is drawn about zero.

    Args:
        weights: (T, S)
        looked_at: the S tokens of the columns, where there are more than rows (a conversation that was going on).
    """
    weights, looked_at = as_numpy(weights), looked_at or tokens
    signed = weights.min() < 0
    limit = limit or (np.abs(weights).max() or 1.0 if signed else 1.0)
    side = max(3.2, min(6.8, 0.16 * len(looked_at)))            # one that is wider would be shown smaller
    figure, (ax,) = new_figure(1, (side + 1.9, side * len(tokens) / len(looked_at) + 1.1))
    seen = np.tri(*weights.shape, len(looked_at) - len(tokens), dtype=bool)    # the rest is empty, and not drawn as 0
    weights = np.ma.array(weights, mask=~seen)
    image = ax.imshow(weights, cmap=DIVERGING if signed else SEQUENTIAL, vmin=-limit if signed else 0, vmax=limit,
                      interpolation="nearest")
    ax.set_title(title, fontsize=10, color=INK)
    tokens_on(ax.xaxis, looked_at)
    tokens_on(ax.yaxis, tokens)
    ax.set_xlabel("looked at", fontsize=8, color=INK)
    ax.set_ylabel("token", fontsize=8, color=INK)
    colour_bar(figure, image, [ax])
    mean = np.abs(weights).mean(axis=0).filled(0)               # of the tokens that see it
    signs = " Orange is a positive weight, blue a negative one." if signed else ""
    figure.alt = (f"A map of {spoken.heard(title) or 'attention'}. {len(tokens)} tokens, the rows, look at those up to "
                  f"themselves, the columns.{signs} The weight of a column, on average: "
                  f"{spoken.bars(told(looked_at), mean)}.")
    return figure


def bars(panels: dict, wanted=None) -> Figure:
    """Small bar charts side by side, each under its title.

    Args:
        panels: title -> {name of the bar: its height}.
        wanted: the names that were asked for: their bars are blue, all others orange. None: all are blue.
    """
    widths = [max(3, len(heights)) for heights in panels.values()]
    figure = Figure(figsize=(0.42 * sum(widths) + 0.7 * len(widths), 2.7), layout="constrained")
    axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False).flat
    for ax, (title, heights) in zip(axes, panels.items()):
        names, heights = list(heights), as_numpy(list(heights.values()))
        ax.bar(range(len(names)), heights, width=0.7,
               color=[KEEPS if wanted is None or name in wanted else WRITES for name in names])
        ax.axhline(0, color=FAINT, linewidth=0.8)
        ax.set(ylim=(min(0, 1.15 * heights.min()), max(1.15, 1.15 * heights.max())))
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_title(title, fontsize=10, color=INK)
        plain_axes(ax)
        ax.spines[["top", "right"]].set_visible(False)
    figure.alt = "Bars. " + " ".join(f"{spoken.heard(title)}: {spoken.bars(heights, as_numpy(list(heights.values())))}."
                                     for title, heights in panels.items())
    names = dict.fromkeys(name for heights in panels.values() for name in heights)
    if blue := [name for name in names if name in (wanted or ())]:
        figure.alt += f" Blue, as asked for: {spoken.listed(map(spoken.heard, blue))}."
    return figure


def training(path) -> Figure:
    """The curves of a training log: a CSV with a header, its first column the step; empty cells are skipped.

    Columns with "loss" in their names share the upper axes. Those with numbers between 0 and 1 only are accuracies,
    below; the learning rate, `lr`, is neither.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps, *names = rows[0]
    curves = {}
    for name in names:
        with suppress(ValueError):                      # a column of words, such as the phase, has no curve
            curves[name] = [(float(row[steps]), float(row[name])) for row in rows if row[name]]
    losses = [name for name in curves if "loss" in name]
    accuracies = [name for name, points in curves.items() if name not in (*losses, "lr") and points
                  and all(0 <= y <= 1 for _, y in points)]
    groups = {"loss": losses, "accuracy": accuracies}
    groups = {name: group for name, group in groups.items() if group}
    figure, axes = new_figure((len(groups), 1), (7.5, 2.3 * len(groups) + 0.6), sharex=True)
    for ax, (label, group) in zip(axes, groups.items()):
        for i, name in enumerate(group):
            ax.plot(*zip(*curves[name]), label=name.replace("_", " "), color=PALETTE[i % 8], linewidth=1.4,
                    linestyle=("-", "--", ":")[i // 8 % 3])
        ax.set_ylabel(label, fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        if len(group) > 1:
            ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        if label == "accuracy":
            ax.set_ylim(-0.02, 1.02)
        elif min(y for name in group for _, y in curves[name]) > 0:
            ax.set_yscale("log")
            ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.yaxis.set_major_formatter("{x:g}")
            ax.yaxis.set_minor_formatter(NullFormatter())
    axes[-1].set_xlabel(steps, fontsize=9, color=INK)
    figure.alt = f"A training's curves over {steps}. " + " ".join(
        f"{label.capitalize()}: " + "; ".join(
            spoken.curves(x, {name.replace("_", " "): y}) for name in group for x, y in [zip(*curves[name])]) + "."
        for label, group in groups.items())
    return figure


def dials(angles: dict, listens=None) -> Figure:
    """Rows of dials, one dial for each pair of numbers that is turned; the hand shows its angle.

    Args:
        angles: title -> (pairs,) radians, counterclockwise from the right.
        listens: (pairs,) 0, 1 or 2, whether a pair listens to time, height or width; it colours the hands.
    """
    turns = as_numpy(torch.stack([torch.as_tensor(row) % (2 * torch.pi) for row in angles.values()]))
    rows, pairs = turns.shape
    names, colours = "thw", (KEEPS, WRITES, RECALLS)
    figure, (ax,) = new_figure(1, (1.6 + 9.4 * max(pairs, 16) / 32, 0.5 + 0.36 * rows))
    for y, row in enumerate(turns):
        for i, angle in enumerate(row):
            colour = KEEPS if listens is None else colours[listens[i]]
            ax.add_patch(Circle((i, -1.2 * y), 0.42, facecolor="none", edgecolor=RULE, linewidth=0.8))
            ax.plot([i, i + 0.42 * np.cos(angle)], [-1.2 * y, -1.2 * y + 0.42 * np.sin(angle)], color=colour,
                    linewidth=1.8, solid_capstyle="round")
    ax.set_yticks(-1.2 * np.arange(rows), list(angles), fontsize=9)
    ax.set_xticks(range(pairs), [f"{i}" if listens is None else f"{i}\n{names[listens[i]]}" for i in range(pairs)])
    ax.set(xlim=(-0.7, pairs - 0.3), ylim=(-1.2 * rows + 0.5, 0.7), aspect="equal")
    ax.set_xlabel("pair" if listens is None else "pair, and what it listens to: t time, h height, w width", fontsize=8,
                  color=INK)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    figure.alt = f"Dials like clocks, {pairs} in a row, one for each pair.{_turned(list(angles), turns, listens)}"
    return figure


def _turned(titles, turns, listens) -> str:
    """How many hands of each row of dials point elsewhere than those of the first row; nothing of a single row."""
    away = np.abs(np.angle(np.exp(1j * (turns - turns[0])))) > 0.1513       # radians: it can be seen
    kinds = {"hands": np.full(turns.shape[1], True)} if listens is None else {
        f"hands of {name}": as_numpy(listens) == i for i, name in enumerate(("time", "height", "width"))}

    def moved(those):
        return "the first " * bool(those.sum() > 1 and those[: those.sum()].all()) + str(those.sum())

    rows = [f"{title}, {spoken.listed(f'{moved(row[those])} of {those.sum()} {name}' for name, those in kinds.items())}"
            for title, row in zip(titles[1:], away[1:])]
    return f" Pointing elsewhere than in the first row, {titles[0]}: {'; '.join(rows)}." if rows else ""


def curves(x, lines: dict, xlabel: str, ylabel: str, log: str = "") -> Figure:
    """Curves over one axis, each with its name at its right end.

    Args:
        lines: name -> as many numbers as x has.
        log: the axes that are logarithmic: "", "x", "y" or "xy".
    """
    figure, (ax,) = new_figure(1, (7.5, 3.2))
    looks = zip(PALETTE, ("o-", "s--", "^:", "d-.", "v-", "x--"))
    for (name, y), (colour, look) in zip(lines.items(), looks):
        few = len(x) <= 16                                # markers on more points would be a band
        ax.plot(as_numpy(x), as_numpy(y), look if few else look[1:], color=colour, linewidth=1.8, markersize=4,
                label=name)
    whole = all(float(number).is_integer() for number in x)
    ax.xaxis.get_major_locator().set_params(integer=whole)     # there is no half a draft
    for name in log:
        getattr(ax, f"set_{name}scale")("log")
        axis = getattr(ax, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    name_axes(ax, xlabel, ylabel)
    span = f", from {spoken.place(float(x[0]))} to {spoken.place(float(x[-1]))}" if len(x) else ""
    lines = {name: as_numpy(y) for name, y in lines.items()}
    figure.alt = (f"Curves: {spoken.heard(ylabel)}, over {spoken.heard(xlabel)}{span}{LOGARITHMIC[log]}. In "
                  f"round numbers, {spoken.curves(as_numpy(x), lines, 'y' in log)}.")
    return figure


def cache_bytes(tokens, sizes: dict) -> Figure:
    """What a cache keeps as a text grows: bytes of keys and values (lines that rise), and of all that does not grow.

    Args:
        tokens: (N,) lengths of the text.
        sizes: a model's name -> N `info.Memory`s, one for each length.
    """
    figure, (ax,) = new_figure(1, (8.2, 3.8))
    for (name, kept), colour in zip(sizes.items(), PALETTE):
        ax.plot(tokens, [m.keys_and_values for m in kept], color=colour, linewidth=1.8, label=name)
        ax.plot(tokens, [m.states + m.convolutions for m in kept], ":", color=colour, linewidth=1.8)
    ax.plot([], [], color=INK, linewidth=1.8, label="keys and values")
    ax.plot([], [], ":", color=INK, linewidth=1.8, label="states, last inputs")
    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_formatter(lambda size, _: readable(size))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    name_axes(ax, "tokens", "kept in the cache")
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    figure.alt = f"Bytes in the cache, from {tokens[0]:,} to {tokens[-1]:,} tokens, both logarithmic. " + " ".join(
        f"{spoken.heard(name)}: keys and values are straight lines, from {readable(first.keys_and_values)} to "
        f"{readable(last.keys_and_values)}; states and last inputs are flat, at "
        f"{readable(last.states + last.convolutions)}."
        for name, kept in sizes.items() for first, last in [(kept[0], kept[-1])])
    return figure


def matrices(pictures: dict, labels: list[str], limit: float | None = None, numbers: bool = False) -> Figure:
    """Square matrices of tokens by tokens side by side on one scale, each under its title.

    Args:
        pictures: title -> (C, C); a token is a row, and a column.
        labels: the C tokens.
        limit: the value that has the full colour; the largest there is if None.
        numbers: write each entry that is not zero into its cell.
    """
    pictures = {title: as_numpy(x) for title, x in pictures.items()}
    limit = limit or max(np.abs(x).max() for x in pictures.values()) or 1.0
    side = 2.9 if len(labels) < 20 else 4.2
    figure, axes = new_figure(len(pictures), (side * len(pictures) + 0.9, side + 0.8))
    for ax, (title, matrix) in zip(axes, pictures.items()):
        image = ax.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=10, color=INK)
        tokens_on(ax.xaxis, labels)
        tokens_on(ax.yaxis, labels)
        for i, j in zip(*np.nonzero(matrix)) if numbers else ():
            ax.text(j, i, f"{matrix[i, j]:.2g}".replace("-", "−"), ha="center", va="center", fontsize=9,
                    color=ink_on(image.to_rgba(matrix[i, j])))
    colour_bar(figure, image, axes)
    figure.alt = f"Tables of {len(labels)} by {len(labels)} tokens: orange is above zero, blue below. " + " ".join(
        f"{spoken.heard(title)}: {_off_the_diagonal(matrix, labels)}." for title, matrix in pictures.items())
    return figure


def _off_the_diagonal(matrix, labels) -> str:
    """Which entries of a square are not zero, by the labels of row and column; of a symmetric one, those below."""
    below = np.tri(*matrix.shape, -1, dtype=bool)
    off = below if np.allclose(matrix, matrix.T, atol=1e-5) else below | below.T
    there = off & ~(np.abs(matrix) <= spoken.NOTHING)   # one that is no number is there, too
    names = [visible(label) for label in labels]
    if len(set(names)) < len(names):
        names = [f"{i} {name}" for i, name in enumerate(names)]
    places = np.argwhere(there)
    entries = spoken.bars([f"{names[i]} by {names[j]}" for i, j in places], matrix[there])
    return f"off the diagonal, by row and column, {entries}" if len(places) else "nothing off the diagonal"


def shares(parts: dict[str, dict[str, int]]) -> Figure:
    """Which share of a whole each part has, one bar of length 1 for each whole. parts: whole -> {part: number}."""
    colours = (INK, KEEPS, WRITES, PALETTE[3], RECALLS)
    figure, (ax,) = new_figure(1, (8.5, 0.42 * len(parts) + 1.2))
    for y, numbers in enumerate(parts.values()):
        start, total = 0.0, sum(numbers.values())
        for (part, number), colour in zip(numbers.items(), colours):
            share = number / total
            seen = any(other[part] > 0.005 * sum(other.values()) for other in parts.values())
            ax.barh(-y, share, left=start, height=0.74, color=colour, label=part if y == 0 and seen else None)
            if share > 0.055:
                ax.text(start + share / 2, -y, f"{share:.0%}", ha="center", va="center", color=ON_DARK, fontsize=8)
            start += share
        ax.text(1.01, -y, _rounded(total), fontsize=8.5, color=INK, va="center")
    ax.set_yticks([-y for y in range(len(parts))], list(parts))
    ax.set(xlim=(0, 1), xticks=[])
    ax.spines[:].set_visible(False)
    ax.legend(fontsize=8, frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    figure.alt = "Bars of one length, cut into shares. " + " ".join(
        f"{whole}, of {_rounded(sum(numbers.values()))}: "
        + spoken.listed(f"{part} {number / sum(numbers.values()):.0%}" for part, number in numbers.items()) + "."
        for whole, numbers in parts.items())
    return figure


def description(figure: Figure, alt: str | None = None) -> str:
    """What is said of a figure to those who do not see it: `alt`, or what the figure says of itself, its `alt`.

    Raises:
        QwenError: there is neither.
    """
    if alt := alt or getattr(figure, "alt", None):
        return alt
    raise QwenError('This figure has no description: say what is to be seen, as by figure.alt = "A line that falls."')


def show(figure: Figure, alt: str | None = None, dpi: int = 100) -> None:
    """Show a figure in a notebook as exactly one PNG that carries its description, and close it.

    Args:
        alt: what is to be seen, for those who do not see it; None: what the figure says of itself (`description`). It
            is the output's text as well.
    """
    from IPython.display import display

    data, metadata = _described(figure, alt, dpi)
    display(data, raw=True, metadata=metadata)


class Live:
    """A figure that goes on changing in its place: each `show` draws over the one before."""

    def __init__(self, alt: str | None = None):
        """alt: what is to be seen, as for `show`."""
        self.alt, self.place = alt, None

    def show(self, figure: Figure, dpi: int = 100) -> None:
        from IPython.display import display

        data, metadata = _described(figure, self.alt, dpi)
        if self.place is None:
            self.place = display(data, raw=True, metadata=metadata, display_id=True)
        else:
            self.place.update(data, raw=True, metadata=metadata)


def _described(figure: Figure, alt: str | None, dpi: int) -> tuple[dict, dict]:
    """A figure as exactly one PNG, and its description: data and metadata of an output."""
    from matplotlib import pyplot

    alt = description(figure, alt)
    image = png(figure, dpi)
    pyplot.close(figure)                 # else a notebook would show it a second time
    return {"image/png": image, "text/plain": alt}, {"image/png": {"alt": alt}}


def png(figure: Figure, dpi: int = 100, page: str | None = None) -> bytes:
    """A figure as the bytes of a PNG.

    Args:
        page: "light" or "dark", if it is known where the figure will stand; None: it suits both.
    """
    on_page(figure, page)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi, metadata={"Software": None})
    return image.getvalue()


def on_page(figure: Figure, page: str | None = None) -> None:
    """Take a figure's ground away, and what is black, for nobody chose that; give words and maps the page's colours."""
    for patch in (figure.patch, *(part.patch for part in (*figure.subfigs, *figure.axes))):
        patch.set_visible(False)
    for ax in figure.axes:
        ax.tick_params(which="both", colors=INKS[page])
        for spine in ax.spines.values():
            if to_hex(spine.get_edgecolor()) == "#000000":
                spine.set_edgecolor(RULE)
        for image in ax.images:
            _suit(image, dark=page == "dark")
    for words in figure.findobj(Text):
        if to_hex(words.get_color()) in ("#000000", *INKS.values()):
            words.set_color(INKS[page])


def _suit(image, dark: bool) -> None:
    """Give a map the colours for a dark or a light page, and what is written on it those that are read there."""
    for pair in ((DIVERGING, DIVERGING_DARK), (SEQUENTIAL, SEQUENTIAL_DARK)):
        if image.get_cmap() is pair[not dark] and image.get_alpha() is None:      # not what lies over a picture
            image.set_cmap(pair[dark])
            for words in image.axes.texts:
                words.set_color(ON_DARK if words.get_color() == ON_LIGHT else ON_LIGHT)


# ---------------------------------------------------------------------------------------------------- what they share


def new_figure(panels, size, **options):
    """A figure, and its axes as a flat list. Not pyplot's: nothing keeps it alive."""
    figure = Figure(figsize=size, layout="constrained")
    rows, columns = panels if isinstance(panels, tuple) else (1, panels)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for ax in axes:
        plain_axes(ax)
    return figure, axes


def plain_axes(ax):
    ax.tick_params(colors=INK, labelsize=8)
    for spine in ax.spines.values():
        spine.set(color=RULE, linewidth=0.8)


def draw_patches(ax, picture, patch, merge):
    """A picture with its two grids and its tokens' numbers; of many tokens, those at the begin of each row."""
    height, width = picture.shape[:2]
    ax.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    for step, strength in ((patch, 0.5), (patch * merge, 1.6)):
        for lines, length in ((ax.hlines, width), (ax.vlines, height)):
            places = np.arange(step, height if lines == ax.hlines else width, step)
            lines(places, 0, length, color=ON_DARK, linewidth=strength + 0.6, alpha=0.5)
            lines(places, 0, length, color=ON_LIGHT, linewidth=strength, alpha=0.7)
    side, columns = patch * merge, width // (patch * merge)
    for i in range(0, height // side * columns, 1 if columns <= 12 else columns):
        ax.text(i % columns * side + side / 16, i // columns * side + side / 16, str(i), fontsize=7, color=ON_DARK,
                va="top", bbox={"facecolor": ON_LIGHT, "alpha": 0.65, "linewidth": 0, "pad": 1.2})
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


def draw_over(ax, picture, weights, limit):
    """Weights in colours over a picture in pale grey."""
    height, width = picture.shape[:2]
    grey = picture @ np.array([77, 150, 29]) / 256
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=(0, width, height, 0))
    image = ax.imshow(weights, cmap=DIVERGING, vmin=-limit, vmax=limit, alpha=0.7, interpolation="nearest",
                      extent=(0, width, height, 0))
    ax.set(xticks=[], yticks=[])
    return image


def bar_from_zero(image, weights):
    """Where nothing is negative the bar begins at zero."""
    if min(np.min(x) for x in weights) >= 0:
        image.colorbar.ax.set_ylim(0, None)


def draw_strip(ax, name, heights, colour, length):
    """Bars between 0 and 1 over the tokens; they hang where they are negative."""
    if len(heights) <= 400:
        ax.bar(range(len(heights)), heights, width=0.8, color=colour)
    else:                                               # bars that nobody can tell apart, as one shape: drawn at once
        ax.stairs(heights, np.arange(len(heights) + 1) - 0.5, fill=True, color=colour)
    low = min(0.0, np.floor(10 * heights.min()) / 10)
    ax.set(ylim=(low, 1.02), yticks=[0, 1], xlim=(-0.6, length - 0.4))
    ax.set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")
    ax.spines[["top", "right"]].set_visible(False)


def colour_bar(figure, image, axes):
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)


def _rounded(number: float) -> str:
    """1234567 -> "1.23 million"."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return str(int(number))


def name_axes(ax, xlabel: str, ylabel: str) -> None:
    """The look of a diagram of curves: names at its axes, quiet lines across, and the legend at its right."""
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color=GRID, linewidth=0.8)
    ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def as_numpy(x) -> np.ndarray:
    return torch.as_tensor(x).detach().float().cpu().numpy()
