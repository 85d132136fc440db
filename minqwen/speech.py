"""New tokens back into text: what of an answer is thinking, what is a call, and what is said."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from .template import plain_data, unused
from .tokenizer import Tokenizer, opens_thinking
from .tools import ToolCall, find_tool_calls

__all__ = ["Piece", "Reply", "Speech"]

FUNCTION = "<function="


class Reply(str):
    """An answer. It is the text, without thinking and calls.

    Attributes:
        thinking: what the model thought before it, "" if it did not.
        tool_calls: the `ToolCall`s of this turn, each with its result; None where it was not run.
        messages: what this turn adds to the chat: calls, their results and the answer. Go on with
            `messages + reply.messages`.
        finish: "stop" - it ended by itself; "budget" - so it did, but its thinking was cut at `thinking_budget`;
            "length" - it was cut at `max_new_tokens`, or the context was full;
            "tools" - its last calls were not run: they are for you, or there were `max_tool_rounds` before them.
        ids: every new token, thinking and the token it stopped at included; if tools were called, those since then.
        prompt: the whole text that the model read before these.
    """

    def __new__(cls, answer="", thinking="", ids=(), prompt="", finish="stop", tool_calls=(), messages=()):
        self = super().__new__(cls, answer)
        self.thinking, self.ids, self.prompt, self.finish = thinking, list(ids), prompt, finish
        self.tool_calls, self.messages = list(tool_calls), list(messages)
        return self

    @property
    def stopped(self) -> bool:
        """Whether the model ended the answer by itself."""
        return self.finish in ("stop", "budget")


class Piece(str):
    """Some text of an answer, never half a character.

    thinking: whether it is part of the thinking.
    tool:     "call" for the text of a call, whole, and "result" for what came back; else None.
    """

    def __new__(cls, text="", thinking=False, tool=None):
        self = super().__new__(cls, text)
        self.thinking, self.tool = thinking, tool
        return self


class Speech:
    """Turns one answer's tokens into text, and knows what of it is thinking and what a call.

    A think block is open from the start if the prompt opened it, or opens with `<think>` where nothing was said yet;
    it ends with `</think>`. If there are tools, `<tool_call>` begins calls - or `<function=`, where that is missing. A
    value may hold whole calls, so they are read where the answer ends or its thinking; what is no call is text. In
    other places, and spelt with other tokens, these tags are text like any other.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, thinking_budget: int | None = None,
                 tools: "Sequence[Callable | dict]" = ()):
        self.tokenizer, self.prompt, self.thinking_budget, self.tools = tokenizer, prompt, thinking_budget, tools
        self.decoder = tokenizer.stream()
        names = ["<think>", "</think>"] + (["<tool_call>", "</tool_call>"] if tools else [])
        self.tags = {tokenizer.fast.token_to_id(name): name for name in names}
        self.thinking = self.trim = opens_thinking(prompt)  # trim: line breaks behind a tag belong to the template
        self.may_open = not self.thinking                   # until something is said
        self.waiting = ""                                   # what may become "<function="
        self.held: list[str] | None = None                  # what may be calls: a text, a tag, a text, ...
        self.calls: list[tuple[Piece, list[ToolCall]]] = []
        self.pieces: list[Piece] = []
        self.ids, self.thought = [], 0                      # all tokens; how many were thinking

    def follow(self, ids: Iterable[int]) -> Iterator[Piece]:
        """The text of these tokens, piece by piece, without special tokens. A call is one piece, when all is said."""
        for piece in self._follow(ids):
            self.pieces.append(piece)
            yield piece

    def _follow(self, ids):
        for id in ids:
            self.ids.append(id)
            if id in self.tokenizer.stop_ids:
                continue
            tag = self._tag(id)
            self.thought += self.thinking and tag != "</think>"
            yield from self._hear(self.decoder.flush() if tag else self.decoder.push(id))
            if tag in ("<tool_call>", "</tool_call>"):
                yield from self._say(self._no_longer_waiting())
                self.held = [*(self.held or [""]), tag, ""]
            elif tag:
                yield from self._release()
                self.thinking, self.may_open, self.trim = not self.thinking, False, True
        yield from self._hear(self.decoder.flush())
        yield from self._release()

    def _tag(self, id: int) -> str | None:
        """The tag that this token is here; None if it is text."""
        counts = {"<think>": self.may_open and not self.waiting and self.held is None, "</think>": self.thinking,
                  "<tool_call>": True, "</tool_call>": self.held is not None, None: False}
        name = self.tags.get(id)
        return name if counts[name] else None

    def _hear(self, text: str) -> Iterator[Piece]:
        """Say a text, unless it may be a call's: then it is held."""
        if self.held is None and self.tools:
            text, function, rest = (self._no_longer_waiting() + text).partition(FUNCTION)
            if function:
                self.held = [function + rest]
            else:
                whole = next(n for n in range(len(text) + 1) if FUNCTION.startswith(text[n:]))
                text, self.waiting = text[:whole], text[whole:]
            yield from self._say(text)
        elif self.held is None:
            yield from self._say(text)
        else:
            self.held[-1] += text

    def _say(self, text: str) -> Iterator[Piece]:
        text = text.lstrip("\n") if self.trim else text
        if text:
            self.trim, self.may_open = False, self.may_open and text.isspace()
            yield Piece(text, self.thinking)

    def _no_longer_waiting(self) -> str:
        text, self.waiting = self.waiting, ""
        return text

    def _release(self) -> Iterator[Piece]:
        """Say what waited, and of the text that was held make calls, as far as it is some."""
        yield from self._say(self._no_longer_waiting())
        held, self.held, end = self.held or [], None, 0
        seam = unused("".join(held))

        def mended(text):
            return text.replace(seam, "")

        parts = [part if n % 2 else part.replace("tool_call>", f"tool_call{seam}>") for n, part in enumerate(held)]
        text = "".join(parts)                               # in which a tag that is no token of its own is broken
        for start, stop, calls in find_tool_calls(text, self.tools):
            yield from self._say(mended(text[end:start]))
            for one in calls:
                one.name, one.arguments = mended(one.name), plain_data(one.arguments, mended)
            self.trim, self.may_open, piece = True, False, Piece(mended(text[start:stop]), self.thinking, "call")
            self.calls.append((piece, calls))
            yield piece
            end = stop
        yield from self._say(mended(text[end:]))

    def reply(self) -> Reply:
        """All that was followed, as one answer. Calls in the thinking count where nothing comes after it."""
        answer = "".join(piece for piece in self.pieces if not (piece.thinking or piece.tool))
        said = [one for piece, calls in self.calls if not piece.thinking for one in calls]
        thought = [one for piece, calls in self.calls if piece.thinking for one in calls]
        calls = said if said or answer.strip() else thought
        thinking = "".join(piece for piece in self.pieces if piece.thinking and not (piece.tool and calls is thought))
        if not self.ids or self.ids[-1] not in self.tokenizer.stop_ids:
            finish = "length"
        else:
            finish = "stop" if self.thinking_budget is None or self.thought <= self.thinking_budget else "budget"
        return Reply(answer.strip() if calls else answer, thinking.rstrip("\n"), self.ids, self.prompt, finish, calls)
