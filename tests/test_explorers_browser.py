"""All explorers on one page, as in a lesson: they leave each other alone, fit a screen, share keys, can be read."""

import io
from math import ceil

import numpy as np
import pytest
import torch
from browser_support import COLOURS
from explorers_support import HEIGHT, WIDTH, every_explorer, larger_explorers, opened
from PIL import Image

import minqwen
from conftest import REPOSITORY

pytestmark = pytest.mark.browser

BOXES = """root => {
  const { x, y } = root.getBoundingClientRect();
  return [root, ...root.querySelectorAll("*")].map((e) => {
    const box = e.getBoundingClientRect(), { display, color, fontSize } = getComputedStyle(e);
    const place = !e.checkVisibility() ? [] : [box.x - x, box.y - y, box.width, box.height].map((n) => n.toFixed(2));
    return [e.tagName, e.className, ...place, display, color, fontSize].join(" ");
  });
}"""

# The texts of an explorer whose contrast with what is behind them is under 4.5, those of disabled controls apart.
PALE = "root => {" + COLOURS + """
  const opacity = (e) => (e ? Number(getComputedStyle(e).opacity) * opacity(e.parentElement) : 1);
  const found = [], texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const e = texts.currentNode.parentElement, text = texts.currentNode.textContent.trim();
    const idle = e.closest("button:disabled, label:has(:disabled), option, .stale");
    if (!text || idle || !e.checkVisibility({ visibilityProperty: true })) continue;
    const ground = behind(e), [r, g, b, a] = rgba(getComputedStyle(e).color);
    const contrasts = contrast(over([r, g, b, a * opacity(e)], ground), ground);
    if (contrasts < 4.5) found.push(`${contrasts.toFixed(2)} ${e.className} "${text.slice(0, 30)}"`);
  }
  return found;
}"""


@pytest.fixture(scope="module")
def explorers():
    return every_explorer() | larger_explorers()


def apart(*pictures):
    """The share of the pixels in which two pictures differ."""
    first, second = (np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int) for picture in pictures)
    return (np.abs(first - second) > 8).any(-1).mean() if first.shape == second.shape else 1.0


def test_all_on_one_page_are_as_each_alone(page, explorers, tmp_path):
    """Boxes, colours and pixels; whichever came last."""
    some = [explorers[name] for name in ("chat", "state", "map", "gates", "experts", "clip", "cost", "drafts", "quant",
                                         "rollouts", "lab")]
    for order in (some, some[::-1]):
        together = [(root.evaluate(BOXES), root.screenshot()) for root in opened(page, tmp_path, *order)]
        assert page.locator("#minqwen-explorers").count() == 1, "one sheet is shared, and stands on the page once"
        for explorer, (boxes, picture) in zip(order, together, strict=True):
            [alone] = opened(page, tmp_path, explorer)
            differing = [pair for pair in zip(alone.evaluate(BOXES), boxes) if pair[0] != pair[1]]
            assert not differing, (type(explorer).__name__, differing[:3])
            assert apart(alone.screenshot(), picture) < 1e-3, type(explorer).__name__           # a rim may be blurred


# Is what is chosen in the ribbons of an explorer wholly in sight? For each of them.
IN_SIGHT = """root => [...root.querySelectorAll(".ribbon:has(.here)")].filter((e) => e.checkVisibility()).map((e) => {
  const room = e.getBoundingClientRect(), cell = e.querySelector(".here").getBoundingClientRect();
  return cell.top >= room.top && cell.bottom <= room.bottom && cell.left >= room.left && cell.right <= room.right;
})"""


# Do the panels of an explorer fit, so that nothing of them must be scrolled for?
UNCUT = """root => [...root.querySelectorAll(".minqwen-gates .scroller, .minqwen-experts .scroller")]
  .every((e) => e.scrollWidth <= e.clientWidth)"""


