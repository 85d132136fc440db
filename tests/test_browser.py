"""The explorers in a real browser, as pages of their own and inside JupyterLab: pixels, keys, requests."""

import itertools

import numpy as np
import pytest
from browser_support import a_jupyterlab, run_all_cells, shown, walk, watched, write_notebook
from support import random_qwen, tokens

from minqwen.trace import trace
from minqwen.widgets import StateExplorer

pytestmark = pytest.mark.browser

T, LAYERS, HEADS = 9, [0, 1, 2], 6
PLACES = list(itertools.product(range(T), LAYERS, range(HEADS)))


@pytest.fixture(scope="module")
def explorer():
    """In the middle of a conversation, so that the memory does not begin empty."""
    model = random_qwen()
    cache, ids = model.new_cache(1, T + 4), tokens(1, T + 4)
    model(ids[:, :4], cache=cache)
    with trace(model) as t:
        model(ids[:, 4:], cache=cache)
    return StateExplorer(t, token=3, layer=1, head=2)


def press(root, key, *place, theme="light"):
    root.press(key)
    shown(root.locator("xpath=ancestor-or-self::section"), place, theme)


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-state"), page.locator(".stage")
    shown(root, (3, 1, 2))                                  # where the explorer stood

    # each place's pixels are those of frame(), which is no constant picture
    pixels = walk(root, PLACES, LAYERS)
    expected = np.stack([explorer.frame(*place) for place in PLACES])
    assert len({picture.tobytes() for picture in expected}) > 0.9 * len(PLACES)
    assert np.array_equal(pixels, expected)

    # keys
    walk(root, [(3, 1, 2)], LAYERS)
    press(stage, "ArrowRight", 4, 1, 2)
    press(stage, "ArrowLeft", 3, 1, 2)
    press(stage, "ArrowUp", 3, 1, 3)
    press(stage, "ArrowDown", 3, 1, 2)
    press(stage, "PageUp", 3, 2, 2)
    press(stage, "PageUp", 3, 2, 2)                         # there is no further
    press(stage, "PageDown", 3, 1, 2)
    press(stage, "End", T - 1, 1, 2)
    press(stage, "Home", 0, 1, 2)
    press(root.locator("[data-moves=layer]"), "ArrowRight", 0, 2, 2)        # a slider's own keys move that slider
    press(root.locator("[data-moves=head]"), "End", 0, 2, HEADS - 1)
    press(root.locator("[data-moves=token]"), "ArrowRight", 1, 2, HEADS - 1)
    page.locator("[data-token='6']").click()
    shown(root, (6, 2, HEADS - 1))

    # what is said, in numbers
    memory = explorer.trace.layers[2]
    value = root.locator("[data-moves=token]").get_attribute("aria-valuetext")
    assert f"token 7 of {T}" in value and f"alpha {memory.alpha[0, 6, 5]:.3f}, beta {memory.beta[0, 6, 5]:.3f}" in value
    assert "layer 2, head 5" in stage.get_attribute("aria-label")
    recall = [float(cell.get_attribute("data-recall")) for cell in page.locator(".cell").all()[:7]]
    assert np.allclose(recall, memory.answers(6, 5).cosine, atol=1e-4)
    box = page.locator("canvas").bounding_box()
    cell = box["width"] / pixels.shape[2]
    page.mouse.move(box["x"] + 2.5 * cell, box["y"] + 7.5 * cell)
    number = page.locator(".pointed b").inner_text().replace("−", "-")
    assert float(number) == pytest.approx(memory.state(6, 5)[7, 2].item(), abs=2e-6)

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (6, 2, HEADS - 1), "dark")
    dark = np.stack([explorer.frame(*place, dark=True) for place in PLACES[-3:]])
    assert np.array_equal(walk(root, PLACES[-3:], LAYERS), dark)
    assert root.evaluate("root => getComputedStyle(root).backgroundColor") == "rgb(22, 24, 29)"

    assert strangers == [] and errors == []


def test_nothing_jumps_while_scrubbing(browser, explorer, tmp_path):
    """In the width that JupyterLab leaves, with a story that grows."""
    explorer = StateExplorer(explorer.trace)
    explorer.story = explorer.story | {"tokens": [{"text": " wondering", "special": False}] * T}
    page = browser.new_page()
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root = page.locator(".minqwen-state")
    boxes = set()
    for token in range(T):
        walk(root, [(token, 0, 0)], LAYERS)
        boxes.add(tuple(page.locator("canvas").bounding_box().values()) + (root.bounding_box()["height"],))
    assert len(boxes) == 1


def test_inside_jupyterlab(browser, tmp_path):
    """With pages fetched from the kernel one by one, as a large model needs it."""
    write_notebook(
        tmp_path / "explore.ipynb",
        "import numpy as np\nfrom support import random_qwen, tokens\nfrom minqwen.widgets import StateExplorer\n"
        "StateExplorer.at_once = 0\n"
        f"explorer = StateExplorer(random_qwen(), tokens(1, {T}), token=3)\n"
        f"places = [(t, layer, head) for t in range({T}) for layer in {LAYERS} for head in range({HEADS})]\n"
        "np.savez('frames.npz', *[explorer.frame(*place, dark=dark) for dark in (False, True) for place in places])\n"
        "explorer",
        "broken = StateExplorer(explorer.trace)\nbroken.observe(lambda change: 1 / 0, 'head')\nbroken",
    )
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "explore.ipynb")
        with np.load(tmp_path / "frames.npz") as frames:
            light, dark = np.split(np.stack([frames[f"arr_{i}"] for i in range(2 * len(PLACES))]), 2)

        root, broken = page.locator(".minqwen-state").first, page.locator(".minqwen-state").last
        root.scroll_into_view_if_needed()
        shown(root, (3, 0, 0))
        assert np.array_equal(walk(root, PLACES, LAYERS), light)

        stage = root.locator(".stage")
        walk(root, [(3, 1, 2)], LAYERS)
        press(stage, "ArrowRight", 4, 1, 2)
        press(stage, "ArrowUp", 4, 1, 3)
        press(stage, "PageUp", 4, 2, 3)
        press(stage, "End", T - 1, 2, 3)
        press(root.locator("[data-moves=token]"), "ArrowLeft", T - 2, 2, 3)
        assert np.array_equal(walk(root, [(T - 2, 2, 3)], LAYERS)[0], light[PLACES.index((T - 2, 2, 3))])

        page.evaluate("() => window.jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        shown(root, (T - 2, 2, 3), "dark")
        assert np.array_equal(walk(root, PLACES[:9], LAYERS), dark[:9])

        broken.locator(".stage").press("ArrowUp")
        broken.get_by_text("ZeroDivisionError: division by zero").wait_for()

        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
