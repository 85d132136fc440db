"""The explorers in a real browser, as pages of their own and inside JupyterLab: pixels, keys, requests."""

import itertools

import numpy as np
import pixels
import pytest
from browser_support import a_jupyterlab, go_dark, press, run_all_cells, shown, walk, walk_by, watched, write_notebook
from support import random_qwen, small_config, tokens

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


def asked(root, token, decayed=1, erased=1, written=1, exact=0):
    """Wait until this token's key is asked with, these parts are summed, and every cell is drawn or not."""
    wanted = f"{token} {decayed} {erased} {written} {exact}"
    root.page.wait_for_function("([root, wanted]) => root.dataset.asked === wanted",
                                arg=[root.element_handle(), wanted], timeout=60_000)


def steps(places):
    """What `walk_by` takes."""
    return [(place, {"layer": LAYERS.index(place[1]), "head": place[2], "token": place[0]}) for place in places]


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-state"), page.locator(".stage")
    shown(root, (3, 1, 2))                                  # where the explorer stood

    # each place's pixels are those of frame(), which is no constant picture
    drawn = walk(root, PLACES, LAYERS)
    expected = np.stack([pixels.state(explorer, *place) for place in PLACES])
    assert len({picture.tobytes() for picture in expected}) > 0.9 * len(PLACES)
    assert np.array_equal(drawn, expected)

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
    page.locator("[data-token='6']").dblclick()
    shown(root, (6, 2, HEADS - 1))

    # what fades, is erased and is written, on and off
    for key, on in (("f", (0, 1, 1)), ("e", (0, 0, 1)), ("w", (0, 0, 0)), ("f", (1, 0, 0))):
        stage.press(key)
        asked(root, -1, *on)
        sums = pixels.state(explorer, 6, 2, HEADS - 1, **dict(zip(("decayed", "erased", "written"), map(bool, on))))
        assert np.array_equal(walk(root, [(6, 2, HEADS - 1)], LAYERS)[0], sums)
        assert root.locator("[data-switch=written]").is_checked() == bool(on[2])
    assert root.locator(".veil:visible").count() == 2
    root.locator("[data-switch=erased]").check()
    root.locator("[data-switch=written]").press(" ")
    asked(root, -1, 1, 1, 1)

    # asking with the key of another token: a click, keys, and what is said
    page.locator("[data-token='2']").click()
    asked(root, 2)
    strips = np.stack([pixels.state_answers(explorer, 2, *place) for place in PLACES])
    assert np.array_equal(walk_by(root, steps(PLACES), "canvas.strips"), strips)
    walk(root, [(6, 2, HEADS - 1)], LAYERS)
    given = pixels.answers(explorer, 2, 6, 2, HEADS - 1)["cosines"][0]
    told = [cell.get_attribute("data-match").split() for cell in page.locator(".cell").all()[:7]]
    assert np.allclose(np.array(told, float).T, given, atol=1e-4)
    best = [explorer.trace.tokens[i] for i in given.argmax(-1)]
    assert page.locator(".answer b").all_inner_texts() == [explorer.trace.tokens[2], *best]
    stage.press(".")
    asked(root, 3)
    stage.press(",")
    stage.press(",")
    asked(root, 1)
    stage.press("Enter")
    asked(root, 6)
    stage.press("Escape")
    asked(root, -1)
    assert np.array_equal(walk_by(root, steps(PLACES[-2:]), "canvas.strips"),
                          np.stack([pixels.state_answers(explorer, -1, *place) for place in PLACES[-2:]]))
    walk(root, [(6, 2, HEADS - 1)], LAYERS)

    # what is said, in numbers
    memory = explorer.trace.layers[2]
    value = root.locator("[data-moves=token]").get_attribute("aria-valuetext")
    assert f"token 7 of {T}" in value and f"alpha {memory.alpha[0, 6, 5]:.3f}, beta {memory.beta[0, 6, 5]:.3f}" in value
    assert "layer 2, head 5" in stage.get_attribute("aria-label")
    recall = [float(cell.get_attribute("data-recall")) for cell in page.locator(".cell").all()[:7]]
    assert np.allclose(recall, memory.answers(6, 5).cosine, atol=1e-4)
    box = page.locator("canvas.states").bounding_box()
    cell = box["width"] / drawn.shape[2]
    page.mouse.move(box["x"] + 2.5 * cell, box["y"] + 7.5 * cell)
    number = page.locator(".pointed b").inner_text().replace("−", "-")
    assert float(number) == pytest.approx(memory.state(6, 5)[7, 2].item(), abs=2e-6)

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (6, 2, HEADS - 1), "dark")
    dark = np.stack([pixels.state(explorer, *place, dark=True) for place in PLACES[-3:]])
    assert np.array_equal(walk(root, PLACES[-3:], LAYERS), dark)
    assert root.evaluate("root => getComputedStyle(root).backgroundColor") == "rgb(22, 24, 29)"

    assert strangers == [] and errors == []


