"""The static site: pages that stand on their own, formulas without a script, explorers that live without a kernel."""

import io
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import numpy as np
import pytest
import support
from bs4 import BeautifulSoup
from matplotlib.colors import to_rgb
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from site_support import website

import minqwen
from conftest import REPOSITORY
from minqwen.course.outline import outline

README = """# A kit

![one memory](docs/state_explorer.png) <picture><source media="(prefers-color-scheme: dark)"
srcset="docs/vision_explorer_dark.png"><img src="docs/vision_explorer.png" alt="a circle"></picture>

Read [lesson one](notebooks/01_one.ipynb), [the model](minqwen/delta_rule.py#line-3),
[solutions](notebooks/solutions), [how it is made](CONTRIBUTING.md) and [a paper](https://arxiv.org/abs/2412.06464).
"""

FIRST = [
    new_markdown_cell("# 01 · One\n\nA gate $\\alpha = e^{g}$, and\n\n"
                      "$$S_t = \\alpha_t S_{t-1} + k_t u_t^\\top$$\n\nin `code`.\n\n## 1. A sparrow's memory\n\n"
                      "It keeps what was said, and forgets ostriches."),
    new_code_cell("import minqwen\nqwen = minqwen.load()\nprint('✓ one < two')"),
    new_code_cell("import time\nfor i in range(3):\n    print('bit', i, flush=True)\n    time.sleep(0.3)"),
    new_code_cell("from minqwen import plots\nplots.show(plots.bars({'a': {'\"b\"': 1}}))"),
    new_code_cell("minqwen.StateExplorer(qwen, 'Ann has a red cup.')", metadata={"tags": ["nbval-ignore-output"]}),
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
                assert not anchor or {anchor, unquote(anchor)} & target.names, f"{name} leads to {address}"
    for sheet in site.glob("*.css"):
        assert "@import" not in sheet.read_text()
        for address in re.findall(r"""url\(["']?(?!data:|%23)([^"')]+)""", sheet.read_text()):
            assert (site / address).is_file(), f"{sheet} loads {address}"
    return pages


def check_for_ears(page):
    """Whoever hears a page finds their way: one h1, no level left out; each link and table heading says something."""
    levels = [int(heading.name[1]) for heading in page.find_all(re.compile("^h[1-6]$"))]
    assert levels[0] == 1 and levels.count(1) == 1, levels
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:])), levels
    for element in page.select("a[href], th"):
        assert element.get_text(strip=True) or element.get("aria-label"), f"{element} says nothing"
    ids = [element["id"] for element in page.select("[id]")]
    assert len(ids) == len(set(ids)), "two places of a page have one name"


def test_a_small_site(small):
    pages = check_site(small)
    assert set(pages) == {"index.html", "01_one.html", "02_two.html", "solutions.html", "minqwen_delta_rule.html",
                          "CONTRIBUTING.html", "nano.html", "reference.html"}
    assert "minqwen_delta_rule.html#line-3" in pages["index.html"].leads
    assert "https://arxiv.org/abs/2412.06464" in pages["index.html"].leads
    assert "01_one.html" in pages["02_two.html"].leads
    assert {"#1.-A-sparrow's-memory", "02_two.html"} <= set(pages["01_one.html"].leads), "the contents"
    assert "αt" in (small / "search.js").read_text(), "formulas are searched, and read in what is found"
    assert (small / "licences" / "stix-two-math.txt").read_text().count("SIL Open Font License")
    one = (small / "01_one.html").read_text()
    check_for_ears(BeautifulSoup(one, "html.parser"))
    assert "bit 0\nbit 1\nbit 2\n</pre>" in one, "what one cell prints is in several boxes"
    assert one.count("<iframe") == 1 and one.count("<img") == 2, "the explorer is live, and its picture not beside it"
    light, dark = BeautifulSoup(one, "html.parser").find_all("img")
    assert light["alt"] == dark["alt"] == 'Bars. a: "b" at 1.' and light["src"] != dark["src"]
    one = re.sub(r"data:image/png;base64,[^\"]+", "", one)
    assert one.count("<math") == 2 and "$" not in re.sub(r"(?s)<script>.*?</script>", "", one)
    assert len(one) < 20_000, "the page holds more than the lesson"
    assert "✓ one &lt; two" in one and '<a rel="next" href="02_two.html">' in one
    assert "rel=\"next\"" not in (small / "02_two.html").read_text()


