"""The state explorer: the memory of one Gated DeltaNet head, token by token.

No pictures are sent. The browser gets keys, values, alphas and betas, runs the delta rule itself and colours what comes
out: kilobytes instead of megabytes, every number exact under the pointer, and no kernel in between. `frame` is the same
in Python. Both count in double precision, each sum and product in the same order, so that all their pixels are equal.
"""

import base64
from pathlib import Path

import numpy as np
import torch
import traitlets

from .. import plots
from ..errors import QwenError
from ..trace import Trace, trace
from .explorer import Explorer, sources

# ------------------------------------------------------------------------------------- what is drawn, as pure functions


def step(state, k, v, alpha, beta) -> dict:
    """One token's step of the gated delta rule, with all that can be seen of it.

    state (Dk, Dv), k (Dk,), v (Dv,), all float64. Sums over key dimensions run from the first to the last.
    """
    decayed = alpha * state
    answer = np.cumsum(k[:, None] * decayed, axis=0)[-1]                # (Dv,)  what the memory answers to the key
    erased, written = k[:, None] * (beta * answer), k[:, None] * (beta * v)
    memory = decayed - erased + written
    return {"memory": memory, "decayed": decayed, "erased": erased, "written": written, "key": k,
            "now": np.cumsum(k[:, None] * memory, axis=0)[-1], "error": v - answer, "answer": answer, "value": v}


