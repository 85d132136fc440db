"""The explorers' pictures show the numbers they are given, and can be drawn without a warning."""

import numpy as np
import pytest
from plots_support import STRANGE, draw, heights, image, maps, picture, traced

from minqwen.widgets import stills

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def t():
    return traced()


def test_memory(t):
    layer = t.layers[0]
    step = {"memory": layer.state(6, 1), "decayed": layer.decayed(6, 1), "erased": layer.erase(6, 1),
            "written": layer.write(6, 1)}
    recall = layer.answers(6, 1).cosine
    figure = draw(stills.memory(step, layer.alpha[0, :, 1], layer.beta[0, :, 1], recall, STRANGE))
    assert np.array_equal(image(figure, 3), layer.write(6, 1))
    strips = figure.axes[-3:]
    assert heights(strips[2]) == pytest.approx(recall.tolist()) and len(heights(strips[0])) == len(STRANGE)
    for strip in strips:                                     # the mark is over token 6, as wide as a token
        [mark] = [patch.get_bbox() for patch in strip.patches if patch.get_width() == pytest.approx(1)]
        assert (mark.x0, mark.x1) == pytest.approx((5.5, 6.5))


def test_looking():
    frames, weights = picture(0, 2, 16, 24), np.arange(6.0).reshape(2, 3) - 2
    layers = {"0 delta rule": weights, "1 attention": np.abs(weights), "2 delta rule": weights / 9}
    figure = draw(stills.looking(frames, ["frame 6", "frame 7"], weights, layers, patch=4, title="layer $1"))
    assert [ax.get_title() for ax in figure.axes[:3]] == ["frame 6", "frame 7", "layer $1"]
    assert np.array_equal(image(figure, 0), frames[0]) and np.array_equal(image(figure, 1), frames[1])
    assert np.allclose(maps(figure), [weights, *layers.values()])
    below = [ax.images[1].get_clim()[1] for ax in figure.axes if ax.get_title() in layers]
    assert below == [3, 3, 3]                                                               # one scale for each kind


def test_rounding():
    """Rows 48 to 50 of a weight; a group of 8 of row 49, from column 8 on, on the rungs of 2 bits."""
    random = np.random.default_rng(0)
    numbers, off = random.random((3, 24)), random.random((3, 24)) / 15
    group = random.random(8), np.round(random.random(8)), 0.5
    figure = draw(stills.rounding(numbers, off, 1.0, group, first=48, row=1, column=8, bits=2))
    above, middle, below = figure.axes[:3]
    assert np.array_equal(above.images[0].get_array(), numbers) and np.array_equal(middle.images[0].get_array(), off)
    assert above.images[0].get_clim() == (-1, 1) and middle.images[0].get_clim() == (-1 / 15, 1 / 15)
    for ax in (above, middle):
        box = ax.patches[-1].get_bbox()
        assert (box.x0, box.x1, box.y0, box.y1) == (7.5, 15.5, 48.5, 49.5)
    drawn = {line.get_label(): line for line in below.lines}
    assert np.array_equal(drawn["the numbers"].get_ydata(), group[0])
    assert np.array_equal(drawn["what each becomes"].get_ydata(), group[1])
    assert list(drawn["the numbers"].get_xdata()) == list(range(8, 16))
    rungs = [segment[0, 1] for segment in below.collections[0].get_segments()]
    assert rungs == [-1.0, -0.5, 0.0, 0.5]


def test_rollouts():
    """Two answers, one of them with a token that was read; the second answer's third token is marked."""
    answers = [{"text": "$2", "right": False, "reward": 0.0, "advantage": -0.5, "tokens": [{"text": x} for x in "ab"]},
               {"text": "3", "right": True, "reward": 1.0, "advantage": 0.5,
                "tokens": [{"text": x} for x in STRANGE]}]
    changes = np.full((2, len(STRANGE)), np.nan)
    changes[0, :2], changes[1] = (-0.1, 0.2), np.linspace(-0.3, 0.3, len(STRANGE))
    changes[1, 4] = np.nan
    figure = draw(stills.rollouts("What is $1 + $2?", answers, changes, 0.3, answer=1, token=2))
    ax = figure.axes[0]
    shown, there = ax.images[0].get_array(), ~np.isnan(changes)
    assert np.array_equal(shown.mask, ~there) and np.allclose(shown.compressed(), changes[there])
    assert ax.images[0].get_clim() == (-0.3, 0.3)
    assert [label.get_text() for label in ax.get_yticklabels()] == [r"\$2 ✗  0.00  -0.50", "3 ✓  1.00  +0.50"]
    row, box = (patch.get_bbox() for patch in ax.patches)
    assert (row.x0, row.x1, row.y0, row.y1) == (-0.5, len(STRANGE) - 0.5, 0.5, 1.5)
    assert (box.x0, box.x1, box.y0, box.y1) == (1.5, 2.5, 0.5, 1.5)


def test_expert_maps():
    """Of layers 2 and 5, of five experts; what is marked is token 3, expert 4 and the second of the layers."""
    random = np.random.default_rng(0)
    weights, shared, loads = random.random((len(STRANGE), 5)), random.random(len(STRANGE)), random.random((2, 5))
    figure = draw(stills.expert_maps(weights, shared, loads, [2, 5], STRANGE, token=3, layer=5, expert=4))
    above, beside, below = figure.axes[:3]
    assert np.array_equal(above.images[0].get_array(), weights.T)
    assert np.array_equal(beside.images[0].get_array(), loads.T)
    assert np.array_equal(below.images[0].get_array()[0], shared) and below.images[0].get_clim() == (0, 1)
    assert [label.get_text() for label in beside.get_xticklabels()] == ["2", "5"]
    for ax, column, row in ((above, 3, 4), (beside, 1, 4)):
        across, down = (patch.get_bbox() for patch in ax.patches[-2:])
        assert (across.x0, across.x1, down.y0, down.y1) == (column - 0.5, column + 0.5, row - 0.5, row + 0.5)


def test_training():
    """Curves over the snapshots, the map of layers, a memory on a given scale, and the gates with the token marked."""
    lost, state = np.array([[0, 0.1], [0.2, -0.3], [0.6, 0.4]]), np.arange(12).reshape(3, 4) - 5.0
    gates = {"alpha": np.linspace(0, 1, len(STRANGE)), "beta": np.ones(len(STRANGE))}
    figure = draw(stills.training([0, 10, 20], [4, 2, 1], {"told once": [0, 0.2, 0.8], "changed": [0, 0.1, 0.7]}, lost,
                                  [1, 4], 1, 2, gates, state, 9.0, STRANGE, 3))
    curves, layers, memory = figure.axes[:3]
    assert [line.get_ydata().tolist() for line in curves.lines[:3]] == [
        [1, 0.5, 0.25], pytest.approx([0, 0.2, 0.8]), pytest.approx([0, 0.1, 0.7])]
    assert curves.lines[3].get_xdata() == [2, 2] and "after 10 of 20 steps" in curves.get_title(loc="left")
    assert np.allclose(layers.images[0].get_array(), np.clip(lost, 0, None).T)
    assert [label.get_text() for label in layers.get_yticklabels()] == ["1", "4"]
    assert np.array_equal(memory.images[0].get_array(), state) and memory.images[0].get_clim() == (-9, 9)
    strips = [ax for ax in figure.axes if len(heights(ax)) == len(STRANGE)]
    assert heights(strips[0]) == pytest.approx(gates["alpha"]) and len(strips) == 2
