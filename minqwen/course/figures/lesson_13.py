"""Figures of lesson 13, Training."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ... import spoken
from ...plots import (
    DIVERGING,
    FAINT,
    GRID,
    INK,
    KEEPS,
    RECALLS,
    RULE,
    SEQUENTIAL,
    WRITES,
    as_numpy,
    colour_bar,
    draw_strip,
    new_figure,
    plain_axes,
    tokens_on,
)


def packed(rows: list[list[bool]]) -> Figure:
    """Texts as rows that are filled up with pads, and the same end to end in one row.

    Args:
        rows: of each text, token by token, is it the model's to say?
    """
    longest, total = max(map(len, rows)), sum(map(len, rows))
    figure, axes = new_figure((2, 1), (8.6, 0.32 * len(rows) + 1.9), gridspec_kw={"height_ratios": [len(rows), 1.3]})

    def boxes(ax, x, y, says):
        for i, its_own in enumerate(says):
            ax.add_patch(Rectangle((x + i + 0.06, y + 0.1), 0.88, 0.8, linewidth=0,
                                   facecolor=WRITES if its_own else KEEPS, alpha=1.0 if its_own else 0.55))

    for y, row in enumerate(rows):
        boxes(axes[0], 0, -y, row)
        for i in range(len(row), longest):
            axes[0].add_patch(Rectangle((i + 0.06, -y + 0.1), 0.88, 0.8, fill=False, edgecolor=RULE, linewidth=0.8))
    axes[0].set(xlim=(0, max(longest, 1)), ylim=(1 - len(rows), 1))
    axes[0].set_title("a row for each text: the rest is pads", fontsize=10, color=INK, loc="left")
    ends = [0]
    for row in rows:
        boxes(axes[1], ends[-1], 0, row)
        ends.append(ends[-1] + len(row))
    for end in ends:
        axes[1].plot([end, end], [-0.15, 1.05], color=INK, linewidth=1.4, clip_on=False)
        axes[1].text(end, -0.3, str(end), ha="center", va="top", fontsize=8, color=INK)
    axes[1].set(xlim=(0, total), ylim=(-0.9, 1.1))
    axes[1].set_title("one row for all, and where each ends: cu_seqlens", fontsize=10, color=INK, loc="left")
    for ax in axes:
        ax.axis("off")
    figure.alt = (
        f"Above, {len(rows)} texts as rows of boxes, one for each of {spoken.listed(str(len(row)) for row in rows)} "
        f"tokens, those that are the model's to say in another colour. Rows shorter than {longest} are filled up with "
        f"empty boxes. Below, the same texts end to end in one row of {total} boxes, with lines where they begin and "
        f"end: at {spoken.listed(map(str, ends))}.")
    return figure


def learning(steps, loss, recall: dict, gates: dict, state, tokens: list[str], where: str) -> Figure:
    """A model as it learns: its curves so far, and one head's gates and memory on one story.

    Args:
        steps, loss: (S,), nats a token.
        recall: name -> (S,) shares.
        gates: "alpha", "beta" -> (T,), on the story.
        state: (Dk, Dv), after the story's last token.
        where: which head that is, in words.
    """
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    grid = figure.add_gridspec(3, 3, height_ratios=(3, 1, 1.35))
    curves, known, memory = (figure.add_subplot(grid[0, i]) for i in range(3))
    curves.plot(steps, as_numpy(loss), color=INK, linewidth=1.6)
    curves.set_ylim(0, None)
    curves.set_title("loss, nats a token", fontsize=10, color=INK)
    for (name, y), colour, look in zip(recall.items(), (KEEPS, WRITES), ("-", "--")):
        known.plot(steps, as_numpy(y), look, color=colour, linewidth=1.8, label=name)
    known.set_ylim(-0.04, 1.04)
    known.yaxis.set_major_formatter("{x:.0%}")
    known.set_title("facts recalled", fontsize=10, color=INK)
    known.legend(fontsize=8, frameon=False, loc="upper left")
    for ax in (curves, known):
        plain_axes(ax)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_xlabel("step", fontsize=8, color=INK)
        ax.set_xlim(0, max(1, steps[-1]))
    state = as_numpy(state)
    limit = np.abs(state).max() or 1.0
    image = memory.imshow(state, cmap=DIVERGING, vmin=-limit, vmax=limit, interpolation="nearest")
    memory.set_title("memory after the story", fontsize=10, color=INK)
    memory.set(xticks=[], yticks=[])
    colour_bar(figure, image, [memory])
    for i, (name, sign, colour) in enumerate((("alpha", "α  keeps", KEEPS), ("beta", "β  writes", WRITES))):
        ax = figure.add_subplot(grid[1 + i, :])
        draw_strip(ax, sign, as_numpy(gates[name]), colour, len(tokens))
        plain_axes(ax)
        ax.set_xticks([])
        if i == 0:
            ax.set_title(where, fontsize=9, color=INK, loc="left")
    tokens_on(ax.xaxis, tokens)
    keeps, writes = (f"from {gate.min():.1f} to {gate.max():.1f}" for gate in map(as_numpy, gates.values()))
    figure.alt = (
        f"A model as it learns, after {steps[-1]} steps. In nats a token, {spoken.curves(steps, {'the loss': loss})}. "
        f"Of facts the share recalled: {spoken.curves(steps, recall)}. Of {where}, the memory after a story; and over "
        f"the story's tokens how much it keeps, {keeps}, and how strongly it writes, {writes}.")
    return figure


def corrections(steps, lost, layers: list[int], at: int) -> Figure:
    """Which layer overwrites, and since when: layers by steps.

    Args:
        steps: (S,).
        lost: (S, L), recall of changed facts that is lost where a layer's correction is switched off.
        layers: (L,), their numbers in the model.
        at: the step of the jump, which is marked.
    """
    figure, (ax,) = new_figure(1, (8.2, 0.32 * len(layers) + 1.5))
    lost = np.clip(as_numpy(lost), 0, None)
    image = ax.imshow(lost.T, cmap=SEQUENTIAL, vmin=0, vmax=max(lost.max(), 0.01), aspect="auto", origin="lower",
                      interpolation="nearest", extent=(0, len(steps), -0.5, len(layers) - 0.5))
    ax.axvline(int(np.searchsorted(steps, at)), color=WRITES, linewidth=1.4)
    places = range(0, len(steps), -(-len(steps) // 10))
    ax.set_xticks([i + 0.5 for i in places], [f"{steps[i]}" for i in places])
    ax.set_yticks(range(len(layers)), [f"layer {layer}" for layer in layers])
    ax.set_xlabel("step", fontsize=9, color=INK)
    ax.set_title("changed facts that are lost without this layer's correction", fontsize=10, color=INK, loc="left")
    colour_bar(figure, image, [ax])
    image.colorbar.ax.yaxis.set_major_formatter("{x:.0%}")
    most = spoken.listed(f"{column.max():.0%} in layer {layer}" for layer, column in zip(layers, lost.T))
    figure.alt = (
        f"A map of layers by steps, {steps[0]} to {steps[-1]}, with a line at {at}: the share of changed facts that "
        f"is lost without a layer's correction. At its most it is {most}.")
    return figure


def ablations(rows: dict) -> Figure:
    """How much each variant recalls: a dot for each seed, and a bar from the mean over one deviation to each side.

    Args:
        rows: variant -> {name of what is recalled: (seeds,) shares}, the first variant being the one to compare with.
    """
    figure, (ax,) = new_figure(1, (8.4, 0.42 * len(rows) + 1.2))
    looks = list(zip((KEEPS, WRITES, RECALLS), "os^"))
    names = list(next(iter(rows.values())))
    for y, row in enumerate(rows.values()):
        for i, name in enumerate(names):
            (colour, marker), x = looks[i], as_numpy(row[name])
            lift = (i - (len(names) - 1) / 2) * 0.3
            ax.plot(x, np.full(len(x), y + lift), marker, color=colour, markersize=4.5, alpha=0.75,
                    label=name if y == 0 else None)
            mean, spread = x.mean(), x.std(ddof=1) if len(x) > 1 else 0.0
            ax.plot([mean - spread, mean + spread], [y + lift, y + lift], color=colour, linewidth=2.2)
            ax.plot([mean, mean], [y + lift - 0.13, y + lift + 0.13], color=colour, linewidth=2.2)
    for i, name in enumerate(names):
        ax.axvline(as_numpy(next(iter(rows.values()))[name]).mean(), color=looks[i][0], linewidth=0.9, linestyle=":")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set(ylim=(len(rows) - 0.4, -0.6), xlim=(-0.04, 1.04))
    ax.xaxis.set_major_formatter("{x:.0%}")
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=GRID, linewidth=0.8)
    ax.set_xlabel("recalled at the end", fontsize=9, color=INK)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.plot([], [], color=FAINT, linewidth=2.2, label="mean, one deviation")
    ax.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.4, -1.3 / len(rows)), ncols=3)
    def told(row):
        return spoken.listed(f"{name} {as_numpy(row[name]).mean():.0%}" for name in names)

    figure.alt = "What is recalled at the end, a dot for each seed. On average: " + "; ".join(
        f"{variant}, {told(row)}" for variant, row in rows.items()) + "."
    return figure
