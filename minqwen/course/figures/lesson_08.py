"""Figures of lesson 08, Vision."""

import numpy as np
from matplotlib.figure import Figure

from ...plots import INK, as_numpy, bar_from_zero, colour_bar, draw_over, draw_patches, new_figure


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
    width = side * groups + (1.0 if weights is not None else 0.3)
    figure, axes = new_figure((rows, groups), (width, height * rows + 0.6))
    for group in range(groups):
        for f in range(F):
            axes[f * groups + group].imshow(grouped[group, f], interpolation="nearest")
        time = "" if times is None else f"\n{times[group]:.1f} s"
        axes[group].set_title(f"group {group}{time}", fontsize=9, color=INK)
    if weights is not None:
        weights = as_numpy(weights)
        limit = limit or np.abs(weights).max() or 1.0
        for ax, group, looked in zip(axes[F * groups :], grouped, weights):
            image = draw_over(ax, group.mean(0), looked, limit)
        colour_bar(figure, image, axes[F * groups :])
        bar_from_zero(image, weights)
    for f in range(F):
        axes[f * groups].set_ylabel(f"frame {f}", fontsize=8, color=INK)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    return figure
