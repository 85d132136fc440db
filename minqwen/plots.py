"""Pictures of what a trace holds, for lessons and for pages that cannot run an explorer.

    t = minqwen.trace(qwen).run("ann has a red cup.")
    plots.show(plots.step(t.layers[0], t=5, head=2), alt="The memory after the sixth token, and how it came about.")

Every function but `show` and `pieces` returns a matplotlib `Figure` and shows nothing. Figures bring their own light
background, so they read well on dark pages too. Colours are safe for colour-blind eyes: blue to orange about zero,
viridis above.
"""

import csv
import html
import io
import textwrap
import unicodedata

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from .info import readable

__all__ = [
    "attention", "bars", "before_after", "beside_theory", "boxes", "cache_bytes", "choices", "chunks", "clip",
    "curves", "dialogue", "dials", "diverging", "errors", "gated_attention", "gates", "grouped", "heads", "lens",
    "lengths", "looking", "maps", "matrices", "memory", "open_and_first", "openness", "over", "patches", "pieces",
    "reads", "rulers", "sequential", "shares", "show", "stack", "states", "step", "tensor_names", "tokens_on",
    "training", "turned", "visible", "wiring",
]

KEEPS, WRITES, RECALLS, INK, FAINT = "#3b82c4", "#e07b1a", "#8e63b0", "#24292f", "#8a8f98"
BACKGROUND = "#ffffff"
BLANKS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}     # how they are shown


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


DIVERGING = ListedColormap(diverging()[1:] / 255, name="blue to orange")
SEQUENTIAL = ListedColormap(sequential() / 255, name="white to teal")


def visible(token: str) -> str:
    """A token as it can be read: spaces and line ends shown, and what the plots' font lacks written as a code point."""
    def drawn(c):                        # DejaVu has Latin, Greek, Cyrillic and common signs, but not CJK or emoji
        return c.isprintable() and (c < "\u0530" or "\u2010" <= c < "\u2600")
    return "".join(BLANKS.get(c, c if drawn(c) else f"‹{ord(c):x}›") for c in token) or "∅"


