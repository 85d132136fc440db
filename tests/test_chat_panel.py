"""The chat panel without a browser: what is said, stopped, refused; and what it keeps."""

import json
import threading
from dataclasses import replace

import pytest
import torch
from chat_support import byte_tokenizer, written
from PIL import Image
from support import random_qwen, seeing_config, small_config
from test_chat_media import IMAGES, VIDEOS
from widget_support import in_a_notebook, kept_in

import minqwen
from minqwen.chat import Assistant, Piece
from minqwen.errors import QwenError
from minqwen.media import Processor
from minqwen.widgets import ChatPanel
from minqwen.widgets.chat import HELLO, joined


@pytest.fixture(scope="module")
def qwen():
    tokenizer = byte_tokenizer()
    return Assistant(random_qwen(small_config(vocab_size=tokenizer.vocab_size)), tokenizer)


@pytest.fixture
def says(qwen, monkeypatch):
    """Put a text into the model's mouth; with `held` each token waits until it is let go."""

    def script(text, held=None):
        ids = iter(qwen.tokenizer.encode(text))

        def sample(*_, **__):
            if held is not None:
                held.acquire()
            return torch.tensor([next(ids)])

        monkeypatch.setattr(minqwen.sampling, "sample", sample)

    return script


def words(turn):
    return [(part["kind"], part["text"]) for part in turn["parts"]]


def test_parts_of_one_kind_are_one():
    parts = []
    for piece in (Piece("a", thinking=True), Piece("b", thinking=True), Piece("c"), Piece("<call>", tool="call"),
                  Piece("5", tool="result"), Piece("6", tool="result"), Piece("d"), Piece("e")):
        before = parts
        parts = joined(parts, piece)
        assert before != parts                              # a new list: what was sent is not changed behind one's back
    assert [(part["kind"], part["text"]) for part in parts] == [
        ("thinking", "ab"), ("text", "c"), ("call", "<call>"), ("result", "5"), ("result", "6"), ("text", "de")]


