"""Every explorer by the keyboard alone: what Tab reaches, what sliders and keys do, and pointing without a mouse."""

from random import Random

import pytest
from browser_support import COLOURS, a_jupyterlab, run_all_cells, write_notebook
from explorers_support import WIDTH, every_explorer, opened

from minqwen import widgets

pytestmark = pytest.mark.browser

KINDS = [kind for kind in map(vars(widgets).get, widgets.__all__) if isinstance(kind, type)]
NAMES = {"←": "ArrowLeft", "→": "ArrowRight", "↑": "ArrowUp", "↓": "ArrowDown", "PgUp": "PageUp", "PgDn": "PageDown",
         "Esc": "Escape"}
NARROW = 420                                                # pixels: less than all that is in an explorer has room in
OPPOSITES = [("ArrowRight", "ArrowLeft"), ("ArrowDown", "ArrowUp"), ("End", "Home"), ("PageDown", "PageUp"),
             ("Shift+ArrowRight", "Shift+ArrowLeft")]

# Where Tab should stop, as one reads: what can be pressed, typed into or moved, and what must be scrolled to be read.
# `window.stops` are these; before and behind the explorers stands a button.
STOPS = """() => {
  if (!document.querySelector("#before")) {
    const button = (id) => Object.assign(document.createElement("button"), { id });
    document.body.prepend(button("before"));
    document.body.append(button("after"));
  }
  const over = (e) => e.scrollHeight > e.clientHeight || e.scrollWidth > e.clientWidth;
  const scrolls = (e) => over(e) && /auto|scroll/.test(getComputedStyle(e).overflow) && !e.closest("[aria-hidden]")
    && !e.querySelector("button, summary");
  const controls = "button, input, textarea, select, summary, [tabindex='0']";
  window.stops = [...document.querySelectorAll("section *")].filter((e) =>
    e.checkVisibility() && !e.matches(":disabled, [type=radio]:not(:checked), [tabindex='-1']")
    && (e.matches(controls) || scrolls(e)));
  return window.stops.map((e) => {
    const { top, bottom, left } = e.getBoundingClientRect();
    return { name: [e.tagName, e.className, e.dataset.moves, e.textContent.slice(0, 20)].join(" "), top, bottom, left,
             kind: e.type ?? e.tagName.toLowerCase(), min: Number(e.min), max: Number(e.max) };
  });
}"""

# What has the focus: which of the stops (-1: none), and how its outline stands out from what is behind it.
FOCUSED = "() => {" + COLOURS + """
  const e = document.activeElement, { outlineStyle, outlineWidth, outlineColor } = getComputedStyle(e);
  const around = behind(e.parentElement), wide = outlineStyle === "none" ? 0 : parseFloat(outlineWidth);
  return [e.id || window.stops.indexOf(e), wide, contrast(over(rgba(outlineColor), around), around)];
}"""

# Cells and canvases of which a mouse gets numbers: how many surfaces. Leaves the pointer outside.
POINTABLE = """root => {
  const told = root.querySelector(".pointed"), hint = told?.textContent, shares = [0.01, 0.1, 0.3, 0.5, 0.9, 0.99];
  if (!told) return 0;
  const answers = (canvas) => shares.some((x) => shares.some((y) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    canvas.dispatchEvent(new PointerEvent("pointermove", { clientX: left + x * width, clientY: top + y * height }));
    const answered = told.textContent !== hint;
    canvas.dispatchEvent(new PointerEvent("pointerleave"));
    return answered;
  }));
  const seen = (selector) => [...root.querySelectorAll(selector)].filter((e) => e.checkVisibility());
  const titled = new Set(seen(".cell[title], .piece[title], td[title]").map((e) => e.closest(".ribbon, table")));
  return seen("canvas").filter(answers).length + titled.size;
}"""


