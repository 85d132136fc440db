"""Figures show the numbers they are given, can be drawn without a warning, and carry their description."""

import warnings

import matplotlib
import numpy as np
import pytest
import torch
from support import random_qwen, tokens

from minqwen import plots
from minqwen.trace import trace

STRANGE = ["<|im_start|>", " red", "\n", "红", "🙂", "$x$", "_{", "\ufffd", "é", "", "\x00", "‮"]


@pytest.fixture(scope="module")
def t():
    return trace(random_qwen()).run(tokens(1, len(STRANGE)))


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def draw(figure):
    figure.canvas.draw()                 # this is where a missing glyph warns
    return figure


def image(figure, i=0):
    return np.asarray(figure.axes[i].images[0].get_array())


def heights(ax):
    return [bar.get_height() for bar in ax.patches if bar.get_width() == pytest.approx(0.8)]


def test_step_shows_the_sum_that_it_is(t):
    figure = draw(plots.step(t.layers[0], t=5, head=3, token="红"))
    memory, decayed, erased, written = (image(figure, i) for i in range(4))
    assert np.array_equal(memory, t.layers[0].state(5, 3))
    assert np.allclose(memory, decayed - erased + written)
    limits = {figure.axes[i].images[0].get_clim() for i in range(4)}
    assert len(limits) == 1                                  # one scale, symmetric about zero
    low, high = limits.pop()
    assert low == -high == pytest.approx(-max(abs(image(figure, i)).max() for i in range(4)))


def test_gates(t):
    figure = draw(plots.gates(t.layers[1], STRANGE, head=2))
    assert heights(figure.axes[0]) == pytest.approx(t.layers[1].alpha[0, :, 2].tolist())
    assert heights(figure.axes[1]) == pytest.approx(t.layers[1].beta[0, :, 2].tolist())


def test_maps(t):
    softmax = draw(plots.attention(t.layers[3].attention[0, 1], STRANGE))
    effective = draw(plots.attention(t.layers[0].attention[0, 1], STRANGE, title="effective"))
    assert np.array_equal(image(softmax), t.layers[3].attention[0, 1])
    assert np.array_equal(image(effective), t.layers[0].attention[0, 1])
    assert softmax.axes[0].images[0].get_clim() == (0, 1)
    low, high = effective.axes[0].images[0].get_clim()
    assert low == -high < 0
    labels = [label.get_text() for label in softmax.axes[0].get_yticklabels()]
    assert labels[:4] == ["<|im_start|>", "·red", "↵", "‹7ea2›"]
    wide = draw(plots.attention(torch.eye(12)[9:], STRANGE[9:], looked_at=STRANGE))
    assert image(wide).shape == (3, 12) and len(wide.axes[0].get_xticks()) == 12


def test_memory(t):
    layer = t.layers[0]
    step = {"memory": layer.state(6, 1), "decayed": layer.decayed(6, 1), "erased": layer.erase(6, 1),
            "written": layer.write(6, 1)}
    recall = layer.answers(6, 1).cosine
    figure = draw(plots.memory(step, layer.alpha[0, :, 1], layer.beta[0, :, 1], recall, STRANGE))
    assert np.array_equal(image(figure, 3), layer.write(6, 1))
    strips = figure.axes[-3:]
    assert heights(strips[2]) == pytest.approx(recall.tolist()) and len(heights(strips[0])) == len(STRANGE)


def test_long_texts_keep_their_labels_apart():
    figure = draw(plots.attention(torch.eye(200), ["a"] * 200))
    assert len(figure.axes[0].get_xticks()) <= 64