def layout(Dk: int, Dv: int) -> tuple[int, int, list]:
    """Height, width and places (name, scale, x, y, repeats down, repeats across) of what a frame is put together from.

    Four matrices in a row, memory = decayed - erased + written. Left of the last two the key, as a column. Below them,
    sharing their columns: the memory's answer to the key now, its error before, its answer before, the value.
    """
    unit = max(1, (Dk + 8) // 16)
    x = [i * (Dv + 6 * unit) for i in range(4)]
    places = [(name, "memory", x[i], 0, 1, 1) for i, name in enumerate(("memory", "decayed", "erased", "written"))]
    places += [("key", "key", x[i] - 2 * unit, 0, 1, unit) for i in (2, 3)]
    vectors = enumerate(("now", "error", "answer", "value"))
    places += [(name, "value", x[i], Dk + unit, 2 * unit, 1) for i, name in vectors]
    return Dk + 3 * unit, x[3] + Dv, places


def frame(parts: dict, limits: dict, palette: np.ndarray) -> np.ndarray:
    """The picture of one step, exactly as the canvas has it: (height, width, 4) uint8, transparent between the parts.

    Args:
        parts: from `step`.
        limits: "memory", "key", "value" -> the number that gets the full colour.
        palette: (256, 3) uint8; entry 128 is zero.
    """
    height, width, places = layout(*parts["memory"].shape)
    picture = np.zeros((height, width, 4), dtype=np.uint8)
    for name, scale, x, y, down, across in places:
        part = parts[name]
        part = part if part.ndim == 2 else part[:, None] if name == "key" else part[None]
        part = part.repeat(down, axis=0).repeat(across, axis=1)
        shade = np.clip(np.floor(part / limits[scale] * 127 + 128.5), 1, 255).astype(int)
        picture[y : y + part.shape[0], x : x + part.shape[1]] = np.insert(palette[shade], 3, 255, axis=2)
    return picture


# ---------------------------------------------------------------------------------------------------------- the widget


class StateExplorer(Explorer):
    """Sliders and keys for token, layer and head; the memory there, and this step's fading, erasing and writing.

        StateExplorer(qwen, "ann has a red cup. ann now has a gold key.")
        StateExplorer(qwen, [{"role": "user", "content": "..."}])           # a chat, by the checkpoint's template
        StateExplorer(t)                                                    # a trace: of a generation, for example

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`; or a `Trace` that holds what is to be shown.
        text: a string, chat messages, token ids; not with a trace.
        token, layer, head: where to begin. `layer` is the layer's number in the model, `token` may be negative.
        row: which row of a traced batch.
    """

    _esm, _css = sources("state_explorer")
    position = ("token", "layer", "head")

    token, layer, head = (traitlets.Int().tag(sync=True) for _ in range(3))

    def __init__(self, qwen, text=None, *, token: int = -1, layer: int | None = None, head: int = 0, row: int = 0):
        if isinstance(qwen, Trace) != (text is None):
            raise QwenError("Give a model and a text, StateExplorer(qwen, 'ann has ...'), or a trace alone.")
        self.trace = qwen if text is None else trace(qwen).run(text)
        self.row = row
        self._records = {record.index: record for record in self.trace.delta_layers}
        if not self._records:
            raise QwenError("This model has no Gated DeltaNet layer, so there is no state to explore.")
        self._real = self.trace.valid[row].nonzero()[:, 0]              # pads do nothing: leave them out
        self._followed = (None, [])                                     # (layer, head), its steps
        first = next(iter(self._records.values()))
        (_, _, Hk, Dk), (Hv, Dv) = first.k.shape, first.v.shape[2:]
        special = self.trace.tokenizer.added_tokens.values() if self.trace.tokenizer is not None else ()
        texts, ids = self.trace.texts(row), self.trace.input_ids[row].tolist()
        tokens = [{"text": texts[i], "special": ids[i] in special} for i in self._real.tolist()]
        begins_empty = not any(record.initial_state[row].any() for record in self._records.values())
        story = {
            "title": "What the memory holds", "tokens": tokens, "layers": list(self._records),
            "key_heads": Hk, "value_heads": Hv, "key_dim": Dk, "value_dim": Dv, "begins_empty": begins_empty,
            "palettes": {name: base64.b64encode(plots.diverging(name == "dark").tobytes()).decode()
                         for name in ("light", "dark")},
        }
        self._size = 4 * (len(tokens) * (Hk * Dk + Hv * (Dv + 2)) + Hv * (3 + (0 if begins_empty else Dk * Dv)))
        super().__init__(story=story)
        self.layer = first.index if layer is None else layer
        self.token, self.head = range(len(tokens))[token] if -len(tokens) <= token < len(tokens) else token, head
        few = self._size * len(self._records) <= self.at_once
        self.pages = {name: self.page(name) for name in (self.page_names() if few else [str(self.layer)])}

    def page_names(self) -> list[str]:
        return [str(index) for index in self._records]

    def page(self, name: str) -> bytes:
        """A layer's numbers, little-endian float32, one after the other.

        k (T, Hk, Dk), v (T, Hv, Dv), alpha (T, Hv), beta (T, Hv), the limits of the colours (Hv, 3) for memory, key and
        value - and, where the memory does not begin empty, the initial state (Hv, Dk, Dv).
        """
        record, row = self._records[int(name)], self.row
        parts = [x[row, self._real] for x in (record.k, record.v, record.alpha, record.beta)]
        k, v = parts[0].float().abs().amax((0, 2)), parts[1].float().abs().amax((0, 2))     # (Hk,), (Hv,)
        # a memory's largest few entries would leave the rest pale: one in a hundred may be over the limit
        states = (record.states(head, row).abs().flatten(1) for head in range(len(v)))      # (T + 1, Dk Dv) each
        memory = torch.stack([x.topk(1 + x.shape[1] // 100).values[:, -1].amax() for x in states])      # (Hv,)
        limits = torch.stack((memory, k.repeat_interleave(len(v) // len(k)), v), dim=1)     # (Hv, 3)
        parts.append(limits.where(limits > 0, 1.0))
        if not self.story["begins_empty"]:
            parts.append(record.initial_state[row])
        return b"".join(x.float().cpu().contiguous().numpy().astype("<f4").tobytes() for x in parts)

    def to_html(self, path, layers: list[int] | None = None) -> Path:
        """Write one page that holds everything and needs no kernel and no network.

        Args:
            path: the file to write.
            layers: which layers to put in, by their numbers in the model; all if None. (A large model's page is large.)
        """
        layers = [self._checked("layer", layer) for layer in (self.story["layers"] if layers is None else layers)]
        position = {"token": self.token, "layer": self.layer if self.layer in layers else layers[0], "head": self.head}
        return self._write_page(path, self.story | {"layers": layers}, [str(layer) for layer in layers], position)

    def frame(self, token=None, layer=None, head=None, dark: bool = False) -> np.ndarray:
        """(height, width, 4) uint8: the canvas's pixels there; what is not given is where the explorer stands."""
        token, layer, head = self._place(token, layer, head)
        steps, limits = self._steps(layer, head)
        return frame(steps[token], limits, plots.diverging(dark))

    def picture(self, token=None, layer=None, head=None, alt: str | None = None) -> None:
        """The same as a figure that stands still, shown with its description: for pages where no explorer can run."""
        token, layer, head = self._place(token, layer, head)
        record, real = self._records[layer], self._real
        steps, limits = self._steps(layer, head)
        tokens = [token["text"] for token in self.story["tokens"]]
        alpha, beta = (gate[self.row, real, head] for gate in (record.alpha, record.beta))
        recall = record.answers(int(real[token]), head, self.row).cosine[real[: token + 1]]
        figure = plots.memory(steps[token], alpha, beta, recall, tokens, limits["memory"])
        plots.show(figure, alt or (
            f"Layer {layer}, head {head}, after token {token + 1} of {len(tokens)}: the memory as what faded, minus "
            "what was erased, plus what was written; below, over the tokens, the gates alpha and beta and how well "
            "each earlier token is recalled."))

    def _steps(self, layer, head) -> tuple[list[dict], dict]:
        """Every token's step, from the numbers of the page."""
        if self._followed[0] != (layer, head):
            story, T = self.story, len(self.story["tokens"])
            Hk, Hv, Dk, Dv = (story[name] for name in ("key_heads", "value_heads", "key_dim", "value_dim"))
            shapes = [(T, Hk, Dk), (T, Hv, Dv), (T, Hv), (T, Hv), (Hv, 3), (-1, Dk, Dv)]
            page = np.frombuffer(self.page(str(layer)), "<f4").astype(np.float64)
            cuts = np.cumsum([np.prod(shape) for shape in shapes[:-1]])
            k, v, alpha, beta, limits, initial = (x.reshape(s) for x, s in zip(np.split(page, cuts), shapes))
            state = initial[head] if len(initial) else np.zeros((Dk, Dv))
            steps = []
            for t in range(T):
                steps.append(step(state, k[t, head // (Hv // Hk)], v[t, head], alpha[t, head], beta[t, head]))
                state = steps[-1]["memory"]
            limits = dict(zip(("memory", "key", "value"), limits[head]))
            self._followed = (layer, head), [steps, limits]
        return self._followed[1]

    @traitlets.validate("token", "layer", "head")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    def _place(self, *place) -> list[int]:
        """A token, layer and head; where one is None, our own."""
        return [getattr(self, name) if x is None else self._checked(name, x) for name, x in zip(self.position, place)]

    def _checked(self, name, value):
        there = {"token": range(len(self.story["tokens"])), "layer": self.story["layers"],
                 "head": range(self.story["value_heads"])}[name]
        if value not in there:
            hint = f"the last is {there[-1]}" if name != "layer" else f"Gated DeltaNet layers are {there}"
            raise QwenError(f"There is no {name} {value} to explore; {hint}.")
        return value

    def __repr__(self) -> str:
        story = self.story
        return (f"StateExplorer({len(story['tokens'])} tokens, {len(story['layers'])} Gated DeltaNet layers, "
                f"{story['value_heads']} heads of {story['key_dim']} x {story['value_dim']})")
