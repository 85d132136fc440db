"""The chat panel: a conversation with the model, as it comes.

The model speaks in a thread of its own, so that the kernel can hear the stop button meanwhile. What it has said so far
is a trait, `speaking`; at the end of the answer it becomes one of the `turns`. Both are all that the browser draws.
"""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import traitlets
from matplotlib.figure import Figure

from ..errors import QwenError, short
from ..media import load_image
from . import stills
from .explorer import Explorer, Switch, sources

PAUSE = 0.04                                    # seconds between two pictures of an answer that is coming
SMALL = 160                                     # pixels on the longer side of a picture as the panel shows it
HELLO = "What can I ask you?"                   # begins the talk that a page shows in which nothing was said
LONGEST = 64                                    # tokens of an answer there


def joined(parts: list[dict], piece) -> list[dict]:
    """The parts of an answer with one more `Piece`: neighbours of one kind are one part.

    A part is {"kind": "text", "thinking", "call" or "result", "text": what it says}.
    """
    kind = piece.tool or ("thinking" if piece.thinking else "text")
    if parts and parts[-1]["kind"] == kind and not piece.tool:
        return [*parts[:-1], {"kind": kind, "text": parts[-1]["text"] + piece}]
    return [*parts, {"kind": kind, "text": str(piece)}]


def turn(who: str, parts: list[dict], pictures=(), stopped: bool = False) -> dict:
    """What one of the two has said, as the browser draws it."""
    return {"who": who, "parts": parts, "pictures": list(pictures), "stopped": stopped}


