"""Chats as sequences: what is learnt is what the model will have to write, whoever's template writes the chat."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import tuning_support
from chat_support import written
from PIL import Image
from tuning_support import chat, write_chats

from minqwen.chat import NANO, load
from minqwen.dataset import digest, pack, packed, read_chats, rows_of
from minqwen.errors import QwenError

folder = tuning_support.folder
ADD = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {
    "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}}}
EMPTY, END = "<think>\n\n</think>\n\n", "<|im_end|>"


@pytest.fixture(scope="module", params=["official-like template", "nano's"])
def qwen(request, folder):
    return load(folder if request.param.startswith("official") else NANO)


def rows(qwen, tmp_path, *chats):
    chats = read_chats(write_chats(tmp_path / "chats.jsonl", chats))
    return [row for one in chats for row in rows_of(one, qwen)]


def spans(qwen, row):
    """The texts that are learnt, one for each stretch of tokens."""
    edges = torch.diff(row.learnt.int(), prepend=torch.zeros(1, dtype=torch.int))
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return [qwen.tokenizer.decode(row.ids[a:b], skip_special_tokens=False)
            for a, b in zip(starts, [*ends, len(row.ids)][: len(starts)])]


def test_an_answer_up_to_its_end(qwen, tmp_path):
    row, = rows(qwen, tmp_path, chat("say hello", "hello!"))
    assert spans(qwen, row) == [f"hello!{END}"]
    asked = qwen.inputs([{"role": "user", "content": "say hello"}], thinking=False).ids
    assert row.ids[: len(asked)].tolist() == asked and row.learnt[len(asked)] and not row.learnt[: len(asked)].any()


def test_a_digest_knows_other_pictures(folder, tmp_path):
    """Of the same size, under the same name: no token tells them apart."""
    seeing, digests = load(folder), []
    for shade in (20, 20, 230):
        Image.fromarray(np.full((24, 24, 3), shade, np.uint8)).save(tmp_path / "x.png")
        digests.append(digest(rows(seeing, tmp_path, chat([{"type": "image", "image": "x.png"}], "yes"))))
    assert digests[0] == digests[1] != digests[2]


def test_a_digest_knows_what_is_learnt(folder, tmp_path):
    row, = rows(load(folder), tmp_path, chat("a", "b"))
    assert digest([row]) == digest([replace(row)]) != digest([replace(row, learnt=~row.learnt)])


def test_a_mark_in_front_and_an_answer_that_is_only_read(qwen, tmp_path):
    """As some editors write files, and as OpenAI's format says which answers are not to be learnt."""
    (path := tmp_path / "marked.jsonl").write_text(json.dumps({"messages": [
        {"role": "user", "content": "one"}, {"role": "assistant", "content": "first", "weight": 0},
        {"role": "user", "content": "two"}, {"role": "assistant", "content": "second", "weight": 1}]}), "utf-8-sig")
    [one] = read_chats(path)
    [row] = rows_of(one, qwen)
    assert spans(qwen, row) == [f"second{END}"] and "first" in qwen.tokenizer.decode(row.ids)


@pytest.mark.parametrize("message", [{"content": "hello!", "reasoning_content": "be kind"},
                                     {"content": "<think>\nbe kind\n</think>\n\nhello!"}])
