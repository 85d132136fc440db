"""nano in the page: the JavaScript of website/ reads, computes and shows what Python does."""

import base64
import json
import subprocess
from random import Random

import numpy as np
import pytest
import torch
from site_support import website

import minqwen
from conftest import REPOSITORY
from minqwen.nano import score, world

STORY = "Ann has a red cup. Bob has a blue hat. Ann now has a gold key. What does Ann have?"
AWKWARD = ["", " ", "\n", " \t x \n\n y", "it's I'LL we'Ve it'shop so'Very 'x '", "3141 ½ ٣ Ⅷ",
           "näive na\u0308ive e\u0301\u0301", "नमस्ते दुनिया", "你好，世界。", "مرحبا بالعالم",
           "👩‍👩‍👧‍👦 🏳️‍🌈!", "a\u00a0b\u2003c\u0085d\ufeffe\u200bf", "\r\n\r\nA\r\n",
           "<|im_end|>\n<|im_start|>assistant\n<think>", "<think>x</think>", "𝒳𝓎 \U000e0001 \u0345ι", "aaaaaaaaa" * 30,
           "{\"a\": [1, 2]}  // ... !!!\n", "\x00\x01\x1f.", "\ufeff Ann \x85", "\x1c Ann \x1f",
           "constructor __proto__ toString"]


@pytest.fixture(scope="module")
def qwen():
    """The shipped model with the weights that the page has: rounded to bfloat16, computed with in float32."""
    qwen = minqwen.load(dtype=torch.bfloat16)
    qwen.model.float()
    return qwen


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """ask(encode="Ann") and the like: what tests/live.mjs answers."""
    held = tmp_path_factory.mktemp("live") / "held.json"
    held.write_text(json.dumps(website.checkpoint()), encoding="utf-8")
    node = subprocess.Popen(["node", REPOSITORY / "tests" / "live.mjs", held], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, encoding="utf-8")

    def ask(**question):
        node.stdin.write(json.dumps(question) + "\n")
        node.stdin.flush()
        return json.loads(node.stdout.readline())

    yield ask
    node.stdin.close()
    node.wait(timeout=60)


def conversations(count):
    """Ids of whole conversations in text, of each kind that nano is scored in, answers and thoughts included."""
    kinds = [lambda rng: world.facts_conversation(rng, rng.randint(2, 12), 1, rng.random() < 0.3), score.unknown,
             lambda rng: world.sums_conversation(rng, thinking=True), score.too_long, score.chatter]
    return [kinds[i % len(kinds)](Random(f"live {i}")).dialogue() for i in range(count)]


def ids_of(qwen, messages):
    return qwen.inputs(messages, add_generation_prompt=False).ids


def floats(text, count=960):
    return np.frombuffer(base64.b64decode(text), "<f4").reshape(-1, count)


def check_logits(qwen, ids, ours):
    """Within 1e-4 of the largest, ten times closer than it would have to be."""
    with torch.no_grad():
        theirs = qwen.model(torch.tensor([ids]))[0].numpy()
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def test_what_the_page_holds():
    """The weights of what reads text, under 4 MB as they stand in the page; tower and drafting head are left out."""
    held = website.checkpoint()
    assert len(held["weights"]) < 4_000_000
    model = minqwen.load().model
    assert held["parameters"] == sum(x.numel() for x in model.model.language_model.parameters())


def test_texts_become_the_tokens_that_they_are_in_python(ask, qwen):
    rng, scripts = Random(0), [range(32, 127), range(160, 600), range(0x300, 0x370), range(0x900, 0x980),
                               range(0x2000, 0x2070), range(0x3040, 0x30A0), range(0x1F300, 0x1F700)]
    random = ["".join(chr(rng.choice(rng.choice(scripts))) for _ in range(40)) for _ in range(150)]
    for text in AWKWARD + random:
        ids = qwen.tokenizer.encode(text, special=False)
        assert ask(encode=text) == ids, repr(text)
        assert ask(decode=ids) == qwen.tokenizer.decode(ids), repr(text)
    for text in [STORY, *AWKWARD[3:]]:
        for thinking in (False, True):
            assert ask(prompt=[text, thinking]) == qwen.inputs(text, thinking).ids, repr(text)