def test_what_must_not_be_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="no site of ours"):
        website.build(tmp_path, execute=False)
    assert (tmp_path / "thesis.txt").exists()


def test_a_build_that_fails_leaves_the_site_before_it_and_nothing_else(tmp_path, small):
    """So that the next one can begin."""
    notebooks, readme, site = small.parent / "notebooks", tmp_path / "README.md", tmp_path / "build" / "site"
    readme.write_text("# A kit\n\n[lost](minqwen/lost.py)\n")
    with pytest.raises(FileNotFoundError):
        website.build(site, execute=False, notebooks=notebooks, readme=readme)
    assert list(site.parent.iterdir()) == []
    (tmp_path / "docs").symlink_to(REPOSITORY / "docs")
    readme.write_text(README)
    website.build(site, execute=False, notebooks=notebooks, readme=readme)
    first = (site / "index.html").read_text()
    readme.write_text("# A kit\n\n[lost](minqwen/lost.py)\n")
    with pytest.raises(FileNotFoundError):
        website.build(site, execute=False, notebooks=notebooks, readme=readme)
    assert list(site.parent.iterdir()) == [site] and (site / "index.html").read_text() == first


def test_the_contents_say_how_long_each_lesson_takes(committed_site):
    """On every page, as the lessons themselves say it; and words and symbols are one step away from everywhere."""
    for path in committed_site.glob("*.html"):
        contents = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser").select_one("header nav")
        minutes = {link["href"]: link.find_next_sibling("small") for link in contents.select("ol > li > a")}
        for lesson in outline(REPOSITORY / "notebooks"):
            assert minutes[f"{lesson.name}.html"].text == f"{lesson.minutes} min"
        for page in ("docs_glossary", "docs_teaching", "docs_gpu"):
            assert contents.select_one(f'.more a[href="{page}.html"]'), f"{path.name} does not lead to {page}"


def test_the_reference_has_every_public_name(committed_site):
    """With its signature and what its docstring says; methods with their classes."""
    page = BeautifulSoup((committed_site / "reference.html").read_text(encoding="utf-8"), "html.parser")
    for element in page.select(".anchor-link"):
        element.decompose()
    assert [heading.text for heading in page.select("main h2")] == [f"minqwen.{name}" for name in minqwen.__all__]
    assert {"Assistant.chat", "Cache.snapshot", "ChatPanel.to_html"} <= {h.text for h in page.select("main h3")}
    said = " ".join(page.main.text.split())
    assert "path_or_name: str | pathlib.Path | None = None" in said
    assert "None for the small trained model that is shipped" in said and "Arguments:" in said
    assert "Args:" not in said and "######" not in said


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


# ------------------------------------------------------------------------------------------------------------ formulas


def test_formulas():
    """What the course writes, in full: as many rows as there are, the whole under a brace and under a root, the box."""
    def maths(tex):
        return BeautifulSoup(website.formula(tex, display=True), "html.parser").math

    rule = maths(r"\begin{aligned} S &\leftarrow e^{g} S && \text{forget} \\ u &= v && \text{ask} \end{aligned}")
    assert len(rule.find_all("mtr")) == 2 and [len(row.find_all("mtd")) for row in rule.find_all("mtr")] == [4, 4]
    brace = maths(r"\underbrace{k\,(S^\top k)^\top}_{\text{erased}}").munder
    assert brace.mtext.text == "erased" and brace.munder.mrow.text == "k(S⊤k)⊤"
    assert maths(r"\sqrt{\frac{n-1}{D_k}}").msqrt.mfrac.text == "n−1Dk"
    assert "border" in maths(r"\boxed{L\,U = V}").mrow["style"]


@pytest.mark.parametrize("tex", [r"\alhpa", r"a & b", r"\frac{a}", r"\begin{unknown}a\end{unknown}"])
def test_a_formula_that_cannot_be_set_is_an_error(tex):
    with pytest.raises(SystemExit, match="cannot be set"):
        website.formula(tex)


