"""The gate explorer in a real browser, as a page of its own and inside JupyterLab: pixels, keys, clicks, requests."""

import itertools

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
from support import random_qwen, tokens

from minqwen.widgets import GateExplorer, gates

pytestmark = pytest.mark.browser

T, HEADS, PANELS = 9, [6, 6, 6, 4], [3, 3, 3, 2]            # three Gated DeltaNet layers and one of attention


@pytest.fixture(scope="module")
def explorer():
    return GateExplorer(random_qwen(), tokens(1, T), token=3, layer=1, head=2)


def walk(root, layer, places, canvas, theme="light"):
    """A canvas at each (token, head) of a layer. First of all to that layer: canvases are as large as it needs them."""
    for name, value in (("layer", layer), ("token", places[0][0]), ("head", places[0][1])):
        root.locator(f"[data-moves={name}]").evaluate(
            "(range, value) => { range.value = value; range.dispatchEvent(new Event('input')); }", value)
    shown(root, (places[0][0], layer, places[0][1]), theme)
    return walk_by(root, [((token, layer, head), {"token": token, "head": head}) for token, head in places], canvas)


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-gates"), page.locator(".stage")
    shown(root, (3, 1, 2))                                  # where the explorer stood

    # each place's pixels are those of pixels.py, which are no constant pictures
    for layer in range(4):
        places = list(itertools.product(range(T), range(HEADS[layer])))
        for panel in range(PANELS[layer]):
            expected = np.stack([pixels.gate_panel(explorer, token, layer, head, panel) for token, head in places])
            assert len({picture.tobytes() for picture in expected}) > 0.5 * len(places)     # no bar, no difference
            assert np.array_equal(walk(root, layer, places, f"canvas.panel-{panel}"), expected)
        expected = np.stack([pixels.gate_dimensions(explorer, layer, head) for _, head in places[:6]])
        assert np.array_equal(walk(root, layer, places[:6], "canvas.dims"), expected)
        assert root.locator(".panel:visible").count() == PANELS[layer] + 1

    # keys
    walk(root, 1, [(3, 2)], "canvas.dims")
    press(stage, "ArrowRight", 4, 1, 2)
    press(stage, "ArrowLeft", 3, 1, 2)
    press(stage, "ArrowUp", 3, 1, 3)
    press(stage, "ArrowDown", 3, 1, 2)
    press(stage, "PageUp", 3, 2, 2)
    press(stage, "End", T - 1, 2, 2)
    press(root.locator("[data-moves=head]"), "End", T - 1, 2, 5)            # a slider's own keys move that slider
    press(stage, "PageUp", T - 1, 3, 3)                     # where there are but four heads
    press(stage, "PageUp", T - 1, 3, 3)                     # there is no further
    press(root.locator("[data-moves=layer]"), "Home", T - 1, 0, 3)
    press(stage, "Home", 0, 0, 3)

    # clicks: a cell, a bar below and a bar beside, a dimension
    across, down = explorer.story["layers"][0]["cell"]
    canvas = page.locator("canvas.panel-1")
    canvas.click(position={"x": 6.5 * across, "y": (5 - 4 + 0.5) * down})
    shown(root, (6, 0, 4))
    canvas.click(position={"x": 2.5 * across, "y": 6 * down + gates.GAP + 3})
    shown(root, (2, 0, 4))
    canvas.click(position={"x": T * across + gates.GAP + 3, "y": 5.5 * down})
    shown(root, (2, 0, 0))
    page.locator("canvas.dims").click(position={"x": 5.5 * across, "y": 9})
    shown(root, (5, 0, 0))

    # what is said, in numbers
    values = {name: explorer.values(name, 0)[5, 0] for name in ("alpha", "beta", "output", "shut")}
    said, text = page.locator(".said").inner_text(), explorer.trace.tokens[5]
    kept = f"{100 * values['alpha']:.{1 if 0.99 <= values['alpha'] < 0.999 else 0}f} %"     # more digits, near to one
    assert said == (f"{text} Head 0 keeps {kept} of the memory (α = {values['alpha']:.6f}), "
                    f"writes with β = {values['beta']:.4f}; its output gate multiplies by {values['output']:.4f} "
                    f"(mean size); of 24 dimensions {values['shut']:.0f} are all but shut.")
    assert page.locator(".said").get_attribute("aria-live") == "polite"
    told = said.partition(" Head 0 ")[2]
    for name, value in (("token", f"token 6 of {T}, {text}. Head 0 {told}"), ("head", f"head 0 of 6; it {told}"),
                        ("layer", f"layer 0, Gated DeltaNet. Head 0 {told}")):
        assert root.locator(f"[data-moves={name}]").get_attribute("aria-valuetext") == value
    assert stage.get_attribute("aria-label").endswith(f"Token 6, {text}: head 0 {told}")
    canvas.hover(position={"x": 3.5 * across, "y": 0.5 * down})
    number = page.locator(".pointed").inner_text()
    assert number == f"{explorer.trace.tokens[3]} (token 4), head 5: {explorer.values('beta', 0)[3, 5]:.4f}"
    low = explorer.story["layers"][0]["dim_cell"][1]
    page.locator("canvas.dims").hover(position={"x": 7.5 * across, "y": 11.5 * low})
    number = page.locator(".pointed").inner_text().replace("−", "-")
    assert number.endswith(f"dimension 11 of head 0: {explorer.factors(0, 0)[7, 11]:+.6f}")
    press(root.locator("[data-moves=layer]"), "End", 5, 3, 0)
    share, shut = explorer.values("output", 3)[5, 0], explorer.values("shut", 3)[5, 0]
    assert page.locator(".said").inner_text().startswith(
        f"{text} Head 0 lets {100 * share:.0f} % through its output gate (mean); of 32 dimensions {shut:.0f} ")

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (5, 3, 0), "dark")
    places = [(0, 0), (4, 3)]
    for panel in range(2):
        dark = np.stack([pixels.gate_panel(explorer, token, 3, head, panel, dark=True) for token, head in places])
        assert np.array_equal(walk(root, 3, places, f"canvas.panel-{panel}", "dark"), dark)
    dark = np.stack([pixels.gate_dimensions(explorer, 3, head, dark=True) for head in (0, 3)])
    assert np.array_equal(walk(root, 3, places, "canvas.dims", "dark"), dark)
    assert root.evaluate("root => getComputedStyle(root).backgroundColor") == "rgb(22, 24, 29)"

    assert strangers == [] and errors == []