def test_logits_and_answers_are_those_of_python(ask, qwen):
    for messages in conversations(10):
        ids = ids_of(qwen, messages)
        check_logits(qwen, ids, np.concatenate([floats(row) for row in ask(logits=ids)]))
    for text, thinking in ((STORY, False), ("What is 47 + 85?", True), ("Who wrote Hamlet?", False)):
        ids = qwen.inputs(text, thinking).ids
        theirs = minqwen.generate(qwen.model, [ids], max_new_tokens=64, stop_ids=qwen.tokenizer.stop_ids)[0]
        theirs = [id for id in theirs if id not in qwen.tokenizer.stop_ids]
        assert ask(answer=ids) == theirs and len(theirs) > 2


@pytest.mark.parametrize("text", [STORY, "Hi", " ".join([STORY] * 6)], ids=["a story", "a word", "in blocks"])
def test_explorers_are_told_what_python_tells_them(ask, qwen, text):
    """Every page of both explorers, and what is said of the text; of the longest one a pixel is a block of tokens."""
    t = minqwen.trace(qwen).run([{"role": "user", "content": text}])
    explorers = minqwen.StateExplorer(t), minqwen.AttentionExplorer(t)
    tokens = explorers[1].story["tokens"]
    names = [name for explorer in explorers for name in explorer.page_names() if len(tokens) < 100 or "3" in name]
    answer = ask(explorers=[t.input_ids[0].tolist(), tokens, names])
    for ours, explorer in zip(answer["stories"], explorers):
        assert ours | {"all_here": True} == explorer.story | {"all_here": True}
    for name, ours in zip(names, answer["pages"]):
        ours = base64.b64decode(ours)
        theirs = next(explorer for explorer in explorers if name in explorer.page_names()).page(name)
        assert len(ours) == len(theirs), name
        numbers = 16 * 4 if name.startswith("layer") else len(ours)
        a, b = (np.frombuffer(page[:numbers], "<f4") for page in (ours, theirs))
        assert np.abs(a - b).max() < 1e-4 * max(1, np.abs(b).max()), name
        a, b = (np.frombuffer(page[numbers:], np.uint8).astype(int) for page in (ours, theirs))
        assert np.abs(a - b).max(initial=0) <= 1, f"{name}: shades"


# ---------------------------------------------------------------------------------------------------------- in browsers

LOGITS = """(ids) => {
  const cache = nano.model.newCache();
  return ids.map((id) => {
    const bytes = new Uint8Array(nano.model.forward(id, cache).buffer);
    return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  });
}"""


@pytest.fixture(scope="module")
def page(browser, tmp_path_factory):
    """The page of nano, opened from the disk; what it asks for once it is there, and what goes wrong."""
    from browser_support import watched

    root = tmp_path_factory.mktemp("site")
    (root / "README.md").write_text("# A kit\n")
    (root / "notebooks").mkdir()
    website.build(root / "site", execute=False, notebooks=root / "notebooks", readme=root / "README.md")
    page = browser.new_page()
    page.watched = strangers, errors = watched(page, "file:")
    page.goto((root / "site" / "nano.html").as_uri())
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    yield page
    assert (strangers, errors, page.asked) == ([], [], [])


def say(page, text, thinking=False):
    """Write a text, and wait until it is read: what nano answers."""
    page.get_by_label("think first").set_checked(thinking)
    page.get_by_label("A story, and a question").fill(text)
    page.wait_for_selector("body[data-live=done]", timeout=60_000)
    return page.locator("#ask .answer").inner_text().removeprefix("nano: ")


@pytest.mark.browser
def test_a_hundred_conversations(page, qwen):
    page.wait_for_function("globalThis.nano")
    for messages in conversations(100):
        ids = ids_of(qwen, messages)
        check_logits(qwen, ids, np.concatenate([floats(row) for row in page.evaluate(LOGITS, ids)]))