def test_each_fits_a_screen(page, explorers, tmp_path):
    """820 pixels high at a width of 1,000, and of 768 beside JupyterLab's list of files; nothing is cut off, the
    sentence is in sight above the picture, and so is the chosen token."""
    for width in (WIDTH, 820, 768):
        for name, root in zip(explorers, opened(page, tmp_path, *explorers.values(), width=width), strict=True):
            box = root.bounding_box()
            assert root.evaluate("root => root.scrollWidth <= root.clientWidth"), (name, width)
            assert box["height"] <= HEIGHT, (name, width, box["height"])
            assert all(root.evaluate(IN_SIGHT)), (name, width)
            assert width < 820 or root.evaluate(UNCUT), (name, width)
            if name == "chat":
                continue
            said, picture = root.locator(".said").bounding_box(), root.locator("canvas:visible").first.bounding_box()
            assert said["height"] > 10 and root.locator(".said").inner_text(), name
            assert box["y"] < said["y"] and said["y"] + said["height"] <= picture["y"], name


SCALES_WHOLE = """root => [...root.querySelectorAll(".scroller .ramp")].every((e) =>
  e.getBoundingClientRect().right <= e.closest(".scroller").getBoundingClientRect().right)"""


def test_scales_are_whole_where_panels_must_be_scrolled(page, explorers, tmp_path):
    [root] = opened(page, tmp_path, explorers["experts"], width=660)
    assert not root.evaluate(UNCUT) and root.evaluate(SCALES_WHOLE)


def test_every_token_of_the_clip_is_in_sight(page, explorers, tmp_path):
    """No row of them is cut."""
    [root] = opened(page, tmp_path, explorers["clip"], width=768)
    assert root.locator(".ribbon").evaluate("ribbon => ribbon.scrollHeight <= ribbon.clientHeight")


def test_the_slices_of_a_clip_are_counted_from_0_everywhere(page, explorers, tmp_path):
    """On the slider, in what is said, in the captions, and in the figure that stands still."""
    clip = explorers["clip"]
    [root] = opened(page, tmp_path, clip)
    root.locator(".stage").press(",")
    for slice in (clip.slice - 1, clip.slice):
        names = [f"frame {2 * slice}", f"frame {2 * slice + 1}"]
        page.wait_for_function("text => document.querySelector('.captions').textContent.startsWith(text)", arg=names[0])
        assert root.locator(".captions span").all_inner_texts()[:2] == names
        assert root.locator(".controls .slice output").inner_text() == f"{slice}"
        spoken = root.locator("[data-moves=slice]").get_attribute("aria-valuetext")
        assert spoken.startswith(f"slice {slice} of the clip. ")
        figure, _ = clip.still(slice=slice)
        assert [ax.get_title() for ax in figure.axes[:2]] == names
        root.locator(".stage").press(".")


def where(root):
    """What the sliders of an explorer stand at."""
    sliders = root.locator("input[type=range]").all()
    return {slider.get_attribute("data-moves"): int(slider.input_value()) for slider in sliders}


def test_keys_mean_the_same_in_all(page, explorers, tmp_path):
    names = ("state", "two texts", "attention", "map", "gates", "experts", "vision", "clip", "training", "lab")
    for name, root in zip(names, opened(page, tmp_path, *(explorers[name] for name in names)), strict=True):
        stage = root.locator(".stage")
        for slider, up, down in (("token", "ArrowRight", "ArrowLeft"), ("head", "ArrowUp", "ArrowDown"),
                                 ("layer", "PageUp", "PageDown")):
            stage.press(down)
            before = where(root)
            stage.press(up)
            assert where(root) == before | {slider: before[slider] + 1}, (name, up)
            stage.press(down)
            assert where(root) == before, (name, down)
        stage.press("End")
        last = int(root.locator("input[data-moves=token]").get_attribute("max"))
        assert where(root)["token"] == last, name
        stage.press("Home")
        assert where(root)["token"] == 0, name
        told = root.locator(".help").inner_text().replace("expert", "head")
        for keys in ("← → token", "↑ ↓ head", "PgUp PgDn layer"):
            assert keys.replace(" ", "") in told.replace(" ", "").replace("\n", ""), (name, told)


def test_a_late_echo_does_not_lead_back(page, explorers, tmp_path):
    """A busy kernel repeats where we were a while ago; what it says later, of itself, is followed."""
    [root] = opened(page, tmp_path, explorers["gates"])
    before = where(root)["token"]
    root.locator(".stage").evaluate("""stage => {
        stage.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
        window.models[0].set("token", window.models[0].get("token") - 1);
    }""")
    page.wait_for_timeout(100)
    assert where(root)["token"] == before + 1
    page.wait_for_timeout(400)                              # by then the kernel has heard of it
    page.evaluate("() => window.models[0].set('token', 2)")
    page.wait_for_function("root => root.dataset.drawn.startsWith('2 ')", arg=root.element_handle())
    assert where(root)["token"] == 2


