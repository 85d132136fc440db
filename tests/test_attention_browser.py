"""The attention explorer in a real browser, as a page and inside JupyterLab: pixels, keys, clicks, requests."""

import numpy as np
import pixels
import pytest
from browser_support import (
    a_jupyterlab,
    drawn_at_once,
    go_dark,
    press,
    run_all_cells,
    shown,
    walk_by,
    watched,
    write_notebook,
)
from support import random_qwen, shape_of_0_8b, tokens

from minqwen.widgets import AttentionExplorer, attention

pytestmark = pytest.mark.browser

T, HEADS = 11, [6, 6, 6, 4]                                 # three Gated DeltaNet layers and one of attention
PLACES = [(layer, head) for layer in range(4) for head in range(HEADS[layer])]


@pytest.fixture(scope="module")
def explorer():
    return AttentionExplorer(random_qwen(), tokens(1, T), layer=1, head=2, token=7, seen=4)


def walk(root, places, cell=(7, 4), canvas="canvas.map"):
    """The opened map at each (layer, head). Layers go first, as heads differ."""
    return walk_by(root, [((layer, head, *cell, 1), {"layer": layer, "head": head, "token": cell[0], "seen": cell[1]})
                          for layer, head in places], canvas)


def grid(root, place):
    """The grid of all maps; `place`: what is chosen there."""
    return walk_by(root, [((*place, 0), {"layer": place[0], "head": place[1]})], "canvas.tiles")[0]


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-attention"), page.locator(".stage")
    shown(root, (1, 2, 7, 4, 0))                            # where the explorer stood

    # all maps at once; the keys of the grid
    assert np.array_equal(grid(root, (1, 2, 7, 4)), explorer.overview())
    assert stage.get_attribute("aria-label").startswith(
        "All maps; layer 1 (effective attention), head 2 of 6 is chosen. Layer 1, head 2: ")
    itself, previous, first = attention.habits(explorer.weights(1, 2))
    said = page.locator(".said").inner_text()
    assert f"{100 * itself:.0f} % of its weight, by size, on the token itself, {100 * previous:.0f} % on the" in said
    assert f"full colour at {attention.limit_of(explorer.weights(1, 2)):.3f}" in said
    assert page.locator(".said").get_attribute("aria-live") == "polite"
    line = page.locator(".grid .band").first               # of the token that looks, in every map
    lines = [line.bounding_box()["y"]]
    press(stage, "ArrowRight", 1, 2, 8, 4, 0)
    lines.append(line.bounding_box()["y"])
    press(stage, "ArrowLeft", 1, 2, 7, 4, 0)
    unit = explorer.story["tile"]["unit"] * page.locator("canvas.tiles").evaluate("c => c.clientWidth / c.width")
    assert lines[1] - lines[0] == pytest.approx(unit, abs=0.1)
    press(stage, "ArrowUp", 1, 3, 7, 4, 0)
    press(stage, "PageUp", 2, 3, 7, 4, 0)
    press(root.locator("input[data-moves=head]"), "End", 2, 5, 7, 4, 0)          # a slider's own keys move that slider
    press(stage, "PageUp", 3, 3, 7, 4, 0)                   # where there are but four heads
    press(stage, "ArrowUp", 3, 3, 7, 4, 0)                  # there is no further
    press(stage, "PageDown", 2, 3, 7, 4, 0)
    press(stage, "ArrowDown", 2, 2, 7, 4, 0)
    press(stage, "Enter", 2, 2, 7, 4, 1)

    # each map's pixels are those of pixels.py, which is no constant picture
    expected = np.stack([pixels.attention_map(explorer, *place) for place in PLACES])
    assert len({picture.tobytes() for picture in expected}) == len(PLACES)
    assert np.array_equal(walk(root, PLACES), expected)

    # the keys of a map
    walk(root, [(1, 2)])
    press(stage, "ArrowRight", 1, 2, 8, 4, 1)
    press(stage, "ArrowLeft", 1, 2, 7, 4, 1)
    press(stage, ".", 1, 2, 7, 5, 1)
    press(stage, ",", 1, 2, 7, 4, 1)
    press(stage, "ArrowUp", 1, 3, 7, 4, 1)
    press(stage, "ArrowDown", 1, 2, 7, 4, 1)
    press(stage, "PageDown", 0, 2, 7, 4, 1)
    press(stage, "Home", 0, 2, 0, 4, 1)
    press(stage, "End", 0, 2, T - 1, 4, 1)
    press(root.locator("input[data-moves=layer]"), "ArrowRight", 1, 2, T - 1, 4, 1)
    press(root.locator("input[data-moves=seen]"), "Home", 1, 2, T - 1, 0, 1)
    press(stage, "Escape", 1, 2, T - 1, 0, 0)
    press(stage, "Escape", 1, 2, T - 1, 0, 0)
    press(page.locator("button"), "Enter", 1, 2, T - 1, 0, 1)

    # clicks: a token of the ribbon, a cell, and a tile
    page.locator("[data-token='6']").click()
    shown(root, (1, 2, 6, 0, 1))
    cell = page.locator("canvas.map").bounding_box()["width"] / T
    page.locator("canvas.map").click(position={"x": 3.5 * cell, "y": 9.5 * cell})
    shown(root, (1, 2, 9, 3, 1))
    weights = explorer.weights(1, 2)

    # what is said, in numbers
    said = page.locator(".said").inner_text().replace("−", "-")
    best = np.abs(weights[9]).argmax()
    text = explorer.trace.tokens
    assert f"{text[9]} (token 10) looks at {text[3]} (token 4) with {weights[9, 3]:+.6f}, " in said
    assert said.endswith(f"most at {text[best]} (token {best + 1}): {weights[9, best]:+.4f}.")
    assert said in stage.get_attribute("aria-label").replace("−", "-")
    for name, beginning in (("token", f"token 10 of {T}, {text[9]}. "), ("seen", f"token 4 of {T}, {text[3]}. "),
                            ("head", "head 2 of 6. "), ("layer", "layer 1, effective attention. ")):
        value = root.locator(f"input[data-moves={name}]").get_attribute("aria-valuetext").replace("−", "-")
        assert value == beginning + said
    ribbon = [cell.get_attribute("data-weight") for cell in page.locator("[data-token]").all()]
    assert np.allclose([float(x) for x in ribbon[:10]], weights[9, :10], atol=1e-7) and ribbon[10] == ""
    box = page.locator("canvas.map").bounding_box()
    page.mouse.move(box["x"] + 2.5 * cell, box["y"] + 8.5 * cell)
    assert page.locator(".pointed").inner_text().replace("−", "-") == (
        f"{text[8]} (token 9) looks at {text[2]} (token 3)  {weights[8, 2]:+.6f}")
    page.mouse.move(box["x"] + 8.5 * cell, box["y"] + 2.5 * cell)           # nobody looks ahead
    assert page.locator(".pointed").inner_text() == "Point at a cell for its number; click to keep it."
    page.locator("[data-token='2']").click()
    assert "cannot look at" in page.locator(".said").inner_text()
    press(stage, "Enter", 1, 2, 2, 3, 0)
    tile = explorer.story["tile"]
    step = tile["cells"] * tile["unit"] + attention.GAP
    x = page.locator("canvas.tiles").bounding_box()["width"] / (4 * step - attention.GAP)
    page.locator("canvas.tiles").hover(position={"x": (3 * step + 20) * x, "y": (2 * step + 20) * x})
    assert page.locator(".pointed").inner_text().startswith("layer 3, head 3: ")
    page.locator("canvas.tiles").click(position={"x": (3 * step + 20) * x, "y": (step + 20) * x})      # no head 4 there
    page.locator("canvas.tiles").click(position={"x": 20 * x, "y": (2 * step + 20) * x})
    shown(root, (0, 3, 2, 3, 1))

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (0, 3, 2, 3, 1), "dark")
    dark = np.stack([pixels.attention_map(explorer, *place, dark=True) for place in PLACES])
    assert np.array_equal(walk(root, PLACES, (2, 3)), dark)
    press(stage, "Escape", 3, 3, 2, 3, 0, theme="dark")
    assert np.array_equal(grid(root, (3, 3, 2, 3)), explorer.overview(dark=True))
    assert root.evaluate("root => getComputedStyle(root).backgroundColor") == "rgb(22, 24, 29)"

    assert strangers == [] and errors == []


