"""The training explorer in a real browser, as a page of its own: pixels, keys, clicks, words."""

import itertools

import numpy as np
import pixels
import pytest
from browser_support import press, shown, walk_by, watched
from test_training_widget import LAYERS, H, S, T, a_run

from minqwen.widgets import TrainingExplorer

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def explorer():
    return TrainingExplorer(a_run(), snapshot=3, token=5, layer=4, head=1)


def walk(root, places, canvas):
    """A canvas at each (token, layer, head, snapshot)."""
    return walk_by(root, [(place, {"snapshot": place[3], "layer": LAYERS.index(place[1]), "head": place[2],
                                   "token": place[0]}) for place in places], canvas)


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-training"), page.locator(".stage")
    shown(root, (5, 4, 1, 3))                               # where the explorer stood

    # each place's pixels are those of pixels.py, which are no constant pictures
    places = list(itertools.product(range(0, T, 3), LAYERS, range(H), range(S)))
    expected = np.stack([pixels.training_memory(explorer, *place) for place in places])
    assert len({picture.tobytes() for picture in expected}) == len(places)
    assert np.array_equal(walk(root, places, "canvas.memory"), expected)
    some = [(0, 0, 0, s) for s in range(S)]
    expected = np.stack([pixels.training_curves(explorer, s) for s in range(S)])
    assert len({picture.tobytes() for picture in expected}) == S
    assert np.array_equal(walk(root, some, "canvas.curves"), expected)
    assert np.array_equal(walk(root, some[:1], "canvas.map")[0], pixels.training_layers(explorer))

    # keys
    walk(root, [(5, 4, 0, 3)], "canvas.memory")
    press(stage, "ArrowRight", 6, 4, 0, 3)
    press(stage, "ArrowLeft", 5, 4, 0, 3)
    press(stage, "ArrowUp", 5, 4, 1, 3)
    press(stage, "ArrowUp", 5, 4, 1, 3)                     # there is no further
    press(stage, "PageDown", 5, 1, 1, 3)
    press(stage, "PageUp", 5, 4, 1, 3)
    press(stage, ".", 5, 4, 1, 4)
    press(stage, ",", 5, 4, 1, 3)
    press(stage, "j", 5, 4, 1, 6)                           # the jump
    press(stage, "End", T - 1, 4, 1, 6)
    press(root.locator("[data-moves=snapshot]"), "Home", T - 1, 4, 1, 0)    # a slider's own keys move that slider

    # clicks: a snapshot on the curves, one and a layer on the map, a token of the story
    box = page.locator("canvas.curves").bounding_box()
    page.locator("canvas.curves").click(position={"x": 4.5 * box["width"] / S, "y": 20})
    shown(root, (T - 1, 4, 1, 4))
    box = page.locator("canvas.map").bounding_box()
    page.locator("canvas.map").click(position={"x": 7.5 * box["width"] / S, "y": 1.5 * box["height"] / len(LAYERS)})
    shown(root, (T - 1, 1, 1, 7))
    page.locator(".ribbon .cell").nth(2).click()
    shown(root, (2, 1, 1, 7))

    # what is said, in numbers
    run = explorer.run
    said = page.locator(".said").inner_text()
    assert said == (
        f"After 70 of 80 steps the loss is {run.loss[7]:.2f}; of facts told once {100 * run.once[7]:.0f} % are "
        f"recalled, of those that changed {100 * run.changed[7]:.0f} %. Of these {100 * run.corrections()[7, 1]:.0f} % "
        f"hang on the correction of layer 1, whose head 1 keeps {100 * run.alpha[7, 1, 2, 1]:.0f} % at “·t2” and "
        f"writes with {run.beta[7, 1, 2, 1]:.2f}.")
    assert page.locator(".where").inner_text() == "after the jump, step 60"
    assert stage.get_attribute("aria-label").startswith(said)
    for name in ("snapshot", "token", "layer", "head"):
        assert root.locator(f"[data-moves={name}]").get_attribute("aria-valuetext")
    bars = page.locator(".ribbon .cell").nth(2).locator("b").evaluate_all("all => all.map((bar) => bar.style.height)")
    assert [float(bar[:-1]) for bar in bars] == pytest.approx(
        [100 * run.alpha[7, 1, 2, 1], 100 * run.beta[7, 1, 2, 1]], abs=0.1)
    box = page.locator("canvas.memory").bounding_box()
    page.locator("canvas.memory").hover(position={"x": 2.5 * box["width"] / 6, "y": 1.5 * box["height"] / 4})
    cell = run.memory(7, 1, 1, 2)[1, 2]
    assert page.locator(".pointed").inner_text() == f"memory [key 1, value 2]  {cell:+.6f}".replace("-", "−")

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (2, 1, 1, 7), "dark")
    assert np.array_equal(walk_by(root, [((2, 1, 1, 7), {})], "canvas.memory")[0], pixels.training_memory(
        explorer, 2, 1, 1, 7, dark=True))
    assert np.array_equal(walk_by(root, [((2, 1, 1, 7), {})], "canvas.curves")[0], pixels.training_curves(
        explorer, 7, dark=True))
    assert np.array_equal(walk_by(root, [((2, 1, 1, 7), {})], "canvas.map")[0], pixels.training_layers(
        explorer, dark=True))
    assert strangers == [] and errors == []