class Driven:
    """An explorer on a page of its own, its model, and a keyboard."""

    def __init__(self, page, tmp_path, explorer, width=WIDTH):
        self.page, self.press, self.names = page, page.keyboard.press, list(explorer.position)
        [self.root] = opened(page, tmp_path, explorer, width=width)
        self.pointed, self.cross = self.root.locator(".pointed"), self.root.locator(".cross")

    def values(self):
        """Where it stands, and what it has asked of the kernel."""
        return self.page.evaluate("names => [...names.map((name) => window.models[0].get(name)), window.sent.length]",
                                  self.names)

    def put_back(self, values):
        self.page.wait_for_timeout(250)                     # until then its own word counts
        self.page.evaluate("([names, values]) => names.forEach((name, i) => window.models[0].set(name, values[i]))",
                           [self.names, values])
        self.page.wait_for_timeout(20)

    def stops(self):
        return self.page.evaluate(STOPS)

    def focused(self):
        return self.page.evaluate(FOCUSED)

    def tab_to(self, number):
        """By the Tab key alone."""
        self.page.evaluate("() => document.querySelector('#before').focus()")
        for _ in range(number + 1):
            self.press("Tab")
        assert self.focused()[0] == number

    def tab_to_name(self, name):
        self.tab_to(next(i for i, stop in enumerate(self.stops()) if stop["name"].startswith(name)))

    def to_the_stage(self):
        self.tab_to_name("DIV stage")

    def help(self):
        """The keys that are told."""
        return [NAMES.get(key, key) for key in self.root.locator(".help kbd").all_inner_texts()]

    def has_focus(self):
        return self.root.evaluate("root => root.contains(document.activeElement) && "
                                  "!document.activeElement.matches(':disabled')")


@pytest.fixture(scope="module")
def explorers():
    return every_explorer()


def check_tab(driven):
    """Every control once, in reading order, there and back, and each can be seen to have the focus."""
    stops = driven.stops()
    for key, order in (("Tab", range(len(stops))), ("Shift+Tab", reversed(range(len(stops))))):
        met = []
        driven.page.evaluate("id => document.getElementById(id).focus()", "before" if key == "Tab" else "after")
        while len(met) <= len(stops):
            driven.press(key)
            at, wide, contrast = driven.focused()
            if at in ("before", "after"):
                break
            assert at >= 0, f"{key} also stops behind {met}"
            assert wide >= 2 and contrast >= 3, (stops[at]["name"], wide, contrast)
            met.append(at)
            if stops[at]["name"].startswith("DIV scroller"):
                before = driven.values()
                driven.press("ArrowRight")
                assert driven.values() == before, "what is scrolled also moves something"
        assert met == list(order), [stops[i]["name"] for i in set(order) ^ set(met)]
    for one, other in zip(stops, stops[1:]):
        below = other["top"] >= one["bottom"] - 8
        assert other["bottom"] > one["top"] and (below or other["left"] >= one["left"]), (one["name"], other["name"])


def check_sliders(driven):
    """All keys of a slider move it and say where it is, once."""
    for number, stop in enumerate(driven.stops()):
        if stop["kind"] != "range" or stop["min"] == stop["max"]:
            continue
        driven.tab_to(number)
        read = "() => { const e = document.activeElement; return [Number(e.value), e.getAttribute('aria-valuetext'), " \
               "Number(e.max)]; }"
        driven.press("Home")
        before, said, _ = driven.page.evaluate(read)
        assert before == stop["min"], stop["name"]
        for key, sign in (("ArrowRight", 1), ("ArrowLeft", -1), ("ArrowUp", 1), ("ArrowDown", -1), ("PageUp", 1),
                          ("PageDown", -1), ("End", 1), ("Home", -1)):
            driven.press(key)
            driven.page.wait_for_timeout(20)
            value, aloud, largest = driven.page.evaluate(read)
            assert (value - before) * sign > 0, (stop["name"], key)
            assert aloud and aloud != said, (stop["name"], key)
            assert key != "End" or value == largest, stop["name"]
            before, said = value, aloud
            sentence, live = driven.root.locator(".said").inner_text(), driven.root.locator(".said[aria-live=polite]")
            assert bool(live.count()) != aloud.endswith(sentence[-40:]), (stop["name"], "is said twice or never")


