"""The explorer of quantization in a real browser, as a page of its own: it rounds by itself; pixels, keys, clicks."""

import itertools

import numpy as np
import pixels
import pytest
from browser_support import press, shown, walk_by, watched
from test_quant_widget import K, N, matrix

from minqwen.widgets import QuantExplorer, quant

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", params=[True, False], ids=["search", "widest"])
def explorer(request):
    return QuantExplorer(matrix(), row=3, column=20, bits=3, group_size=16, search=request.param)


def walk(root, explorer, places, canvas):
    """A canvas at each (row, column, bits, size); columns are the first ones of groups."""
    steps = []
    for row, column, bits, size in places:
        sliders = {"size": explorer.story["sizes"].index(size), "bits": explorer.story["bits"].index(bits), "row": row,
                   "column": column // size}
        steps.append(((row, column, bits, size), sliders))
    return walk_by(root, steps, f"canvas.{canvas}")


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-quant"), page.locator(".stage")
    shown(root, (3, 20, 3, 16))                             # where the explorer stood

    # each place's pixels are those of pixels.py: all bits and sizes, both pages of rows
    places = [(row, column // size * size, bits, size) for (row, column), bits, size in itertools.product(
        ((3, 0), (14, 40), (N - 1, K - 1)), (2, 3, 4, 8), (8, 16, 32, 64))]
    for kind in ("numbers", "errors"):
        expected = np.stack([pixels.quant_rows(explorer, row, bits, size, kind) for row, _, bits, size in places])
        assert np.array_equal(walk(root, explorer, places, kind), expected)
    expected = np.stack([pixels.quant_group(explorer, *place) for place in places])
    assert len({picture.tobytes() for picture in expected}) > 0.9 * len(places)             # of zeros all are alike
    assert np.array_equal(walk(root, explorer, places, "group"), expected)

    # keys
    walk(root, explorer, [(3, 16, 3, 16)], "group")
    press(stage, "ArrowRight", 3, 32, 3, 16)
    press(stage, "ArrowLeft", 3, 16, 3, 16)
    press(stage, "ArrowDown", 4, 16, 3, 16)
    press(stage, "ArrowUp", 3, 16, 3, 16)
    press(stage, "PageUp", 3, 16, 4, 16)
    press(stage, "PageDown", 3, 16, 3, 16)
    press(stage, ",", 3, 16, 3, 8)
    press(stage, ".", 3, 16, 3, 16)
    press(stage, "End", 3, 48, 3, 16)
    press(stage, ".", 3, 48, 3, 32)                         # the group there, of another size
    press(stage, "Home", 3, 0, 3, 32)
    press(root.locator("[data-moves=row]"), "End", N - 1, 0, 3, 32)         # a slider's own keys move that slider
    press(stage, "ArrowDown", N - 1, 0, 3, 32)              # there is no further

    # clicks: a number, one of the table's cells
    box = page.locator("canvas.errors").bounding_box()
    page.locator("canvas.errors").click(position={"x": box["width"] * 40.5 / K, "y": box["height"] * 2.5 / quant.ROWS})
    shown(root, (50, 40, 3, 32))
    page.locator("tbody tr").nth(0).locator("td").nth(1).click()
    shown(root, (50, 40, 2, 16))

    # what is said, in numbers
    numbers, becomes, scale = explorer.group(50, 40, 2, 16)
    lost = np.linalg.norm(numbers - becomes) / np.linalg.norm(numbers)
    said = page.locator(".said").inner_text()
    assert said == (f"The largest number of this group is {np.abs(numbers).max():.4g}, and a code counts {scale:.4g}. "
                    f"{100 * lost:.1f} % is lost of the group, and {100 * explorer.lost(2, 16):.1f} % of the whole "
                    f"matrix. A weight takes 3 bits, its share of a scale included.")
    assert page.locator(".said").get_attribute("aria-live") == "polite"
    for name, beginning in (("row", f"row 50 of {N}. "), ("column", "group 3 of 4. "), ("bits", "2 bits. "),
                            ("size", "groups of 16. ")):
        assert root.locator(f"input[data-moves={name}]").get_attribute("aria-valuetext") == beginning + said
    assert stage.get_attribute("aria-label") == f"Row 50, group 3 of 4, 2 bits. {said}"
    cells = [[cell.inner_text() for cell in row.locator("td").all()] for row in page.locator("tbody tr").all()]
    assert cells == [[f"{100 * explorer.lost(bits, size):.1f} %" for size in (8, 16, 32, 64)] for bits in (2, 3, 4, 8)]
    assert page.locator("td.here").inner_text() == cells[0][1]
    page.mouse.move(box["x"] + box["width"] * 40.5 / K, box["y"] + box["height"] * 2.5 / quant.ROWS)
    code = round(becomes[8] / scale)
    assert f"row 50, column 40: {signed(numbers[8])} becomes {signed(becomes[8])}, code {code};" in page.locator(
        ".pointed").inner_text()

    # light and dark
    page.emulate_media(color_scheme="dark")
    shown(root, (50, 40, 2, 16), "dark")
    dark = np.stack([pixels.quant_group(explorer, *place, dark=True) for place in places[::5]])
    assert np.array_equal(walk(root, explorer, places[::5], "group"), dark)
    dark = np.stack([pixels.quant_rows(explorer, row, bits, size, "errors", dark=True)
                     for row, _, bits, size in places[::5]])
    assert np.array_equal(walk(root, explorer, places[::5], "errors"), dark)
    assert strangers == [] and errors == []


def signed(x):
    return f"{'−' if x < 0 else '+'}{abs(x):.4f}"


def test_nothing_jumps_while_scrubbing(browser, explorer, tmp_path):
    page = browser.new_page()
    page.set_viewport_size({"width": 800, "height": 900})
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, boxes = page.locator(".minqwen-quant"), set()
    for place in itertools.product((0, N - 1), (0,), (2, 8), (8, 64)):
        walk(root, explorer, [place], "group")
        boxes.add(tuple(tuple(page.locator(where).bounding_box().values()) for where in ("canvas.group", "table")))
    assert len(boxes) == 1
    assert root.evaluate("root => root.scrollWidth <= root.clientWidth")
