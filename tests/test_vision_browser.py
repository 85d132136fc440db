"""The vision explorer in a real browser, as a page of its own and inside JupyterLab: pixels, keys, clicks, requests."""

import itertools

import numpy as np
import pixels
import pytest
import torch
from browser_support import a_jupyterlab, go_dark, press, run_all_cells, shown, walk_by, watched, write_notebook
from support import prompt, random_qwen, seeing_config

from minqwen.trace import trace
from minqwen.widgets import VisionExplorer, vision

pytestmark = pytest.mark.browser

PARTS = [1, (4, 6), 2, (2, 4, 4), 2]                        # a picture of 2 x 3 tokens, a clip of two groups of 2 x 2
T, PICTURE, LAST = 29, range(2, 8), 28                      # `prompt` has a token before and one behind each of them
HEADS = [6, 6, 6, 4]                                        # of three Gated DeltaNet layers and one of attention
# every token, layer and head, each at one of the three slices; all slices of one head
PLACES = [(token, layer, head, (token + layer + head) % 3)
          for token, layer in itertools.product(range(T), range(4)) for head in range(-1, HEADS[layer])]
SLICES = [(token, 2, 3, slice) for token in range(T) for slice in range(3)]


@pytest.fixture(scope="module")
def explorer():
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(vision, "PANEL", 48)                  # small, so that every place can be looked at
        model, inputs = random_qwen(seeing_config()), prompt(PARTS)
        with trace(model) as t:
            model(**inputs)
        yield VisionExplorer(t, token=LAST, layer=1, head=2, slice=0)


