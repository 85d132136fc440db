"""Figures that a single lesson needs, a module for each lesson; general ones are in `minqwen.plots`.

    from minqwen.course import figures
    plots.show(figures.reads(prompt=6, new=8))
"""

from .lesson_00 import stack
from .lesson_01 import boxes, lengths, pieces, pointing
from .lesson_02 import beside_theory, heads, tables
from .lesson_03 import likenesses
from .lesson_04 import chunks, errors
from .lesson_05 import gated_attention, open_and_first, openness, turned
from .lesson_06 import grouped, half_lives, lens, tensor_names, wiring
from .lesson_07 import choices, reads, rulers
from .lesson_08 import clip, learned_positions, over, patches, side_by_side
from .lesson_09 import costs, heads_of_layers, recall, worn
from .lesson_10 import drafting, overlap
from .lesson_11 import loads, mixture, readers, times
from .lesson_12 import layer_by_layer, on_a_grid, price, smaller_groups
from .lesson_13 import ablations, corrections, learning, packed
from .lesson_14 import before_after, courses, pulls
from .lesson_15 import durations, roofline, walk_step
from .lesson_16 import put_together, waves

__all__ = [
    "ablations", "before_after", "beside_theory", "boxes", "choices", "chunks", "clip", "corrections", "costs",
    "courses", "drafting", "durations", "errors", "gated_attention", "grouped", "half_lives", "heads",
    "heads_of_layers", "layer_by_layer", "learned_positions", "learning", "lengths", "lens", "likenesses",
    "loads", "mixture", "on_a_grid", "open_and_first", "openness", "over", "overlap", "packed", "patches",
    "pieces", "pointing", "price", "pulls", "put_together", "readers", "reads", "recall", "roofline", "rulers",
    "side_by_side", "smaller_groups", "stack", "tables", "tensor_names", "times", "turned", "walk_step",
    "waves", "wiring", "worn",
]