def check_keys(driven):
    """Every key that the help names does something, with Shift too; with Ctrl, Alt or Meta it is not ours."""
    driven.to_the_stage()
    keys, idle = [key for key in driven.help() if key != "p"], set(driven.help()) - {"p"}
    for key in ("p", "p", "Enter", "Escape"):               # at something that is pointed at, if there is such a thing
        driven.press(key)
    for key in keys[::-1] + Random(0).choices(keys, k=12 * len(keys)):
        before = driven.values()
        driven.press(key)
        idle -= {key} if driven.values() != before else set()
    assert not idle, idle
    driven.page.evaluate("""() => {
      window.heard = [];
      document.addEventListener("keydown", (event) => window.heard.push(
        !event.defaultPrevented && !event.target.closest("[data-lm-suppress-shortcuts]")));
    }""")
    before = driven.values()
    for modifier in ("Control", "Alt", "Meta"):
        for key in {*keys, "p", "s"} - {"ArrowLeft", "ArrowRight"}:         # with Alt those turn the page
            driven.press(f"{modifier}+{key}")
    heard = driven.page.evaluate("() => window.heard")
    assert all(heard) and len(heard) > 3 * len(set(keys)), "JupyterLab or the browser does not hear of its own keys"
    assert driven.values() == before and driven.cross.is_hidden()
    for key in "azmdd":                                     # JupyterLab's, were the focus not in here
        driven.press(key)
    assert not any(driven.page.evaluate("count => window.heard.slice(count)", len(heard)))


def check_buttons(driven):
    """Each does something, and the focus stays in the explorer, though the button may be no longer to be pressed."""
    for number, stop in enumerate(driven.stops()):
        if stop["kind"] not in ("button", "checkbox", "radio"):
            continue
        driven.tab_to(number)
        before = driven.values()
        driven.press("ArrowDown" if stop["kind"] == "radio" else "Space")
        driven.page.wait_for_timeout(20)
        assert driven.values() != before and driven.has_focus(), stop["name"]
        driven.put_back(before[:-1])


def check_pointing(driven):
    """Whatever a mouse can point at: the same numbers, the same clicks."""
    driven.to_the_stage()
    count, hint = driven.root.evaluate(POINTABLE), driven.root.locator(".pointed").all_inner_texts()
    assert ("p" in driven.help()) == (count > 0)
    seen = []
    for _ in range(count):
        driven.press("p")
        seen.append(driven.cross.bounding_box())
        assert driven.pointed.inner_text() not in hint and driven.pointed.get_attribute("aria-live") == "polite"
    assert all(seen.count(one) == 1 for one in seen), seen
    for number in range(count):
        driven.press("p")                                   # round again
        assert driven.cross.bounding_box() == seen[number]
        check_surface(driven, number)
    if not count:
        return
    before = driven.values()
    driven.press("Escape")
    assert driven.cross.is_hidden() and driven.pointed.inner_text() == hint[0] and driven.values() == before
    assert driven.pointed.get_attribute("aria-live") == "off"
    driven.press("p")
    driven.press("Tab")
    assert driven.cross.is_hidden() and driven.pointed.inner_text() == hint[0]


def check_surface(driven, number):
    """That all keys move the cross, and that a mouse reads and does the same where it stands."""
    page, texts = driven.page, {driven.pointed.inner_text()}
    for pair in OPPOSITES:
        for key in pair:
            driven.press(key)
            texts.add(driven.pointed.inner_text())
    assert len(texts) > 2, "the cross does not move"
    for key in ("ArrowRight", "ArrowDown"):
        driven.press(key)
    text, box, before = driven.pointed.inner_text(), driven.cross.bounding_box(), driven.values()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    driven.press("Enter")
    page.wait_for_timeout(20)
    by_keys = driven.values()
    assert driven.has_focus()
    driven.put_back(before[:-1])
    page.mouse.move(*middle)
    if driven.cross.is_hidden():                            # a canvas: it is the mouse now that points
        assert driven.pointed.inner_text() == text
    page.mouse.click(*middle)
    page.wait_for_timeout(20)
    assert driven.values() == by_keys
    driven.put_back(before[:-1])
    page.mouse.move(0, 0)
    driven.to_the_stage()
    for _ in range(number + 1):
        driven.press("p")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_by_keys_alone(page, explorers, tmp_path, kind):
    ours = [explorer for explorer in explorers.values() if isinstance(explorer, kind)]
    assert ours, f"explorers_support.py has no {kind.__name__}"
    for explorer in ours:
        for scheme, forced, width in (("dark", "none", WIDTH), ("light", "active", NARROW), ("light", "none", WIDTH)):
            page.emulate_media(color_scheme=scheme, forced_colors=forced)
            driven = Driven(page, tmp_path, explorer, width)
            check_tab(driven)
        if kind is widgets.ChatPanel:
            continue
        check_pointing(driven)
        check_sliders(driven)
        check_keys(driven)
        check_buttons(Driven(page, tmp_path, explorer))


