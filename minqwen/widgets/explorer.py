"""What every explorer is: a few numbers to move, data sent once, one ES module that draws, and a page to share.

The browser draws everything by itself; the kernel only hands out data:

    story    JSON, small and whole: tokens, sizes, colours
    pages    name -> bytes, what the pictures are made from; the module asks for those that did not come at once

The same module, `story` and `pages` make the widget in a notebook and the self-contained page of `to_html`.
"""

import base64
import html
import json
from contextlib import contextmanager
from pathlib import Path

import anywidget
import traitlets

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


def sources(name: str) -> tuple[str, str]:
    """An explorer's module and style sheet: what all share, and its own behind it."""
    return tuple("".join((HERE / f"{part}.{kind}").read_text(encoding="utf-8") for part in ("explorer", name))
                 for kind in ("js", "css"))


def in_base64(ramp) -> dict[str, str]:
    """A ramp of colours, such as `plots.diverging`, for light and for dark pages, as `openPalette` reads it."""
    return {name: base64.b64encode(ramp(name == "dark").tobytes()).decode() for name in ("light", "dark")}


def tokens_of(trace, row: int) -> list[dict]:
    """The tokens of a row of a trace without its pads: the text of each, and whether it is a special token."""
    special = trace.tokenizer.added_tokens.values() if trace.tokenizer is not None else ()
    texts, ids = trace.texts(row), trace.input_ids[row].tolist()
    return [{"text": texts[i], "special": ids[i] in special} for i in trace.valid[row].nonzero()[:, 0].tolist()]


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

    def page(self, name: str) -> bytes:
        raise NotImplementedError

    def page_names(self) -> list[str]:
        raise NotImplementedError

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
