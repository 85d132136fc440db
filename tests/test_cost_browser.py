"""The cost of a context in a real browser, as a page and inside JupyterLab: pixels, keys, table, requests."""

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

from minqwen.config import OFFICIAL_SIZES
from minqwen.info import readable
from minqwen.widgets import ContextCost, cost

pytestmark = pytest.mark.browser

LISTS = {"size": list(OFFICIAL_SIZES), "context": cost.CONTEXTS, "batch": cost.BATCHES, "dtype": cost.DTYPES,
         "work": cost.WORKS, "bits": cost.BITS}
HERE = ("Qwen3.5-4B", 4096, 2, "bfloat16", "token", 16)
# each size, context, batch, dtype, work and bits at least twice, in ever other company
PLACES = [(LISTS["size"][i % 5], cost.CONTEXTS[i % 13], cost.BATCHES[i % 7], cost.DTYPES[i // 2 % 2], cost.WORKS[i % 2],
           cost.BITS[i // 4 % 3]) for i in range(26)]


@pytest.fixture(scope="module")
def explorer():
    return ContextCost(size="Qwen3.5-4B", context=4096, batch=2)


def walk(root, places, chart):
    return walk_by(root, [(place, {name: there.index(value) for (name, there), value in zip(LISTS.items(), place)})
                          for place in places], f"canvas.{chart}")


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-cost"), page.locator(".stage")
    shown(root, HERE)                                       # where the explorer stood

    # each place's pixels are those of pixels.py, which is no constant picture
    for chart in cost.CHARTS:
        expected = np.stack([pixels.cost_chart(explorer, chart, *place) for place in PLACES])
        assert len({picture.tobytes() for picture in expected}) == len(PLACES)
        assert np.array_equal(walk(root, PLACES, chart), expected)

    # keys
    size, context, batch, dtype, work, bits = HERE
    walk(root, [HERE], "memory")
    press(stage, "ArrowRight", size, 8192, batch, dtype, work, bits)
    press(stage, "ArrowLeft", size, 4096, batch, dtype, work, bits)
    press(stage, "ArrowUp", size, 4096, 4, dtype, work, bits)
    press(stage, "ArrowDown", size, 4096, 2, dtype, work, bits)
    press(stage, "PageUp", "Qwen3.5-9B", 4096, 2, dtype, work, bits)
    press(stage, "PageUp", "Qwen3.5-27B", 4096, 2, dtype, work, bits)
    press(stage, "PageUp", "Qwen3.5-27B", 4096, 2, dtype, work, bits)             # there is no further
    press(stage, "PageDown", "Qwen3.5-9B", 4096, 2, dtype, work, bits)
    press(stage, "d", "Qwen3.5-9B", 4096, 2, "float32", work, bits)
    press(stage, "w", "Qwen3.5-9B", 4096, 2, "float32", "prompt", bits)
    press(stage, "w", "Qwen3.5-9B", 4096, 2, "float32", "token", bits)
    press(stage, "End", "Qwen3.5-9B", 2 ** 20, 2, "float32", work, bits)
    press(stage, "Home", "Qwen3.5-9B", 256, 2, "float32", work, bits)
    press(root.locator("input[data-moves=batch]"), "End", "Qwen3.5-9B", 256, 64, "float32", work, bits)
    press(root.locator("input[data-moves=size]"), "Home", "Qwen3.5-0.8B", 256, 64, "float32", work, bits)

    press(stage, "b", "Qwen3.5-0.8B", 256, 64, "float32", work, 8)
    press(stage, "b", "Qwen3.5-0.8B", 256, 64, "float32", work, 4)
    bits = 4

    # clicks: on a chart, and on a row of the table
    box = page.locator("canvas.work").bounding_box()
    page.locator("canvas.work").click(position={"x": box["width"] * 7 / 12, "y": 30})
    shown(root, ("Qwen3.5-0.8B", 32_768, 64, "float32", work, bits))
    page.locator("tbody tr").nth(4).click()
    shown(root, ("Qwen3.5-27B", 32_768, 64, "float32", work, bits))

    # what is said, in numbers, and the table
    place = ("Qwen3.5-27B", 32_768, 64, "float32", work, bits)
    numbers = explorer.numbers(*place)
    said, memory, done = page.locator(".said").inner_text(), numbers["memory"], numbers["work"]
    whole = pixels.total(numbers, "work")
    assert said.startswith(f"32,768 tokens: keys and values take {readable(memory['keys and values'])}, states "
                           f"{readable(memory['states'])}; from ")
    counts = explorer.counts["Qwen3.5-27B"]
    even = -(-(counts["states"] + 4 * counts["convolutions"]) // (4 * counts["key_values"]))
    assert f"from {even:,} tokens on, keys and values are the larger of the two." in said
    assert f"Weights of 4 bits take {readable(memory['weights'])}. " in said
    assert f"If all layers were attention: {readable(memory['all attention'])}. " in said
    assert said.endswith(f"takes {cost.operations(whole)} operations, {100 * done['attention'] / whole:.0f} % of them "
                         "attention's.")
    assert page.locator(".said").get_attribute("aria-live") == "polite"
    for name, beginning in (("size", "Qwen3.5-27B. "), ("context", "context of 32,768 tokens. "),
                            ("batch", "batch of 64 rows. "), ("dtype", "float32. "), ("work", "next token. "),
                            ("bits", "weights of 4 bits. ")):
        assert root.locator(f"input[data-moves={name}]").get_attribute("aria-valuetext") == beginning + said
    assert stage.get_attribute("aria-label").endswith(said)
    for row, cells in zip(pixels.cost_table(explorer, *place[1:4], bits), page.locator("tbody tr").all(), strict=True):
        told = cells.inner_text().split("\t")
        values = list(row.values())
        assert told[0] == values[0] and told[1:5] == [readable(x) for x in values[1:5]]
        assert told[5] == cost.operations(values[5]) and told[7] == cost.operations(values[7])
        exact = [float(cell.get_attribute("data-value")) for cell in cells.locator("td").all()]
        assert np.allclose(exact, values[1:], rtol=1e-14)
    page.mouse.move(box["x"] + box["width"] * 280.5 / 841, box["y"] + 100)
    at = explorer.numbers("Qwen3.5-27B", 4096, 64, "float32", work)["work"]
    assert page.locator(".pointed").inner_text() == (
        f"at 4,096 tokens: attention {cost.operations(at['attention'])}, delta rule "
        f"{cost.operations(at['delta rule'])}, matrices {cost.operations(at['matrices'])}, if all layers were "
        f"attention {cost.operations(at['all attention'])}")
    press(stage, "End", "Qwen3.5-27B", 2 ** 20, 64, "float32", work, bits)
    assert page.locator(".where").inner_text() == (
        "Qwen3.5-27B, 64 rows, float32; beyond the 262,144 tokens that it is made for")

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, ("Qwen3.5-27B", 2 ** 20, 64, "float32", work, bits), "dark")
    for chart in cost.CHARTS:
        dark = np.stack([pixels.cost_chart(explorer, chart, *place, dark=True) for place in PLACES[::5]])
        assert np.array_equal(walk(root, PLACES[::5], chart), dark)
    assert root.evaluate("root => getComputedStyle(root).backgroundColor") == "rgb(22, 24, 29)"

    assert strangers == [] and errors == []


def test_nothing_jumps_while_scrubbing(browser, explorer, tmp_path):
    """In the width that JupyterLab leaves."""
    page = browser.new_page()
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, boxes = page.locator(".minqwen-cost"), set()
    for place in itertools.product(LISTS["size"][::2], (256, 2 ** 20), (1, 64), cost.DTYPES, cost.WORKS, (16, 4)):
        walk(root, [place], "memory")
        canvas, table = (page.locator(where).bounding_box() for where in ("canvas.memory", "table"))
        boxes.add((*canvas.values(), *table.values()))
    assert len(boxes) == 1
    assert root.evaluate("root => root.scrollWidth <= root.clientWidth")


def test_inside_jupyterlab(browser, explorer, tmp_path):
    write_notebook(
        tmp_path / "explore.ipynb",
        "from minqwen import ContextCost\nContextCost(size='Qwen3.5-4B', context=4096, batch=2)",
        "broken = ContextCost()\nbroken.observe(lambda change: 1 / 0, 'batch')\nbroken",
    )
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "explore.ipynb")
        root, broken = page.locator(".minqwen-cost").first, page.locator(".minqwen-cost").last
        root.scroll_into_view_if_needed()
        shown(root, HERE)
        expected = np.stack([pixels.cost_chart(explorer, "memory", *place) for place in PLACES[::3]])
        assert np.array_equal(walk(root, PLACES[::3], "memory"), expected)

        # all is scrubbed without the kernel
        walk(root, [HERE], "memory")
        assert drawn_at_once(root, "context", 12) == "Qwen3.5-4B 1048576 2 bfloat16 token 16 light"
        assert drawn_at_once(root, "size", 0) == "Qwen3.5-0.8B 1048576 2 bfloat16 token 16 light"
        stage = root.locator(".stage")
        press(stage, "ArrowLeft", "Qwen3.5-0.8B", 2 ** 19, 2, "bfloat16", "token", 16)
        press(stage, "w", "Qwen3.5-0.8B", 2 ** 19, 2, "bfloat16", "prompt", 16)

        go_dark(page)
        shown(root, ("Qwen3.5-0.8B", 2 ** 19, 2, "bfloat16", "prompt", 16), "dark")
        dark = np.stack([pixels.cost_chart(explorer, "work", *place, dark=True) for place in PLACES[::5]])
        assert np.array_equal(walk(root, PLACES[::5], "work"), dark)

        broken.locator(".stage").press("ArrowUp")
        broken.get_by_text("ZeroDivisionError: division by zero").wait_for()

        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