def picture(seed=0, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def maps(figure):
    """The weights that lie over pictures, in order."""
    return [np.asarray(image.get_array()) for ax in figure.axes for image in ax.images if image.get_alpha()]


def test_patches():
    pixels = picture(0, 16, 24)
    figure = draw(plots.patches(pixels, patch=4, merge=2, title="$16$"))
    (ax,) = figure.axes
    assert np.array_equal(image(figure), pixels)
    numbers = {text.get_text(): text.get_position() for text in ax.texts}
    assert numbers == {str(i): (i % 3 * 8 + 0.5, i // 3 * 8 + 0.5) for i in range(6)}       # row by row
    many = draw(plots.patches(picture(0, 16, 32 * 8), patch=4))
    assert [text.get_text() for text in many.axes[0].texts] == ["0", "32"]                  # the begin of each row


def test_over():
    random = np.random.default_rng(0)
    weights = {f"head {i}": random.standard_normal((2, 3)) for i in range(4)}
    figure = draw(plots.over(picture(0, 16, 24), weights, columns=3))
    assert np.array_equal(maps(figure), np.float32(list(weights.values())))
    assert [ax.get_title() for ax in figure.axes[:4]] == list(weights)
    limits = {shown.get_clim() for ax in figure.axes for shown in ax.images if shown.get_alpha()}
    low, high = limits.pop()
    assert not limits and low == -high == pytest.approx(-max(np.abs(x).max() for x in weights.values()))
    positive = draw(plots.over(picture(0, 16, 24), {"softmax": np.abs(weights["head 0"])}))
    assert positive.axes[-1].get_ylim()[0] == 0 and figure.axes[-1].get_ylim()[0] < 0       # the colour bars


def test_clip():
    frames, weights = picture(0, 6, 16, 24), torch.rand(3, 2, 3)
    figure = draw(plots.clip(frames, weights, times=[0.3, 1.3, 2.3]))
    for group in range(3):
        for frame in range(2):
            assert np.array_equal(image(figure, frame * 3 + group), frames[2 * group + frame])
    assert np.allclose(maps(figure), weights)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["group 0\n0.3 s", "group 1\n1.3 s", "group 2\n2.3 s"]
    assert len(draw(plots.clip(frames)).axes) == 6


def test_looking():
    frames, weights = picture(0, 2, 16, 24), np.arange(6.0).reshape(2, 3) - 2
    layers = {"0 delta rule": weights, "1 attention": np.abs(weights), "2 delta rule": weights / 9}
    figure = draw(plots.looking(frames, weights, layers, patch=4, title="layer $1"))
    assert np.array_equal(image(figure, 0), frames[0]) and np.array_equal(image(figure, 1), frames[1])
    assert np.allclose(maps(figure), [weights, *layers.values()])
    below = [ax.images[1].get_clim()[1] for ax in figure.axes if ax.get_title() in layers]
    assert below == [3, 3, 3]                                                               # one scale for each kind


def test_training_reads_its_log(tmp_path):
    (tmp_path / "training.csv").write_text(
        "step,seconds,lr,loss facts,loss sums,12 facts\n"
        "1,10,0.1,3.0,2.0,\n" "2,20,0.2,2.0,1.0,0.25\n" "3,30,0.1,1.0,0.5,0.5\n")
    figure = draw(plots.training(tmp_path / "training.csv"))
    losses, accuracies = figure.axes
    assert [line.get_label() for line in losses.lines] == ["loss facts", "loss sums"]
    assert losses.lines[1].get_xydata().tolist() == [[1, 2], [2, 1], [3, 0.5]]
    assert accuracies.lines[0].get_xydata().tolist() == [[2, 0.25], [3, 0.5]]


@pytest.mark.parametrize("dark", [False, True])
def test_colours_say_sign_and_size_to_every_eye(dark):
    palette = plots.diverging(dark).astype(int)
    zero = palette[128]
    brightness = palette @ [0.2126, 0.7152, 0.0722]
    towards = 1 if dark else -1                              # away from zero it gets brighter on dark, darker on light
    assert (np.diff(brightness[128:]) * towards > -1e-9).all() and (np.diff(brightness[1:129]) * towards < 1e-9).all()
    assert abs(zero - zero.mean()).max() < 6                 # zero is grey
    for size in range(40, 128):                              # blue against orange, never red against green
        negative, positive = palette[128 - size], palette[128 + size]
        assert negative[2] > negative[0] and positive[0] > positive[2]


def test_show_is_one_png_with_its_description(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *args, **kwargs: shown.append((args, kwargs)))
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    ax.plot([1, 2])
    plots.show(figure, alt="A line that goes up from one to two.")
    [((data,), options)] = shown
    assert data["image/png"][:8] == b"\x89PNG\r\n\x1a\n" and set(data) == {"image/png", "text/plain"}
    assert data["text/plain"] == options["metadata"]["image/png"]["alt"] == "A line that goes up from one to two."
    assert options["raw"] is True
    assert pyplot.get_fignums() == []