def thumbnail(picture) -> str:
    """A picture made small, as a data URL."""
    small = picture.copy()
    small.thumbnail((SMALL, SMALL))
    png = io.BytesIO()
    small.convert("RGB").save(png, "PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


class ChatPanel(Explorer):
    """Talk with a model: it streams its answers, folds its thoughts away, and can be stopped.

        ChatPanel(qwen)
        ChatPanel(qwen, thinking=True, system="Be brief.", tools=[add])

    It runs beside the notebook's cells: wait for the end of an answer before you use the same model in a cell.

    Args:
        qwen: what `minqwen.load()` gives.
        thinking: whether the switch is on at first; None: as the checkpoint has it.
        system, tools, options: as in `Assistant.conversation`.
        recorded: what is asked for where no kernel runs, while nothing was said in the panel: the picture in a notebook
            and the page of `to_html` show how the model answers that. With () the picture is of an empty panel.

    Raises:
        QwenError: a checkpoint that cannot chat, a switch that it does not have.
    """

    _esm, _css = sources("chat")
    position = ("turns", "thinking", "speaking")

    turns = traitlets.List().tag(sync=True)                 # each as `turn` makes it
    speaking = traitlets.Dict().tag(sync=True)              # the turn that is coming, {} if none is
    thinking = Switch(False).tag(sync=True)

    def __init__(self, qwen, *, thinking: bool | None = None, system: str | None = None,
                 tools: "Sequence[Callable | dict]" = (), recorded: Sequence[str] = (), **options):
        tokenizer = getattr(qwen, "tokenizer", None)
        if not hasattr(qwen, "conversation") or tokenizer is None:
            raise QwenError("A chat needs what minqwen.load() gives, with a tokenizer.")
        if thinking and not tokenizer.supports_thinking:
            raise QwenError("The chat template of this model has no thinking switch: leave `thinking` out.")
        if not isinstance(recorded, list | tuple) or not all(isinstance(question, str) for question in recorded):
            raise QwenError(f"recorded is a list of questions, such as [{HELLO!r}], and not {short(repr(recorded))}.")
        self.qwen, self._stop, self._thread = qwen, threading.Event(), None
        self.recorded, self._talks = tuple(recorded), {}    # questions -> the turns of that talk
        self._begin = lambda: qwen.conversation(system=system, tools=tools, **options)
        self.talk = self._begin()                           # a `Conversation`
        super().__init__(story={
            "title": "Talk", "name": qwen.folder.name if qwen.folder else "the model", "live": True,
            "thinks": bool(tokenizer.supports_thinking), "sees": qwen.processor is not None,
        })
        self.thinking = bool(tokenizer.thinking_by_default) if thinking is None else thinking

    # -------------------------------------------------------------------------------------------------------- talking

    def say(self, text: str, images: Iterable = ()) -> None:
        """Say something. The answer comes by and by, in `speaking` and then in `turns`; `wait` waits for it.

        Args:
            images: anything that `media.load_image` takes.

        Raises:
            QwenError: an answer is still coming; pictures for a model that has no eyes, or that cannot be read.
        """
        if self.busy:
            raise QwenError("The model is still speaking: wait, or stop it.")
        if not text.strip():
            raise QwenError("There is nothing to send: write something first.")
        pictures = [load_image(image) for image in images]
        self.talk.thinking = self.thinking if self.story["thinks"] else None
        pieces = self.talk(text, images=pictures, stream=True)              # complains now, if it must
        self.problem = ""
        self._stop.clear()
        said = turn("you", [{"kind": "text", "text": text}], map(thumbnail, pictures))
        self.turns = [*self.turns, said]
        self.speaking = {"parts": []}
        self._thread = threading.Thread(target=self._speak, args=(pieces,), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Let the model break off. What it has said so far stays in the conversation."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Wait until the answer is complete, or for so many seconds."""
        if self._thread is not None:
            self._thread.join(timeout)

    def new(self) -> None:
        """Stop, and begin a new conversation."""
        self.stop()
        self.wait()
        self.talk, self.turns, self.problem = self._begin(), [], ""

    @property
    def busy(self) -> bool:
        """Whether an answer is coming."""
        return bool(self.speaking)

    def _speak(self, pieces):
        parts, shown = [], 0.0
        try:
            for piece in pieces:
                parts = joined(parts, piece)
                if time.monotonic() - shown > PAUSE:
                    self.speaking, shown = {"parts": parts}, time.monotonic()
                if self._stop.is_set():
                    break
        except Exception as error:                          # nobody else would see it: this is a thread of its own
            self.problem = f"{type(error).__name__}: {error}"
        finally:
            pieces.close()
            if parts:
                self.turns = [*self.turns, turn("model", parts, stopped=self._stop.is_set())]
            self.speaking = {}

    def _answer(self, _, message, buffers):                 # a button or a key in the browser
        with self._errors_shown():
            if "say" in message:
                self.say(message["say"], [bytes(buffer) for buffer in buffers or ()])
            elif "stop" in message:
                self.stop()
            else:
                self.new()

    def _record(self, questions: tuple[str, ...]) -> list[dict]:
        """The turns of a talk of its own: these questions, and the likeliest answers to them. It is had only once."""
        if questions not in self._talks:
            talk, turns = self._begin(), []
            for question in questions:
                parts = []
                for piece in talk(question, stream=True, temperature=0.0, max_new_tokens=LONGEST):
                    parts = joined(parts, piece)
                turns += [turn("you", [{"kind": "text", "text": question}]), turn("model", parts)]
            self._talks[questions] = turns
        return self._talks[questions]

    # ------------------------------------------------------------------------------------------- what can be had of it

    def still(self) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description; of an empty panel, what is recorded."""
        said = [(one["who"], "".join(part["text"] for part in one["parts"] if part["kind"] == "text"))
                for one in self.turns or self._record(self.recorded)]
        if not said:
            name = self.story["name"]
            return stills.dialogue([(name, "Write something.")]), f"A chat with {name} in which nothing was said yet."
        return stills.dialogue(said), " ".join(f"{who}: {text}" for who, text in said)

    def to_html(self, path):
        """Write a page with what was said, or with a talk that is recorded now. To go on talking takes a kernel."""
        turns = self.turns or self._record(self.recorded or (HELLO,))
        position = {"turns": turns, "thinking": self.thinking, "speaking": {}}
        return self._write_page(path, self.story | {"live": False, "recorded": not self.turns}, [], position)

    def __repr__(self) -> str:
        return f"ChatPanel({self.story['name']}, {len(self.turns)} turns)"
