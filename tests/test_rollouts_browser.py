"""The rollout explorer in a real browser, as a page of its own and inside JupyterLab: pixels, keys, clicks, words."""

import math

import numpy as np
import pixels
import pytest
from browser_support import a_jupyterlab, go_dark, press, run_all_cells, shown, walk_by, watched, write_notebook
from test_rollouts_widget import answered

pytestmark = pytest.mark.browser

STEPS = [((0, 0, 0), {"group": 0, "answer": 0, "token": 0}), ((0, 0, 1), {"group": 1, "answer": 0, "token": 0}),
         ((30, 2, 0), {"group": 0, "answer": 2, "token": 30})]


@pytest.fixture(scope="module")
def explorer():
    return answered(answer=2, token=5)


def expected(explorer, dark=False):
    return np.stack([pixels.rollout_map(explorer, group, dark) for (*_, group), _ in STEPS])


def test_the_page(browser, explorer, tmp_path):
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-rollouts"), page.locator(".stage")
    shown(root, (5, 2, 0))                                  # where the explorer stood
    assert np.array_equal(walk_by(root, STEPS), expected(explorer))

    # keys: the token, the answer, the question; what is shorter keeps the token in it
    press(stage, "ArrowRight", 31, 2, 0)
    press(stage, "End", 32, 2, 0)
    press(stage, "ArrowRight", 32, 2, 0)                    # there is no further
    press(stage, "ArrowUp", 6, 1, 0)
    press(stage, "ArrowDown", 6, 2, 0)
    press(stage, "ArrowDown", 6, 3, 0)
    press(stage, "PageUp", 6, 1, 1)
    press(stage, "ArrowUp", 0, 0, 1)
    press(stage, "PageDown", 0, 0, 0)
    press(root.locator("[data-moves=answer]"), "End", 0, 3, 0)
    press(stage, "Home", 0, 3, 0)

    # clicks: an answer, a token of it, a cell of the map; behind an answer's end is its last token
    page.locator(".worth > div").nth(0).click()
    shown(root, (0, 0, 0))
    page.locator(".cell").nth(4).click()
    shown(root, (4, 0, 0))
    across, down = explorer.story["cell"]
    box = page.locator("canvas").bounding_box()
    scale = box["width"] / (across * explorer.story["longest"])
    page.mouse.click(box["x"] + 30.5 * across * scale, box["y"] + 1.5 * down)
    shown(root, (6, 1, 0))
    page.mouse.move(box["x"] + 3.5 * across * scale, box["y"] + 0.5 * down)
    told = explorer.story["groups"][0]["answers"][0]
    assert page.locator(".pointed").inner_text().startswith("answer 1, token 4, ")
    assert f"× {math.exp(told['after'][3] - told['before'][3]):.2f}" in page.locator(".pointed").inner_text()

    page.emulate_media(color_scheme="dark")
    shown(root, (6, 1, 0), "dark")
    assert np.array_equal(walk_by(root, STEPS), expected(explorer, dark=True))
    assert strangers == [] and errors == []


def test_what_is_said(browser, explorer, tmp_path):
    page = browser.new_page()
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, told = page.locator(".minqwen-rollouts"), explorer.story["groups"][0]
    for token, answer in ((0, 0), (2, 0), (4, 2)):
        walk_by(root, [((token, answer, 0), {"token": token, "answer": answer, "group": 0})])
        said, one = root.locator(".said").inner_text(), told["answers"][answer]
        says = f"says {one['text']}, which is {'right' if answer == 0 else 'wrong'}: reward {one['reward']:.2f}. "
        assert said.startswith(f"Answer {answer + 1} {says}The mean of the group is 0.25, so its advantage is ")
        assert ("was read, and is not learnt" in said) == (token == 2)
        assert root.locator(".stage").get_attribute("aria-label").endswith(said)
    rows = root.locator(".worth > div").all_inner_texts()
    assert ["✓" in row for row in rows] == [True, False, False, False]
    assert [row.split()[-1] for row in rows] == ["+0.75", "−0.25", "−0.25", "−0.25"]
    assert root.locator(".cell .read").count() == sum(x is None for x in told["answers"][2]["before"])
    page.close()


def test_inside_jupyterlab(browser, explorer, tmp_path):
    write_notebook(tmp_path / "live.ipynb", "from test_rollouts_widget import answered\n"
                   "explorer = answered(answer=2, token=5)", "explorer")
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "live.ipynb")
        root = page.locator(".minqwen-rollouts")
        root.scroll_into_view_if_needed()
        shown(root, (5, 2, 0))
        assert np.array_equal(walk_by(root, STEPS), expected(explorer))
        press(root.locator(".stage"), "ArrowUp", 6, 1, 0)
        go_dark(page)
        shown(root, (6, 1, 0), "dark")
        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