def test_thinking_is_learnt_and_what_opens_it_is_not(qwen, tmp_path, message):
    row, = rows(qwen, tmp_path, {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", **message}]})
    assert spans(qwen, row) == [f"be kind\n</think>\n\nhello!{END}"]
    asked = qwen.inputs([{"role": "user", "content": "hi"}], thinking=True).ids
    assert row.ids[: len(asked)].tolist() == asked and row.learnt[len(asked)]


def test_each_question_is_learnt_as_it_will_be_met(qwen, tmp_path):
    """The thinking of earlier turns is dropped by the template: what follows is never read with it."""
    messages = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b", "reasoning_content": "first"},
                {"role": "user", "content": "c?"}, {"role": "assistant", "content": "d"}]
    first, second = rows(qwen, tmp_path, {"messages": messages})
    assert spans(qwen, first) == [f"first\n</think>\n\nb{END}"] and spans(qwen, second) == [f"d{END}"]
    assert second.ids[: int(second.learnt.nonzero()[0])].tolist() == qwen.inputs(messages[:3], thinking=False).ids


def test_calls_are_learnt_and_their_results_are_not(qwen, tmp_path):
    for arguments, tools in ({"a": "1"}, [ADD]), ('{"a": "1"}', [ADD]), ({"a": "1"}, json.dumps([ADD])):
        call = {"function": {"name": "add", "arguments": arguments}}
        messages = [{"role": "user", "content": "sum?"},
                    {"role": "assistant", "content": "", "tool_calls": [call], "reasoning_content": "long"},
                    {"role": "tool", "content": "42"},
                    {"role": "assistant", "content": "it is 42"}]
        row, = rows(qwen, tmp_path, {"messages": messages, "tools": tools})
        assert spans(qwen, row) == [f"long\n</think>\n\n{written('add', a='1')}{END}", f"it is 42{END}"]
        assert row.ids.tolist() == qwen.inputs(messages, add_generation_prompt=False, tools=[ADD]).ids


def test_nobody_but_the_template_says_what_is_an_answer(qwen, tmp_path):
    row, = rows(qwen, tmp_path, chat("<|im_start|>assistant\nmine<|im_end|>", "no"))
    assert spans(qwen, row) == [f"no{END}"]


def test_pictures_stand_in_the_row_and_are_looked_at_again(folder, tmp_path):
    qwen, pixels = load(folder), np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    for n in 0, 1:
        Image.fromarray(pixels[n]).save(tmp_path / f"{n}.png")
    question = {"type": "text", "text": "?"}
    named = chat([{"type": "image", "image": "0.png"}, question], "yes")
    beside = chat([{"type": "image"}, question], "yes", images=["1.png"])
    both = rows(qwen, tmp_path, named, chat("text", "too"), beside)
    first, _, last = both
    assert (first.ids == qwen.config.image_token_id).sum() > 4 and spans(qwen, first) == [f"yes{END}"]
    x, alone = pack(both, qwen), [pack([row], qwen) for row in (first, last)]
    assert x.media["pixel_values"].equal(torch.cat([one.media["pixel_values"] for one in alone]))
    assert not alone[0].media["pixel_values"].equal(alone[1].media["pixel_values"])


def test_packs_are_full_and_whole(qwen, tmp_path):
    all = rows(qwen, tmp_path, *(chat("q" * (7 * n % 40 + 1), "a" * (n % 5 + 1)) for n in range(30)))
    longest = max(len(row.ids) for row in all)
    packs = packed(all, 3 * longest)
    assert sorted(id(row) for one in packs for row in one) == sorted(map(id, all))
    sizes = [sum(len(row.ids) for row in one) for one in packs]
    assert max(sizes) <= 3 * longest and len(packs) <= sum(sizes) / (2 * longest) + 1
    x = pack(packs[0], qwen)
    ends = x.cu_seqlens.tolist()
    for row, a, b in zip(packs[0], ends[:-1], ends[1:], strict=True):
        assert x.input_ids[0, a:b].equal(row.ids.long()) and x.targets[b - 1] == -100
        learnt = row.learnt[1:]
        assert x.targets[a : b - 1][learnt].equal(row.ids[1:][learnt].long())
        assert (x.targets[a : b - 1][~learnt] == -100).all()


GOOD = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


@pytest.mark.parametrize("line, words", [
    ('{"messages": [', "line 2 is not valid JSON"),
    ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "contents": "b"}]}',
     "line 2: a message of the assistant says nothing"),
    ('{"messages": [{"role": "user", "content": {"text": "a"}}, {"role": "assistant", "content": "b"}]}',
     "line 2: the content of a message is a text or a list of parts, and not {'text': 'a'}"),
    ('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}',
     "line 2: all answers have the weight 0"),
    ("[1]", "line 2 is no chat"),
    ('{"conversations": []}', 'line 2 is no chat: write {"messages"'),
    ('{"messages": []}', "line 2: a chat to learn from ends with a message of the assistant"),
    ('{"messages": ["hi"]}', "line 2: A chat is a text or a list of messages"),
    ('{"messages": [{"role": "bot", "content": "a"}]}', "line 2: there is no role 'bot'"),
    ('{"messages": [{"role": "user", "content": "a"}]}', "line 2: a chat to learn from ends with"),
    ('{"messages": [{"role": "assistant", "content": "a"}]}', "line 2: "),
    (GOOD.strip()[:-1] + ', "images": ["none.png"]}', "line 2: There is no file none.png"),
    (GOOD.strip()[:-1] + ', "tools": "[{"}', "line 2: its tools are a text, but not valid JSON"),
    (GOOD.strip()[:-1] + ', "tools": [{"a": 1}]}', "line 2: A tool given as a schema looks like"),
    (GOOD.strip()[:-1] + ', "tools": [{"function": null}]}', "line 2: A tool given as a schema looks like"),
    (GOOD.replace('"content": "b"', '"reasoning_content": 5'), "line 2: the reasoning_content of a message is a text"),
    (GOOD.replace('"content": "b"', '"tool_calls": 5'), "line 2: The tool_calls of a message are a list of calls"),
    (GOOD.replace('"content": "b"', '"tool_calls": {"name": "f"}'), "line 2: The tool_calls of a message are a list"),
    (GOOD.replace('"content": "b"', '"tool_calls": [{"function": null}]'), "line 2: A call is {'function':"),
    (GOOD.replace('"content": "b"', '"tool_calls": [{"name": "f", "arguments": "[1]"}]'),
     "line 2: A call is {'function': {'name': 'add', 'arguments': {'a': 1}}}, its arguments an object or the text of"),
    (GOOD.replace('"content": "a"', '"content": [{"type": [], "text": "a"}]'), "line 2: A message's content is a text"),
    ('{"messages": [{"role": "user", "content": [{"type": "image"}]}, {"role": "assistant", "content": "b"}]}',
     "line 2: A message has a part"),
])  # fmt: skip
def test_what_is_wrong_is_said_with_its_line(folder, tmp_path, line, words):
    path = tmp_path / "chats.jsonl"
    path.write_text(GOOD + line + "\n")
    with pytest.raises(QwenError) as told:
        for one in read_chats(path):
            rows_of(one, load(folder))
    assert str(told.value).startswith(f"{path}, {words}") and "\n" not in str(told.value)


def test_files_without_chats(tmp_path):
    for name, content, words in (("none", None, "cannot be read"), ("empty", b"\n \n", "holds no chats"),
                                 ("binary", b"\xff\xfe", "cannot be read")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(QwenError, match=f"{name} {words}"):
            read_chats(tmp_path / name)


def test_keys_that_nobody_reads_are_remarked_on(tmp_path):
    with pytest.warns(UserWarning, match="are read, and not id, source"):
        read_chats(write_chats(tmp_path / "chats.jsonl", [chat("a", "b", id=1), chat("a", "b", source="web")]))


def test_a_template_that_asks_in_another_way_than_it_answers(folder, tmp_path):
    qwen = load(folder)
    qwen.tokenizer.chat_template = qwen.tokenizer.chat_template.replace("{%- if add_generation_prompt %}",
                                                                        "{%- if add_generation_prompt %}now: ")
    with pytest.raises(QwenError, match="line 1: the chat template writes an answer here in another way"):
        rows(qwen, tmp_path, chat("a", "b"))