def test_nothing_jumps_while_scrubbing(browser, explorer, tmp_path):
    """In the width that JupyterLab leaves."""
    page = browser.new_page()
    page.set_viewport_size({"width": 800, "height": 900})
    explorer = AttentionExplorer(explorer.trace, opened=True)
    explorer.story = explorer.story | {"tokens": [{"text": " wondering", "special": False}] * T}
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, boxes = page.locator(".minqwen-attention"), set()
    for place in PLACES[::3]:
        for cell in ((T - 1, 0), (0, T - 1), (5, 5)):
            walk(root, [place], cell)
            boxes.add((*page.locator("canvas.map").bounding_box().values(), root.bounding_box()["height"]))
    assert len(boxes) == 1
    assert root.evaluate("root => root.scrollWidth <= root.clientWidth")


def test_a_long_text(browser, tmp_path):
    """Where a cell of the map is a block of tokens, and one of a tile too: the exact numbers are there all the same."""
    explorer = AttentionExplorer(random_qwen(), tokens(1, 640), layer=3, head=1, token=601, seen=300, opened=True)
    assert (explorer.story["map"]["block"], explorer.story["tile"]["block"]) == (2, 9)
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "long.html", layers=[0, 3]).as_uri())
    root = page.locator(".minqwen-attention")
    shown(root, (3, 1, 601, 300, 1))
    drawn = walk_by(root, [((3, 1, 601, 300, 1), {}), ((0, 2, 601, 300, 1), {"layer": 0, "head": 2})], "canvas.map")
    assert np.array_equal(drawn, [pixels.attention_map(explorer, 3, 1), pixels.attention_map(explorer, 0, 2)])
    ribbon = root.evaluate("root => [...root.querySelectorAll('[data-token]')].map((x) => x.dataset.weight)")
    assert np.allclose([float(x) for x in ribbon[:602]], explorer.weights(0, 2)[601, :602], atol=1e-7)
    assert "of 9 × 9 tokens" in root.inner_text() and "of 2 × 2 tokens" in root.inner_text()
    assert strangers == [] and errors == []


