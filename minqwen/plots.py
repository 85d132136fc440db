"""Pictures of what a trace holds, for lessons and for pages that cannot run an explorer.

    t = minqwen.trace(qwen).run("ann has a red cup.")
    plots.show(plots.step(t.layers[0], t=5, head=2), alt="The memory after the sixth token, and how it came about.")

Every function but `show` returns a matplotlib `Figure` and shows nothing. Figures bring their own light background, so
they read well on dark pages too. Colours are safe for colour-blind eyes: blue to orange about zero, viridis above.
"""

import csv
import io

import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

__all__ = [
    "attention", "clip", "diverging", "gates", "looking", "maps", "memory", "over", "patches", "sequential", "show",
    "stack", "states", "step", "tokens_on", "training", "visible",
]

KEEPS, WRITES, RECALLS, INK, FAINT = "#3b82c4", "#e07b1a", "#8e63b0", "#24292f", "#8a8f98"
BACKGROUND = "#ffffff"


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
    shown = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}
    def drawn(c):                        # DejaVu has Latin, Greek, Cyrillic and common signs, but not CJK or emoji
        return c.isprintable() and (c < "\u0530" or "\u2010" <= c < "\u2600")
    return "".join(shown.get(c, c if drawn(c) else f"‹{ord(c):x}›") for c in token) or "∅"


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
    image = ax.imshow(weights, cmap=DIVERGING if signed else "viridis", vmin=-limit if signed else 0, vmax=limit,
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
    tokens_on(right.xaxis, tokens)
    tokens_on(right.yaxis, tokens)
    _colour_bar(figure, image, [right])
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


def show(figure: Figure, alt: str, dpi: int = 100) -> None:
    """Show a figure in a notebook as exactly one PNG that carries its description, and close it.

    Args:
        alt: one sentence that says what is to be seen, for those who do not see it. It is the output's text as well.
    """
    from IPython.display import display
    from matplotlib import pyplot

    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    pyplot.close(figure)                 # else a notebook would show it a second time
    display({"image/png": png.getvalue(), "text/plain": alt}, raw=True, metadata={"image/png": {"alt": alt}})


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
    ax.bar(range(len(heights)), heights, width=0.8, color=colour)
    low = min(0.0, np.floor(10 * heights.min()) / 10)
    ax.set(ylim=(low, 1.02), yticks=[0, 1], xlim=(-0.6, length - 0.4))
    ax.set_ylabel(name, fontsize=9, color=INK, rotation=0, ha="right", va="center")
    ax.spines[["top", "right"]].set_visible(False)


def _colour_bar(figure, image, axes):
    bar = figure.colorbar(image, ax=axes, shrink=0.8, aspect=18, pad=0.02)
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)


def _numpy(x) -> np.ndarray:
    return torch.as_tensor(x).detach().float().cpu().numpy()