def test_a_talk(qwen, says):
    panel = ChatPanel(qwen, system="Be kind.")
    assert panel.thinking is False and panel.story["thinks"] and not panel.story["sees"]
    says("Hello!<|im_end|>")
    panel.say("Hi")
    panel.wait()
    says("So.\n</think>\n\nAnn.<|im_end|>")
    panel.thinking = True
    panel.say("Who?")
    panel.wait()
    assert [turn["who"] for turn in panel.turns] == ["you", "model", "you", "model"]
    assert words(panel.turns[1]) == [("text", "Hello!")]
    assert [kind for kind, _ in words(panel.turns[3])] == ["thinking", "text"] and words(panel.turns[3])[1][1] == "Ann."
    assert "So." in words(panel.turns[3])[0][1]
    assert [message["role"] for message in panel.talk.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert panel.speaking == {} and not panel.busy and repr(panel) == "ChatPanel(the model, 4 turns)"
    panel.new()
    assert panel.turns == [] and [message["role"] for message in panel.talk.messages] == ["system"]


def test_an_answer_is_seen_as_it_comes_and_can_be_stopped(qwen, says):
    held = threading.Semaphore(0)
    says("One, two, three, four.<|im_end|>", held)
    panel, seen = ChatPanel(qwen), []
    panel.observe(lambda change: seen.append(change["new"]), "speaking")
    panel.say("Count")
    assert panel.busy and panel.speaking == {"parts": []} and len(panel.turns) == 1
    with pytest.raises(QwenError, match="still speaking"):
        panel.say("Faster")
    held.release(5)
    while not panel.speaking["parts"]:
        pass
    panel._handle_custom_msg({"stop": True}, [])
    held.release(1)
    panel.wait(30)
    assert not panel.busy and panel.turns[1]["stopped"] and "One, two".startswith(words(panel.turns[1])[0][1])
    assert seen[0] == {"parts": []} and seen[-1] == {} and any(now.get("parts") for now in seen)
    assert panel.talk.messages[-1]["content"] == words(panel.turns[1])[0][1]
    says("Yes.<|im_end|>")
    panel.say("Go on")                                      # and the talk goes on from there
    panel.wait()
    assert words(panel.turns[3]) == [("text", "Yes.")] and not panel.turns[3]["stopped"]


def test_tools_are_called(qwen, says):
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
            a: one.
            b: another.
        """
        return a + b

    panel = ChatPanel(qwen, tools=[add])
    says(written("add", a="2", b="3") + "<|im_end|>" + "5.<|im_end|>")
    panel.say("2 + 3?")
    panel.wait()
    assert [kind for kind, _ in words(panel.turns[1])] == ["call", "result", "text"]
    assert words(panel.turns[1])[1:] == [("result", "5"), ("text", "5.")]


def test_pictures_are_sent_along(tmp_path):
    tokenizer = byte_tokenizer()
    ids = {f"{name}_token_id": tokenizer.id_of(f"<|{token}|>")
           for name, token in (("image", "image_pad"), ("video", "video_pad"), ("vision_start", "vision_start"),
                               ("vision_end", "vision_end"))}
    config = replace(seeing_config(vocab_size=tokenizer.vocab_size), **ids)
    qwen = Assistant(random_qwen(config), tokenizer)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(IMAGES))
    (tmp_path / "video_preprocessor_config.json").write_text(json.dumps(VIDEOS))
    qwen.processor = Processor.from_folder(tmp_path, config.vision_config)
    panel = ChatPanel(qwen, max_new_tokens=2)
    assert panel.story["sees"]
    Image.new("RGB", (64, 48), "red").save(tmp_path / "red.png")
    panel._handle_custom_msg({"say": "What colour?"}, [memoryview((tmp_path / "red.png").read_bytes())])
    panel.wait()
    assert panel.problem == "" and panel.turns[0]["pictures"][0].startswith("data:image/png;base64,")
    assert any(part["type"] == "image" for part in panel.talk.messages[0]["content"])
    panel._handle_custom_msg({"say": "And this?"}, [memoryview(b"no picture")])
    assert panel.problem.startswith("QwenError: ") and len(panel.turns) == 2 and not panel.busy


def test_errors_are_shown(qwen, says):
    panel = ChatPanel(qwen)
    panel._handle_custom_msg({"say": " \n"}, [])
    assert panel.problem == "QwenError: There is nothing to send: write something first."
    panel._handle_custom_msg({"say": "Hi"}, [memoryview(b"x")])
    assert panel.problem.startswith("QwenError: ") and panel.turns == []
    says("")                                                # the model fails while it speaks
    panel.say("Hi")
    panel.wait()
    assert panel.problem.startswith(("StopIteration", "RuntimeError")) and not panel.busy
    says("Hello!<|im_end|>")
    panel.say("Hi")
    panel.wait()
    assert panel.problem == "" and words(panel.turns[-1]) == [("text", "Hello!")]


def test_what_it_needs_is_told(qwen):
    with pytest.raises(QwenError, match="with a tokenizer"):
        ChatPanel(qwen.model)
    with pytest.raises(QwenError, match="with a tokenizer"):
        ChatPanel(Assistant(qwen.model))
    plain = Assistant(qwen.model, byte_tokenizer("{{ messages[0].content }}"))
    with pytest.raises(QwenError, match="no thinking switch"):
        ChatPanel(plain, thinking=True)
    assert not ChatPanel(plain).story["thinks"]


def test_where_nothing_was_said_a_talk_is_recorded(qwen, says, tmp_path):
    """For the page always, for the picture when it is asked for; by its own conversation, and had once."""
    says("Ask away.<|im_end|>")
    panel = ChatPanel(qwen)
    kept = kept_in(panel.to_html(tmp_path / "chat.html"))
    assert [turn["who"] for turn in kept["turns"]] == ["you", "model"] and kept["story"]["recorded"]
    assert [words(turn) for turn in kept["turns"]] == [[("text", HELLO)], [("text", "Ask away.")]]
    assert panel.turns == [] == panel.talk.messages and "nothing was said yet" in panel.still()[1]

    says("Hello!<|im_end|>" + "Ann.<|im_end|>")
    panel = ChatPanel(qwen, recorded=["Hi", "Who?"])
    assert panel.still()[1] == "you: Hi model: Hello! you: Who? model: Ann."
    kept = kept_in(panel.to_html(tmp_path / "chat.html"))               # from what is there: nobody speaks any more
    assert [words(turn)[0][1] for turn in kept["turns"]] == ["Hi", "Hello!", "Who?", "Ann."]
    says("Yes.<|im_end|>")
    panel.say("Really?")
    panel.wait()
    kept = kept_in(panel.to_html(tmp_path / "chat.html"))
    assert kept["turns"] == panel.turns and not kept["story"]["recorded"]


def test_a_picture_and_a_page(qwen, says, figures, tmp_path):
    panel = ChatPanel(qwen)
    assert in_a_notebook(panel) == "ChatPanel(the model, 0 turns)"
    assert panel.still()[1] == "A chat with the model in which nothing was said yet."
    says("</script> {x} $a$<|im_end|>")
    panel.say("Hi")
    panel.wait()
    panel.picture()
    (figure, alt), = figures
    assert alt == "you: Hi model: </script> {x} $a$"
    assert [text.get_text() for text in figure.axes[0].texts] == ["you", "Hi", "model", r"</script> {x} \$a\$"]
    kept = kept_in(panel.to_html(tmp_path / "chat.html"))
    assert kept["turns"] == panel.turns and not kept["story"]["live"]