def test_a_talk_by_keys(page, explorers, tmp_path):
    """Writing, sending, stopping, unfolding thoughts, choosing pictures; the focus is never lost."""
    driven = Driven(page, tmp_path, explorers["chat"])

    def sent():
        return page.evaluate("() => window.sent")

    def tell(name, value):                                  # as the kernel does
        page.evaluate("([name, value]) => window.models[0].set(name, value)", [name, value])
        page.wait_for_timeout(20)

    driven.tab_to_name("SUMMARY")
    driven.press("Enter")
    assert driven.root.locator("details p").is_visible()
    driven.tab_to_name("INPUT")
    driven.press("Space")
    assert driven.values()[2] != explorers["chat"].thinking
    page.evaluate("""() => document.querySelector("input[type=file]").addEventListener("click", (event) => {
      event.preventDefault();                               // the system's own window does not come every time
      window.asked = true;
    })""")
    driven.press("Tab")
    driven.press("Enter")
    page.wait_for_function("() => window.asked")
    driven.tab_to_name("TEXTAREA")
    page.keyboard.type("Hi")
    driven.press("Shift+Enter")
    page.keyboard.type("you")
    driven.press("Tab")
    driven.tab_to_name("BUTTON send")
    driven.press("Space")
    page.wait_for_function("() => window.sent.length === 1")
    assert sent()[0]["say"] == "Hi\nyou"
    turn = {"who": "you", "parts": [{"kind": "text", "text": "Hi"}], "pictures": [], "stopped": False}
    tell("turns", explorers["chat"].turns + [turn])
    tell("speaking", {"parts": []})
    in_the_text = "() => document.activeElement === document.querySelector('textarea')"
    assert page.evaluate(in_the_text), "the button that was pressed is no longer there to be pressed"
    driven.press("Escape")
    assert sent()[1:] == [{"stop": True}]
    driven.tab_to_name("BUTTON stop")
    driven.press("Enter")
    tell("speaking", {})
    assert sent()[2:] == [{"stop": True}] and page.evaluate(in_the_text)
    driven.tab_to_name("BUTTON new")
    driven.press("Enter")
    tell("turns", [])
    assert sent()[3:] == [{"new": True}] and page.evaluate(in_the_text)


NOTEBOOK = """() => {
  const { content, context } = window.jupyterapp.shell.currentWidget;
  return [content.widgets.length, content.activeCellIndex, content.mode, context.model.dirty,
          content.widgets.map((cell) => cell.model.executionCount)];
}"""


def test_jupyterlab_and_we_leave_each_other_the_keys(browser, tmp_path):
    """None of ours adds, cuts, runs or leaves a cell; and those with Ctrl are JupyterLab's from within an explorer."""
    write_notebook(tmp_path / "keys.ipynb", "import minqwen\nminqwen.ContextCost()")
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        run_all_cells(page, address, token, "keys.ipynb")
        root = page.locator(".minqwen-cost")
        root.scroll_into_view_if_needed()
        for place in (root.locator(".stage"), root.locator("[data-moves=batch]")):
            place.focus()
            page.wait_for_function("() => getComputedStyle(document.activeElement).outlineStyle === 'solid'")
            before = page.evaluate(NOTEBOOK)
            for key in (*"abxddmzp", "ArrowUp", "ArrowDown", "Shift+Enter", "Enter", "Escape"):
                page.keyboard.press(key)
                page.wait_for_timeout(50)
                after = page.evaluate(NOTEBOOK)
                assert after[:3] == before[:3] and after[4] == before[4], key
            assert root.evaluate("root => root.contains(document.activeElement)")
            page.evaluate("() => (window.jupyterapp.shell.currentWidget.context.model.dirty = true)")
            page.keyboard.press("Control+s")
            page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=60_000)
            place.press("b")
            page.wait_for_timeout(50)
            assert page.evaluate(NOTEBOOK)[0] == before[0]
