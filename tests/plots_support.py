"""What the tests of all figures share: tokens that are hard to draw, and what a figure holds once it is drawn."""

import numpy as np
import pytest
from support import random_qwen, tokens

from minqwen.trace import trace

STRANGE = ["<|im_start|>", " red", "\n", "红", "🙂", "$x$", "_{", "\ufffd", "é", "", "\x00", "‮"]


def traced():
    """A random model's trace of as many tokens as are in `STRANGE`."""
    return trace(random_qwen()).run(tokens(1, len(STRANGE)))


def draw(figure):
    figure.canvas.draw()                 # this is where a missing glyph warns
    return figure


def image(figure, i=0):
    return np.asarray(figure.axes[i].images[0].get_array())


def heights(ax):
    return [bar.get_height() for bar in ax.patches if bar.get_width() == pytest.approx(0.8)]


def picture(seed=0, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def maps(figure):
    """The weights that lie over pictures, in order."""
    return [np.asarray(image.get_array()) for ax in figure.axes for image in ax.images if image.get_alpha()]


def texts(figure, i=0):
    return [text.get_text() for text in figure.axes[i].texts]
