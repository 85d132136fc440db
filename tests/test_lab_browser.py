"""The memory lab and the chat panel in a real browser: as pages of their own, and live inside JupyterLab."""

import numpy as np
import pixels
import pytest
from browser_support import a_jupyterlab, run_all_cells, walk_by, watched, write_notebook
from chat_support import byte_tokenizer
from support import random_qwen, small_config

from minqwen.chat import Assistant
from minqwen.edits import Edit
from minqwen.widgets import ChatPanel, MemoryLab

pytestmark = pytest.mark.browser

QUESTION, NEW = "What does Ann have?", 6


@pytest.fixture(scope="module")
def qwen():
    tokenizer = byte_tokenizer()
    return Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size)), tokenizer)


def until(root, said):
    """Wait until the widget says that it has drawn this."""
    root.page.wait_for_function("([root, said]) => root.dataset.drawn === said",
                                arg=[root.element_handle(), said], timeout=120_000)


def test_the_page_of_a_lab(browser, qwen, tmp_path):
    """It shows the edits as they stood, and cannot try others; it says so."""
    lab = MemoryLab(qwen, QUESTION, edits=[Edit("beta", layer=1, token=20), Edit("gate")], max_new_tokens=NEW)
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(lab.to_html(tmp_path / "lab.html").as_uri())
    root, stage = page.locator(".minqwen-lab"), page.locator(".stage")
    drawn = "{at} gate -1 -1 0 beta,1,-1,20, {theme}"
    until(root, drawn.format(at=-1, theme="light"))
    assert root.locator("input:checked").get_attribute("value") == "gate", "an edit is active, and it is the one chosen"
    steps = [((at, "gate"), {"at": at}) for at in range(NEW)]
    assert np.array_equal(walk_by(root, steps), np.stack([pixels.lab_bars(lab, at) for at in range(NEW)]))
    assert len({pixels.lab_bars(lab, at).tobytes() for at in range(NEW)}) == NEW

    stage.press("Escape")
    until(root, drawn.format(at=-1, theme="light"))
    assert np.array_equal(walk_by(root, [((-1, "gate"), {"at": -1})])[0], pixels.lab_bars(lab))
    page.locator("[data-at='4']").click()
    until(root, drawn.format(at=4, theme="light"))
    stage.press(".")
    until(root, drawn.format(at=5, theme="light"))
    stage.press(".")                                        # there is no further
    stage.press(",")
    until(root, drawn.format(at=4, theme="light"))
    stage.press("b")                                        # no kernel, no other edit
    page.locator("[data-token='3']").click()
    until(root, drawn.format(at=4, theme="light"))
    assert "takes a running notebook" in page.locator(".help").inner_text()
    assert page.locator(".chips li").all_inner_texts() == lab.result["labels"]
    assert page.locator(".choice input:enabled").count() == 0

    place = lab.result["places"][4]
    label = stage.get_attribute("aria-label")
    assert f"{100 * place['before'][0]:.1f} % before, {100 * place['after'][0]:.1f} % after" in label
    for i, given in enumerate(page.locator(".words").all()):
        assert given.text_content() == lab.result["answers"][i]["text"] + " …"         # as long as an answer may be

    page.emulate_media(color_scheme="dark")
    until(root, drawn.format(at=4, theme="dark"))
    assert np.array_equal(walk_by(root, steps), np.stack([pixels.lab_bars(lab, at, dark=True) for at in range(NEW)]))
    assert strangers == [] and errors == []


def test_the_page_of_a_talk(browser, qwen, tmp_path):
    panel = ChatPanel(qwen)
    parts = [{"kind": "thinking", "text": "let me see"}, {"kind": "text", "text": "A <b>gold</b> key."}]
    panel.turns = [{"who": "you", "parts": [{"kind": "text", "text": QUESTION}], "pictures": [], "stopped": False},
                   {"who": "model", "parts": parts, "pictures": [], "stopped": True}]
    page = browser.new_page()
    strangers, errors = watched(page, "file:")
    page.goto(panel.to_html(tmp_path / "chat.html").as_uri())
    until(page.locator(".minqwen-chat"), "2 silent light")
    assert page.locator(".turn.you .text").inner_text() == QUESTION
    assert page.locator(".turn.model .text").inner_text() == "A <b>gold</b> key."
    assert page.locator(".turn.model .stopped").inner_text() == "stopped"
    thoughts = page.locator("details.thinking")
    assert not thoughts.locator("p").is_visible() and thoughts.locator("summary").inner_text() == "thoughts, 3 words"
    thoughts.locator("summary").press("Enter")
    assert thoughts.locator("p").is_visible()
    assert page.locator("textarea").count() == 0 and "takes a running notebook" in page.locator(".help").inner_text()
    assert strangers == [] and errors == []
    assert "This is what was said." in page.locator(".help").inner_text()


