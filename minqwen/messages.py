"""What is given to a chat: a text or messages, and pictures and clips, beside them or in them.

A message's content is a text, or a list of parts: {"type": "text", "text": ...}, {"type": "image", "image": ...} and
{"type": "video", "video": ...}. The chat template only looks at the type; the picture itself goes to the processor.
A key that holds None is as good as none: rows of a table have a column for each key that some row needs.
And the arguments of a call are an object, or the text of one, as OpenAI's API writes them.
"""

import json
from collections.abc import Sequence

from .errors import QwenError, short

__all__ = ["as_messages", "media_of"]

KINDS = ("image", "video")
NAMES = ("url", "path", "base64")  # under which `transformers` takes pictures and clips as well


def as_messages(messages: "str | list[dict]", system: str | None = None, images: Sequence = (),
                videos: Sequence = ()) -> list[dict]:
    """A chat as a list of messages: the system's first, with these pictures and clips in it.

    Raises:
        QwenError: it is no chat; there are two system messages; pictures that have no place, or places without one.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, list | tuple) or not all(isinstance(message, dict) for message in messages):
        raise QwenError("A chat is a text or a list of messages such as {'role': 'user', 'content': 'Hi'}.")
    given = {"image": _several(images), "video": _several(videos)}
    messages = _illustrated([_tidy(message) for message in messages], given)
    if system is None:
        return messages
    if messages and messages[0].get("role") == "system":
        raise QwenError("These messages begin with the system's already: leave out `system`, or that message.")
    return [{"role": "system", "content": system}, *messages]


def media_of(messages: list[dict]) -> tuple[list, list]:
    """All pictures and all clips of a chat, in order of reading.

    Raises:
        QwenError: a part is nothing known, or waits for its picture.
    """
    for kind in KINDS:
        for part in _parts(messages, kind):
            if part.get(kind) is None:
                raise QwenError(f"A message has a part {{'type': '{kind}'}} without its {kind}: put it in as '{kind}', "
                                f"or give {kind}s=[...].")
    pictures, clips = ([part[kind] for part in _parts(messages, kind)] for kind in KINDS)
    return pictures, clips


def _illustrated(messages: list[dict], given: dict[str, list]) -> list[dict]:
    """The messages with these pictures and clips: where a part waits for one, or else before the last question."""
    parts = {kind: _parts(messages, kind) for kind in given}
    if not any(given.values()):
        return messages
    if any(part.get(kind) is not None for kind in given for part in parts[kind]):
        raise QwenError("The messages hold pictures or clips, and more are given beside them: put all into the "
                        "messages, or all into images= and videos=.")
    if not any(parts.values()):
        last = max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=None)
        if last is None:
            raise QwenError("Pictures and clips stand before a user's question, but there is none in these messages.")
        content = messages[last].get("content")
        text = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        media = [{"type": kind, kind: x} for kind, things in given.items() for x in things]
        return [*messages[:last], messages[last] | {"content": media + text}, *messages[last + 1 :]]
    for kind, things in given.items():
        if len(things) != len(parts[kind]):
            raise QwenError(f"The messages have {len(parts[kind])} parts {{'type': '{kind}'}}, but {len(things)} "
                            f"{kind}s are given for them.")
    waiting = {kind: iter(things) for kind, things in given.items()}

    def filled(part):
        kind = _kind(part)
        return part if kind == "text" else part | {kind: next(waiting[kind])}

    return [message | {"content": [filled(part) for part in message["content"]]}
            if isinstance(message.get("content"), list) else message for message in messages]


def _parts(messages: list[dict], kind: str) -> list[dict]:
    """All parts of one kind, in order of reading."""
    contents = (message.get("content") for message in messages)
    return [part for content in contents if isinstance(content, list) for part in content if _kind(part) == kind]


def _kind(part) -> str:
    """What a part of a message is: an "image", a "video" or a "text"; by what it holds, its type, its keys."""
    kinds = (*KINDS, "text") if isinstance(part, dict) and isinstance(part.get("type"), str | None) else ()
    for kind in kinds:
        if part.get(kind) is not None or part.get("type") == kind:
            return kind
    for kind in kinds:
        if kind in part:
            return kind
    raise QwenError("A message's content is a text, or a list of parts such as {'type': 'text', 'text': 'Hi'} and "
                    f"{{'type': 'image', 'image': 'photo.jpg'}}, and this is none: {str(part)[:60]}.")


def _tidy(message: dict) -> dict:
    """The message with parts that say what they are, hold pictures and clips under that name, and hold no None; and
    with calls whose arguments are objects."""
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list):
        message = message | {"content": list(map(_tidy_part, content))}
    if not isinstance(calls, list | tuple | None):      # templates would pass over them
        raise QwenError(f"The tool_calls of a message are a list of calls, and not {short(repr(calls))}.")
    return message if calls is None else message | {"tool_calls": list(map(_tidy_call, calls))}


def _tidy_part(part) -> dict:
    kind, held = _kind(part), {key: x for key, x in part.items() if x is not None}
    named = [held[key] for key in NAMES if key in held]
    return {"type": kind} | held | ({kind: named[0]} if kind in KINDS and kind not in held and named else {})


def _tidy_call(call) -> dict:
    if isinstance(call, dict) and isinstance(call.get("function"), dict):
        return call | {"function": _tidy_call(call["function"])}
    name, arguments = (call.get("name"), call.get("arguments")) if isinstance(call, dict) else (None, None)
    try:
        arguments = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        pass                                            # it stays a text, which is told
    if not isinstance(name, str) or not isinstance(arguments, dict | None):
        raise QwenError("A call is {'function': {'name': 'add', 'arguments': {'a': 1}}}, its arguments an object or "
                        f"the text of one in JSON, and this is none: {short(repr(call))}.")
    return call | {"arguments": arguments or {}}


def _several(things) -> list:
    """A list of pictures or clips; a single one may come without a list."""
    return list(things) if isinstance(things, list | tuple) else [] if things is None else [things]