def test_nothing_jumps_while_scrubbing(browser, explorer, tmp_path):
    """In the width that JupyterLab leaves, with a text that is too wide for it: only the sheet is moved, sideways."""
    explorer, last = GateExplorer(explorer.trace.model, tokens(1, 400)), 399
    explorer.story = explorer.story | {"tokens": [{"text": " wondering", "special": False}] * 400}
    page = browser.new_page()
    page.set_viewport_size({"width": 700, "height": 900})
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, boxes = page.locator(".minqwen-gates"), set()
    for layer in (0, 3):
        for token in (0, 150, last):
            walk(root, layer, [(token, 1)], "canvas.dims")
            boxes.add((*page.locator(".scroller").bounding_box().values(), root.bounding_box()["height"]))
    assert len(boxes) == 1
    column, scroller = (page.locator(where).bounding_box() for where in (".panel-0 + .band + .band", ".scroller"))
    assert column["x"] >= scroller["x"] and column["x"] + column["width"] <= scroller["x"] + scroller["width"]


def test_inside_jupyterlab(browser, tmp_path):
    """With pages fetched from the kernel one by one, as a large model needs it."""
    write_notebook(
        tmp_path / "explore.ipynb",
        "import numpy as np\nimport pixels\nfrom support import random_qwen, tokens\n"
        "from minqwen.widgets import GateExplorer\n"
        "GateExplorer.at_once = 0\n"
        f"explorer = GateExplorer(random_qwen(), tokens(1, {T}), token=3, head=1)\n"
        "places = [(t, 0, h) for t in (0, 3, 8) for h in range(6)]\n"
        "frames = [[pixels.gate_panel(explorer, *place, 2, dark=dark) for place in places] for dark in (False, True)]\n"
        "dims = [pixels.gate_dimensions(explorer, 0, h) for h in range(6)]\n"
        "np.savez('frames.npz', light=frames[0], dark=frames[1], dims=dims)\n"
        "print(len(explorer.pages), 'pages')\nexplorer",
        "broken = GateExplorer(explorer.trace, head=0)\nbroken.observe(lambda change: 1 / 0, 'head')\nbroken",
    )
    places = list(itertools.product((0, 3, 8), range(6)))
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "explore.ipynb")
        page.get_by_text("2 pages").wait_for()
        with np.load(tmp_path / "frames.npz") as frames:
            light, dark, dims = (frames[name] for name in ("light", "dark", "dims"))

        root, broken = page.locator(".minqwen-gates").first, page.locator(".minqwen-gates").last
        root.scroll_into_view_if_needed()
        shown(root, (3, 0, 1))
        assert "fetched from the kernel" in root.inner_text()
        assert np.array_equal(walk(root, 0, places, "canvas.panel-2"), light)
        assert np.array_equal(walk(root, 0, places[:6], "canvas.dims"), dims)

        # what has come is scrubbed without the kernel
        assert drawn_at_once(root, "token", 7) == "7 0 5 light"
        assert drawn_at_once(root, "head", 2) == "7 0 2 light"
        stage = root.locator(".stage")
        press(stage, "ArrowRight", 8, 0, 2)
        press(stage, "PageUp", 8, 1, 2)
        press(stage, "PageDown", 8, 0, 2)

        go_dark(page)
        shown(root, (8, 0, 2), "dark")
        assert np.array_equal(walk(root, 0, places, "canvas.panel-2", "dark"), dark)

        broken.locator(".stage").press("ArrowUp")
        broken.get_by_text("ZeroDivisionError: division by zero").wait_for()

        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