def test_nothing_jumps_while_scrubbing(browser, explorer, tmp_path):
    """In the width that JupyterLab leaves, with a story that grows."""
    explorer = StateExplorer(explorer.trace)
    told = {"tokens": [{"text": " wondering", "special": False}] * T, "begins_empty": False}
    explorer.story = explorer.story | {"texts": [told]}
    page = browser.new_page()
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root = page.locator(".minqwen-state")
    boxes = set()
    for token in range(T):
        walk(root, [(token, 0, 0)], LAYERS)
        places = [page.locator(f"canvas.{canvas}").bounding_box().values() for canvas in ("states", "strips")]
        boxes.add((*places[0], *places[1], root.bounding_box()["height"]))
    assert len(boxes) == 1


def test_two_texts_side_by_side(browser, tmp_path):
    """The shorter one waits at its end; both are asked with one key."""
    both = StateExplorer.compare(random_qwen(), tokens(1, T), tokens(1, T - 3, seed=2), token=2, layer=1, head=4)
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(both.to_html(tmp_path / "two.html").as_uri())
    root = page.locator(".minqwen-state")
    shown(root, (2, 1, 4))
    assert np.array_equal(walk(root, PLACES, LAYERS), np.stack([pixels.state(both, *place) for place in PLACES]))
    page.locator(f"[data-token='{T + 1}']").click()         # the second token of the second text
    asked(root, T + 1)
    strips = np.stack([pixels.state_answers(both, T + 1, *place) for place in PLACES])
    assert np.array_equal(walk_by(root, steps(PLACES), "canvas.strips"), strips)
    root.locator(".stage").press("e")
    asked(root, T + 1, 1, 0, 1)
    assert np.array_equal(walk(root, PLACES[:4], LAYERS),
                          np.stack([pixels.state(both, *place, erased=False) for place in PLACES[:4]]))
    assert strangers == [] and errors == []


def test_memories_of_an_official_size(browser, tmp_path):
    """Drawn coarser, and told so; pointing gives every number, and all cells are drawn when they are wanted."""
    config = small_config(linear_num_key_heads=16, linear_num_value_heads=16, linear_key_head_dim=128,
                          linear_value_head_dim=128)
    explorer = StateExplorer(random_qwen(config), tokens(1, T), layer=1, head=14)
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "large.html", heads=[3, 14]).as_uri())
    root = page.locator(".minqwen-state")
    places = [(t, layer, head) for t in (0, 5, 8) for layer in LAYERS for head in (3, 14)]
    at = [(place, {"layer": place[1], "head": [3, 14].index(place[2]), "token": place[0]}) for place in places]
    assert np.array_equal(walk_by(root, at), np.stack([pixels.state(explorer, *place) for place in places]))
    box = page.locator("canvas.states").bounding_box()
    page.mouse.move(box["x"] + 3.5 * box["width"] / 328, box["y"] + 7.5 * box["width"] / 328)
    assert page.locator(".pointed").inner_text().startswith("memory now [key 14–15, value 6–7]")
    numbers = page.locator(".pointed b").inner_text().replace("−", "-").replace("/", " ").split()
    assert np.allclose(np.array(numbers, float), pixels.parts(explorer, 8, 2, 14)["memory"][14:16, 6:8].flat, atol=1e-6)
    assert "each point is the strongest of 2 × 2" in page.locator(".help").inner_text()
    assert "This page holds 6 of the model's 48 memories" in page.locator(".help").inner_text()
    root.locator(".stage").press("x")
    asked(root, -1, exact=1)
    assert np.array_equal(walk_by(root, at), np.stack([pixels.state(explorer, *place, exact=True) for place in places]))
    assert page.locator("canvas.states").bounding_box()["width"] == box["width"]
    assert strangers == [] and errors == []


def test_inside_jupyterlab(browser, tmp_path):
    """With pages fetched from the kernel one by one, as a large model needs it."""
    write_notebook(
        tmp_path / "explore.ipynb",
        "import numpy as np\nimport pixels\nfrom support import random_qwen, tokens\n"
        "from minqwen.widgets import StateExplorer\n"
        "StateExplorer.at_once = 0\n"
        f"explorer = StateExplorer(random_qwen(), tokens(1, {T}), token=3)\n"
        f"places = [(t, layer, head) for t in range({T}) for layer in {LAYERS} for head in range({HEADS})]\n"
        "frames = [pixels.state(explorer, *place, dark=dark) for dark in (False, True) for place in places]\n"
        "np.savez('frames.npz', *frames)\n"
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

        go_dark(page)
        shown(root, (T - 2, 2, 3), "dark")
        assert np.array_equal(walk(root, PLACES[:9], LAYERS), dark[:9])

        broken.locator(".stage").press("ArrowUp")
        broken.get_by_text("ZeroDivisionError: division by zero").wait_for()

        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