# The variables of JupyterLab's two themes that the explorers use.
LAB = {
    "light": {"ui-font-color1": "rgba(0, 0, 0, 0.87)", "layout-color0": "#ffffff", "border-color2": "#e0e0e0",
              "brand-color1": "#1976d2"},
    "dark": {"ui-font-color1": "rgba(255, 255, 255, 1)", "layout-color0": "#111111", "border-color2": "#616161",
             "brand-color1": "#2196f3"},
}


@pytest.mark.parametrize("lab", [False, True], ids=["page", "JupyterLab"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_can_be_read(page, explorers, tmp_path, scheme, lab):
    """Every text has a contrast of 4.5 with what is behind it."""
    page.emulate_media(color_scheme="light" if lab else scheme)         # JupyterLab's theme has the last word
    roots = opened(page, tmp_path, *explorers.values())
    if lab:
        page.evaluate("""([scheme, values]) => {
            for (const [name, value] of Object.entries(values)) document.body.style.setProperty(`--jp-${name}`, value);
            document.body.dataset.jpThemeLight = String(scheme === "light");
        }""", [scheme, LAB[scheme]])
        page.wait_for_function("scheme => [...document.querySelectorAll('section')].every((root) => "
                               "root.dataset.drawn.endsWith(scheme))", arg=scheme)
    pale = {name: root.evaluate(PALE) for name, root in zip(explorers, roots, strict=True)}
    assert not any(pale.values()), {name: texts for name, texts in pale.items() if texts}


def test_labels_come_when_an_explorer_gets_its_size(page, explorers, tmp_path):
    """JupyterLab draws an explorer before it gives it a place: it has no width yet."""
    for name in ("gates", "map", "experts"):
        [root] = opened(page, tmp_path, explorers[name], away=True)
        root.wait_for(state="attached")
        page.wait_for_function("() => document.querySelector('section').dataset.drawn")
        page.evaluate("() => document.querySelector('main').className = ''")
        labels = root.locator(".along.across span")
        labels.nth(10).wait_for(timeout=5000)
        T, here = len(explorers[name].story["tokens"]), explorers[name].token
        wide = root.locator(".along.across").evaluate("edge => edge.clientWidth") / T
        every = ceil(14 / wide)                         # where cells are narrow, and ours in any case
        assert labels.count() == sum(i == here or (i % every == 0 and abs(i - here) * wide >= 14) for i in range(T))


def test_the_chosen_token_is_in_sight_when_an_explorer_gets_its_size(page, explorers, tmp_path):
    for name in ("map of 0.8B", "state of 0.8B", "experts of 35B", "clip"):
        [root] = opened(page, tmp_path, explorers[name], away=True, width=500)
        page.wait_for_function("() => document.querySelector('section').dataset.drawn")
        page.evaluate("() => document.querySelector('main').className = ''")
        page.wait_for_timeout(200)
        seen = root.evaluate(IN_SIGHT)
        assert seen and all(seen), name


@pytest.mark.parametrize("name", ["state_explorer", "vision_explorer"])
def test_the_pictures_of_the_readme_are_of_this_model(browser, monkeypatch, name):
    """Made again they are alike, but for the fonts of another machine."""
    monkeypatch.syspath_prepend(REPOSITORY / "website")
    import pictures

    page = browser.new_page()
    page.set_viewport_size({"width": WIDTH, "height": 100})
    explorer = getattr(pictures, name)(minqwen.load(dtype=torch.float32))
    for scheme, ending in (("light", ""), ("dark", "_dark")):
        pictures.show(page, explorer, scheme)
        now, there = (np.asarray(picture.convert("RGB").resize((300, 200)), dtype=float)
                      for picture in (pictures.shot(page), Image.open(pictures.DOCS / f"{name}{ending}.png")))
        assert np.abs(now - there).mean() < 4, scheme
