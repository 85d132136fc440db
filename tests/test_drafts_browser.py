"""The draft explorer in a real browser, as a page of its own and inside JupyterLab: pixels, keys, clicks, words."""

import numpy as np
import pixels
import pytest
from browser_support import a_jupyterlab, go_dark, press, run_all_cells, shown, walk_by, watched, write_notebook

pytestmark = pytest.mark.browser

NEW, MOST = 20, 3
MAKE = """
from chat_support import byte_tokenizer
from support import random_qwen, small_config
from minqwen.chat import Assistant
from minqwen.widgets import DraftExplorer
tokenizer = byte_tokenizer()
config = small_config(vocab_size=tokenizer.vocab_size, mtp_num_hidden_layers=1)
explorer = DraftExplorer(Assistant(random_qwen(config), tokenizer), "what does ann have?", draft_tokens=2, token=5,
                         most={most}, max_new_tokens={new}, temperature={warmth}, seed=3)
"""


def made(warmth):
    """An explorer that is the same wherever it is made."""
    names = {}
    exec(MAKE.format(most=MOST, new=NEW, warmth=warmth), names)
    return names["explorer"]


@pytest.fixture(scope="module")
def explorer():
    return made(warmth=0.4)


def steps():
    return [((token, n), {"drafts": n, "token": token}) for n in range(1, MOST + 1) for token in range(NEW)]


def expected(explorer, dark=False):
    pictures = np.stack([pixels.draft_bars(explorer, token, n, dark) for (token, n), _ in steps()])
    assert len({picture.tobytes() for picture in pictures}) > NEW
    return pictures


@pytest.mark.parametrize("warmth", [0, 0.4])
def test_the_page(browser, tmp_path, warmth):
    explorer, page = made(warmth), browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, stage = page.locator(".minqwen-drafts"), page.locator(".stage")
    shown(root, (5, 2))                                     # where the explorer stood
    assert np.array_equal(walk_by(root, steps()), expected(explorer))
    assert root.locator(".key.coin").count() == (1 if warmth else 0)

    # keys: the token, the pass, how many drafts
    begins = [sum(len(one.given) for one in explorer.runs[2][:i]) for i in range(len(explorer.runs[2]))]
    walk_by(root, [((0, 2), {"drafts": 2, "token": 0})])
    press(stage, "ArrowRight", 1, 2)
    press(stage, "ArrowLeft", 0, 2)
    press(stage, "ArrowLeft", 0, 2)                         # there is no further
    press(stage, "PageUp", begins[1], 2)
    press(stage, "PageUp", begins[2], 2)
    press(stage, "PageDown", begins[1], 2)
    press(stage, "ArrowUp", begins[1], 3)
    press(stage, "ArrowDown", begins[1], 2)
    press(stage, "End", NEW - 1, 2)
    press(root.locator("[data-moves=pass]"), "Home", 0, 2)  # a slider's own keys move that slider
    press(root.locator("[data-moves=pass]"), "End", begins[-1], 2)
    press(root.locator("[data-moves=drafts]"), "End", begins[-1], 3)
    press(stage, "Home", 0, 3)

    # a click on a token, and on what was refused in its place
    page.locator(".cell:not(.refused)").nth(7).click()
    shown(root, (7, 3))
    refused = [i for i, way in enumerate(explorer.story["runs"][2]["ways"]) if way == "instead"]
    page.locator(".cell.refused").first.click()
    shown(root, (refused[0], 3))

    page.emulate_media(color_scheme="dark")
    shown(root, (refused[0], 3), "dark")
    assert np.array_equal(walk_by(root, steps()), expected(explorer, dark=True))
    assert strangers == [] and errors == []


def test_what_is_said(browser, explorer, tmp_path):
    """The words are those of the pass: which drafts, how likely to whom, what became of each."""
    page = browser.new_page()
    page.goto(explorer.to_html(tmp_path / "explorer.html").as_uri())
    root, run = page.locator(".minqwen-drafts"), explorer.story["runs"][2]
    ways = run["ways"]
    walk_by(root, [((0, 3), {"drafts": 3, "token": 0})])
    assert "The prompt was read" in root.locator(".said").inner_text()
    marks = root.locator(".cell").evaluate_all("cells => cells.map((cell) => ['taken', 'refused', 'own', 'instead']"
                                               ".find((way) => cell.classList.contains(way)))")
    assert marks == [mark for way in ways for mark in (("refused", way) if way == "instead" else (way,))]
    summary = run["summary"]
    came = root.locator(".came").inner_text()
    assert came.startswith(f"Behind the prompt {summary['tokens']} tokens in {summary['passes']} passes, "
                           f"{summary['tokens'] / summary['passes']:.2f} for each; taken: ")
    assert f"{100 * summary['taken'][0]:.0f} % of the first drafts" in came
    for way, words in (("taken", "to the model, and taken."), ("instead", "in the place of")):
        token = ways.index(way)
        walk_by(root, [((token, 3), {"token": token})])
        number, j = explorer.where(token, 3)
        one, said = explorer.runs[3][number], root.locator(".said").inner_text()
        assert said.startswith(f"Pass {number + 1} of {len(explorer.runs[3])}. The head drafted ") and words in said
        rows = [row for row in root.locator(".numbers span").all_inner_texts() if row]
        fates = ["taken"] * one.taken + ["refused"] * (len(one.p) - one.taken)
        for i, fate in enumerate(fates):
            sign = "<" if one.coins[i] * one.q[i] < one.p[i] else "≥"
            assert rows[i].startswith(f"coin {one.coins[i]:.2f} × ") and f" {sign} " in rows[i]
            assert rows[i].endswith(f": {fate}")
        assert len(rows) == len(one.drafted) + len(one.given) - one.taken
        marked = root.locator(".texts span").all_inner_texts()
        assert [text.startswith("▸") for text in marked].index(True) == (j if j < one.taken else len(one.drafted))
        assert root.locator(".stage").get_attribute("aria-label").startswith(said)
    page.close()


def test_inside_jupyterlab(browser, explorer, tmp_path):
    write_notebook(tmp_path / "live.ipynb", MAKE.format(most=MOST, new=NEW, warmth=0.4), "explorer")
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "live.ipynb")
        root = page.locator(".minqwen-drafts")
        root.scroll_into_view_if_needed()
        shown(root, (5, 2))
        assert np.array_equal(walk_by(root, steps()), expected(explorer))
        press(root.locator(".stage"), "Home", 0, 3)
        press(root.locator(".stage"), "ArrowDown", 0, 2)
        go_dark(page)
        shown(root, (0, 2), "dark")
        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