@pytest.mark.parametrize("lesson", sorted((REPOSITORY / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_formula_of_a_lesson_can_be_set(lesson):
    """In seconds, and with the formula's name: the whole site stops at the first that cannot."""
    for cell in nbformat.read(lesson, as_version=4).cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"(?s)```.*?```|`[^`\n]*`", "", cell.source)
            for displayed, inline in re.findall(r"(?s)\$\$(.+?)\$\$|\$([^$]+)\$", text):
                website.formula(displayed or inline, display=bool(displayed))


def check_formulas(source, page):
    """Each formula of a lesson's text is on its page, and nothing of it is left in TeX."""
    texts = [cell.source for cell in source.cells if cell.cell_type == "markdown"]
    texts = [re.sub(r"(?s)```.*?```|`[^`\n]*`", "", text) for text in texts]
    displayed = sum(len(re.findall(r"(?s)\$\$.+?\$\$", text)) for text in texts)
    inline = sum(len(re.findall(r"\$[^$]+\$", re.sub(r"(?s)\$\$.+?\$\$", "", text))) for text in texts)
    assert len(page.select(".formula > math[display=block]")) == displayed
    assert len(page.select("math:not([display])")) == inline
    for math in page.find_all("math"):
        assert not re.search(r"[&\\$]", math.get_text()), f"left in TeX: {math.get_text()}"
        assert not math.select("merror, [mathcolor]")
    boxes = sum(text.count(r"\boxed") for text in texts)
    assert sum("border" in row.get("style", "") for row in page.select("math mrow")) == boxes
    left = BeautifulSoup(str(page.main), "html.parser")
    for element in left.select("pre, code, script, math"):
        element.decompose()
    assert not (raw := re.search(r"\$[^$\n]+\$|\\[a-z]+\b", left.get_text())), f"a formula was not translated: {raw}"


@pytest.fixture(scope="module")
def committed_site(tmp_path_factory):
    """The whole course, with the outputs that the lessons have."""
    site = tmp_path_factory.mktemp("committed") / "site"
    website.build(site, execute=False)
    return site


def test_the_course_as_committed(committed_site):
    """Every link, every formula, every picture's description, every heading."""
    pages = check_site(committed_site)
    for path in (REPOSITORY / "notebooks").glob("*.ipynb"):
        assert re.search(rf"<h1[^>]*>{path.stem[:2]} · ", (committed_site / f"{path.stem}.html").read_text("utf-8"))
        assert f"{path.stem}.html" in pages and f"{path.stem}.html" in pages["index.html"].leads
        by_the_way = path.stem[:2] in ("00", "03", "06")           # beside the contents
        assert pages[f"{path.stem}.html"].leads.count("nano.html") == 1 + by_the_way
        page = BeautifulSoup((committed_site / f"{path.stem}.html").read_text(encoding="utf-8"), "html.parser")
        check_formulas(nbformat.read(path, as_version=4), page)
        assert page.html["lang"] == "en" and len(page.find_all("main")) == len(page.find_all("header")) == 1
        assert page.get_text().count("✓") >= 3
    for path in committed_site.glob("*.html"):
        check_for_ears(BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser"))


# ------------------------------------------------------------------------------------------------------------- colours


def test_every_colour_of_text_can_be_read(small):
    """A contrast of 4.5 at least, in code and around it, by day and by night."""
    sheet = (small / "site.css").read_text()
    named = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", sheet)}
    day, night = sheet.split(".highlight .hll")[1:]
    for theme, rules in enumerate((day, night)):
        def contrast(one, other):
            return support.contrast(to_rgb(one), to_rgb(other))

        paper, shade = named["paper"][theme], named["shade"][theme]
        for name in ("ink", "quiet", "link"):
            assert contrast(named[name][theme], paper) >= 4.5 <= contrast(named[name][theme], shade), name
        assert contrast(named["edge"][theme], paper) >= 3, "the edge of a field"
        colours = re.findall(r"(?m)^\.highlight (\.\w+) \{[^}]*?\bcolor: (#\w{6})", rules)
        assert len(colours) > 20
        for token, colour in colours:
            assert contrast(colour, shade) >= 4.5, f"{token} is {colour} on {shade}"


# ---------------------------------------------------------------------------------------------------------- in browsers


@pytest.mark.browser
def test_in_a_browser(browser, small):
    from browser_support import watched

    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto((small / "01_one.html").as_uri())
    frame = page.frame_locator("iframe.explorer")
    page.locator("iframe.explorer").scroll_into_view_if_needed()      # what is far from sight does not measure itself
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
    for media, scheme in (("screen", "dark"), ("screen", "light"), ("print", "dark")):
        page.emulate_media(media=media, color_scheme=scheme)
        seen = page.locator("img:visible").evaluate_all("images => images.map((image) => image.className)")
        assert seen == ["for-dark" if (media, scheme) == ("screen", "dark") else "for-light"]
    page.emulate_media(media="null", color_scheme="null")
    page.locator("a[rel=next]").click()
    page.get_by_role("heading", name="02 · Two").wait_for()
    assert (strangers, errors) == ([], [])


@pytest.mark.browser
def test_the_search(browser, small):
    """All pages are searched, from the disk and by the keyboard alone; an answer leads to the part it is about."""
    from browser_support import watched

    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto((small / "02_two.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("ostri")
    page.locator(".found a").first.wait_for()
    assert page.locator(".found a").count() == 1 and page.locator("search [role=status]").inner_text() == "1 found"
    assert page.locator(".found mark").inner_text().lower().startswith("ostri")
    page.keyboard.press("Escape")
    assert page.locator(".found a").count() == 0 and page.get_by_label("Search all pages").input_value() == ""
    page.keyboard.type("no such xylophone")
    page.get_by_text("Nothing found.").wait_for()
    page.get_by_label("Search all pages").fill("sparrow memory")
    page.get_by_text("1 found").wait_for()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/01_one.html#*")
    assert "sparrow" in page.evaluate("document.getElementById(decodeURIComponent(location.hash.slice(1))).innerText")
    assert (strangers, errors) == ([], [])


@pytest.mark.browser
def test_contents_fold_away_where_there_is_little_room(browser, small):
    page = browser.new_page()
    page.set_viewport_size({"width": 820, "height": 900})
    page.goto((small / "01_one.html").as_uri())
    part = page.get_by_role("navigation", name="Contents").get_by_role("link", name="1. A sparrow's memory")
    for width, seen in ((820, False), (1100, True), (1099, False)):
        page.set_viewport_size({"width": width, "height": 900})
        part.wait_for(state="visible" if seen else "hidden")
        assert page.get_by_text("Contents", exact=True).is_visible() != seen
    page.get_by_text("Contents", exact=True).press("Enter")
    part.press("Enter")
    part.wait_for(state="hidden")
    assert page.url.endswith("sparrow's-memory")


@pytest.mark.browser
def test_formulas_are_drawn_in_full(browser, committed_site):
    """In the font that is shipped, and a brace under all that it stands for, however the browser cuts its picture."""
    page = browser.new_page()
    page.set_viewport_size({"width": 820, "height": 900})
    page.goto((committed_site / "02_attention_as_memory.html").as_uri())
    page.evaluate("document.fonts.ready")
    assert page.evaluate("[...document.fonts].map((font) => font.status)") == ["loaded"]
    braced = page.locator("xpath=//*[name() = 'munder'][*[2] = '⏟']")
    assert braced.count() == 3
    for i in range(3):
        braced.nth(i).scroll_into_view_if_needed()
        above, brace = (braced.nth(i).locator(which).bounding_box() for which in ("xpath=*[1]", "xpath=*[2]"))
        clip = {"x": above["x"] - 10, "y": brace["y"], "width": above["width"] + 20, "height": brace["height"]}
        picture = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("L"))
        inked = np.flatnonzero(picture.min(0) < 160)
        assert inked[0] <= 13 and inked[-1] >= above["width"] + 6, f"brace {i} is cut"


@pytest.mark.browser
def test_nothing_is_cut(browser, committed_site):
    """Code of 92 columns, outputs, formulas, tables and figures have room: beside the contents, alone, and on paper."""
    cut = """(media) => [...document.querySelectorAll("main :is(pre, table, .formula, img, p, li)")]
      .filter((e) => media === "print" || !e.matches(".input pre") || !/.{93}/.test(e.innerText))
      .filter((e) => e.scrollWidth > Math.max(1, e.clientWidth) + 1 && getComputedStyle(e).display !== "inline"
        || e.getBoundingClientRect().right > innerWidth)
      .map((e) => e.innerText.slice(0, 200))"""
    page = browser.new_page()
    paper = 680                                          # pixels: A4 without the margins
    for media, width in (("screen", 1200), ("screen", 1100), ("screen", 820), ("print", paper)):
        page.emulate_media(media=media)
        page.set_viewport_size({"width": width, "height": 900})
        for lesson in [committed_site / "index.html", *sorted(committed_site.glob("[0-9]*.html"))]:
            page.goto(lesson.as_uri())
            assert page.evaluate(cut, media) == [], f"{lesson.name}, {media}, {width} pixels"


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(browser, committed_site, scheme):
    """On every page; once more, in the dark, for colours alone. (Those of code are measured above.)"""
    axe = (website.MODULES / "axe-core" / "axe.min.js").read_text("utf-8")
    faults = """async (options) => {
      const { violations } = await axe.run(document, { iframes: false, resultTypes: ["violations"], ...options });
      return violations.filter(({ impact }) => ["serious", "critical"].includes(impact))
        .map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).slice(0, 3).join(", ")}`);
    }"""
    page = browser.new_page()
    page.emulate_media(color_scheme=scheme)
    for path in sorted(committed_site.glob("*.html")):
        page.goto(path.as_uri())
        page.wait_for_function("() => !document.querySelector('#checkpoint') || document.body.dataset.live === 'done'")
        page.wait_for_function("() => !document.querySelector('.minqwen-explorer.waiting')")    # which is half as dark
        code = page.locator(".highlight").count() == page.locator("main > *").count() - 1      # but for its heading
        if code and scheme == "dark":
            continue
        page.evaluate(axe)
        options = {"runOnly": ["color-contrast"]} if scheme == "dark" else {
            "rules": {"color-contrast": {"enabled": not code}}}
        assert page.evaluate(faults, options) == [], f"{path.name}, {scheme}"


@pytest.mark.browser
def test_code_of_no_language_looks_as_other_code(browser, committed_site):
    """The commands of the README, beside its Python."""
    page = browser.new_page()
    looks = {}
    for name in ("index", "docs_teaching"):             # here in a list, too
        page.goto((committed_site / f"{name}.html").as_uri())
        looks |= page.evaluate("""() => Object.fromEntries([...document.querySelectorAll("main pre")].map((pre) => {
          const box = getComputedStyle(pre.closest(".highlight") ?? pre);
          const letters = getComputedStyle(pre.querySelector("code, span") ?? pre);
          return [pre.textContent, [box.backgroundColor, box.borderTopWidth, box.paddingTop, letters.fontSize].join()];
        }))""")
    assert any(text.startswith("import minqwen") for text in looks) and any("venv kit" in text for text in looks)
    assert len(set(looks.values())) == 1, looks


@pytest.mark.browser
def test_a_lesson_on_paper(browser, committed_site):
    """The browser's own PDF: each page of it is A4, and what stands on the page stands in it, to the last word."""
    page = browser.new_page()
    page.goto((committed_site / "03_delta_rule.html").as_uri())
    printed = page.pdf(format="A4", margin=dict.fromkeys(("top", "bottom", "left", "right"), "15mm"))
    assert printed.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", printed)) > 5
    page.emulate_media(media="print")
    hidden = page.evaluate("""() => [...document.querySelectorAll("main :is(p, li, pre, td, img, math)")]
      .filter((element) => !element.closest(".turn, .output_stderr") && !element.getClientRects().length)
      .map((element) => element.outerHTML.slice(0, 80))""")
    assert hidden == []
    torn = page.evaluate("""() => [...document.querySelectorAll("main :is(.highlight, pre, img, tr)")]
      .filter((element) => getComputedStyle(element).breakInside !== "avoid").length""")
    assert torn == 0 and "counter(page)" in (committed_site / "site.css").read_text("utf-8")


@pytest.mark.browser
def test_names_in_a_table_on_paper(browser, committed_site):
    """On the width that A4 leaves between its margins none is cut in two."""
    page = browser.new_page()
    page.set_viewport_size({"width": 680, "height": 1000})
    page.emulate_media(media="print")
    page.goto((committed_site / "docs_teaching.html").as_uri())
    rows = page.evaluate("""() => [...document.querySelectorAll("td code")].map(
      (name) => [name.textContent, name.getClientRects().length])""")
    assert len(rows) > 70 and [name for name, lines in rows if lines > 1] == []