def walk(root, places, signs=1, canvas="canvas.pictures"):
    """The canvas at each (token, layer, head, slice). Layers go first, as heads differ; a token brings its slice."""
    names, order = ("token", "layer", "head", "slice"), ("layer", "head", "token", "slice")
    steps = [((*place, signs), {name: place[names.index(name)] for name in order}) for place in places]
    return walk_by(root, steps, canvas)


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-vision"), page.locator(".stage")
    shown(root, (LAST, 1, 2, 0, 1))                         # where the explorer stood

    # each place's pixels are those of pixels.py, which is no constant picture
    places = PLACES + SLICES
    expected = np.stack([pixels.vision_slice(explorer, *place) for place in places])
    assert len({picture.tobytes() for picture in expected}) > 0.5 * len(places)     # nobody sees a picture to come
    assert np.array_equal(walk(root, places), expected)
    tiles = np.stack([pixels.vision_tiles(explorer, token, slice) for token, _, _, slice in SLICES])
    assert len({picture.tobytes() for picture in tiles}) > 0.5 * len(SLICES)
    assert np.array_equal(walk(root, SLICES, canvas="canvas.tiles"), tiles)

    # keys
    walk(root, [(LAST, 1, 2, 0)])
    press(stage, "ArrowLeft", LAST - 1, 1, 2, 0, 1)
    press(stage, "ArrowRight", LAST, 1, 2, 0, 1)
    press(stage, "ArrowUp", LAST, 1, 3, 0, 1)
    press(stage, "ArrowDown", LAST, 1, 2, 0, 1)
    press(stage, "PageUp", LAST, 2, 2, 0, 1)
    press(stage, ".", LAST, 2, 2, 1, 1)
    press(stage, ".", LAST, 2, 2, 2, 1)
    press(stage, ".", LAST, 2, 2, 2, 1)                     # there is no further
    press(stage, ",", LAST, 2, 2, 1, 1)
    press(root.locator("[data-moves=head]"), "End", LAST, 2, 5, 1, 1)       # a slider's own keys move that slider
    press(stage, "PageUp", LAST, 3, 3, 1, 1)                # where there are but four heads
    press(stage, "PageDown", LAST, 2, 3, 1, 1)
    press(root.locator("[data-moves=head]"), "Home", LAST, 2, -1, 1, 1)     # the mean
    press(stage, "s", LAST, 2, -1, 1, 0)                    # without signs
    here = LAST, 2, -1, 1
    unsigned = pixels.vision_slice(explorer, *here, signs=False)
    assert np.array_equal(walk(root, [here], 0)[0], unsigned)
    tiles = walk(root, [here], 0, "canvas.tiles")[0]
    assert np.array_equal(tiles, pixels.vision_tiles(explorer, LAST, 1, signs=False))
    assert not np.array_equal(unsigned, pixels.vision_slice(explorer, *here))
    press(stage, "s", LAST, 2, -1, 1, 1)
    press(stage, "Home", 0, 2, -1, 1, 1)
    press(stage, "End", LAST, 2, -1, 1, 1)

    # clicks: on a token, a piece of a picture in the ribbon and on the picture, and a tile
    page.locator("[data-token='8']").click()
    shown(root, (8, 2, -1, 1, 1))
    page.locator(f"[data-token='{PICTURE[5]}']").click()    # its picture comes with it
    shown(root, (PICTURE[5], 2, -1, 0, 1))
    assert np.array_equal(walk(root, [(PICTURE[5], 2, -1, 0)])[0], pixels.vision_slice(explorer, PICTURE[5], 2, -1, 0))
    page.locator(f"[data-token='{PICTURE[5]}']").click()    # and once more leads back
    shown(root, (8, 2, -1, 0, 1))
    page.locator("[data-token='28']").click()
    box = page.locator("canvas.pictures").bounding_box()
    height, _, step = explorer.story["size"]
    cell = box["height"] / height                           # a pixel of the canvas, on the screen
    at_1_1 = {"x": (step + 24) * cell, "y": 24 * cell}      # row 1, column 1, on the second panel
    page.locator("canvas.pictures").click(position=at_1_1)
    shown(root, (PICTURE[4], 2, -1, 0, 1))
    press(stage, "Escape", LAST, 2, -1, 0, 1)
    tiles = page.locator("canvas.tiles").bounding_box()
    down, across = (n + vision.GAP for n in explorer.story["tile"])
    cell = tiles["width"] / (4 * across - vision.GAP)
    page.locator("canvas.tiles").click(position={"x": (3 * across + 9) * cell, "y": (down + 9) * cell})      # no head 4
    page.locator("canvas.tiles").click(position={"x": (across + 9) * cell, "y": (4 * down + 9) * cell})
    shown(root, (LAST, 1, 1, 0, 1))

    # what is said, in numbers
    weights, map = explorer.weights(LAST, 1, 1, 0), explorer.trace.layers[1].attention[0, 1, LAST].double()
    said = page.locator(".said").inner_text().replace("−", "-")
    seen = [i for i in range(T) if explorer.story["tokens"][i]["slice"] >= 0]
    share = (map[seen].abs().sum() / map.abs().sum()).item()
    assert f"In layer 1 (delta rule), head 1, {explorer.trace.tokens[LAST]} puts {100 * share:.0f} % of its" in said
    assert root.locator("[data-moves=token]").get_attribute("aria-valuetext").startswith(f"token {T} of {T}, ")
    assert said.replace("-", "−") in root.locator("[data-moves=layer]").get_attribute("aria-valuetext")
    assert said.replace("-", "−") in stage.get_attribute("aria-label")
    assert stage.get_attribute("aria-label").startswith("the picture, 2 by 3 tokens.")
    ribbon = [float(cell.get_attribute("data-weight")) for cell in page.locator("[data-token]").all()]
    assert np.allclose(ribbon, map, atol=1e-6)
    page.mouse.move(box["x"] + 36 * box["height"] / height, box["y"] + 24 * box["height"] / height)
    pointed = page.locator(".pointed").inner_text().replace("−", "-")
    assert pointed.startswith("patch 22 [row 3, column 4], in token 5 of the picture (row 1, column 2)")
    assert float(pointed.split()[-1]) == pytest.approx(weights[1, 2], rel=0.05)

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (LAST, 1, 1, 0, 1), "dark")
    dark = np.stack([pixels.vision_slice(explorer, *place, dark=True) for place in PLACES[::97]])
    assert np.array_equal(walk(root, PLACES[::97]), dark)
    assert root.evaluate("root => getComputedStyle(root).backgroundColor") == "rgb(22, 24, 29)"

    assert strangers == [] and errors == []


