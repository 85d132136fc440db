"""The explorers, standing still: the picture that a page shows where nothing can move."""

import textwrap
from itertools import zip_longest

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ..plots import (
    DIVERGING,
    GRID,
    INK,
    KEEPS,
    RECALLS,
    RULE,
    SEQUENTIAL,
    WRITES,
    as_numpy,
    bar_from_zero,
    colour_bar,
    draw_over,
    draw_patches,
    draw_strip,
    new_figure,
    plain_axes,
    tokens_on,
    visible,
)


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
    limit = limit or max(np.abs(as_numpy(step[part])).max() for part in parts) or 1.0
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    grid = figure.add_gridspec(4, 4, height_ratios=(6, 1, 1, 1))
    panels = [figure.add_subplot(grid[0, i]) for i in range(4)]
    for ax, (part, title) in zip(panels, parts.items()):
        image = ax.imshow(as_numpy(step[part]), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(title, fontsize=10, color=INK)
        ax.set(xticks=[], yticks=[])
    colour_bar(figure, image, panels)
    strips = {"α  keeps": (alpha, KEEPS), "β  writes": (beta, WRITES), "recall": (recall, RECALLS)}
    for i, (name, (heights, colour)) in enumerate(strips.items()):
        ax = figure.add_subplot(grid[i + 1, :])
        draw_strip(ax, name, as_numpy(heights), colour, len(tokens))
        ax.axvspan(len(recall) - 1.5, len(recall) - 0.5, color=INK, alpha=0.12, linewidth=0)
        ax.set_xticks([])
    tokens_on(ax.xaxis, tokens, most=130)
    for ax in figure.axes:
        plain_axes(ax)
    return figure


def maps(tiles, side: int, gap: int, layers: list[str], weights, tokens: list[str], title: str, limit: float,
         signed: bool) -> Figure:
    """The attention explorer, standing still: all maps as small tiles, and one of them large.

    Args:
        tiles: (height, width, 4) uint8: a column of tiles for each layer, its first head at the bottom.
        side, gap: pixels on a tile's side, and between two tiles.
        layers: the name of each layer.
        weights: (T, T); limit: the weight that has the full colour; signed: colours about zero, else from zero on.
    """
    height, width = tiles.shape[:2]
    figure = Figure(figsize=(11.5, max(4.4, min(9.5, 5.9 * height / width))),
                    layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.5, 1.1))
    left.imshow(tiles, interpolation="nearest")
    rows, columns = (np.arange(n // (side + gap) + 1) * (side + gap) + side / 2 for n in (height, width))
    left.set_xticks(columns, layers, rotation=30, ha="right")
    left.set_yticks(rows, range(len(rows))[::-1])
    left.set_title("every head's map", fontsize=10, color=INK)
    left.set_ylabel("head", fontsize=8, color=INK)
    shown = np.ma.array(as_numpy(weights), mask=~np.tri(len(tokens), dtype=bool))
    image = right.imshow(shown, cmap=DIVERGING if signed else SEQUENTIAL, vmin=-limit if signed else 0, vmax=limit,
                         interpolation="nearest")
    right.set_title(title, fontsize=10, color=INK)
    right.set_xlabel("looked at", fontsize=8, color=INK)
    right.set_ylabel("token", fontsize=8, color=INK)
    for ax in (left, right):
        plain_axes(ax)
        ax.spines[:].set_visible(False)
        ax.set_anchor("N")
    tokens_on(right.xaxis, tokens, most=36)
    tokens_on(right.yaxis, tokens, most=36)
    bar = figure.colorbar(image, cax=right.inset_axes([1.02, 0.15, 0.025, 0.7]))
    bar.ax.tick_params(labelsize=7, colors=INK)
    bar.outline.set_visible(False)
    return figure


def gate_maps(panels: dict, factors, limit: float, signed: bool, tokens: list[str], token: int, head: int) -> Figure:
    """The gate explorer, standing still: a layer's gates over the tokens, and one head's output gate by dimensions.

    Args:
        panels: title -> ((H, T) places on the scale from 0 to 1, what is written along that scale in equal steps).
        factors: (T, D); limit: the factor that has the full colour; signed: colours about zero, else from zero on.
        token, head: what is marked.
    """
    factors, T = as_numpy(factors), len(tokens)
    shares = [as_numpy(x) for x, _ in panels.values()]
    heights = [*(0.5 + min(1.6, 0.16 * len(x)) for x in shares), 1.7]
    figure, axes = new_figure((len(heights), 1), (max(6.0, min(12, 3.0 + 0.17 * T)), sum(heights) + 0.9), sharex=True,
                           gridspec_kw={"height_ratios": heights})
    for ax, x, (title, (_, marks)) in zip(axes, shares, panels.items()):
        image = ax.imshow(x, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto", origin="lower", interpolation="nearest")
        ax.set_title(title, fontsize=9, color=INK, loc="left")
        ax.set_ylabel("head", fontsize=8, color=INK)
        ax.set_yticks(range(0, len(x), -(-len(x) // 8)))
        _mark(ax, token, head)
        colour_bar(figure, image, [ax])
        image.colorbar.set_ticks(np.linspace(0, 1, len(marks)), labels=marks)
    image = axes[-1].imshow(factors.T, cmap=DIVERGING if signed else SEQUENTIAL, vmin=-limit if signed else 0,
                            vmax=limit, aspect="auto", interpolation="nearest")
    axes[-1].set_title(f"output gate of head {head}, dimension by dimension", fontsize=9, color=INK, loc="left")
    axes[-1].set_ylabel("dimension", fontsize=8, color=INK)
    _mark(axes[-1], token, None)
    colour_bar(figure, image, axes[-1:])
    tokens_on(axes[-1].xaxis, tokens, most=90)
    return figure


def expert_maps(weights, shared, loads, layers: list[int], tokens: list[str], token: int, layer: int,
                expert: int) -> Figure:
    """The expert explorer, standing still: one layer's experts over the tokens, and the loads of all layers' experts.

    Args:
        weights: (T, E), 0 where an expert does not read the token; shared: (T,), from 0 to 1.
        loads: (layers, E), shares of the tokens; layers: the layers' numbers in the model.
        token, layer, expert: what is marked.
    """
    (T, E), high = weights.shape, min(3.2, 0.5 + 0.2 * weights.shape[1])
    wide = max(4.5, min(9, 1.4 + 0.17 * T))
    figure = Figure(figsize=(wide + 2.2, high + 1.7), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(high, 0.25), width_ratios=(wide, 1.6))
    above, beside, below = (figure.add_subplot(place) for place in (grid[0, 0], grid[0, 1], grid[1, 0]))
    options = {"cmap": SEQUENTIAL, "vmin": 0, "aspect": "auto", "origin": "lower", "interpolation": "nearest"}
    image = above.imshow(weights.T, **options)
    colour_bar(figure, image, [above])
    above.set_title(f"what each expert of layer {layer} counts", fontsize=9, color=INK, loc="left")
    above.set_xticks([])
    below.imshow(shared[None], vmax=1, **options)
    below.set_title("the shared expert, from 0 to 1", fontsize=9, color=INK, loc="left")
    below.set_yticks([])
    colour_bar(figure, beside.imshow(loads.T, **options), [beside])
    beside.set_title("share of tokens read", fontsize=9, color=INK, loc="left")
    beside.set_xticks(range(0, len(layers), -(-len(layers) // 8)), layers[:: -(-len(layers) // 8)])
    beside.set_xlabel("layer", fontsize=8, color=INK)
    for ax in (above, beside):
        ax.set_yticks(range(0, E, -(-E // 8)))
    above.set_ylabel("expert", fontsize=8, color=INK)
    _mark(above, token, expert)
    _mark(below, token, None)
    _mark(beside, layers.index(layer), expert)
    for ax in figure.axes:
        plain_axes(ax)
    tokens_on(below.xaxis, tokens, most=90)
    return figure


def _mark(ax, column, row):
    """A frame about a column of a map, and about a row of it."""
    for draw, place in ((ax.axvspan, column), (ax.axhspan, row)):
        if place is not None:
            draw(place - 0.5, place + 0.5, fill=False, edgecolor=WRITES, linewidth=1.2)


def training(steps, loss, recall: dict, lost, layers: list[int], at: int, jump: int, gates: dict, state, limit: float,
             tokens: list[str], token: int) -> Figure:
    """The training explorer, standing still: curves and layers over the steps, one head's gates and memory of a story.

    Args:
        steps, loss: (S,); recall: name -> (S,) shares; lost: (S, L), see `nano.seedling.Run.corrections`.
        layers: (L,), the layers' numbers in the model; at, jump: snapshots that are marked.
        gates: "alpha", "beta" -> (T,); state: (Dk, Dv); limit: the number that has the full colour.
        token: the token that is marked.
    """
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    grid = figure.add_gridspec(4, 2, height_ratios=(3, 1.6, 0.8, 0.8), width_ratios=(2.2, 1))
    curves, heat = figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[1, 0])
    memory = figure.add_subplot(grid[:2, 1])
    places, edge = np.arange(len(steps)), (-0.5, len(steps) - 0.5)
    loss = as_numpy(loss)
    curves.step(places, loss / (loss.max() or 1.0), where="mid", color=INK, label="loss / largest")
    for (name, y), colour in zip(recall.items(), (KEEPS, WRITES)):
        curves.step(places, as_numpy(y), where="mid", color=colour, linewidth=1.8, label=name)
    curves.axvline(jump, color=RULE, linewidth=1.4)
    curves.set(xlim=edge, ylim=(-0.03, 1.03), xticks=[])
    curves.set_title(f"after {steps[at]} of {steps[-1]} steps", fontsize=10, color=INK, loc="left")
    curves.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.01))
    curves.spines[["top", "right"]].set_visible(False)
    lost = np.clip(as_numpy(lost), 0, None)
    heat.imshow(lost.T, cmap=SEQUENTIAL, vmin=0, vmax=lost.max() or 1.0, aspect="auto", origin="lower",
                interpolation="nearest")
    heat.set_title("changed facts that hang on a layer's correction", fontsize=9, color=INK, loc="left")
    heat.set_yticks(range(len(layers)), layers)
    ticks = range(0, len(steps), -(-len(steps) // 8))
    heat.set_xticks(list(ticks), [f"{steps[i]}" for i in ticks])
    heat.set_ylabel("layer", fontsize=8, color=INK)
    for ax in (curves, heat):
        ax.axvspan(at - 0.5, at + 0.5, color=INK, alpha=0.2, linewidth=0)
    image = memory.imshow(as_numpy(state), cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    memory.set_title(f"memory after “{visible(tokens[token])}”", fontsize=10, color=INK)
    memory.set(xticks=[], yticks=[])
    colour_bar(figure, image, [memory])
    for i, (name, sign, colour) in enumerate((("alpha", "α  keeps", KEEPS), ("beta", "β  writes", WRITES))):
        ax = figure.add_subplot(grid[2 + i, :])
        draw_strip(ax, sign, as_numpy(gates[name]), colour, len(tokens))
        ax.axvspan(token - 0.5, token + 0.5, color=INK, alpha=0.12, linewidth=0)
        ax.set_xticks([])
    tokens_on(ax.xaxis, tokens, most=130)
    for ax in figure.axes:
        plain_axes(ax)
    return figure


def context_cost(contexts, charts: dict, at: int) -> Figure:
    """Charts side by side over the context, both axes logarithmic.

    Args:
        contexts: (N,) tokens.
        charts: title -> (how a number of it is written, {name of a line -> ((N,) numbers, its colour)}); lines of zeros
            are left out.
        at: the context that is marked.
    """
    figure, axes = new_figure(len(charts), (5.4 * len(charts), 3.7))
    for ax, (title, (written, lines)) in zip(axes, charts.items()):
        for name, (values, colour) in lines.items():
            if np.any(values):
                dashed = name.startswith("all")
                ax.plot(contexts, values, color=colour, linewidth=1.2 if dashed else 2,
                        linestyle="--" if dashed else "-", label="if all layers were attention" if dashed else name)
        ax.axvline(at, color=INK, linewidth=0.8, alpha=0.5)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda y, _, written=written: written(y))
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        ax.tick_params(axis="x", labelrotation=30)
        ax.grid(color=GRID, linewidth=0.8)
        ax.set_title(title, fontsize=10, color=INK)
        ax.set_xlabel("context, tokens", fontsize=9, color=INK)
        ax.legend(fontsize=8, frameon=False)
    return figure


def rounding(numbers, off, limit: float, group: tuple, first: int, row: int, column: int, bits: int) -> Figure:
    """The explorer of quantization, standing still: rows of a weight, what each number is off by, and one group.

    Args:
        numbers, off: (rows, K); limit: the number that has the full colour, 15 times as much as what is off.
        group: its numbers, what they become, (size,) each, and their scale.
        first: the number of the first row; row, column: where the group begins.
    """
    here, becomes, scale = group
    figure = Figure(figsize=(9.2, 5.4), layout="constrained")
    *maps, below = figure.subplots(3, 1, height_ratios=(1, 1, 1.5))
    last = first + len(numbers) - 1
    for ax, x, most, title in ((maps[0], numbers, limit, f"rows {first} to {last}: the weights"),
                               (maps[1], off, limit / 15, f"what each is off by in {bits} bits")):
        image = ax.imshow(x, cmap=DIVERGING, vmin=-most, vmax=most, aspect="auto", interpolation="nearest",
                          extent=(-0.5, numbers.shape[1] - 0.5, last + 0.5, first - 0.5))
        ax.add_patch(Rectangle((column - 0.5, first + row - 0.5), len(here), 1, fill=False, edgecolor=WRITES))
        ax.set_title(title, fontsize=9, color=INK, loc="left")
        colour_bar(figure, image, [ax])
    x = np.arange(column, column + len(here))
    if bits < 5:
        rungs = scale * np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
        below.hlines(rungs, x[0] - 1, x[-1] + 1, color=GRID, linewidth=0.8, zorder=0)
    below.vlines(x, here, becomes, color=WRITES, linewidth=1)
    below.plot(x, becomes, "_", color=WRITES, markersize=4, label="what each becomes")
    below.plot(x, here, "o", color=KEEPS, markersize=2.5, label="the numbers")
    below.set_title(f"one group of row {first + row}", fontsize=9, color=INK, loc="left")
    below.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2)
    for ax in figure.axes:
        plain_axes(ax)
    return figure


def looking(frames, names: list[str], weights, maps: dict, patch: int, merge: int = 2, title: str = "") -> Figure:
    """The vision explorer, standing still: frames with their patches, the weights over them, and more maps below.

    Args:
        frames: (F, H, W, 3) uint8, what one token spans in time: one for a picture, two for a clip.
        names: what is written above each frame.
        weights: (rows, columns), a weight for each token.
        maps: title -> (rows, columns); each kind of map (its title without the first word) has a scale of its own.
        patch, merge: as in `patches`.
    """
    weights, maps = as_numpy(weights), {title: as_numpy(x) for title, x in maps.items()}
    most = max(1, min(8, len(maps)))
    down, ratio = -(-len(maps) // most), min(1.6, frames.shape[1] / frames.shape[2])
    large, small = min(3.4, 10 / (len(frames) + 1)), 9.6 / most
    figure = Figure(figsize=(10.5, large * ratio + 0.75 + down * (small * ratio + 0.45)),
                    layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(large * ratio + 0.75, down * (small * ratio + 0.45)))
    panels = above.subplots(1, len(frames) + 1)
    for ax, frame, name in zip(panels, frames, names):
        draw_patches(ax, frame, patch, merge)
        ax.set_title(name, fontsize=10, color=INK)
    image = draw_over(panels[-1], frames.mean(0), weights, np.abs(weights).max() or 1.0)
    panels[-1].set_title(title, fontsize=10, color=INK)
    colour_bar(above, image, panels[-1:])
    bar_from_zero(image, weights)
    axes = below.subplots(down, most, squeeze=False).flat
    kinds = {}
    for name, looked in maps.items():
        kind = name.partition(" ")[2]
        kinds[kind] = max(kinds.get(kind, 0), np.abs(looked).max())
    for ax, (name, looked) in zip(axes, maps.items()):
        draw_over(ax, frames.mean(0), looked, kinds[name.partition(" ")[2]] or 1.0)
        ax.set_title(name, fontsize=8, color=INK)
    for ax in figure.axes:
        plain_axes(ax)
        if not ax.images and not ax.collections:
            ax.axis("off")
    return figure


def before_after(names: list[str], before, after, answers: list[str] = ()) -> Figure:
    """The memory lab, standing still: how likely each token was and is, the first at the top, under both answers.

    Args:
        names: texts of tokens; before, after: (tokens,) probabilities.
    """
    before, after = as_numpy(before), as_numpy(after)
    title = [part for answer in answers for part in textwrap.wrap(answer, 100)]
    figure, (ax,) = new_figure(1, (7.5, 0.42 * len(names) + 0.7 + 0.19 * len(title)))
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


def drafts(passes: list[dict], number: int, title: str, columns: int = 104) -> Figure:
    """The draft explorer, standing still: an answer, each token marked by how it came, above one pass of the model.

    A thick line is under what was drafted and taken, a line through what was refused, and none at the model's own.

    Args:
        passes: of each "drafted" and "given", the tokens with their "text"; "q", "p" and "p_given", how likely they
            are to the head and to the model; "coins", one for each draft, where they were drawn; "taken", how many
            drafts were taken.
        number: the pass that is shown.
        columns: letters to a line.
    """
    cells = [cell for i, one in enumerate(passes) for cell in (
        *((token["text"], KEEPS, i) for token in one["drafted"][: one["taken"]]),
        *((token["text"], WRITES, i) for token in one["drafted"][one["taken"] : len(one["p"])]),
        *((token["text"], None, i) for token in one["given"][one["taken"] :]))]
    places, x, line = [], 0, 0
    for text, _, _ in cells:
        width = len(visible(text)) + 1
        x, line = (x, line) if x + width <= columns else (0, line + 1)
        places.append((x, line, width))
        x += width
    one = passes[number]
    rows = [(token["text"], q, p) for token, q, p in zip_longest(one["drafted"], one["q"], one["p"])]
    rows += [(token["text"], None, p) for token, p in
             zip(one["given"][one["taken"] :], one["p_given"][one["taken"] :])]
    above, below = 0.3 + 0.27 * (line + 1), 0.5 + 0.3 * len(rows)
    written = ["monospace", "DejaVu Sans"]               # the first one lacks signs that the second has
    figure, (ax, bars) = new_figure((2, 1), (9.2, above + below), gridspec_kw={"height_ratios": (above, below)})
    for before, (text, colour, i), (x, line, width) in zip([(None, None, 0), *cells], cells, places):
        ax.text(x, line, visible(text).replace("$", r"\$"), fontsize=8, family=written, va="center", color=INK)
        if i == number:
            ax.add_patch(Rectangle((x - 0.6, line - 0.4), width, 0.95, fill=False, edgecolor=INK, linewidth=0.8))
        if colour:
            y = line + (0.42 if colour == KEEPS else -0.08)
            ax.plot((x - 0.1, x + width - 1.1), (y, y), color=colour, linewidth=2 if colour == KEEPS else 1.2)
        if i != before[-1]:                              # a pass begins
            ax.plot((x - 0.6,) * 2, (line - 0.4, line + 0.4), color=RULE, linewidth=1)
    ax.set(xlim=(-0.6, columns), ylim=(line + 0.6, -0.6))
    ax.axis("off")
    ax.set_title(title, fontsize=10, color=INK, loc="left")
    for i, (colour, label) in enumerate(((KEEPS, "to the head"), (INK, "to the model"))):
        chances = [row[1 + i] or 0 for row in rows]
        drawn = bars.barh(np.arange(len(rows)) + 0.4 * i - 0.2, chances, 0.36, color=colour, label=label)
        bars.bar_label(drawn, [f"{row[1 + i]:.1%}" if row[1 + i] is not None else "" for row in rows], fontsize=7,
                       padding=2, color=INK)
    for i, (coin, q) in enumerate(zip(one["coins"], one["q"])):
        bars.plot((coin * q,) * 2, (i - 0.44, i + 0.44), color=WRITES, linewidth=1.5, label="" if i else "the coin")
    bars.set(xlim=(0, 1.4), xticks=[0, 0.5, 1])
    bars.set_yticks(range(len(rows)), [visible(text).replace("$", r"\$") for text, _, _ in rows], family=written)
    bars.invert_yaxis()
    bars.spines[["top", "right"]].set_visible(False)
    bars.legend(frameon=False, fontsize=8, loc="upper right", title=f"pass {number + 1}: how likely",
                title_fontsize=8)
    return figure


def dialogue(turns: list[tuple[str, str]], width: int = 88) -> Figure:
    """A chat as it was spoken, from the top down. turns: who speaks, and what they say."""
    lines = [(i, who if n == 0 else "", line) for i, (who, said) in enumerate(turns)
             for n, line in enumerate(part for text in said.splitlines() or [""]
                                      for part in textwrap.wrap(text, width) or [""])]
    figure, (ax,) = new_figure(1, (8.2, 0.3 + 0.22 * (len(lines) + 0.5 * len(turns))))
    for n, (i, who, line) in enumerate(lines):
        y, colour = -n - 0.5 * i, KEEPS if i % 2 == 0 else WRITES
        ax.text(0.11, y, who, ha="right", va="center", fontsize=8, color=colour, weight="bold")
        ax.text(0.13, y, line.replace("$", r"\$"), va="center", fontsize=9, color=INK)
    ax.set(xlim=(0, 1), ylim=(-len(lines) - 0.5 * len(turns), 1))
    ax.axis("off")
    return figure


def rollouts(question: str, answers: list[dict], changes, limit: float, answer: int, token: int) -> Figure:
    """The rollout explorer, standing still: answers to one question, and how much likelier each token has become.

    Args:
        answers: of each its "text", "reward", "advantage", whether it is "right", and the "tokens", each with a "text".
        changes: (answers, tokens), in nats; not a number where there is nothing to be shown.
        limit: the change that has the full colour.
        answer, token: what is marked; its tokens are written below.
    """
    figure, (ax,) = new_figure(1, (9.2, 1.3 + 0.24 * len(answers)))
    image = ax.imshow(np.ma.masked_invalid(changes), cmap=DIVERGING, vmin=-limit, vmax=limit, aspect="auto",
                      interpolation="nearest")
    said = [f"{visible(one['text'])} {'✓' if one['right'] else '✗'}  {one['reward']:.2f}  {one['advantage']:+.2f}"
            for one in answers]
    ax.set_yticks(range(len(answers)), [text.replace("$", r"\$") for text in said], family=["monospace", "DejaVu Sans"])
    ax.set_title(f"{question.replace('$', chr(92) + '$')}   answer, reward, advantage; and each token now, in nats",
                 fontsize=9, color=INK, loc="left")
    tokens_on(ax.xaxis, [one["text"] for one in answers[answer]["tokens"]], most=120)
    long = len(answers[answer]["tokens"])
    for left, wide, width in ((-0.5, long, 0.8), (token - 0.5, 1, 1.8)):
        ax.add_patch(Rectangle((left, answer - 0.5), wide, 1, fill=False, edgecolor=INK, linewidth=width))
    colour_bar(figure, image, [ax])
    return figure
