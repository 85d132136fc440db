"""The static site: pages that stand on their own, formulas without a script, explorers that live without a kernel."""

import importlib.util
import re
from html.parser import HTMLParser

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from conftest import REPOSITORY

spec = importlib.util.spec_from_file_location("build_site", REPOSITORY / "website" / "build.py")
website = importlib.util.module_from_spec(spec)
spec.loader.exec_module(website)

README = """# A kit

![one memory](docs/state_explorer.png) Read [lesson one](notebooks/01_one.ipynb),
[the model](minqwen/delta_rule.py#line-3),
[solutions](notebooks/solutions) and [a paper](https://arxiv.org/abs/2412.06464).
"""

FIRST = [
    new_markdown_cell("# 01 · One\n\nA gate $\\alpha = e^{g}$, and\n\n"
                      "$$S_t = \\alpha_t S_{t-1} + k_t u_t^\\top$$\n\nin `code`."),
    new_code_cell("import minqwen\nqwen = minqwen.load()\nprint('✓ one < two')"),
    new_code_cell("minqwen.StateExplorer(qwen, 'ann has a red cup.')", metadata={"tags": ["nbval-ignore-output"]}),
]
SECOND = [new_markdown_cell("# 02 · Two\n\nBack to [one](01_one.ipynb)."),
          new_code_cell("1 + 1", execution_count=1, outputs=[new_output("execute_result", {"text/plain": "2"},
                                                                        execution_count=1)])]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A site of two lessons, run."""
    root = tmp_path_factory.mktemp("course")
    (root / "notebooks" / "solutions").mkdir(parents=True)
    (root / "docs").symlink_to(REPOSITORY / "docs")
    (root / "README.md").write_text(README)
    (root / "notebooks/solutions/01_one.py").write_text("# %% exercise 1\na = 1\n")
    for name, cells in (("01_one", FIRST), ("02_two", SECOND)):
        nbformat.write(new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    website.build(root / "site", notebooks=root / "notebooks", readme=root / "README.md")
    return root / "site"


class References(HTMLParser):
    """What a page loads, where it leads, and what it is called inside."""

    def __init__(self, page):
        super().__init__()
        self.loads, self.leads, self.names, self.without_alt = [], [], set(), 0
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and "href" in attributes:
            self.leads.append(attributes["href"])
        else:
            self.loads += [attributes[name] for name in ("src", "href", "srcset") if attributes.get(name)]
        self.without_alt += tag == "img" and not attributes.get("alt")


def check_site(site):
    """Nothing is loaded from elsewhere, and every link inside the site leads to something."""
    pages = {page.name: References(page) for page in site.glob("*.html")}
    for name, page in pages.items():
        assert not page.without_alt, f"{name} has a picture without a description"
        for address in page.loads:
            assert address.startswith("data:") or (site / address).is_file(), f"{name} loads {address}"
        for address in page.leads:
            if not re.match(r"https?:", address):
                target, _, anchor = address.partition("#")
                target = pages[target or name]
                assert not anchor or anchor in target.names, f"{name} leads to {address}"
    for sheet in site.glob("*.css"):
        assert not re.search(r"@import|url\((?!data:)", sheet.read_text()), sheet
    return pages


def test_a_small_site(small):
    pages = check_site(small)
    assert set(pages) == {"index.html", "01_one.html", "02_two.html", "solutions.html", "minqwen_delta_rule.html"}
    assert "minqwen_delta_rule.html#line-3" in pages["index.html"].leads
    assert "https://arxiv.org/abs/2412.06464" in pages["index.html"].leads
    assert "01_one.html" in pages["02_two.html"].leads
    one = (small / "01_one.html").read_text()
    assert one.count("<iframe") == 1 and "data:image" not in one, "the explorer is live, and its picture not beside it"
    assert one.count("<math") == 2 and "$" not in re.sub(r"(?s)<script>.*?</script>", "", one)
    assert len(one) < 20_000, "the page holds more than the lesson"
    assert "✓ one &lt; two" in one and '<a rel="next" href="02_two.html">' in one
    assert "rel=\"next\"" not in (small / "02_two.html").read_text()


def test_what_must_not_be_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="no site of ours"):
        website.build(tmp_path, execute=False)
    assert (tmp_path / "thesis.txt").exists()


def test_links_must_lead_somewhere():
    pages = {"notebooks/01_one.ipynb": "01_one.html"}
    assert website.moved("01_one.ipynb#2", "notebooks", pages) == "01_one.html#2"
    assert website.moved("../notebooks/01_one.ipynb", "minqwen", pages) == "01_one.html"
    assert website.moved("mailto:a@b.c", "", pages) == "mailto:a@b.c"
    with pytest.raises(SystemExit, match="of which there is no page"):
        website.moved("03_three.ipynb", "notebooks", pages)


def test_a_widget_without_a_page_says_so():
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/plain": "ChatPanel()"}
    cell = new_code_cell("panel", outputs=[new_output("display_data", data)])
    assert "make lab" in website.body(new_notebook(cells=[cell]), {})


def test_an_explorer_that_is_not_run_is_its_picture():
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "0"}, "text/plain": "StateExplorer()",
            "image/png": "iVBORw0KGgo="}
    output = new_output("display_data", data, metadata={"image/png": {"alt": "a map"}})
    cell = new_code_cell("explorer", outputs=[output])
    page = website.body(new_notebook(cells=[cell]), {})
    assert 'src="data:image/png;base64,iVBORw0KGgo="' in page and 'alt="a map"' in page and "make lab" not in page


def test_the_cell_that_installs_is_not_for_readers():
    cells = [new_code_cell("install()", metadata={"tags": ["remove-cell"]}), new_code_cell("learn()")]
    page = website.body(new_notebook(cells=cells), {})
    assert "install" not in page and "learn" in page


def test_the_course_as_committed(tmp_path):
    """All lessons, with the outputs that they have: every link, every formula, every picture's description."""
    website.build(tmp_path / "site", execute=False)
    pages = check_site(tmp_path / "site")
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        assert f"{path.stem}.html" in pages and f"{path.stem}.html" in pages["index.html"].leads
        text = (tmp_path / "site" / f"{path.stem}.html").read_text(encoding="utf-8")
        left = re.sub(r"(?s)<(pre|code|script)\b.*?</\1>", "", text)
        raw = re.search(r"\$[^$\n]+\$|\\(frac|top|alpha|sum)\b", left)
        assert not raw, f"{path.stem}: a formula was not translated: {raw}"
        assert text.count("✓") >= 3


@pytest.mark.browser
def test_in_a_browser(browser, small):
    from browser_support import watched

    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto((small / "01_one.html").as_uri())
    frame = page.frame_locator("iframe.explorer")
    frame.locator("canvas").first.wait_for()
    page.wait_for_function("() => document.querySelector('iframe.explorer').style.height.endsWith('px')")
    high = page.locator("iframe.explorer").bounding_box()["height"]
    inside = frame.locator("html").evaluate("html => html.scrollHeight")
    assert abs(high - inside) <= 4, "the frame is not as high as its explorer"
    before = frame.locator(".minqwen-state").get_attribute("data-drawn")
    frame.locator("[data-moves=token]").press("ArrowLeft")
    assert frame.locator(".minqwen-state").get_attribute("data-drawn") != before, "the explorer does not move"
    box = page.locator("math").nth(1).bounding_box()
    assert box["width"] > 100 and box["height"] > 15, "the formula is not drawn"
    page.locator("a[rel=next]").click()
    page.get_by_role("heading", name="02 · Two").wait_for()
    assert (strangers, errors) == ([], [])
