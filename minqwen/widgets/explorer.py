"""What every explorer is: a few numbers to move, data sent once, one ES module that draws, and a page to share.

The browser draws everything by itself; the kernel only hands out data:

    story    JSON, small and whole: tokens, sizes, colours
    pages    name -> bytes, what the pictures are made from; the module asks for those that did not come at once

The same module, `story` and `pages` make the widget in a notebook and the self-contained page of `to_html`.
"""

import base64
import html
import json
import re
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path

import anywidget
import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure

from .. import plots
from ..errors import QwenError, short
from ..trace import Trace
from ..trace import trace as traced

HERE = Path(__file__).parent

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ margin: 0; padding: 2.5vmin; background: light-dark(#f4f5f7, #0e0f12); }}
main {{ max-width: 62rem; margin: 0 auto; }}
{css}
</style>
</head>
<body>
<main></main>
<script id="state" type="application/json">{state}</script>
<script type="module">
{module}
// Where there is no kernel, this stands in for the widget's model.
const state = JSON.parse(document.querySelector("#state").textContent);
const listeners = {{}};
explorer.render({{
  el: document.querySelector("main"),
  model: {{
    get: (name) => state[name],
    set: (name, value) => {{
      const changed = state[name] !== value;
      state[name] = value;
      if (changed) (listeners[`change:${{name}}`] ?? []).forEach((listener) => listener());
    }},
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off: () => {{}}, save_changes: () => {{}}, send: () => {{}},
  }},
}});
// A page that shows this one in a frame learns how high it is.
const tell = () => parent.postMessage({{ height: document.body.offsetHeight }}, "*");
if (parent !== window) new ResizeObserver(tell).observe(document.body);
</script>
</body>
</html>
"""


IMPORT = re.compile(r'^import [^;]*? from "(\.{1,2}/[\w./]+)";\n', flags=re.MULTILINE)


def module(name: str, folder: Path = HERE) -> str:
    """An ES module as one text, as a notebook takes it: its file and, before it, once each, what it imports.

    It is an explorer's, or one of another folder. A sheet that is imported is the text of that sheet.
    """
    parts = {}

    def add(file: Path):
        text = file.read_text(encoding="utf-8")
        for imported in IMPORT.findall(text):
            if (path := (file.parent / imported).resolve()) not in parts:
                add(path)
        if file.suffix == ".css":
            parts[file] = f"const sheet = {json.dumps(text)};\n"
        else:
            parts[file] = re.sub(r"^export (?!default)", "", IMPORT.sub("", text), flags=re.MULTILINE)

    add((folder / f"{name}.js").resolve())
    return "".join(parts.values())


def sources(name: str) -> tuple[str, str]:
    """An explorer's module, and the sheet of its own; that which all share is in the module, and put on a page once."""
    return module(name), (HERE / f"{name}.css").read_text(encoding="utf-8")


def in_base64(ramp) -> dict[str, str]:
    """A ramp of colours, such as `plots.diverging`, for light and for dark pages, as `openPalette` reads it."""
    return {name: base64.b64encode(ramp(name == "dark").tobytes()).decode() for name in ("light", "dark")}


def traced_text(name: str, qwen, text) -> Trace:
    """The trace of a text, or the trace that was given; `name` is who asks."""
    if text is None:
        return qwen
    if (text.numel() if torch.is_tensor(text) else len(text) if hasattr(text, "__len__") else 1) == 0:
        raise QwenError(f"{name} has nothing to show: the text is empty. Give it a text with at least one token.")
    return traced(qwen).run(text)


def tokens_of(trace, row: int) -> list[dict]:
    """The tokens of a row of a trace without its pads: the text of each, and whether it is a special token."""
    special = trace.tokenizer.added_tokens.values() if trace.tokenizer is not None else ()
    texts, ids = trace.texts(row), trace.input_ids[row].tolist()
    return [{"text": texts[i], "special": ids[i] in special} for i in trace.valid[row].nonzero()[:, 0].tolist()]


def whole(name: str, value) -> int:
    """The value as a whole number, 3 of numpy's 3. Raises QwenError if it is none."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise QwenError(f"{name} is a whole number, and not {short(repr(value))}.")
    return int(value)


def token_at(token, count: int, name: str = "token") -> int:
    """A token's place; a negative one is counted from the end."""
    token = whole(name, token)
    return token + count if -count <= token < 0 else token


def row_of(trace, row) -> int:
    """A row of a trace; a negative one is counted from the end. Raises QwenError if there is no such row."""
    row, rows = whole("row", row), len(trace.valid)
    if not -rows <= row < rows:
        raise QwenError(f"There is no row {row} in this trace; the last is {rows - 1}.")
    return row % rows


class Place(traitlets.Int):
    """A number that says where an explorer stands."""

    def validate(self, explorer, value):
        return whole(self.name, value)


class Switch(traitlets.Bool):
    """What is on or off."""

    def validate(self, explorer, value):
        if not isinstance(value, bool | np.bool_):
            raise QwenError(f"{self.name} is True or False, and not {short(repr(value))}.")
        return bool(value)


class Choice(traitlets.Unicode):
    """A name out of several: which there are, the explorer says."""

    def validate(self, explorer, value):
        return value


class Explorer(anywidget.AnyWidget):
    """A subclass has its module and sheet (`_esm`, `_css`), fills `story`, lists its `page_names`, makes a `page`."""

    story = traitlets.Dict().tag(sync=True)
    pages = traitlets.Dict().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)            # an error, for the widget to show

    at_once = 8_000_000                                     # bytes of pages that are sent without being asked for
    position = ()                                           # names of the traits that say where we are

    def __init__(self, **traits):
        super().__init__(**traits)
        self.on_msg(self._answer)

    def _place(self, *place) -> list:
        """Values of the traits in `position`, in that order; where one is None, our own. A subclass has `_checked`."""
        return [getattr(self, name) if x is None else self._checked(name, x) for name, x in zip(self.position, place)]

    def page(self, name: str) -> bytes:
        raise NotImplementedError

    def page_names(self) -> list[str]:
        raise NotImplementedError

    def still(self) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description. A subclass may take a place."""
        raise NotImplementedError

    def picture(self, *place, alt: str | None = None, **named) -> None:
        """Show the same as a figure that stands still, with its description: for pages where no explorer can run.

        Args:
            place, named: what is to be shown, as `still` takes it; where the explorer stands if nothing is said.
            alt: another description.
        """
        figure, description = self.still(*place, **named)
        plots.show(figure, alt or description)

    def _repr_mimebundle_(self, **kwargs):
        """What a notebook keeps: the widget, and a picture for where there is no kernel - GitHub, VS Code, paper."""
        data, metadata = super()._repr_mimebundle_(**kwargs)
        figure, alt = self.still()
        png = base64.b64encode(plots.png(figure)).decode()
        return data | {"image/png": png}, metadata | {"image/png": {"alt": alt}}

    def to_html(self, path) -> Path:
        """Write one page that holds everything - module, data, colours - and needs no kernel and no network."""
        return self._write_page(path, self.story, self.page_names(), {x: getattr(self, x) for x in self.position})

    def _write_page(self, path, story: dict, names: list[str], position: dict) -> Path:
        path = Path(path)
        pages = {name: base64.b64encode(self.page(name)).decode() for name in names}
        state = {"story": story, "pages": pages, "problem": "", **position}
        module = self._esm.replace("export default", "const explorer =")
        path.write_text(PAGE.format(
            title=html.escape(story["title"]), css=self._css, module=module,
            state=json.dumps(state).replace("<", "\\u003c"),            # so that no text can close the script
        ), encoding="utf-8")
        return path

    @contextmanager
    def _errors_shown(self):
        """In a callback nobody sees an error: Jupyter writes it to a log. Here it is shown where the reader looks."""
        try:
            yield
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"
            raise

    def _answer(self, _, message, buffers):
        with self._errors_shown():
            self.send({"page": message["want"]}, [self.page(message["want"])])

    def set_state(self, sync_data):                         # a move in the browser; observers hear of it in here
        with self._errors_shown():
            super().set_state(sync_data)


class LayerExplorer(Explorer):
    """What is shown of all layers of a text: a story whose "layers" have each an "index" and a number of "heads".

    A subclass says for how many tokens there is room (`longest`), and what it has in place of heads (`rows`).
    """

    longest, rows = 0, "head"

    layer, head, token = (Place().tag(sync=True) for _ in range(3))

    def _read(self, qwen, text, row: int) -> list[dict]:
        """Run the text, or take the trace; keep its records, without the pads -> the tokens, for the story."""
        name = type(self).__name__
        if isinstance(qwen, Trace) != (text is None):
            raise QwenError(f"Give a model and a text, {name}(qwen, 'Ann has ...'), or a trace alone.")
        self.trace = traced_text(name, qwen, text)
        self.row = row_of(self.trace, row)
        self._records = {record.index: record for record in self.trace.layers}
        self._real = self.trace.valid[self.row].nonzero()[:, 0]
        tokens = tokens_of(self.trace, self.row)
        if len(tokens) > self.longest:
            raise QwenError(f"{name} has room for {self.longest} tokens, but these are {len(tokens)}: give a shorter "
                            "text.")
        return tokens

    def to_html(self, path, layers: list[int] | None = None) -> Path:
        """Write one page that holds everything and needs no kernel and no network.

        Args:
            path: the file to write.
            layers: which layers to put in, by their numbers in the model; all if None. (The page of a large model or a
                long text is large: name a few.)
        """
        numbers = {self._checked("layer", x) for x in (self._records if layers is None else layers)}
        if not numbers:
            raise QwenError("A page needs at least one layer: to_html(path, layers=[0]).")
        kept = [x for x in self.story["layers"] if x["index"] in numbers]
        position = {name: getattr(self, name) for name in self.position}
        if self.layer not in numbers:
            position |= {"layer": kept[0]["index"], "head": min(self.head, kept[0]["heads"] - 1)}
        return self._write_page(path, self.story | {"layers": kept, "all_here": True}, self.page_names(kept), position)

    def _layer(self, index: int) -> dict:
        return next(x for x in self.story["layers"] if x["index"] == index)

    @traitlets.validate("token", "layer", "head")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    @traitlets.observe("layer")
    def _keep_to_its_heads(self, change):
        self.head = min(self.head, self._layer(self.layer)["heads"] - 1)

    def _place(self, token, layer, head) -> list[int]:
        """A token, layer and head; where one is None, our own."""
        layer = self._checked("layer", self.layer if layer is None else layer)
        token = self._checked("token", self.token if token is None else token)
        own = min(self.head, self._layer(layer)["heads"] - 1)
        return [token, layer, self._checked("head", own if head is None else head, layer)]

    def _checked(self, name: str, value, layer: int | None = None):
        """The value, if there is such a layer, head (of that layer, or ours) or token."""
        value = whole(name, value)
        if name == "layer":
            there = list(self._records)
        elif name == "head":
            there = range(self._layer(self.layer if layer is None else layer)["heads"])
        else:
            there = range(len(self.story["tokens"]))
        if value not in there:
            what = {"layer": "layer", "head": self.rows}.get(name, "token")
            raise QwenError(f"There is no {what} {value} to explore; the last is {there[-1]}.")
        return value