def tokens_on(axis, tokens: list[str], most: int = 64) -> None:
    """Write tokens along an axis (`ax.xaxis` or `ax.yaxis`); every n-th where there are more than `most`."""
    places = range(0, len(tokens), -(-len(tokens) // most))
    axis.set_ticks(list(places), [visible(tokens[i]).replace("$", r"\$") for i in places], family="monospace")
    axis.set_tick_params(labelsize=8 if len(places) < 40 else 6, length=2,
                         **({"labelrotation": 90} if axis.axis_name == "x" else {}))


# ------------------------------------------------------------------------------------------------------------- figures


def states(pictures: dict, limit: float | None = None, height: float = 2.4) -> Figure:
    """Matrices side by side on one scale, each under its title.

    Args:
        pictures: title -> (Dk, Dv); a key dimension is a row, a value dimension a column.
        limit: the value that has the full colour; the largest there is if None.
    """
    matrices = {title: _numpy(x) for title, x in pictures.items()}
    limit = limit or max(np.abs(x).max() for x in matrices.values()) or 1.0
    rows, columns = next(iter(matrices.values())).shape
    figure, axes = _figure(len(matrices), (1.2 + len(matrices) * height * columns / rows, height + 0.75))
    for ax, (title, matrix) in zip(axes, matrices.items()):
        image = ax.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=10, color=INK)
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel("value dimension", fontsize=8, color=FAINT)
    axes[0].set_ylabel("key dimension", fontsize=8, color=FAINT)
    _colour_bar(figure, image, axes)
    return figure


def step(record, t: int, head: int, row: int = 0, token: str | None = None) -> Figure:
    """One step of a memory, as the sum it is: after = decayed - erased + written. `record` is a `DeltaRecord`."""
    names = {"memory after" + (f" “{visible(token)}”" if token is not None else ""): record.state,
             "=  decayed": record.decayed, "−  erased": record.erase, "+  written": record.write}
    return states({title: part(t, head, row) for title, part in names.items()})


def memory(step: dict, alpha, beta, recall, tokens: list[str], limit: float | None = None) -> Figure:
    """The state explorer, standing still: one step of a memory, above the gates and the recall of all tokens up to it.

    Args:
        step: "memory", "decayed", "erased", "written" -> (Dk, Dv).
        alpha, beta: (T,) over all tokens.
        recall: (N,) cosines for the tokens up to this one, N - 1.
        limit: the value that has the full colour; the largest there is if None.
    """
    parts = {"memory": "memory after “" + visible(tokens[len(recall) - 1]) + "”", "decayed": "=  faded",
             "erased": "−  erased", "written": "+  written"}
    limit = limit or max(np.abs(_numpy(step[part])).max() for part in parts) or 1.0
    figure = Figure(figsize=(10.5, 5.6), facecolor=BACKGROUND, layout="constrained")
    grid = figure.add_gridspec(4, 4, height_ratios=(6, 1, 1, 1))
    panels = [figure.add_subplot(grid[0, i]) for i in range(4)]
    for ax, (part, title) in zip(panels, parts.items()):
        image = ax.imshow(_numpy(step[part]), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=10, color=INK)
        ax.set(xticks=[], yticks=[])
    _colour_bar(figure, image, panels)
    strips = {"α  keeps": (alpha, KEEPS), "β  writes": (beta, WRITES), "recall": (recall, RECALLS)}
    for i, (name, (heights, colour)) in enumerate(strips.items()):
        ax = figure.add_subplot(grid[i + 1, :])
        _strip(ax, name, _numpy(heights), colour, len(tokens))
        ax.axvspan(len(recall) - 1.5, len(recall) - 0.5, color=INK, alpha=0.12, linewidth=0)
        ax.set_xticks([])
    tokens_on(ax.xaxis, tokens, most=130)
    for ax in figure.axes:
        _plain(ax)
    return figure


def before_after(names: list[str], before, after, answers: list[str] = ()) -> Figure:
    """The memory lab, standing still: how likely each token was and is, the first at the top, under both answers.

    Args:
        names: texts of tokens; before, after: (tokens,) probabilities.
    """
    before, after = _numpy(before), _numpy(after)
    title = [part for answer in answers for part in textwrap.wrap(answer, 100)]
    figure, (ax,) = _figure(1, (7.5, 0.42 * len(names) + 0.7 + 0.19 * len(title)))
    for i, (chances, colour, label) in enumerate(((before, KEEPS, "before"), (after, WRITES, "after"))):
        bars = ax.barh(np.arange(len(names)) + 0.4 * i - 0.2, chances, 0.36, color=colour, label=label)
        ax.bar_label(bars, [f"{p:.1%}" for p in chances], fontsize=7, padding=2, color=INK)
    ax.set(xlim=(0, 1.1), xticks=[0, 0.5, 1])
    ax.set_yticks(range(len(names)), [visible(name).replace("$", r"\$") for name in names], family="monospace")
    ax.invert_yaxis()
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title("\n".join(title).replace("$", r"\$"), fontsize=9, color=INK, loc="left")
    ax.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def dialogue(turns: list[tuple[str, str]], width: int = 88) -> Figure:
    """A chat as it was spoken, from the top down. turns: who speaks, and what they say."""
    lines = [(i, who if n == 0 else "", line) for i, (who, said) in enumerate(turns)
             for n, line in enumerate(part for text in said.splitlines() or [""]
                                      for part in textwrap.wrap(text, width) or [""])]
    figure, (ax,) = _figure(1, (8.2, 0.3 + 0.22 * (len(lines) + 0.5 * len(turns))))
    for n, (i, who, line) in enumerate(lines):
        y, colour = -n - 0.5 * i, KEEPS if i % 2 == 0 else "#a8540a"
        ax.text(0.11, y, who, ha="right", va="center", fontsize=8, color=colour, weight="bold")
        ax.text(0.13, y, line.replace("$", r"\$"), va="center", fontsize=9, color=INK)
    ax.set(xlim=(0, 1), ylim=(-len(lines) - 0.5 * len(turns), 1))
    ax.axis("off")
    return figure


def gates(record, tokens: list[str], head: int, row: int = 0) -> Figure:
    """Over the tokens: alpha, how much of the memory stays, and beta, how strongly the token writes."""
    figure, axes = _figure((2, 1), (max(4.5, min(12, 1.2 + 0.17 * len(tokens))), 2.9), sharex=True)
    strips = {"α  keeps": (record.alpha, KEEPS), "β  writes": (record.beta, WRITES)}
    for ax, (name, (gate, colour)) in zip(axes, strips.items()):
        _strip(ax, name, _numpy(gate[row, :, head]), colour, len(tokens))
    tokens_on(axes[1].xaxis, tokens)
    return figure


def attention(weights, tokens: list[str], looked_at: list[str] | None = None, title: str = "",
              limit: float | None = None) -> Figure:
    """A token-to-token map: each row is a token that looks, each column a token that is looked at.

    Softmax weights go from 0 to 1; a map with negative entries, such as an effective attention, is drawn about zero.

    Args:
        weights: (T, S)
        looked_at: the S tokens of the columns, where there are more than rows (a conversation that was going on).
    """
    weights, looked_at = _numpy(weights), looked_at or tokens
    signed = weights.min() < 0
    limit = limit or (np.abs(weights).max() or 1.0 if signed else 1.0)
    side = max(3.2, min(8.5, 0.16 * len(looked_at)))
    figure, (ax,) = _figure(1, (side + 1.9, side * len(tokens) / len(looked_at) + 1.1))
    if not signed:                                       # what no token sees is left empty, and not drawn as a zero
        weights = np.ma.array(weights, mask=~np.tri(*weights.shape, len(looked_at) - len(tokens), dtype=bool))
    image = ax.imshow(weights, cmap=DIVERGING if signed else SEQUENTIAL, vmin=-limit if signed else 0, vmax=limit,
                      interpolation="nearest")
    ax.set_title(title, fontsize=10, color=INK)
    tokens_on(ax.xaxis, looked_at)
    tokens_on(ax.yaxis, tokens)
    ax.set_xlabel("looked at", fontsize=8, color=FAINT)
    ax.set_ylabel("token", fontsize=8, color=FAINT)
    _colour_bar(figure, image, [ax])
    return figure


def maps(tiles, side: int, gap: int, layers: list[str], weights, tokens: list[str], title: str, limit: float,
         signed: bool) -> Figure:
    """The attention explorer, standing still: all maps as small tiles, and one of them large.

    Args:
        tiles: (height, width, 4) uint8: a row of tiles for each layer, the first at the bottom.
        side, gap: pixels on a tile's side, and between two tiles.
        layers: the name of each layer.
        weights: (T, T); limit: the weight that has the full colour; signed: colours about zero, else from zero on.
    """
    height, width = tiles.shape[:2]
    figure = Figure(figsize=(11.5, max(4.4, min(9.5, 5.0 * height / width))), facecolor=BACKGROUND,
                    layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    left.imshow(tiles, interpolation="nearest")
    rows, columns = (np.arange(n // (side + gap) + 1) * (side + gap) + side / 2 for n in (height, width))
    left.set_yticks(rows, layers[::-1])
    left.set_xticks(columns[:: -(-len(columns) // 16)], range(0, len(columns), -(-len(columns) // 16)))
    left.set_title("every head's map", fontsize=10, color=INK)
    left.set_xlabel("head", fontsize=8, color=FAINT)
    shown = np.ma.array(_numpy(weights), mask=~np.tri(len(tokens), dtype=bool))
    image = right.imshow(shown, cmap=DIVERGING if signed else SEQUENTIAL, vmin=-limit if signed else 0, vmax=limit,
                         interpolation="nearest")
    right.set_title(title, fontsize=10, color=INK)
    right.set_xlabel("looked at", fontsize=8, color=FAINT)
    right.set_ylabel("token", fontsize=8, color=FAINT)
    for ax in (left, right):
        _plain(ax)
        ax.spines[:].set_visible(False)
        ax.set_anchor("N")
    tokens_on(right.xaxis, tokens)
    tokens_on(right.yaxis, tokens)
    bar = figure.colorbar(image, cax=right.inset_axes([1.02, 0.15, 0.025, 0.7]))
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)
    return figure


def bars(panels: dict, wanted=None) -> Figure:
    """Small bar charts side by side, each under its title.

    Args:
        panels: title -> {name of the bar: its height}.
        wanted: the names that were asked for: their bars are blue, all others orange. None: all are blue.
    """
    widths = [max(3, len(heights)) for heights in panels.values()]
    figure = Figure(figsize=(0.42 * sum(widths) + 0.7 * len(widths), 2.7), facecolor=BACKGROUND, layout="constrained")
    axes = figure.subplots(1, len(panels), width_ratios=widths, squeeze=False).flat
    for ax, (title, heights) in zip(axes, panels.items()):
        names, heights = list(heights), _numpy(list(heights.values()))
        ax.bar(range(len(names)), heights, width=0.7,
               color=[KEEPS if wanted is None or name in wanted else WRITES for name in names])
        ax.axhline(0, color=FAINT, linewidth=0.8)
        ax.set(ylim=(min(0, 1.15 * heights.min()), max(1.15, 1.15 * heights.max())))
        ax.set_xticks(range(len(names)), names, rotation=90)
        ax.set_title(title, fontsize=10, color=INK)
        _plain(ax)
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def heads(maps: dict, limit: float = 1.0, columns: int = 8) -> Figure:
    """The softmax maps of many heads, small, on one scale: a row looks, a column is looked at, and never ahead.

    Args:
        maps: title -> (T, S)
        limit: the weight that has the full colour, and all above it.
        columns: how many stand side by side.
    """
    across = min(columns, len(maps))
    down = -(-len(maps) // across)
    figure, axes = _figure((down, across), (1.6 * across + 0.7, 1.85 * down))
    for ax, (title, weights) in zip(axes, maps.items()):
        past = np.ma.array(_numpy(weights), mask=~np.tri(*weights.shape, dtype=bool))
        image = ax.imshow(past, cmap=SEQUENTIAL, vmin=0, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=8, color=INK)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    for ax in axes[len(maps) :]:
        ax.axis("off")
    _colour_bar(figure, image, axes)
    return figure


def beside_theory(x, measured: dict, theory: dict, xlabel: str, ylabel: str) -> Figure:
    """Dots for what was measured, and a line for what theory says, in the same colour; both axes are logarithmic.

    Args:
        measured: name -> as many numbers as x has.
        theory: the same for some of these names.
    """
    figure, (ax,) = _figure(1, (7.5, 3.4))
    looks = zip((KEEPS, WRITES, RECALLS, INK), "os^d")
    for (name, y), (colour, marker) in zip(measured.items(), looks):
        ax.plot(_numpy(x), _numpy(y), marker, color=colour, markersize=5, label=name)
        if name in theory:
            ax.plot(_numpy(x), _numpy(theory[name]), color=colour, linewidth=1.2)
    ax.plot([], [], color=FAINT, linewidth=1.2, label="lines: theory")
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e6e8eb", linewidth=0.8)
    ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def gate_maps(panels: dict, factors, limit: float, signed: bool, tokens: list[str], token: int, head: int) -> Figure:
    """The gate explorer, standing still: a layer's gates over the tokens, and one head's output gate by dimensions.

    Args:
        panels: title -> ((H, T) places on the scale from 0 to 1, what is written along that scale in equal steps).
        factors: (T, D); limit: the factor that has the full colour; signed: colours about zero, else from zero on.
        token, head: what is marked.
    """
    factors, T = _numpy(factors), len(tokens)
    shares = [_numpy(x) for x, _ in panels.values()]
    heights = [*(0.5 + min(1.6, 0.16 * len(x)) for x in shares), 1.7]
    figure, axes = _figure((len(heights), 1), (max(6.0, min(12, 3.0 + 0.17 * T)), sum(heights) + 0.9), sharex=True,
                           gridspec_kw={"height_ratios": heights})
    for ax, x, (title, (_, marks)) in zip(axes, shares, panels.items()):
        image = ax.imshow(x, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="nearest")
        ax.set_title(title, fontsize=9, color=INK, loc="left")
        ax.set_ylabel("head", fontsize=8, color=FAINT)
        ax.set_yticks(range(0, len(x), -(-len(x) // 8)))
        _mark(ax, token, head)
        _colour_bar(figure, image, [ax])
        image.colorbar.set_ticks(np.linspace(0, 1, len(marks)), labels=marks)
    image = axes[-1].imshow(factors.T, cmap=DIVERGING if signed else SEQUENTIAL, vmin=-limit if signed else 0,
                            vmax=limit, aspect="auto", interpolation="nearest")
    axes[-1].set_title(f"output gate of head {head}, dimension by dimension", fontsize=9, color=INK, loc="left")
    axes[-1].set_ylabel("dimension", fontsize=8, color=FAINT)
    _mark(axes[-1], token, None)
    _colour_bar(figure, image, axes[-1:])
    tokens_on(axes[-1].xaxis, tokens, most=90)
    return figure


def _mark(ax, column, row):
    """A frame about a column of a map, and about a row of it."""
    for draw, place in ((ax.axvspan, column), (ax.axhspan, row)):
        if place is not None:
            draw(place - 0.5, place + 0.5, fill=False, edgecolor=WRITES, linewidth=1.2)


def context_cost(contexts, charts: dict, at: int) -> Figure:
    """Charts side by side over the context, both axes logarithmic.

    Args:
        contexts: (N,) tokens.
        charts: title -> {name of a line -> ((N,) numbers, its colour)}; lines of zeros are left out.
        at: the context that is marked.
    """
    figure, axes = _figure(len(charts), (5.4 * len(charts), 3.7))
    for ax, (title, lines) in zip(axes, charts.items()):
        for name, (values, colour) in lines.items():
            if np.any(values):
                dashed = name.startswith("all")
                ax.plot(contexts, values, color=colour, linewidth=1.2 if dashed else 2,
                        linestyle="--" if dashed else "-", label="if all layers were attention" if dashed else name)
        ax.axvline(at, color=INK, linewidth=0.8, alpha=0.5)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        ax.tick_params(axis="x", labelrotation=30)
        ax.grid(color="#e6e8eb", linewidth=0.8)
        ax.set_title(title, fontsize=10, color=INK)
        ax.set_xlabel("context, tokens", fontsize=9, color=FAINT)
        ax.legend(fontsize=8, frameon=False)
    return figure


def patches(picture, patch: int, merge: int = 2, title: str = "") -> Figure:
    """A picture with the grid of its patches (thin) and of its tokens (bold), which are numbered in their order.

    Args:
        picture: (H, W, 3) uint8, as the model gets it: both sides multiples of patch x merge.
        patch, merge: pixels on a patch's side, and patches on a token's.
    """
    height, width = picture.shape[:2]
    scale = 4.2 / max(height, width)
    figure, (ax,) = _figure(1, (max(2.2, scale * width) + 0.2, scale * height + (0.5 if title else 0.2)))
    _patches(ax, picture, patch, merge)
    ax.set_title(title, fontsize=10, color=INK)
    return figure


def over(picture, maps: dict, limit: float | None = None, columns: int = 6) -> Figure:
    """Weights laid over a picture, each map under its title, all on one scale: blue below zero, orange above.

    Args:
        picture: (H, W, 3) uint8.
        maps: title -> (rows, columns), a weight for each token of the picture.
        limit: the weight that has the full colour; the largest there is if None.
        columns: how many maps stand side by side.
    """
    maps = {title: _numpy(x) for title, x in maps.items()}
    limit = limit or max(np.abs(x).max() for x in maps.values()) or 1.0
    across = min(columns, len(maps))
    down, side = -(-len(maps) // across), min(2.4, 10 / across)
    height = side * picture.shape[0] / picture.shape[1]
    figure, axes = _figure((down, across), (side * across + 1.0, (height + 0.32) * down + 0.1))
    for ax, (title, weights) in zip(axes, maps.items()):
        image = _over(ax, picture, weights, limit)
        ax.set_title(title, fontsize=9, color=INK)
    for ax in axes[len(maps) :]:
        ax.axis("off")
    _colour_bar(figure, image, axes)
    _from_zero(image, maps.values())
    return figure


def clip(frames, weights=None, times: list[float] | None = None, limit: float | None = None) -> Figure:
    """A clip's groups of frames side by side, the frames of each in a column, and below them weights over their mean.

    Args:
        frames: (T, H, W, 3) uint8.
        weights: (groups, rows, columns), a weight for each token; T is a multiple of the groups. None: one group for
            each pair of frames, and no weights.
        times: of the groups, in seconds.
        limit: as in `over`.
    """
    groups = len(frames) // 2 if weights is None else len(weights)
    grouped = frames.reshape(groups, -1, *frames.shape[1:])                                 # (groups, F, H, W, 3)
    F, side = grouped.shape[1], max(0.8, min(1.8, 11 / groups))
    rows = F + (weights is not None)
    height = side * frames.shape[1] / frames.shape[2]
    figure, axes = _figure((rows, groups), (side * groups + (1.0 if weights is not None else 0.3), height * rows + 0.6))
    for group in range(groups):
        for f in range(F):
            axes[f * groups + group].imshow(grouped[group, f], interpolation="nearest")
        time = "" if times is None else f"\n{times[group]:.1f} s"
        axes[group].set_title(f"group {group}{time}", fontsize=9, color=INK)
    if weights is not None:
        weights = _numpy(weights)
        limit = limit or np.abs(weights).max() or 1.0
        for ax, group, looked in zip(axes[F * groups :], grouped, weights):
            image = _over(ax, group.mean(0), looked, limit)
        _colour_bar(figure, image, axes[F * groups :])
        _from_zero(image, weights)
    for f in range(F):
        axes[f * groups].set_ylabel(f"frame {f}", fontsize=8, color=FAINT)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    return figure


def looking(frames, weights, maps: dict, patch: int, merge: int = 2, title: str = "") -> Figure:
    """The vision explorer, standing still: frames with their patches, the weights over them, and more maps below.

    Args:
        frames: (F, H, W, 3) uint8, what one token spans in time: one for a picture, two for a clip.
        weights: (rows, columns), a weight for each token.
        maps: title -> (rows, columns); each kind of map (its title without the first word) has a scale of its own.
        patch, merge: as in `patches`.
    """
    weights, maps = _numpy(weights), {title: _numpy(x) for title, x in maps.items()}
    most = max(1, min(8, len(maps)))
    down, ratio = -(-len(maps) // most), min(1.6, frames.shape[1] / frames.shape[2])
    large, small = min(3.4, 10 / (len(frames) + 1)), 9.6 / most
    figure = Figure(figsize=(10.5, large * ratio + 0.75 + down * (small * ratio + 0.45)), facecolor=BACKGROUND,
                    layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(large * ratio + 0.75, down * (small * ratio + 0.45)))
    panels = above.subplots(1, len(frames) + 1)
    for i, (ax, frame) in enumerate(zip(panels, frames)):
        _patches(ax, frame, patch, merge)
        ax.set_title("what the model gets" if len(frames) == 1 else f"frame {i} of the group", fontsize=10, color=INK)
    image = _over(panels[-1], frames.mean(0), weights, np.abs(weights).max() or 1.0)
    panels[-1].set_title(title, fontsize=10, color=INK)
    _colour_bar(above, image, panels[-1:])
    _from_zero(image, weights)
    axes = below.subplots(down, most, squeeze=False).flat
    kinds = {}
    for name, looked in maps.items():
        kind = name.partition(" ")[2]
        kinds[kind] = max(kinds.get(kind, 0), np.abs(looked).max())
    for ax, (name, looked) in zip(axes, maps.items()):
        _over(ax, frames.mean(0), looked, kinds[name.partition(" ")[2]] or 1.0)
        ax.set_title(name, fontsize=8, color=INK)
    for ax in figure.axes:
        _plain(ax)
        if not ax.images and not ax.collections:
            ax.axis("off")
    return figure


def boxes(texts: dict, notes: dict | None = None, marked=(), width: int = 92) -> Figure:
    """Texts cut into tokens: each token a box, and a text that is too long for a line goes on in the next.

    Args:
        texts: title -> the text's tokens.
        notes: title -> a few signs to stand under each token, such as its id.
        marked: tokens in a colour of their own, such as the special ones.
        width: characters in a line.
    """
    lines = []                                            # (title, [(token, note, where it begins, how wide it is)])
    for title, tokens in texts.items():
        line, at = [], 0.0
        lines.append((title, line))
        for token, note in zip(tokens, notes[title] if notes else [""] * len(tokens), strict=True):
            wide = max(len(visible(token)), 0.8 * len(str(note))) + 0.7
            if line and at + wide > width:
                line, at = [], 0.0
                lines.append(("", line))
            line.append((token, str(note), at, wide))
            at += wide + 0.2
    margin, high = 1.1 * max(map(len, texts)) + 1, 1.75 if notes else 1.25
    figure = Figure(figsize=(0.081 * (margin + width), 0.27 * high * len(lines) + 0.1), facecolor=BACKGROUND)
    ax = figure.add_axes((0, 0, 1, 1))                    # a sign of this font is 0.08 inches wide
    for y, (title, line) in enumerate(lines):
        ax.text(-1, y * high, title, ha="right", va="center", fontsize=9, color=INK)
        for i, (token, note, at, wide) in enumerate(line):
            colour = "#f8c793" if token in marked else ("#d5e4f3", "#e9f1f9")[i % 2]
            ax.add_patch(Rectangle((at, y * high - 0.5), wide, 1, color=colour, linewidth=0))
            ax.text(at + wide / 2, y * high + 0.04, visible(token).replace("$", r"\$"), ha="center", va="center",
                    fontsize=9, color=INK, family="monospace")
            ax.text(at + wide / 2, y * high + 0.8, note, ha="center", va="center", fontsize=7, color=FAINT)
    ax.set(xlim=(-margin, width), ylim=((len(lines) - 1) * high + (1.1 if notes else 0.6), -0.6))
    ax.axis("off")
    return figure


class pieces:
    """Texts cut into tokens, for a notebook's own fonts, which know every script. (A figure's do not: `boxes`.)

    Args:
        texts: title -> the text's tokens as bytes; those that are no whole character are shown as \\x and two signs.
    """

    def __init__(self, texts: dict[str, list[bytes]]):
        self.texts = {title: [_readable(token) for token in tokens] for title, tokens in texts.items()}

    def __repr__(self) -> str:
        return "\n".join(f"{title} ({len(tokens)}): " + " │ ".join(tokens) for title, tokens in self.texts.items())

    def _repr_html_(self) -> str:
        def box(i, token):
            style = f"background: {('#d5e4f3', '#e9f1f9')[i % 2]}; color: {INK}; display: inline-block; margin: 1px"
            return f'<code style="{style}; padding: 1px 4px; border-radius: 3px">{html.escape(token)}</code>'
        return "\n".join(f'<div style="margin-top: 0.6em"><b>{html.escape(title)}</b>: {len(tokens)} tokens</div>\n'
                         '<div dir="auto">' + " ".join(box(i, token) for i, token in enumerate(tokens)) + "</div>"
                         for title, tokens in self.texts.items())


def _readable(token: bytes) -> str:
    text = token.decode("utf-8", "backslashreplace")
    alone = text and unicodedata.category(text[0]).startswith("M")              # a mark needs a letter to sit on
    shown = "".join(BLANKS.get(c, c if c.isprintable() else f"‹{ord(c):x}›") for c in text)
    return ("\u25cc" if alone else "") + shown


def lengths(tokens: dict[str, int], signs: dict[str, int], marked=()) -> Figure:
    """How many tokens texts take, the fewest first, and how many letters and signs each of them has.

    Args:
        tokens, signs: the text's name -> its number; marked: names whose bars have a colour of their own.
    """
    names = sorted(tokens, key=tokens.get)
    half = -(-len(names) // 2)
    figure, axes = _figure(2, (9.5, 0.19 * half + 0.8), sharex=True)
    for ax, part in zip(axes, (names[:half], names[half:])):
        places = range(len(part))
        bars = ax.barh(places, [tokens[name] for name in part], height=0.7, label="tokens",
                       color=[WRITES if name in marked else KEEPS for name in part])
        ax.bar_label(bars, fontsize=7, padding=-13, color="white")
        ax.plot([signs[name] for name in part], places, "o", color=INK, markersize=3, label="letters and signs")
        ax.set_yticks(places, part)
        ax.set_ylim(half - 0.4, -0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_xlim(0, 1.05 * max(*tokens.values(), *signs.values()))
    axes[0].legend(*axes[1].get_legend_handles_labels(), fontsize=8, frameon=False, loc="lower center",
                   bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def training(path) -> Figure:
    """The curves of a training log: a CSV with a header, its first column the step; empty cells are skipped.

    Columns with "loss" in their names share the upper axes. Those with numbers between 0 and 1 only are accuracies,
    below; the learning rate, `lr`, is neither.
    """
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    steps, *names = rows[0]
    curves = {name: [(float(row[steps]), float(row[name])) for row in rows if row[name]] for name in names}
    losses = [name for name in curves if "loss" in name]
    accuracies = [name for name, points in curves.items() if name not in (*losses, "lr") and points
                  and all(0 <= y <= 1 for _, y in points)]
    groups = {"loss": losses, "accuracy": accuracies}
    groups = {name: group for name, group in groups.items() if group}
    figure, axes = _figure((len(groups), 1), (7.5, 2.3 * len(groups) + 0.6), sharex=True)
    for ax, (label, group) in zip(axes, groups.items()):
        colours = ["#3b82c4", "#e07b1a", "#8e63b0", "#4aa3a2", "#b8860b", "#7f7f7f", "#c05a8c", "#1b3b6f"]
        for i, name in enumerate(group):
            ax.plot(*zip(*curves[name]), label=name.replace("_", " "), color=colours[i % 8], linewidth=1.4,
                    linestyle=("-", "--", ":")[i // 8 % 3])
        ax.set_ylabel(label, fontsize=9, color=INK)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="#e6e8eb", linewidth=0.8)
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
    return figure


def stack(config) -> Figure:
    """A model's layers, the first at the bottom: which mixer each has. config: a `TextConfig`."""
    layers = config.num_hidden_layers
    figure, (ax,) = _figure(1, (7.2, 0.34 * layers + 0.9))
    mixers = {
        "linear_attention": (KEEPS, f"Gated DeltaNet: {config.linear_num_value_heads} memories of "
                                    f"{config.linear_key_head_dim} × {config.linear_value_head_dim}"),
        "full_attention": ("#a8540a", f"gated attention: {config.num_attention_heads} heads that see every token"),
    }
    for i, kind in enumerate(config.layer_types):
        colour, words = mixers[kind]
        ax.barh(i, 1, height=0.74, color=colour)
        ax.text(0.02, i, f"layer {i}", va="center", color="white", fontsize=9, weight="bold")
        ax.text(0.17, i, words, va="center", color="white", fontsize=9)
    ax.text(0.02, -0.85, "↑ tokens come in", va="center", fontsize=9, color=INK)
    ax.text(0.02, layers - 0.15, "↑ a guess of the next token comes out", va="center", fontsize=9, color=INK)
    ax.set(xlim=(0, 1), ylim=(-1.2, layers + 0.2))
    ax.axis("off")
    return figure


def gated_attention(config) -> Figure:
    """A gated attention layer, from left to right: what is done to a token, and how wide each part is.

    Args:
        config: a `TextConfig`.
    """
    figure, (ax,) = _figure(1, (10.5, 3.5))
    d, D = config.hidden_size, config.head_dim
    Hq, Hkv = config.num_attention_heads, config.num_key_value_heads

    def box(x, y, text, colour, width=1.15, height=0.62):
        ax.add_patch(Rectangle((x, y - height / 2), width, height, facecolor=colour, linewidth=0))
        ax.text(x + width / 2, y, text, color="white", fontsize=9, ha="center", va="center", linespacing=1.4)

    def arrow(*points):                                  # along these corners
        for a, b in zip(points, points[1:]):
            style = "-|>" if b == points[-1] else "-"
            ax.annotate("", b, a, arrowprops={"arrowstyle": style, "color": FAINT, "shrinkA": 0, "shrinkB": 0})

    gate, query, key, value = 3, 2, 1, 0
    learned, fixed = "#a8540a", "#4a5058"
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
    return figure


def turned(panels: dict) -> Figure:
    """Arrows of length one, turned: a small circle for each panel, under its title.

    Args:
        panels: title -> {name of the arrow: its angle in radians, counterclockwise from the right}.
    """
    figure, axes = _figure(len(panels), (2.25 * len(panels), 2.95))
    for ax, (title, arrows) in zip(axes, panels.items()):
        ax.add_patch(Circle((0, 0), 1, facecolor="none", edgecolor="#c9ced6", linewidth=0.8))
        for (name, angle), colour in zip(arrows.items(), (WRITES, KEEPS, RECALLS)):
            x, y = np.cos(angle), np.sin(angle)
            ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2,
                                                        "shrinkA": 0, "shrinkB": 0})
            ax.text(1.18 * x, 1.18 * y, name, color=colour, ha="center", va="center")
        ax.set_title(title, fontsize=10, color=INK)
        ax.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), aspect="equal")
        ax.axis("off")
    return figure


def dials(angles: dict, listens=None) -> Figure:
    """Rows of dials, one dial for each pair of numbers that is turned; the hand shows its angle.

    Args:
        angles: title -> (pairs,) radians, counterclockwise from the right.
        listens: (pairs,) 0, 1 or 2, whether a pair listens to time, height or width; it colours the hands.
    """
    turns = _numpy(torch.stack([torch.as_tensor(row) % (2 * torch.pi) for row in angles.values()]))
    rows, pairs = turns.shape
    names, colours = "thw", (KEEPS, WRITES, RECALLS)
    figure, (ax,) = _figure(1, (1.6 + 9.4 * max(pairs, 16) / 32, 0.5 + 0.36 * rows))
    for y, row in enumerate(turns):
        for i, angle in enumerate(row):
            colour = KEEPS if listens is None else colours[listens[i]]
            ax.add_patch(Circle((i, -1.2 * y), 0.42, facecolor="none", edgecolor="#c9ced6", linewidth=0.8))
            ax.plot([i, i + 0.42 * np.cos(angle)], [-1.2 * y, -1.2 * y + 0.42 * np.sin(angle)], color=colour,
                    linewidth=1.8, solid_capstyle="round")
    ax.set_yticks(-1.2 * np.arange(rows), list(angles), fontsize=9)
    ax.set_xticks(range(pairs), [f"{i}" if listens is None else f"{i}\n{names[listens[i]]}" for i in range(pairs)])
    ax.set(xlim=(-0.7, pairs - 0.3), ylim=(-1.2 * rows + 0.5, 0.7), aspect="equal")
    ax.set_xlabel("pair" if listens is None else "pair, and what it listens to: t time, h height, w width", fontsize=8,
                  color=FAINT)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return figure


def openness(gates: dict, tokens: list[str], title: str = "") -> Figure:
    """How open gates are, over the tokens: a row for each gate, 0 (closed, dark) to 1 (open, bright).

    Args:
        gates: name -> (T,) between 0 and 1.
    """
    rows = np.stack([_numpy(gate) for gate in gates.values()])
    figure, (ax,) = _figure(1, (max(5.0, min(11, 2.4 + 0.17 * len(tokens))), 1.3 + 0.21 * len(rows)))
    image = ax.imshow(rows, cmap="viridis", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
    ax.set_yticks(range(len(rows)), list(gates), fontsize=8)
    ax.set_title(title, fontsize=10, color=INK)
    tokens_on(ax.xaxis, tokens)
    _colour_bar(figure, image, [ax])
    return figure


def open_and_first(gates, on_first: dict, evenly: float) -> Figure:
    """How open gates are, as a histogram; and what share of its attention each head gives to the first token.

    Args:
        gates: (N,) between 0 and 1.
        on_first: the head's name -> its share.
        evenly: the share of a head that looks at all tokens alike: a dashed line.
    """
    figure, (left, right) = _figure(2, (9, 2.9))
    left.hist(_numpy(gates), bins=40, range=(0, 1), color=KEEPS)
    left.set(yticks=[], xlim=(0, 1))
    left.set_title("how open: every number of every gate", fontsize=10, color=INK)
    right.bar(range(len(on_first)), _numpy(list(on_first.values())), width=0.8, color=RECALLS)
    right.axhline(evenly, color=INK, linewidth=1, linestyle="--", label="a head that looks at all tokens alike")
    right.legend(fontsize=8, frameon=False, loc="upper right")
    shown = range(0, len(on_first), -(-len(on_first) // 16))
    right.set_xticks(shown, [list(on_first)[i] for i in shown], rotation=90)
    right.set(ylim=(0, 1))
    right.set_title("share of attention on the first token", fontsize=10, color=INK)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def reads(prompt: int, new: int) -> Figure:
    """What is read to write `new` tokens after `prompt` ones: all of it again for each, and with a cache.

    Each row is a step, each column a token: orange is read in this step, pale blue was read before and is kept.
    """
    figure, axes = _figure(2, (9.2, 0.3 * new + 1.0))
    colours = ListedColormap([BACKGROUND, "#cfe3f4", WRITES])
    step, token = np.mgrid[:new, : prompt + new - 1]
    there = token < prompt + step
    just_come = there & ((token >= prompt + step - 1) | (step == 0))
    for ax, title, read in zip(axes, ("everything again", "with a cache"), (there, just_come)):
        ax.imshow(there * 1 + read, cmap=colours, vmin=0, vmax=2, aspect="auto")
        ax.set_title(f"{title}: {read.sum()} tokens read", fontsize=10, color=INK)
        ax.set(xticks=[], yticks=range(new), yticklabels=range(1, new + 1))
        ax.set_xticks(np.arange(0.5, prompt + new - 2), minor=True)
        ax.set_yticks(np.arange(0.5, new - 1), minor=True)
        ax.grid(which="minor", color=BACKGROUND, linewidth=1.5)
        ax.tick_params(which="both", length=0)
        ax.axvline(prompt - 0.5, color=INK, linewidth=1)
        ax.set_xlabel("prompt  |  new tokens", fontsize=8, color=FAINT)
    axes[0].set_ylabel("step", fontsize=8, color=FAINT)
    return figure


def curves(x, lines: dict, xlabel: str, ylabel: str, log: str = "") -> Figure:
    """Curves over one axis, each with its name at its right end.

    Args:
        lines: name -> as many numbers as x has.
        log: the axes that are logarithmic: "", "x", "y" or "xy".
    """
    figure, (ax,) = _figure(1, (7.5, 3.2))
    looks = zip((KEEPS, WRITES, RECALLS, INK, FAINT, "#4aa3a2"), ("o-", "s--", "^:", "d-.", "v-", "x--"))
    for (name, y), (colour, look) in zip(lines.items(), looks):
        few = len(x) <= 16                                # markers on more points would be a band
        ax.plot(_numpy(x), _numpy(y), look if few else look[1:], color=colour, linewidth=1.8, markersize=4, label=name)
    for name in log:
        getattr(ax, f"set_{name}scale")("log")
        axis = getattr(ax, f"{name}axis")
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_formatter(NullFormatter())
    _name_axes(ax, xlabel, ylabel)
    return figure


def cache_bytes(tokens, sizes: dict) -> Figure:
    """What a cache keeps as a text grows: bytes of keys and values (lines that rise), and of all that does not grow.

    Args:
        tokens: (N,) lengths of the text.
        sizes: a model's name -> N `info.Memory`s, one for each length.
    """
    figure, (ax,) = _figure(1, (8.2, 3.8))
    palette = (KEEPS, WRITES, RECALLS, "#4aa3a2", "#c05a8c", INK)
    for (name, kept), colour in zip(sizes.items(), palette):
        ax.plot(tokens, [m.keys_and_values for m in kept], color=colour, linewidth=1.8, label=name)
        ax.plot(tokens, [m.states + m.convolutions for m in kept], ":", color=colour, linewidth=1.8)
    ax.plot([], [], color=INK, linewidth=1.8, label="keys and values")
    ax.plot([], [], ":", color=INK, linewidth=1.8, label="states, last inputs")
    ax.set(xscale="log", yscale="log")
    ax.yaxis.set_major_formatter(lambda size, _: readable(size))
    ax.xaxis.set_major_formatter("{x:,.0f}")
    _name_axes(ax, "tokens", "kept in the cache")
    ax.grid(axis="x", color="#e6e8eb", linewidth=0.8)
    return figure


def rulers(chances: dict, words: list[str]) -> Figure:
    """Probabilities laid end to end from 0 to 1, a row for each way of choosing; a throw falls onto one of the pieces.

    Args:
        chances: title -> (V,) probabilities, in the order of `words`; those that are 0 have no piece.
    """
    figure, (ax,) = _figure(1, (8.6, 0.44 * len(chances) + 0.7))
    palette = (KEEPS, WRITES, RECALLS, "#4aa3a2", "#b8860b", "#c05a8c", "#1b3b6f", "#7f7f7f")
    for row, p in enumerate(chances.values()):
        start = 0.0
        for i, width in enumerate(_numpy(p)):
            ax.barh(row, width, left=start, height=0.74, color=palette[i % len(palette)], edgecolor=BACKGROUND)
            if width > 0.015 * len(words[i]) + 0.01:      # else the word does not fit in
                ax.text(start + width / 2, row, words[i], ha="center", va="center", color="white", fontsize=8)
            start += width
    ax.set(xlim=(0, 1), ylim=(len(chances) - 0.5, -0.5), xticks=np.linspace(0, 1, 6))
    ax.set_yticks(range(len(chances)), list(chances), fontsize=9)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "left", "right"]].set_visible(False)
    return figure


def choices(answers: dict) -> Figure:
    """How open each choice of an answer was: bars of entropy over its tokens, the answers side by side on one scale.

    Args:
        answers: title -> (tokens, (T,) bits).
    """
    lengths = [max(6, len(tokens)) for tokens, _ in answers.values()]
    figure, axes = _figure((1, len(answers)), (min(11, 1.4 + 0.22 * sum(lengths)), 2.6), sharey=True,
                           width_ratios=lengths)
    for ax, length, (title, (tokens, bits)) in zip(axes, lengths, answers.items()):
        ax.bar(range(len(tokens)), _numpy(bits), width=0.8, color=WRITES)
        ax.plot(range(len(tokens)), _numpy(bits), ".", color=WRITES, clip_on=False)         # a bar of 0 is not seen
        ax.set(xlim=(-0.6, length - 0.4))
        ax.set_title(title, fontsize=10, color=INK, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
        tokens_on(ax.xaxis, tokens)
    axes[0].set_ylim(0, max(1.0, axes[0].get_ylim()[1]))
    axes[0].set_ylabel("bits", fontsize=9, color=INK)
    return figure


def chunks(tokens: int, chunk_size: int) -> Figure:
    """Which pairs of tokens meet inside a chunk, and which only through the state that is handed on.

    Each row is a token that reads, each column one that has written. `tokens` is a multiple of `chunk_size`.
    """
    figure, (ax,) = _figure(1, (7.6, 4.1))
    row, column = np.mgrid[:tokens, :tokens]
    inside, before = row // chunk_size == column // chunk_size, column // chunk_size < row // chunk_size
    picture = np.where(inside & (column <= row), 2, np.where(before, 1, 0))
    ax.imshow(picture, cmap=ListedColormap([BACKGROUND, "#fbe3cc", KEEPS]), vmin=0, vmax=2, interpolation="nearest")
    edges = np.arange(0.5, tokens - 1)
    for lines in (ax.hlines, ax.vlines):
        lines(edges, -0.5, tokens - 0.5, color=BACKGROUND, linewidth=1.2)
    arrow = {"arrowstyle": "-|>", "color": WRITES, "linewidth": 1.8, "connectionstyle": "arc3,rad=-0.45"}
    for end in range(chunk_size, tokens, chunk_size):        # from above a chunk's last token to the first of the next
        ax.annotate("", (end + 0.3, end - 0.7), (end - 1.3, end - chunk_size - 0.1), arrowprops=arrow)
        ax.text(end + 0.75, end - chunk_size / 2 - 0.9, "$S$", color=WRITES, fontsize=12, va="center")
    for colour, words in ((KEEPS, "inside a chunk: matrix products,\nall chunks at the same time"),
                          ("#fbe3cc", "across chunks: only through\nthe state $S$, handed on")):
        ax.scatter([], [], marker="s", s=90, color=colour, label=words)
    ax.set_xlabel("token that has written", fontsize=9, color=FAINT)
    ax.set_ylabel("token that reads", fontsize=9, color=FAINT)
    ax.set(xticks=range(tokens), yticks=range(tokens))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), labelspacing=1.4)
    return figure


def matrices(pictures: dict, labels: list[str], limit: float | None = None, numbers: bool = False) -> Figure:
    """Square matrices of tokens by tokens side by side on one scale, each under its title.

    Args:
        pictures: title -> (C, C); a token is a row, and a column.
        labels: the C tokens.
        limit: the value that has the full colour; the largest there is if None.
        numbers: write each entry that is not zero into its cell.
    """
    pictures = {title: _numpy(x) for title, x in pictures.items()}
    limit = limit or max(np.abs(x).max() for x in pictures.values()) or 1.0
    side = 2.9 if len(labels) < 20 else 4.2
    figure, axes = _figure(len(pictures), (side * len(pictures) + 0.9, side + 0.8))
    for ax, (title, matrix) in zip(axes, pictures.items()):
        image = ax.imshow(matrix, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=10, color=INK)
        tokens_on(ax.xaxis, labels)
        tokens_on(ax.yaxis, labels)
        for i, j in zip(*np.nonzero(matrix)) if numbers else ():
            dark = abs(matrix[i, j]) > 0.6 * limit
            ax.text(j, i, f"{matrix[i, j]:.2g}".replace("-", "−"), ha="center", va="center", fontsize=9,
                    color=BACKGROUND if dark else INK)
    _colour_bar(figure, image, axes)
    return figure


OWNERS = {                               # whose a piece of the course is: (its box, its words)
    "yours": (KEEPS, "#ffffff"),
    "the lessons'": ("#dfe3e8", INK),
    "built today": ("#fbe3c8", INK),
}


def errors(x, lines: dict, xlabel: str, ylabel: str, log: bool = False, points: bool = False) -> Figure:
    """Errors over many powers of ten. A grey line is at 1, where the error is as large as the result.

    Args:
        lines: name -> as many numbers as x has. One that is not finite is a cross at the top.
        log: whether x is logarithmic, too.
        points: no lines between them.
    """
    figure, (ax,) = _figure(1, (7.8, 3.4))
    finite = np.concatenate([_numpy(y)[np.isfinite(_numpy(y))] for y in lines.values()])
    low, high = np.floor(np.log10(max(finite.min(), 1e-12))), np.ceil(np.log10(max(finite.max(), 1)))
    for (name, y), colour, look in zip(lines.items(), (WRITES, KEEPS, RECALLS), ("o-", "s--", "^:")):
        x_, y_ = _numpy(x), _numpy(y)
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
    _name_axes(ax, xlabel, ylabel)
    return figure


def wiring(owners: dict[str, str]) -> Figure:
    """One layer of the decoder as it is wired, and beside it the inside of a Gated DeltaNet; tokens go upwards.

    Args:
        owners: for each function of the course that is at work here ("my_rms_norm", ...) one of "yours",
            "the lessons'", "built today".
    """
    figure, (layer, mixer) = _figure(2, (10.5, 6.0), width_ratios=(1, 1.75))
    add = {"fontsize": 15, "ha": "center", "va": "center", "color": INK}

    def box(ax, x, y, width, title, function=None, height=0.62):
        colour, ink = OWNERS[owners[function]] if function else ("#ffffff", INK)
        ax.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, facecolor=colour,
                               edgecolor="#9aa3ad", linewidth=0.8))
        lines = [(title, 9, "sans-serif")] + ([(function, 7.5, "monospace")] if function else [])
        for i, (words, size, family) in enumerate(lines):
            ax.text(x, y + (0.13 - 0.27 * i if function else 0), words, fontsize=size, family=family, color=ink,
                    ha="center", va="center")

    def arrow(ax, *corners):
        for a, b in zip(corners, corners[1:-1]):
            ax.plot(*zip(a, b), color=INK, linewidth=1)
        ax.annotate("", corners[-1], corners[-2], arrowprops={"arrowstyle": "-|>", "color": INK, "linewidth": 1,
                                                              "shrinkA": 0, "shrinkB": 0})

    arrow(layer, (0, 0), (0, 8.6))                       # the residual stream, with two branches
    for y, title, function in ((0.6, "mixer: one of two", "my_gated_attention"), (4.6, "MLP", "my_mlp")):
        arrow(layer, (0, y), (1.9, y), (1.9, y + 0.49))
        box(layer, 1.9, y + 0.8, 2.3, "norm", "my_rms_norm")
        arrow(layer, (1.9, y + 1.11), (1.9, y + 1.59))
        if function == "my_mlp":
            box(layer, 1.9, y + 1.9, 2.3, title, function)
            top = y + 2.21
        else:
            box(layer, 1.9, y + 1.9, 2.3, "Gated DeltaNet", "my_gated_delta_net")
            box(layer, 1.9, y + 2.52, 2.3, "or gated attention", function)
            top = y + 2.83
        arrow(layer, (1.9, top), (1.9, y + 3.4), (0.2, y + 3.4))
        layer.plot(0, y + 3.4, "o", markersize=15, markerfacecolor="white", markeredgecolor=INK)
        layer.text(0, y + 3.38, "+", **add)
    layer.text(0, -0.3, "x", fontsize=11, color=INK, ha="center", style="italic")
    layer.set_title("a layer: it adds to the stream, twice", fontsize=10, color=INK)
    layer.set(xlim=(-0.7, 3.3), ylim=(-0.6, 8.8))

    columns = {"in_proj_qkv": 1.0, "in_proj_b": 3.0, "in_proj_a": 4.4, "in_proj_z": 5.9}
    mixer.plot((1.0, 5.9), (0.15, 0.15), color=INK, linewidth=1)
    mixer.plot((3.0, 3.0), (-0.15, 0.15), color=INK, linewidth=1)
    mixer.text(3.0, -0.45, "x, normed", fontsize=9, color=INK, ha="center")
    for name, x in columns.items():
        arrow(mixer, (x, 0.15), (x, 0.69))
        box(mixer, x, 1.0, 1.3 if name != "in_proj_qkv" else 2.1, name)
    arrow(mixer, (1.0, 1.31), (1.0, 1.89))
    box(mixer, 1.0, 2.2, 2.1, "convolution", "my_convolution")
    for x, words in ((0.3, "q"), (1.0, "k"), (1.7, "v")):
        arrow(mixer, (x, 2.51), (x, 3.09) if words != "v" else (x, 4.39))
        mixer.text(x + 0.09, 2.74, words, fontsize=10, color=INK, style="italic", va="center")
    box(mixer, 0.65, 3.4, 1.3, "length 1")
    for x in (0.3, 1.0):
        arrow(mixer, (x, 3.71), (x, 4.39))
    arrow(mixer, (3.0, 1.31), (3.0, 1.89))
    box(mixer, 3.0, 2.2, 1.3, "sigmoid")
    arrow(mixer, (3.0, 2.51), (3.0, 4.39))
    mixer.text(3.1, 3.4, "β", fontsize=10, color=INK, style="italic", va="center")
    arrow(mixer, (4.4, 1.31), (4.4, 1.89))
    box(mixer, 4.4, 2.2, 1.3, "decay", "my_decay")
    arrow(mixer, (4.4, 2.51), (4.4, 4.39))
    mixer.text(4.5, 3.4, "g", fontsize=10, color=INK, style="italic", va="center")
    box(mixer, 2.55, 4.7, 5.2, "the gated delta rule, in chunks", "my_chunk_gated_delta_rule")
    arrow(mixer, (2.55, 5.01), (2.55, 5.79))
    mixer.text(2.65, 5.4, "o", fontsize=10, color=INK, style="italic", va="center")
    box(mixer, 2.55, 6.1, 2.1, "gated norm", "my_gated_norm")
    arrow(mixer, (5.9, 1.31), (5.9, 6.1), (3.62, 6.1))
    mixer.text(6.0, 3.4, "z", fontsize=10, color=INK, style="italic", va="center")
    arrow(mixer, (2.55, 6.41), (2.55, 6.99))
    box(mixer, 2.55, 7.3, 2.1, "out_proj")
    arrow(mixer, (2.55, 7.61), (2.55, 8.3))
    mixer.set_title("inside of Gated DeltaNet", fontsize=10, color=INK)
    mixer.set(xlim=(-0.3, 6.8), ylim=(-0.6, 8.8))
    for i, (owner, (colour, _)) in enumerate(OWNERS.items()):
        y = 8.3 - 0.45 * i
        mixer.add_patch(Rectangle((4.6, y - 0.13), 0.3, 0.26, facecolor=colour, edgecolor="#9aa3ad", linewidth=0.8))
        mixer.text(5.0, y, owner, fontsize=8.5, color=INK, va="center")
    for ax in (layer, mixer):
        ax.axis("off")
    return figure


def tensor_names(shapes: dict[str, tuple], config) -> Figure:
    """A checkpoint's names beside the stack they belong to: one layer of each kind in full, the others are like them.

    Args:
        shapes: official name -> shape, of all tensors of the language model.
        config: its `TextConfig`.
    """
    inside, layers = "model.language_model.", config.num_hidden_layers
    colours = {"linear_attention": KEEPS, "full_attention": "#a8540a"}
    figure, (stack, words) = _figure(2, (10.5, 6.2), width_ratios=(1, 3.6))
    rows = [("embed_tokens", FAINT), *((f"layers.{i}", colours[kind]) for i, kind in enumerate(config.layer_types)),
            ("norm", FAINT)]
    for y, (name, colour) in enumerate(rows):
        stack.barh(y, 1, height=0.82, color=colour)
        if len(rows) <= 34:
            stack.text(0.5, y, name, fontsize=8, color="white", ha="center", va="center", family="monospace")
    stack.set(xlim=(-0.05, 1.05), ylim=(-0.6, len(rows) - 0.4))
    stack.set_title("the stack, tokens go up", fontsize=9, color=INK)

    line, y = 1 / 36, 1.0
    first = {kind: config.layer_types.index(kind) for kind in colours if kind in config.layer_types}
    groups = [("", FAINT, [name for name in shapes if ".layers." not in name])]
    groups += [(f"{inside}layers.{i}.", colours[kind], [name for name in shapes if f".layers.{i}." in name])
               for kind, i in first.items()]
    for prefix, colour, names in groups:
        if prefix:
            alike = config.layer_types.count(config.layer_types[int(prefix.split(".")[3])]) - 1
            words.text(0.02, y, prefix, fontsize=8.5, family="monospace", weight="bold", color=colour, va="top")
            words.text(0.52, y, f"and {alike} other layer{'s' * (alike != 1)} like it, of {layers}", fontsize=8.5,
                       color=colour, va="top")
            y -= line
        for name in names:
            words.text(0.05 if prefix else 0.02, y, name.removeprefix(prefix), fontsize=8, family="monospace",
                       color=INK, va="top")
            words.text(0.52, y, " × ".join(map(str, shapes[name])), fontsize=8, family="monospace", color=INK, va="top")
            y -= line
        y -= line * 0.7
    words.set(xlim=(0, 1), ylim=(min(y, 0), 1))
    for ax in (stack, words):
        ax.axis("off")
    return figure


def lens(guesses: list[list[str]], probabilities, tokens: list[str]) -> Figure:
    """What a model would say after each layer: its likeliest next token, and how likely it finds it.

    Args:
        guesses: one list of T tokens for each row, the first at the bottom: the embedding, then the layers.
        probabilities: (rows, T)
        tokens: the T tokens that were read.
    """
    probabilities = _numpy(probabilities)
    rows, T = probabilities.shape
    longest = max(len(visible(guess)) for row in guesses for guess in row)
    width = min(1.0, max(0.62, 0.075 * min(longest, 13) + 0.1))
    figure, (ax,) = _figure(1, (min(12, 1.6 + width * T), 1.4 + 0.26 * rows))
    image = ax.imshow(probabilities, cmap="Blues", vmin=0, vmax=1.15, aspect="auto", origin="lower",
                      interpolation="nearest")
    for y, row in enumerate(guesses):
        for x, guess in enumerate(row):
            text = visible(guess).replace("$", r"\$")
            ax.text(x, y, text if len(text) <= 13 else text[:12] + "…", fontsize=7.5, ha="center", va="center",
                    family="monospace", color="white" if probabilities[y, x] > 0.6 else INK)
    ax.set_yticks(range(rows), ["embedding", *(f"layer {i}" for i in range(rows - 1))], fontsize=8)
    tokens_on(ax.xaxis, tokens)
    ax.set_xlabel("token that was read", fontsize=8, color=FAINT)
    bar = figure.colorbar(image, ax=[ax], shrink=0.8, aspect=18, pad=0.02)
    bar.ax.set_ylim(0, 1)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)
    return figure


def grouped(values: dict[str, dict[str, float]], ylabel: str = "", xlabel: str = "") -> Figure:
    """Bars side by side. values: group -> {bar: height}; every group has the same bars."""
    names = list(next(iter(values.values())))
    colours = (KEEPS, WRITES, RECALLS)
    figure, (ax,) = _figure(1, (min(11, 2.6 + 0.34 * (len(names) + 1) * len(values)), 2.9))
    width = 0.8 / len(names)
    for i, name in enumerate(names):
        ax.bar([x + (i - (len(names) - 1) / 2) * width for x in range(len(values))],
               [group[name] for group in values.values()], width=width, color=colours[i % 3], label=name)
    ax.set_xticks(range(len(values)), list(values))
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def shares(parts: dict[str, dict[str, int]]) -> Figure:
    """Which share of a whole each part has, one bar of length 1 for each whole. parts: whole -> {part: number}."""
    colours = (FAINT, KEEPS, "#a8540a", "#4aa3a2", RECALLS)
    figure, (ax,) = _figure(1, (8.5, 0.42 * len(parts) + 1.2))
    for y, numbers in enumerate(parts.values()):
        start, total = 0.0, sum(numbers.values())
        for (part, number), colour in zip(numbers.items(), colours):
            share = number / total
            seen = any(other[part] > 0.005 * sum(other.values()) for other in parts.values())
            ax.barh(-y, share, left=start, height=0.74, color=colour, label=part if y == 0 and seen else None)
            if share > 0.055:
                ax.text(start + share / 2, -y, f"{share:.0%}", ha="center", va="center", color="white", fontsize=8)
            start += share
        ax.text(1.01, -y, _rounded(total), fontsize=8.5, color=INK, va="center")
    ax.set_yticks([-y for y in range(len(parts))], list(parts))
    ax.set(xlim=(0, 1), xticks=[])
    ax.spines[:].set_visible(False)
    ax.legend(fontsize=8, frameon=False, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    return figure


def show(figure: Figure, alt: str, dpi: int = 100) -> None:
    """Show a figure in a notebook as exactly one PNG that carries its description, and close it.

    Args:
        alt: one sentence that says what is to be seen, for those who do not see it. It is the output's text as well.
    """
    from IPython.display import display
    from matplotlib import pyplot

    image = png(figure, dpi)
    pyplot.close(figure)                 # else a notebook would show it a second time
    display({"image/png": image, "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


def png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as the bytes of a PNG."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi, metadata={"Software": None})
    return image.getvalue()


# ---------------------------------------------------------------------------------------------------- what they share


def _figure(panels, size, **options):
    """A figure on its own background, and its axes as a flat list. Not pyplot's: nothing keeps it alive."""
    figure = Figure(figsize=size, facecolor=BACKGROUND, layout="constrained")
    rows, columns = panels if isinstance(panels, tuple) else (1, panels)
    axes = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for ax in axes:
        _plain(ax)
    return figure, axes


def _plain(ax):
    ax.tick_params(colors=INK, labelsize=8)
    for spine in ax.spines.values():
        spine.set(color="#c9ced6", linewidth=0.8)


def _patches(ax, picture, patch, merge):
    """A picture with its two grids and its tokens' numbers; of many tokens, those at the begin of each row."""
    height, width = picture.shape[:2]
    ax.imshow(picture, interpolation="nearest", extent=(0, width, height, 0))
    for step, strength in ((patch, 0.5), (patch * merge, 1.6)):
        for lines, length in ((ax.hlines, width), (ax.vlines, height)):
            places = np.arange(step, height if lines == ax.hlines else width, step)
            lines(places, 0, length, color="#ffffff", linewidth=strength + 0.6, alpha=0.5)
            lines(places, 0, length, color=INK, linewidth=strength, alpha=0.7)
    side, columns = patch * merge, width // (patch * merge)
    for i in range(0, height // side * columns, 1 if columns <= 12 else columns):
        ax.text(i % columns * side + side / 16, i // columns * side + side / 16, str(i), fontsize=7, color="#ffffff",
                va="top", bbox={"facecolor": INK, "alpha": 0.65, "linewidth": 0, "pad": 1.2})
    ax.set(xticks=[], yticks=[], xlim=(0, width), ylim=(height, 0))


def _over(ax, picture, weights, limit):
    """Weights in colours over a picture in pale grey."""
    height, width = picture.shape[:2]
    grey = picture @ np.array([77, 150, 29]) / 256
    ax.imshow(grey, cmap="gray", vmin=0, vmax=255, interpolation="nearest", extent=(0, width, height, 0))
    image = ax.imshow(weights, cmap=DIVERGING, vmin=-limit, vmax=limit, alpha=0.7, interpolation="nearest",
                      extent=(0, width, height, 0))
    ax.set(xticks=[], yticks=[])
    return image


def _from_zero(image, weights):
    """Where nothing is negative the bar begins at zero."""
    if min(np.min(x) for x in weights) >= 0:
        image.colorbar.ax.set_ylim(0, None)


def _strip(ax, name, heights, colour, length):
    """Bars between 0 and 1 over the tokens; they hang where they are negative."""
    if len(heights) <= 400:
        ax.bar(range(len(heights)), heights, width=0.8, color=colour)
    else:                                               # bars that nobody can tell apart, as one shape: drawn at once
        ax.stairs(heights, np.arange(len(heights) + 1) - 0.5, fill=True, color=colour)
    low = min(0.0, np.floor(10 * heights.min()) / 10)
    ax.set(ylim=(low, 1.02), yticks=[0, 1], xlim=(-0.6, length - 0.4))
    ax.set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")
    ax.spines[["top", "right"]].set_visible(False)


def _colour_bar(figure, image, axes):
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)


def _rounded(number: float) -> str:
    """1234567 -> "1.23 million"."""
    for size, word in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return str(int(number))


def _name_axes(ax, xlabel: str, ylabel: str) -> None:
    """The look of a diagram of curves: names at its axes, quiet lines across, and the legend at its right."""
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis="y", color="#e6e8eb", linewidth=0.8)
    ax.legend(fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _numpy(x) -> np.ndarray:
    return torch.as_tensor(x).detach().float().cpu().numpy()
