"""Chats to learn from: a file of them becomes sequences of tokens, and it is known which tokens are to be learnt.

Each line of the file is a JSON object, with `messages` as `Assistant.chat` takes them, the last one the assistant's:

    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}

Beside them may stand `tools`, a list of schemas, and `images` and `videos` for parts such as {"type": "image"}. A path
is looked for beside the file first. Thinking is an assistant message's `reasoning_content`, calls its `tool_calls`.

What is learnt is what the model will have to write: of each answer the tokens behind the prompt that asks for it, up to
the one that ends the turn. The checkpoint's own template renders both, the chat before the answer as a prompt, and the
chat with the answer; the second must begin with the first. So what opens a think block, which the prompt writes, is not
learnt, and what is in it is. And as the template drops the thinking of earlier turns, a chat with several questions
becomes several sequences, each as the model will meet it: one for each question, with all the calls behind it.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from .chat import Assistant
from .errors import QwenError, remark, short
from .messages import as_messages, media_of
from .tokenizer import ROLES, THOUGHTS
from .tools import describe_all

__all__ = ["Chat", "Packed", "Row", "digest", "pack", "packed", "read_chats", "rows_of", "shares"]

KEYS = ("messages", "tools", "images", "videos")
SAID = ("content", "tool_calls", *THOUGHTS)              # by which a message says something


@dataclass(frozen=True, eq=False)
class Chat:
    """A line of a file."""

    where: str                                          # "chats.jsonl, line 3"
    messages: list[dict]
    tools: list[dict]


@dataclass(frozen=True, eq=False)
class Row:
    """A sequence to learn from."""

    where: str
    ids: Tensor                                         # (T,) int32
    learnt: Tensor                                      # (T,) bool: which tokens the model is to write itself
    messages: list[dict] | None                         # where there are pictures: they are read again for each step


@contextmanager
def _told(where: str):
    """What is wrong is said with the line that it is wrong in."""
    try:
        yield
    except QwenError as error:
        raise QwenError(f"{where}: {error}") from None


def read_chats(path: str | Path) -> list[Chat]:
    """The chats of a file.

    Raises:
        QwenError: there is no such file, or nothing in it; a line is no chat to learn from.
    """
    path, chats, unread = Path(path), [], {}
    try:
        text = path.read_text(encoding="utf-8-sig")          # some editors put a mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise QwenError(f"{path} cannot be read ({short(error)}): give a text file with a chat in each line.") from None
    for number, line in enumerate(text.split("\n"), 1):
        where = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            given = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise QwenError(f"{where} is not valid JSON ({short(error)}): write each chat as one line.") from None
        if not isinstance(given, dict) or not isinstance(given.get("messages"), list):
            raise QwenError(f'{where} is no chat: write {{"messages": [{{"role": "user", "content": "Hi"}}, ...]}}.')
        unread |= dict.fromkeys(given.keys() - {*KEYS})
        with _told(where):
            chats.append(_chat(where, given, path.parent))
    if not chats:
        raise QwenError(f"{path} holds no chats: write one as JSON in each line.")
    if unread:
        remark(f"{path}: of each line {', '.join(KEYS)} are read, and not {', '.join(map(short, sorted(unread)))}.")
    return chats


def _chat(where: str, given: dict, folder: Path) -> Chat:
    given = {name: x for name, x in given.items() if x is not None}
    messages = as_messages(given["messages"], None, given.get("images", ()), given.get("videos", ()))
    for message in messages:
        if message.get("role") not in ROLES:
            raise QwenError(f"there is no role {short(repr(message.get('role')))}; the roles are {', '.join(ROLES)}.")
        if not isinstance(message.get("content"), str | list | None):
            raise QwenError(f"the content of a message is a text or a list of parts, and not "
                            f"{short(repr(message['content']))}.")
        for name in THOUGHTS:
            if not isinstance(message.get(name), str | None):
                raise QwenError(f"the {name} of a message is a text, and not {short(repr(message[name]))}.")
        if message["role"] == "assistant" and all(message.get(name) is None for name in SAID):
            raise QwenError("a message of the assistant says nothing: it needs content, tool_calls or "
                            "reasoning_content.")
    if not messages or messages[-1]["role"] != "assistant":
        raise QwenError("a chat to learn from ends with a message of the assistant, and this one does not.")
    if all(message.get("weight") == 0 for message in messages if message["role"] == "assistant"):
        raise QwenError("all answers have the weight 0, so there is nothing to learn: leave this chat out.")
    for message in messages:
        if isinstance(message.get("content"), list):
            message["content"] = [_beside(folder, part) for part in message["content"]]
    media_of(messages)                                  # complains of parts that wait for their picture
    tools = given.get("tools", [])
    try:
        tools = json.loads(tools) if isinstance(tools, str) else tools  # as tables hold them
    except ValueError as error:
        raise QwenError(f"its tools are a text, but not valid JSON ({short(error)}).") from None
    return Chat(where, messages, list(describe_all(tools).values()))


def _beside(folder: Path, part: dict) -> dict:
    """A part of a message, with the path of what lies in the folder of the file of chats."""
    path = part.get(part["type"])
    here = isinstance(path, str) and os.path.isfile(folder / path)
    return part | {part["type"]: str(folder / path)} if here and part["type"] != "text" else part


def rows_of(chat: Chat, qwen: Assistant) -> list[Row]:
    """A chat as sequences, each with what is to be learnt in it.

    Raises:
        QwenError: a picture is missing, or the template refuses the chat, or writes it in a way that is not understood.
    """
    tokenizer, tools, rows = qwen.tokenizer, chat.tools or None, []
    switches = (False, True) if tokenizer.supports_thinking else (None,)
    for n, message in enumerate(chat.messages):
        if message["role"] != "assistant" or message.get("weight") == 0:        # 0: to be read, and not learnt
            continue
        so_far = chat.messages[: n + 1]
        with _told(chat.where):
            inputs = qwen.inputs(so_far, add_generation_prompt=False, tools=chat.tools)
            text = tokenizer.encode_chat(so_far, add_generation_prompt=False, tools=tools)   # pictures are one token
            prompts = [tokenizer.encode_chat(so_far[:-1], thinking=switch, tools=tools) for switch in switches]
            begins = [len(prompt) for prompt in prompts if text[: len(prompt)] == prompt]
            answer = text[max(begins, default=len(text)) :]
            first = len(inputs.ids) - len(answer)
            if not answer or inputs.ids[first:] != answer:
                raise QwenError("the chat template writes an answer here in another way than it asks for one, so what "
                                "is to be learnt cannot be told.")
        ends = [i for i, id in enumerate(answer) if id in tokenizer.stop_ids]
        ids, learnt = torch.tensor(inputs.ids, dtype=torch.int32), torch.zeros(len(inputs.ids), dtype=torch.bool)
        learnt[first : first + ends[-1] + 1 if ends else None] = True
        if rows and ids[: len(rows[-1].ids)].equal(rows[-1].ids):        # the same sequence, only further on
            learnt[: len(rows[-1].ids)] |= rows.pop().learnt
        rows.append(Row(chat.where, ids, learnt, so_far if inputs.media else None))
    return rows


def digest(rows: Sequence[Row]) -> str:
    """By which one knows the same rows again, their pictures included."""
    seen = hashlib.sha256()
    for row in rows:
        seen.update(row.ids.numpy().tobytes() + row.learnt.numpy().tobytes())
        for picture in chain(*media_of(row.messages or [])):
            there = isinstance(picture, str) and os.path.isfile(picture)
            seen.update(Path(picture).read_bytes() if there else repr(picture).encode())
    return seen.hexdigest()


# ------------------------------------------------------------------------------------------------------------- packing


class Packed(NamedTuple):
    """Several rows as one sequence, of which none sees another."""

    input_ids: Tensor                                   # (1, T)
    targets: Tensor                                     # (T,) the next token where it is to be learnt, else -100
    cu_seqlens: Tensor                                  # (rows + 1,)
    media: dict[str, Tensor]                            # by the names of `Qwen.forward`'s arguments


def packed(rows: Sequence[Row], length: int) -> list[list[Row]]:
    """The rows in as few packs of up to `length` tokens as one finds by filling the longest in first."""
    packs = []
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        there = next((pack for pack in packs if sum(len(one.ids) for one in pack) + len(row.ids) <= length), None)
        if there is None:
            packs.append(there := [])
        there.append(row)
    return packs


def shares(rows: Sequence[Row], length: int, rank: int, ranks: int) -> Iterator[tuple[list[Row], bool]]:
    """One rank's packs of some rows, and whether each counts.

    Ranks compute in step, so all have as many packs, and where one looks at a picture all do: rows with pictures, with
    clips, and with neither are shared out apart, longest first, and who has a pack fewer reads one that does not count.
    """
    kinds = defaultdict(list)
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        kinds[ranks > 1 and tuple(map(bool, media_of(row.messages or [])))].append(row)
    for kind in sorted(kinds):
        packs = [packed(kinds[kind][n::ranks], length) for n in range(ranks)]
        yield from ((pack, True) for pack in packs[rank])
        yield from [(packs[0][0], False)] * (max(map(len, packs)) - len(packs[rank]))


def pack(rows: Sequence[Row], qwen: Assistant) -> Packed:
    """What the model reads of some rows, on its device."""
    device, seen = qwen.model.head_weight.device, []
    for row in rows:
        if row.messages is not None:
            with _told(row.where):
                seen.append(qwen.inputs(row.messages, add_generation_prompt=False).media)
    ids, learnt = torch.cat([row.ids for row in rows]).long(), torch.cat([row.learnt for row in rows])
    targets = ids.masked_fill(~learnt, -100).roll(-1)       # the first token of a row is never learnt: no row asks the
    ends = torch.tensor([0, *(len(row.ids) for row in rows)]).cumsum(0)                     # one before for its token
    names = dict.fromkeys(name for media in seen for name in media)
    media = {name: torch.cat([media[name] for media in seen if name in media]).to(device) for name in names}
    return Packed(ids[None].to(device), targets.to(device), ends.to(device), media)