def test_nothing_jumps_while_scrubbing(browser, explorer, tmp_path):
    """In the width that JupyterLab leaves."""
    page = browser.new_page()
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, boxes = page.locator(".minqwen-vision"), set()
    for place in itertools.product(range(0, T, 2), (0, 3), (-1, 3), (0, 1)):
        walk(root, [place])
        places = [page.locator(f"canvas.{canvas}").bounding_box().values() for canvas in ("pictures", "tiles")]
        boxes.add((*places[0], *places[1], root.bounding_box()["height"]))
    assert len(boxes) == 1


def test_a_page_with_few_tokens(browser, explorer, tmp_path):
    """It goes from one to the next that is there, and cannot be led astray."""
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "few.html", tokens=[3, 9, -2]).as_uri())
    root, stage = page.locator(".minqwen-vision"), page.locator(".stage")
    shown(root, (LAST - 1, 1, 2, 0, 1))
    assert f"holds the weights of 3 of the {T} tokens" in page.locator(".help").inner_text()
    press(stage, "ArrowLeft", 9, 1, 2, 0, 1)
    page.locator("[data-token='10']").click()
    press(stage, "ArrowLeft", 3, 1, 2, 0, 1)
    press(stage, "ArrowLeft", 3, 1, 2, 0, 1)
    press(stage, "Escape", 9, 1, 2, 0, 1)
    assert strangers == [] and errors == []


def test_inside_jupyterlab(browser, tmp_path):
    """With pages fetched from the kernel one by one, as a large model needs it, and pictures as large as they get."""
    places = list(itertools.product((5, LAST), (1, 3), (-1, 3), range(3)))
    write_notebook(
        tmp_path / "explore.ipynb",
        "import numpy as np, torch\nimport pixels\nfrom support import prompt, random_qwen, seeing_config\n"
        "from minqwen import trace\nfrom minqwen.widgets import VisionExplorer\n"
        "VisionExplorer.at_once = 0\nmodel = random_qwen(seeing_config())\n"
        f"with torch.no_grad(), trace(model) as t:\n    model(**prompt({PARTS}))\n"
        "explorer = VisionExplorer(t, layer=0, head=1, slice=0)\n"
        f"places = {places}\n"
        "frames = [pixels.vision_slice(explorer, *place, dark=dark) for dark in (False, True) for place in places]\n"
        "np.savez('frames.npz', *frames)\n"
        "print(len(explorer.pages), 'pages')\nexplorer",
        "broken = VisionExplorer(t)\nbroken.observe(lambda change: 1 / 0, 'head')\nbroken",
    )
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "explore.ipynb")
        page.get_by_text("2 pages").wait_for()
        with np.load(tmp_path / "frames.npz") as frames:
            light, dark = np.split(np.stack([frames[f"arr_{i}"] for i in range(2 * len(places))]), 2)

        root, broken = page.locator(".minqwen-vision").first, page.locator(".minqwen-vision").last
        root.scroll_into_view_if_needed()
        shown(root, (LAST, 0, 1, 0, 1))
        assert "fetched from the kernel" in root.locator(".help").inner_text()
        assert np.array_equal(walk(root, places), light)

        stage = root.locator(".stage")
        walk(root, [(12, 1, 2, 0)])
        press(stage, "ArrowRight", 13, 1, 2, 0, 1)
        press(stage, "ArrowUp", 13, 1, 3, 0, 1)
        press(stage, "PageUp", 13, 2, 3, 0, 1)
        press(stage, ".", 13, 2, 3, 1, 1)
        press(stage, "End", LAST, 2, 3, 1, 1)

        go_dark(page)
        shown(root, (LAST, 2, 3, 1, 1), "dark")
        assert np.array_equal(walk(root, places[:12]), dark[:12])
        press(stage, "Escape", LAST, 3, 3, 2, 1, theme="dark")

        broken.locator(".stage").press("ArrowUp")
        broken.get_by_text("ZeroDivisionError: division by zero").wait_for()

        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