def test_the_page_of_a_silent_panel_is_a_recorded_talk(browser, qwen, tmp_path):
    page = browser.new_page()
    page.goto(ChatPanel(qwen, max_new_tokens=6).to_html(tmp_path / "chat.html").as_uri())
    until(page.locator(".minqwen-chat"), "2 silent light")
    assert page.locator(".turn.you .text").inner_text() == "What can I ask you?"
    assert page.locator(".turn.model .text").inner_text().strip()
    told = page.locator(".help").inner_text()
    assert told.startswith("A recorded talk: the model said this when the page was made.")
    assert page.locator("textarea, button").count() == 0


LIVE = """
import threading, time
import numpy as np, torch, minqwen, pixels
from chat_support import byte_tokenizer
from support import random_qwen, small_config
from minqwen.chat import Assistant
tokenizer = byte_tokenizer()
qwen = Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size)), tokenizer)
"""
LAB = f"""
lab, other = (minqwen.MemoryLab(qwen, {QUESTION!r}, max_new_tokens={NEW}) for _ in range(2))
frames = []
for kind, layer in (("beta", -1), ("beta", 0), ("gate", -1)):
    other.kind, other.layer = kind, layer
    frames += [pixels.lab_bars(other, at) for at in range({NEW})]
np.savez("frames.npz", frames=frames)
lab
"""
CHAT = """
script = tokenizer.encode("So.\\n</think>\\n\\nHello!<|im_end|>" + "One, two. " * 100)
sample = minqwen.sampling.sample
def speak(logits, **options):                               # the panel's words; the lab goes on as ever
    if threading.current_thread() is not panel._thread:
        return sample(logits, **options)
    time.sleep(0.05)
    return torch.tensor([script.pop(0)])
minqwen.sampling.sample = speak
panel = minqwen.ChatPanel(qwen, thinking=True)
panel
"""


def test_inside_jupyterlab(browser, tmp_path):
    """Edits are run in the kernel, and an answer streams and is stopped while it does: by keyboard alone."""
    write_notebook(tmp_path / "live.ipynb", LIVE, LAB, CHAT)
    with a_jupyterlab(tmp_path) as (address, token):
        page = browser.new_page()
        strangers, errors = watched(page, address)
        run_all_cells(page, address, token, "live.ipynb")
        with np.load(tmp_path / "frames.npz") as saved:
            frames = saved["frames"].reshape(3, NEW, *saved["frames"].shape[1:])

        lab = page.locator(".minqwen-lab")
        lab.scroll_into_view_if_needed()
        until(lab, "-1 none light")
        stage = lab.locator(".stage")
        at = lab.locator("[data-moves=token]").input_value()
        for key, state, expected in (("b", f"beta -1 -1 {at}", 0), ("PageUp", f"beta 0 -1 {at}", 1),
                                     ("g", f"gate -1 -1 {at}", 2)):
            stage.press(key)
            page.wait_for_function("root => root.dataset.current === 'true'", arg=lab.element_handle(), timeout=120_000)
            until(lab, f"-1 {state} light")
            steps = [((i, state), {"at": i}) for i in range(NEW)]
            assert np.array_equal(walk_by(lab, steps), frames[expected])
            stage.press("Escape")
        assert lab.locator(".chips li").inner_text().startswith("output gate closed from token")
        stage.press("k")
        until(lab, f"-1 none gate,-1,-1,{at}, light")
        stage.press("u")
        until(lab, "-1 none light")

        chat = page.locator(".minqwen-chat")
        chat.scroll_into_view_if_needed()
        until(chat, "0 silent light")
        box = chat.locator("textarea")
        box.fill("Hi")
        box.press("Enter")
        until(chat, "1 speaking light")
        until(chat, "2 silent light")
        assert box.input_value() == "" and chat.locator(".turn.model .text").inner_text() == "Hello!"
        assert chat.locator("details.thinking summary").inner_text().startswith("thoughts")
        chat.locator("[data-switch=thinking]").press(" ")
        box.fill("Count")
        box.press("Enter")
        chat.get_by_text("One, two.").wait_for()            # it is still speaking, and half of it is there
        box.press("Escape")
        until(chat, "4 silent light")
        assert chat.locator(".turn.model .stopped").inner_text() == "stopped"
        assert len(chat.locator(".turn.model .text").last.inner_text()) < 500
        assert chat.locator("details.thinking").count() == 1

        assert strangers == []
        assert [error for error in errors if "minqwen" in error or "anywidget" in error] == []
