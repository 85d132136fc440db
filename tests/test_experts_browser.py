"""The expert explorer in a real browser, as a page of its own: pixels, keys, clicks, requests."""

import itertools

import numpy as np
import pixels
import pytest
from browser_support import press, shown, walk_by, watched
from support import random_qwen, tokens
from test_experts_widget import mixture

from minqwen.widgets import ExpertExplorer, experts

pytestmark = pytest.mark.browser

T, E = 9, 7


@pytest.fixture(scope="module")
def explorer():
    return ExpertExplorer(random_qwen(mixture()), tokens(1, T), token=3, layer=1, head=2)


def walk(root, places, canvas, theme="light"):
    """A canvas at each (token, layer, expert)."""
    for name, value in zip(("token", "layer", "head"), places[0], strict=True):
        root.locator(f"[data-moves={name}]").evaluate(
            "(range, value) => { range.value = value; range.dispatchEvent(new Event('input')); }", value)
    shown(root, places[0], theme)
    names = ("token", "layer", "head")
    return walk_by(root, [(place, dict(zip(names, place, strict=True))) for place in places], canvas)


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-experts"), page.locator(".stage")
    shown(root, (3, 1, 2))                                  # where the explorer stood

    # each place's pixels are those of pixels.py, which are no constant pictures
    places = list(itertools.product(range(T), range(4), range(E)))
    expected = np.stack([pixels.expert_panel(explorer, *place) for place in places])
    assert len({picture.tobytes() for picture in expected}) > 0.5 * len(places)             # no bar, no difference
    assert np.array_equal(walk(root, places, "canvas.weights"), expected)
    some = places[::7]
    expected = np.stack([pixels.expert_shared(explorer, *place[:2]) for place in some])
    assert np.array_equal(walk(root, some, "canvas.shared"), expected)
    assert np.array_equal(walk(root, places[:1], "canvas.load")[0], pixels.expert_loads(explorer))

    # keys
    walk(root, [(3, 1, 2)], "canvas.weights")
    press(stage, "ArrowRight", 4, 1, 2)
    press(stage, "ArrowLeft", 3, 1, 2)
    press(stage, "ArrowUp", 3, 1, 3)
    press(stage, "ArrowDown", 3, 1, 2)
    press(stage, "PageUp", 3, 2, 2)
    press(stage, "PageDown", 3, 1, 2)
    press(stage, "End", T - 1, 1, 2)
    press(root.locator("[data-moves=head]"), "End", T - 1, 1, E - 1)        # a slider's own keys move that slider
    press(stage, "ArrowUp", T - 1, 1, E - 1)                # there is no further
    press(stage, "Home", 0, 1, E - 1)

    # clicks: a cell, a bar below and a bar beside, a layer's load, a token of the text
    across, down = explorer.story["layers"][0]["cell"]
    canvas = page.locator("canvas.weights")
    canvas.click(position={"x": 6.5 * across, "y": (E - 1 - 4 + 0.5) * down})
    shown(root, (6, 1, 4))
    canvas.click(position={"x": 2.5 * across, "y": E * down + experts.GAP + 3})
    shown(root, (2, 1, 4))
    canvas.click(position={"x": T * across + experts.GAP + 3, "y": (E - 0.5) * down})
    shown(root, (2, 1, 0))
    wide, high = explorer.story["load"]
    page.locator("canvas.load").click(position={"x": 3.5 * wide, "y": 1.5 * high})
    shown(root, (2, 3, E - 2))
    page.locator("canvas.shared").click(position={"x": 5.5 * across, "y": 4})
    shown(root, (5, 3, E - 2))
    page.locator(".ribbon .cell").nth(7).click()
    shown(root, (7, 3, E - 2))

    # what is said, in numbers
    weights, text = explorer.values("weights", 3)[7], explorer.trace.tokens[7]
    readers = ", ".join(f"{e} ({100 * weights[e]:.0f} %)" for e in weights.argsort()[::-1][:3])
    read, shared = (explorer.values("weights", 3)[:, E - 2] > 0).sum(), explorer.values("shared", 3)[7, 0]
    said = page.locator(".said").inner_text()
    likely = explorer.values("probabilities", 3)[7, 5]
    assert said == (f"{text} is read by experts {readers} of 7, and by the shared one at {100 * shared:.0f} %. "
                    f"Expert 5, to which the router gives {100 * likely:.0f} % here, reads {read} of {T} tokens "
                    f"(an even share: {3 * T / 7:.0f}).")
    assert page.locator(".said").get_attribute("aria-live") == "polite"
    assert stage.get_attribute("aria-label").endswith(said.removeprefix(f"{text} "))
    for name in ("token", "layer", "head"):
        spoken = root.locator(f"[data-moves={name}]").get_attribute("aria-valuetext")
        assert spoken.endswith(said.removeprefix(f"{text} "))
    e = int(weights.argmax())
    canvas.hover(position={"x": 7.5 * across, "y": (E - 1 - e + 0.5) * down})
    assert page.locator(".pointed").inner_text() == (
        f"{text} (token 8), expert {e}: counts {weights[e]:.4f}, probability "
        f"{explorer.values('probabilities', 3)[7, e]:.4f}")
    e = int(weights.argmin())
    canvas.hover(position={"x": 7.5 * across, "y": (E - 1 - e + 0.5) * down})
    assert "does not read it" in page.locator(".pointed").inner_text()
    page.locator("canvas.load").hover(position={"x": 0.5 * wide, "y": 0.5 * high})
    assert page.locator(".pointed").inner_text() == (
        f"layer 0, expert {E - 1} reads {100 * explorer.loads()[0, E - 1]:.0f} % of the tokens (even: 43 %)")

    # the text shows what the expert reads
    marks = root.locator(".reads").evaluate_all("all => all.map((mark) => getComputedStyle(mark).backgroundColor)")
    reads = explorer.values("weights", 3)[:, E - 2] > 0
    assert all((mark != "rgb(243, 243, 241)") == yes for mark, yes in zip(marks, reads, strict=True)) and any(reads)

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (7, 3, E - 2), "dark")
    some = [(0, 0, 0), (4, 3, 3)]
    dark = np.stack([pixels.expert_panel(explorer, *place, dark=True) for place in some])
    assert np.array_equal(walk(root, some, "canvas.weights", "dark"), dark)
    assert np.array_equal(walk(root, some[:1], "canvas.load", "dark")[0], pixels.expert_loads(explorer, dark=True))

    assert strangers == [] and errors == []