def test_inside_jupyterlab(browser, tmp_path):
    """With pages fetched from the kernel one by one, as a large model needs it."""
    write_notebook(
        tmp_path / "explore.ipynb",
        "import numpy as np\nimport pixels\nfrom support import random_qwen, shape_of_0_8b, tokens\n"
        "from minqwen.widgets import AttentionExplorer\n"
        "model, place = random_qwen(shape_of_0_8b()), {'layer': 3, 'head': 2, 'token': -1, 'seen': 0}\n"
        "explorer = AttentionExplorer(model, tokens(1, 300), **place)\n"
        "frames = [pixels.attention_map(explorer, layer, 2, dark) for layer in (3, 4) for dark in (False, True)]\n"
        "np.savez('frames.npz', *[explorer.overview(dark) for dark in (False, True)], *frames)\n"
        "print(len(explorer.pages), 'pages')\nexplorer",
        "broken = AttentionExplorer(explorer.trace, head=0)\nbroken.observe(lambda change: 1 / 0, 'head')\nbroken",
    )
    assert shape_of_0_8b().text_config.num_hidden_layers == 24
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "explore.ipynb")
        page.get_by_text("2 pages").wait_for()
        with np.load(tmp_path / "frames.npz") as frames:
            light, dark, *maps = (frames[f"arr_{i}"] for i in range(6))

        root, broken = page.locator(".minqwen-attention").first, page.locator(".minqwen-attention").last
        root.scroll_into_view_if_needed()
        shown(root, (3, 2, 299, 0, 0))
        assert "fetched from the kernel" in root.inner_text() and "181 kB each" in root.inner_text()
        assert np.array_equal(walk_by(root, [((3, 2, 299, 0, 0), {})], "canvas.tiles")[0], light)

        stage = root.locator(".stage")
        press(stage, "Enter", 3, 2, 299, 0, 1)
        assert np.array_equal(walk_by(root, [((3, 2, 299, 0, 1), {})], "canvas.map")[0], maps[0])
        press(stage, "PageUp", 4, 2, 299, 0, 1)
        assert np.array_equal(walk_by(root, [((4, 2, 299, 0, 1), {})], "canvas.map")[0], maps[2])

        # what has come is scrubbed without the kernel: another token, another cell, a map that was open before
        assert drawn_at_once(root, "token", 120) == "4 2 120 0 1 light"
        assert drawn_at_once(root, "seen", 17) == "4 2 120 17 1 light"
        assert drawn_at_once(root, "layer", 3) == "3 2 120 17 1 light"
        press(stage, "ArrowRight", 3, 2, 121, 17, 1)
        press(stage, ".", 3, 2, 121, 18, 1)

        go_dark(page)
        shown(root, (3, 2, 121, 18, 1), "dark")
        assert np.array_equal(walk_by(root, [((3, 2, 121, 18, 1), {})], "canvas.map")[0], maps[1])
        press(stage, "Escape", 3, 2, 121, 18, 0, theme="dark")
        assert np.array_equal(walk_by(root, [((3, 2, 121, 18, 0), {})], "canvas.tiles")[0], dark)

        broken.locator(".stage").press("ArrowUp")
        broken.get_by_text("ZeroDivisionError: division by zero").wait_for()

        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
