"""Figures of lesson 08, Vision."""

import numpy as np
from matplotlib.figure import Figure

from ... import spoken
from ...plots import (
    DIVERGING,
    INK,
    ON_DARK,
    ON_LIGHT,
    as_numpy,
    bar_from_zero,
    colour_bar,
    draw_over,
    draw_patches,
    new_figure,
)


def patches(picture, patch: int, merge: int = 2, title: str = "") -> Figure:
    """A picture with the grid of its patches (thin) and of its tokens (bold), which are numbered in their order.

    Args:
        picture: (H, W, 3) uint8, as the model gets it: both sides multiples of patch x merge.
        patch, merge: pixels on a patch's side, and patches on a token's.
    """
    height, width = picture.shape[:2]
    scale = 4.2 / max(height, width)
    figure, (ax,) = new_figure(1, (max(2.2, scale * width) + 0.2, scale * height + (0.5 if title else 0.2)))
    draw_patches(ax, picture, patch, merge)
    ax.set_title(title, fontsize=10, color=INK)
    rows, columns = height // (patch * merge), width // (patch * merge)
    named = f", {spoken.heard(title)}," if title else ""
    figure.alt = (
        f"A picture{named} under two grids: a thin one around each patch of {patch} x {patch} pixels, and a bold one "
        f"around each token of {merge} x {merge} patches. The tokens, {rows} rows of {columns}, are numbered row by "
        "row from the top left, beginning with 0.")
    return figure


def over(picture, maps: dict, limit: float | None = None, columns: int = 6) -> Figure:
    """Weights laid over a picture, each map under its title, all on one scale: blue below zero, orange above.

    Args:
        picture: (H, W, 3) uint8.
        maps: title -> (rows, columns), a weight for each token of the picture.
        limit: the weight that has the full colour; the largest there is if None.
        columns: how many maps stand side by side.
    """
    maps = {title: as_numpy(x) for title, x in maps.items()}
    limit = limit or max(np.abs(x).max() for x in maps.values()) or 1.0
    across = min(columns, len(maps))
    down, side = -(-len(maps) // across), min(2.4, 10 / across)
    height = side * picture.shape[0] / picture.shape[1]
    figure, axes = new_figure((down, across), (side * across + 1.0, (height + 0.32) * down + 0.1))
    for ax, (title, weights) in zip(axes, maps.items()):
        image = draw_over(ax, picture, weights, limit)
        ax.set_title(title, fontsize=9, color=INK)
    for ax in axes[len(maps) :]:
        ax.axis("off")
    colour_bar(figure, image, axes)
    bar_from_zero(image, maps.values())
    def told(weights):
        strength = np.abs(weights).ravel()
        near = sorted(np.flatnonzero(strength > 0.5137 * strength.max()), key=lambda i: -strength[i])
        if not near:
            return "nothing anywhere"
        first, *near = near
        others = f", and more than half as strong at {spoken.listed(map(str, sorted(near)))}" if near else ""
        return f"the strongest at token {first}{others}"

    rows, across = next(iter(maps.values())).shape
    figure.alt = (
        f"Over the picture in pale grey a weight for each token, {rows} rows of {across}, counted row by row from 0. "
        + "; ".join(f"{spoken.heard(title)}: {told(weights)}" for title, weights in maps.items()) + ".")
    return figure


def clip(frames, weights=None, times: list[float] | None = None, limit: float | None = None) -> Figure:
    """A clip's slices side by side, the frames of each in a column, and below them weights over their mean.

    Args:
        frames: (T, H, W, 3) uint8.
        weights: (slices, rows, columns), a weight for each token; T is a multiple of the slices. None: one slice for
            each pair of frames, and no weights.
        times: of the slices, in seconds.
        limit: as in `over`.
    """
    count = len(frames) // 2 if weights is None else len(weights)
    slices = frames.reshape(count, -1, *frames.shape[1:])                                   # (slices, F, H, W, 3)
    F, side = slices.shape[1], max(0.8, min(1.8, 11 / count))
    rows = F + (weights is not None)
    height = side * frames.shape[1] / frames.shape[2]
    width = side * count + (1.0 if weights is not None else 0.3)
    figure, axes = new_figure((rows, count), (width, height * rows + 0.6))
    for i in range(count):
        for f in range(F):
            axes[f * count + i].imshow(slices[i, f], interpolation="nearest")
        time = "" if times is None else f"\n{times[i]:.1f} s"
        axes[i].set_title(f"slice {i}{time}", fontsize=9, color=INK)
    if weights is not None:
        weights = as_numpy(weights)
        limit = limit or np.abs(weights).max() or 1.0
        for ax, its_frames, looked in zip(axes[F * count :], slices, weights):
            image = draw_over(ax, its_frames.mean(0), looked, limit)
        colour_bar(figure, image, axes[F * count :])
        bar_from_zero(image, weights)
    for f in range(F):
        axes[f * count].set_ylabel(f"frame {f}", fontsize=8, color=INK)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    stands = [f"slice {i}" for i, its_frames in enumerate(slices) if F > 1 and (its_frames == its_frames[0]).all()]
    figure.alt = f"A clip as {count} slices of {F} frames" + (
        f" at {spoken.listed(f'{time:.1f}' for time in times)} seconds" if times is not None else "") + (
        f"; in {spoken.listed(stands)} they are the same" if stands else "") + "." + (
        "" if weights is None else f" Below each slice a weight for each token: the strongest is in slice "
        f"{np.abs(weights).max((1, 2)).argmax()}.")
    return figure


def side_by_side(pictures: dict) -> Figure:
    """Pictures, each under its title; title -> (H, W, 3) uint8."""
    figure, axes = new_figure(len(pictures), (2.8 * len(pictures), 2.6))
    for ax, (title, picture) in zip(axes, pictures.items()):
        ax.imshow(np.asarray(picture, dtype=np.uint8), interpolation="nearest")
        ax.set_title(title, fontsize=10, color=INK)
        ax.axis("off")
    sizes = {title: np.shape(picture)[:2] for title, picture in pictures.items()}
    figure.alt = ("Side by side: " if len(sizes) > 1 else "") + "; ".join(
        f"{title or 'A picture'}, {width} x {height} pixels" for title, (height, width) in sizes.items()) + "."
    return figure


def learned_positions(grids: list) -> Figure:
    """How alike learned positions are to the one at the dot: the cosine of the angle between them, their mean aside.

    Args:
        grids: [(grid (h, w, d), row, column)], a map for each.
    """
    shares = [grid.shape[1] / grid.shape[0] for grid, _, _ in grids]
    figure, axes = new_figure(len(grids), (1.35 * sum(shares) + 0.8, 1.9), width_ratios=shares)
    for ax, (grid, row, column) in zip(axes, grids):
        vectors = as_numpy(grid - grid.mean((0, 1)))
        vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        image = ax.imshow(vectors @ vectors[row, column], cmap=DIVERGING, vmin=-1, vmax=1, interpolation="nearest")
        ax.plot(column, row, "o", color=ON_LIGHT, markeredgecolor=ON_DARK, markersize=5)
        ax.set_title(f"row {row}, column {column}\nof {grid.shape[0]} x {grid.shape[1]}", fontsize=9, color=INK)
        ax.set(xticks=[], yticks=[])
    colour_bar(figure, image, axes)
    figure.alt = "How alike learned positions are to that of a dot, from -1 to 1, in maps with the dot at " + "; ".join(
        f"row {row}, column {column} of {grid.shape[0]} x {grid.shape[1]}" for grid, row, column in grids) + "."
    return figure