@pytest.mark.browser
def test_a_story_of_ones_own(page):
    """It is answered; what comes next, the memory and who looks at whom are those of this story, and move by keys."""
    assert say(page, "Zoe has a green kite. Zoe now has a white bell. What does Zoe have?") == "a white bell"
    assert say(page, "What is 123 + 456?", thinking=True) == "579"
    assert "3 + 6" in page.locator("#ask .thought").inner_text()
    assert say(page, "Eve is in the park. Eve is now in the barn. Where is Eve?") == "in the barn"
    for explorer in (page.locator(f".minqwen-{kind}") for kind in ("next", "state", "attention")):
        explorer.locator("xpath=self::*[@data-drawn]").wait_for()
        assert "barn" in explorer.locator(".ribbon").inner_text()
        before = explorer.get_attribute("data-drawn")
        explorer.locator("[data-moves=token]").press("ArrowLeft")
        page.wait_for_function("([root, before]) => root.dataset.drawn !== before",
                               arg=[explorer.element_handle(), before])
        assert explorer.locator(".problem").is_hidden()
    drawn = page.locator(".minqwen-state").get_attribute("data-drawn")
    page.locator(".minqwen-state [data-moves=layer]").press("PageDown")
    page.locator(f".minqwen-state:not([data-drawn='{drawn}'])").wait_for()
    place = page.locator(".minqwen-state").get_attribute("data-drawn").split()[1:3]
    say(page, "Ann has a red cup. What does Ann have?")
    page.wait_for_selector(".minqwen-state[data-drawn]")
    assert page.locator(".minqwen-state").get_attribute("data-drawn").split()[1:3] == place, "it begins elsewhere"
    likely = page.locator(".minqwen-next .guesses li")
    assert likely.count() == 8 and likely.first.get_attribute("class") == "came"


@pytest.mark.browser
def test_the_page_by_keys_alone(page):
    """A story is typed, and Tab goes on through the examples to all that moves in the three explorers, as one reads."""
    where = "() => { const e = document.activeElement; return [e.closest('#ask, #next, #state, #attention')?.id, " \
            "e.dataset.moves ?? e.type ?? e.className]; }"
    page.locator("#story").focus()
    page.keyboard.press("Control+a")
    page.keyboard.type("Bob has a red hat. What does Bob have?")
    page.wait_for_selector("body[data-live=reading]")
    page.wait_for_selector("body[data-live=done]", timeout=60_000)
    assert page.locator("#ask .answer").inner_text() == "nano: a red hat"
    assert page.locator("#ask .answer[aria-busy=false]").count() == 1
    page.wait_for_selector(".minqwen-attention[data-drawn]")
    met = []
    while ["attention", "stage"] not in met and len(met) < 60:
        page.keyboard.press("Tab")
        met.append(page.evaluate(where))
    state = [["state", name] for name in ("token", "layer", "head", "checkbox", "checkbox", "checkbox", "stage")]
    attention = [["attention", name] for name in ("layer", "head", "token", "seen", "button", "stage")]
    met = [one for one in met if one[0]]                    # headings have links, too
    asking = [*5 * [["ask", "button"]], ["ask", "checkbox"]]
    assert met == [*asking, ["next", "token"], *state, *attention]


@pytest.mark.browser
def test_examples(page):
    answers = {"a cup becomes a key": "a gold key", "who is where": "in the library",
               "nobody was told": world.NOBODY_KNOWS, "a sum": "929", "out of its world": world.BEYOND}
    for name, answer in answers.items():
        page.get_by_role("button", name=name).press("Enter")
        page.get_by_text(f"nano: {answer}", exact=True).wait_for(timeout=60_000)


@pytest.mark.browser
def test_awkward_texts(page):
    """What cannot be read is refused in one sentence, and nothing of another text stands there; all else is read."""
    problem, explorers = page.locator("#ask .problem"), page.locator("#next, #state, #attention")
    refused = {" \n": "nothing to read yet", "\x85 ": "nothing to read yet",
               "Ann has a cup. " * 500: "2,51", "x" * 300_000: "far more"}
    for text, sentence in refused.items():
        assert say(page, text) == ""
        assert sentence in problem.inner_text() and problem.inner_text().count(".") == 1
        assert not any(explorer.is_visible() for explorer in explorers.all())
    for text in AWKWARD[3:]:
        assert say(page, text) and problem.is_hidden(), repr(text)
    say(page, "<|im_end|> Ann")
    assert "read as the letters that it is" in page.locator("#ask .told").inner_text()
    assert page.locator(".minqwen-next .cell.special").first.inner_text() == "<|im_start|>"
    assert page.locator(".minqwen-next .cell.special").count() == 5, "a typed control token has become one"
    say(page, "🦊?")
    assert "reads the bytes" in page.locator("#ask .told").inner_text()


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 820, 400])
def test_nothing_is_wider_than_the_page(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    say(page, f"{STORY} {width}")
    page.wait_for_selector(".minqwen-attention[data-drawn]")
    wide = """() => [...document.querySelectorAll("#ask *, .minqwen-explorer")]
        .filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML.slice(0, 200))"""
    assert page.evaluate(wide) == []
