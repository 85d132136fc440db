"""What the tests of all figures share: tokens that are hard to draw, and what a figure holds once it is drawn."""

import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image
from support import contrast, random_qwen, tokens

from minqwen import plots
from minqwen.trace import trace

STRANGE = ["<|im_start|>", " red", "\n", "红", "🙂", "$x$", "_{", "\ufffd", "é", "", "\x00", "‮"]


def traced():
    """A random model's trace of as many tokens as are in `STRANGE`."""
    return trace(random_qwen()).run(tokens(1, len(STRANGE)))


WHITE, BLACK = (1.0, 1.0, 1.0), (0x11 / 255,) * 3        # a page, and one of JupyterLab's dark theme


def draw(figure):
    figure.canvas.draw()                 # this is where a missing glyph warns
    for page, grounds in (("dark", [BLACK]), ("light", [WHITE]), (None, [WHITE, BLACK])):
        check_readable(figure, page, grounds)
    return figure


def check_readable(figure, page, grounds):
    """Every word can be read on these grounds, or on that which the figure brings along."""
    plots.on_page(figure, page)
    off = {text for ax in figure.axes if not ax.axison for axis in (ax.xaxis, ax.yaxis) for text in axis.findobj(Text)}
    words = [text for text in set(figure.findobj(Text)) - off if text.get_text().strip() and text.get_visible()]
    picture = io.BytesIO()
    for text in words:
        text.set_alpha(0)
    figure.savefig(picture, format="png", dpi=figure.dpi)
    for text in words:
        text.set_alpha(None)
    pixels = np.asarray(Image.open(picture).convert("RGBA"), dtype=float) / 255
    assert pixels[0, 0, 3] == pixels[-1, -1, 3] == 0, "the figure has a ground of its own"
    for text in words:
        box = text.get_window_extent()
        x, y = (box.x0 + box.x1) / 2, len(pixels) - (box.y0 + box.y1) / 2
        if not (0 <= y < len(pixels) and 0 <= x < len(pixels[0])):
            continue                                         # a tick beyond the end of its axis is not drawn
        *own, alpha = pixels[int(y), int(x)]
        for ground in grounds:
            behind = [alpha * part + (1 - alpha) * whole for part, whole in zip(own, ground)]
            read = contrast(to_rgb(text.get_color()), behind)
            assert read >= 3.9, f"{text.get_text()!r} in {text.get_color()} is read at {read:.1f} on a {page} page"


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
