"""The state explorer: the memory of one Gated DeltaNet head, token by token; of one text, or of two side by side.

No pictures are sent. The browser gets keys, values, alphas and betas, runs the delta rule itself and colours what comes
out: kilobytes instead of megabytes, every number exact under the pointer, and no kernel in between. `frame` is the same
in Python. Both count in double precision, each sum and product in the same order, so that all their pixels are equal.

A large model has hundreds of heads, each with a memory of 128 x 128 cells. So a page is one head's, made and sent when
somebody looks there; and a memory wider than 64 cells is drawn coarser, each point for a block of cells.
"""

from itertools import chain
from pathlib import Path

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure

from .. import plots
from ..errors import QwenError
from ..trace import Trace, ask, delta_step, trace
from . import stills
from .explorer import Explorer, in_base64, sources, tokens_of

PARTS = ("decayed", "erased", "written")        # of a step; the memory is the first minus the second plus the third
POINTS = 64                                     # on a drawn memory's side, at the most
KEPT = 64_000_000                               # bytes of states that are kept while a memory is followed

# ------------------------------------------------------------------------------------- what is drawn, as pure functions


def step(state, k, v, alpha, beta) -> dict:
    """One token's step of the gated delta rule, with all that can be seen of it.

    state (Dk, Dv), k (Dk,), v (Dv,), all float64.
    """
    parts = delta_step(state, k, v, alpha, beta)
    return parts._asdict() | {"memory": parts.after, "key": k, "now": ask(parts.after, k), "error": v - parts.answer,
                              "value": v}


def together(parts: dict, on: dict) -> np.ndarray:
    """(Dk, Dv): the sum of those parts of a step that are on, decayed - erased + written; with all of them the memory.

    on: "decayed", "erased", "written" -> bool.
    """
    total = parts["decayed"] if on["decayed"] else np.zeros_like(parts["decayed"])
    total = total - parts["erased"] if on["erased"] else total
    return total + parts["written"] if on["written"] else total


def strongest(numbers: np.ndarray, block: int) -> np.ndarray:
    """Each block of cells as the one of them that is largest, its sign kept: (h, w) -> (h / block, w / block), up."""
    if block == 1:
        return numbers
    h, w = (-(-n // block) for n in numbers.shape)
    whole = np.zeros((h * block, w * block))
    whole[: numbers.shape[0], : numbers.shape[1]] = numbers
    blocks = whole.reshape(h, block, w, block).swapaxes(1, 2).reshape(h, w, -1)
    return np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], axis=-1)[..., 0]


def layout(Dk: int, Dv: int, texts: int = 1) -> tuple[int, int, list]:
    """Height, width and places (name, scale, x, y, repeats down, repeats across) of what a frame is put together from.

    One text: four matrices in a row, memory = decayed - erased + written. Left of the last two the key, as a column.
    Below them, sharing their columns: the memory's answer to the key now, its error before, its answer before, the
    value. Two texts: three matrices, first - second = difference.
    """
    unit = max(1, (Dk + 8) // 16)
    names = ("memory", "decayed", "erased", "written") if texts == 1 else ("first", "second", "difference")
    x = [i * (Dv + 6 * unit) for i in range(len(names))]
    places = [(name, "memory", x[i], 0, 1, 1) for i, name in enumerate(names)]
    if texts == 2:
        return Dk, x[-1] + Dv, places
    places += [("key", "key", x[i] - 2 * unit, 0, 1, unit) for i in (2, 3)]
    vectors = enumerate(("now", "error", "answer", "value"))
    places += [(name, "value", x[i], Dk + unit, 2 * unit, 1) for i, name in vectors]
    return Dk + 3 * unit, x[3] + Dv, places


def answers_layout(Dk: int, Dv: int, names: list[str]) -> tuple[int, int, list]:
    """The same for answers: one strip below the other, as wide as a matrix."""
    unit = max(1, (Dk + 8) // 16)
    places = [(name, "value", 0, 3 * unit * i, 2 * unit, 1) for i, name in enumerate(names)]
    return 3 * unit * len(names) - unit, Dv, places


def frame(parts: dict, limits: dict, palette: np.ndarray, plan: tuple, block: int = 1) -> np.ndarray:
    """The picture of these parts, exactly as a canvas has it: (height, width, 4) uint8, transparent between the parts.

    Args:
        parts: name -> (Dk, Dv), or a vector of one of these sides.
        limits: "memory", "key", "value" -> the number that gets the full colour.
        palette: (256, 3) uint8; entry 128 is zero.
        plan: from `layout` or `answers_layout`, for sides of Dk / block and Dv / block.
        block: how many cells a point stands for, along each side.
    """
    height, width, places = plan
    picture = np.zeros((height, width, 4), dtype=np.uint8)
    for name, scale, x, y, down, across in places:
        part = parts[name]
        part = strongest(part, block) if part.ndim == 2 else strongest(part[None], block)
        part = part.T if name == "key" else part
        part = part.repeat(down, axis=0).repeat(across, axis=1)
        shade = np.clip(np.floor(part / limits[scale] * 127 + 128.5), 1, 255).astype(int)
        picture[y : y + part.shape[0], x : x + part.shape[1]] = np.insert(palette[shade], 3, 255, axis=2)
    return picture


class Memory:
    """One head's memory, followed through a text. k (T, Dk), v (T, Dv), alpha, beta (T,), initial (Dk, Dv): float64.

    The state before every n-th token is kept: before each, unless that were more than `KEPT` bytes.
    """

    def __init__(self, k, v, alpha, beta, initial):
        self.tokens = list(zip(k, v, alpha, beta))
        self.stride = max(1, -(-len(k) * initial.nbytes // KEPT))
        self.kept = [initial]

    def before(self, t: int) -> np.ndarray:
        """(Dk, Dv): the memory as token t finds it, not yet faded."""
        near = min(t // self.stride, len(self.kept) - 1)
        state = self.kept[near]
        for i in range(near * self.stride, t):
            state = step(state, *self.tokens[i])["memory"]
            if (i + 1) % self.stride == 0:
                self.kept.append(state)
        return state

    def at(self, t: int) -> dict:
        """The step of token t, see `step`."""
        return step(self.before(t), *self.tokens[t])


# ---------------------------------------------------------------------------------------------------------- the widget


class StateExplorer(Explorer):
    """Sliders and keys for token, layer and head; the memory there, and this step's fading, erasing and writing.

        StateExplorer(qwen, "ann has a red cup. ann now has a gold key.")
        StateExplorer(qwen, [{"role": "user", "content": "..."}])           # a chat, by the checkpoint's template
        StateExplorer(t)                                                    # a trace: of a generation, for example
        StateExplorer.compare(qwen, "ann has a red cup.", "ann has a blue cup.")

    What fades, what is erased and what is written can be switched off: the first picture is the sum of those that are
    on. A click on a token asks the memory with that token's key: what it would answer before this step, and after.

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`; or a `Trace` that holds what is to be shown.
        text: a string, chat messages, token ids; not with a trace.
        second: another text, or another trace where the first is one, to be shown beside it: see `compare`.
        token, layer, head: where to begin. `layer` is the layer's number in the model, `token` may be negative.
        row: which row of a traced batch.
        asked: the token whose key is asked with; -1: always the token where we are. With two texts the tokens of the
            second are counted on from those of the first.

    Raises:
        QwenError: no model and text, or trace; no such token, layer or head; no Gated DeltaNet layer.
    """

    _esm, _css = sources("state_explorer")
    position = ("token", "layer", "head", "asked", *PARTS, "exact")

    token, layer, head = (traitlets.Int().tag(sync=True) for _ in range(3))
    asked = traitlets.Int(-1).tag(sync=True)
    decayed, erased, written = (traitlets.Bool(True).tag(sync=True) for _ in PARTS)
    exact = traitlets.Bool(False).tag(sync=True)                        # draw every cell, however many there are

    def __init__(self, qwen, text=None, second=None, *, token: int = -1, layer: int | None = None, head: int = 0,
                 row: int = 0, asked: int = -1):
        if isinstance(qwen, Trace) != (text is None):
            raise QwenError("Give a model and a text, StateExplorer(qwen, 'ann has ...'), or a trace alone.")
        if second is not None and isinstance(qwen, Trace) != isinstance(second, Trace):
            raise QwenError("Two things are compared that are both texts, for one model, or both traces.")
        texts = [text] if second is None else [text, second]
        self.traces = ([qwen, second][: len(texts)] if isinstance(qwen, Trace) else
                       [trace(qwen).run(text) for text in texts])
        self.trace, self.row = self.traces[0], row
        self._records = [{record.index: record for record in t.delta_layers} for t in self.traces]
        if not self._records[0]:
            raise QwenError("This model has no Gated DeltaNet layer, so there is no state to explore.")
        shapes = [[(index, *record.k.shape[2:], *record.v.shape[2:]) for index, record in records.items()]
                  for records in self._records]
        if shapes[0] != shapes[-1]:
            raise QwenError("These two traces are of models of different shape: their memories cannot be compared.")
        self._real = [t.valid[row].nonzero()[:, 0] for t in self.traces]        # pads do nothing: leave them out
        self._followed = (None, None)                                           # (layer, head), what `_follow` gives
        _, Hk, Dk, Hv, Dv = shapes[0][0]
        told = [{"tokens": tokens_of(t, row),
                 "begins_empty": not any(record.initial_state[row].any() for record in records.values())}
                for t, records in zip(self.traces, self._records)]
        lengths = [len(text["tokens"]) for text in told]
        page_bytes = 4 * (3 + sum(T * (Dk + Dv + 2) + (0 if text["begins_empty"] else Dk * Dv)
                                  for T, text in zip(lengths, told)))
        layers = list(self._records[0])
        few = page_bytes * len(layers) * Hv <= self.at_once
        super().__init__(story={
            "title": "What the memory holds" if second is None else "What two memories hold", "texts": told,
            "layers": layers, "heads": list(range(Hv)), "group": Hv // Hk, "key_dim": Dk, "value_dim": Dv,
            "block": -(-max(Dk, Dv) // POINTS), "kept": KEPT, "page_bytes": page_bytes, "all_here": few, "left_out": 0,
            "palettes": in_base64(plots.diverging),
        })
        self.layer = layers[0] if layer is None else layer
        self.token = range(max(lengths))[token] if -max(lengths) <= token < max(lengths) else token
        self.head, self.asked = head, asked
        self.pages = {name: self.page(name) for name in (self.page_names() if few else [f"{self.layer} {head}"])}

    @classmethod
    def compare(cls, qwen, first, second, **place) -> "StateExplorer":
        """Two texts side by side: the memory of each at the same token, layer and head, and their difference.

        Args:
            qwen: the model that reads both.
            first, second: texts, chats or ids, as above. The shorter one waits at its end.
            place: token, layer, head and asked, as above; `token` counts in the longer text.
        """
        return cls(qwen, first, second, **place)

    # ------------------------------------------------------------------------------------------------------- the pages

    def page_names(self) -> list[str]:
        return [f"{layer} {head}" for layer in self.story["layers"] for head in self.story["heads"]]

    def page(self, name: str) -> bytes:
        """A head's numbers, little-endian float32, one after the other.

        For each text k (T, Dk), v (T, Dv), alpha (T,), beta (T,) and, where its memory does not begin empty, the
        initial state (Dk, Dv). At last the limits of the colours for memory, key and value.
        """
        layer, head = map(int, name.split())
        parts, limits, row = [], torch.zeros(3), self.row
        for records, real, text in zip(self._records, self._real, self.story["texts"]):
            record = records[layer]
            k, v = record.k[row, real, head // self.story["group"]], record.v[row, real, head]
            parts += [k, v, record.alpha[row, real, head], record.beta[row, real, head]]
            parts += [] if text["begins_empty"] else [record.initial_state[row, head]]
            # a memory's largest few entries would leave the rest pale: one in a hundred may be over the limit
            states = chain([record.initial_state[row, head]], (record.state(t, head, row) for t in real.tolist()))
            memory = max(x.abs().flatten().topk(1 + x.numel() // 100).values[-1].item() for x in states)
            limits = torch.maximum(limits, torch.tensor([memory, k.abs().max(), v.abs().max()]))
        parts.append(limits.where(limits > 0, 1.0))
        return b"".join(x.float().cpu().contiguous().numpy().astype("<f4").tobytes() for x in parts)

    def to_html(self, path, layers: list[int] | None = None, heads: list[int] | None = None) -> Path:
        """Write one page that holds everything and needs no kernel and no network.

        Args:
            path: the file to write.
            layers, heads: which to put in, by their numbers in the model; all if None. (A large model's page is large:
                `story["page_bytes"]` for each head of each layer.)
        """
        layers = [self._checked("layer", layer) for layer in (self.story["layers"] if layers is None else layers)]
        heads = [self._checked("head", head) for head in (self.story["heads"] if heads is None else heads)]
        if not layers or not heads:
            raise QwenError("A page needs at least one layer and one head: to_html(path, layers=[0], heads=[0]).")
        position = {name: getattr(self, name) for name in self.position}
        position["layer"] = self.layer if self.layer in layers else layers[0]
        position["head"] = self.head if self.head in heads else heads[0]
        names = [f"{layer} {head}" for layer in layers for head in heads]
        left_out = len(self.page_names()) - len(names)
        story = self.story | {"layers": layers, "heads": heads, "all_here": True, "left_out": left_out}
        return self._write_page(path, story, names, position)

    # -------------------------------------------------------------------------------------------- what can be had of it

    def parts(self, token=None, layer=None, head=None, **on) -> dict:
        """Name -> numbers, of all that is drawn there: see `step`; with two texts the two memories and the difference.

        Args:
            token, layer, head: what is not given is where the explorer stands.
            on: decayed=, erased=, written=, whether each is part of the sum.
        """
        token, layer, head = self._place(token, layer, head)
        on = {name: bool(on.get(name, getattr(self, name))) for name in PARTS}
        memories, _ = self._follow(layer, head)
        steps = [memory.at(min(token, len(memory.tokens) - 1)) for memory in memories]
        totals = [together(parts, on) for parts in steps]
        if len(steps) == 2:
            return {"first": totals[0], "second": totals[1], "difference": totals[0] - totals[1]}
        return steps[0] | {"memory": totals[0], "now": ask(totals[0], steps[0]["key"])}

    def answers(self, asked=None, token=None, layer=None, head=None, **on) -> dict:
        """What the memories answer to the key of token `asked`, float64.

        Returns:
            "before", "after" (texts, Dv): before this step, and after it - with the parts of it that are on;
            "value" (Dv,): the value that came with the key;
            "cosines": for each text (2, N): how close the answer before, and after, is to each value so far.
        """
        token, layer, head = self._place(token, layer, head)
        on = {name: bool(on.get(name, getattr(self, name))) for name in PARTS}
        memories, _ = self._follow(layer, head)
        key, value = self._asked(asked, token, memories)
        before, after, cosines = [], [], []
        for memory in memories:
            t = min(token, len(memory.tokens) - 1)
            before.append(ask(memory.before(t), key))
            after.append(ask(together(memory.at(t), on), key))
            values = np.stack([v for _, v, _, _ in memory.tokens[: t + 1]])                 # (N, Dv)
            lengths = np.linalg.norm(values, axis=1)
            cosines.append(np.stack([values @ x / np.maximum(lengths * np.linalg.norm(x), 1e-12)
                                     for x in (before[-1], after[-1])]))
        return {"before": np.stack(before), "after": np.stack(after), "value": value, "cosines": cosines}

    def frame(self, token=None, layer=None, head=None, dark: bool = False, exact: bool | None = None,
              **on) -> np.ndarray:
        """(height, width, 4) uint8: the canvas's pixels there; what is not given is where the explorer stands."""
        token, layer, head = self._place(token, layer, head)
        block = self._block(exact)
        plan = layout(*self._points(block), len(self.traces))
        return frame(self.parts(token, layer, head, **on), self._follow(layer, head)[1], plots.diverging(dark), plan,
                     block)

    def answers_frame(self, asked=None, token=None, layer=None, head=None, dark: bool = False,
                      exact: bool | None = None, **on) -> np.ndarray:
        """The same of the small canvas: the answers before and after, text by text, and the value."""
        token, layer, head = self._place(token, layer, head)
        given, block = self.answers(asked, token, layer, head, **on), self._block(exact)
        strips = {f"{i} {name}": given[name][i] for i in range(len(self.traces)) for name in ("before", "after")}
        strips["value"] = given["value"]
        plan = answers_layout(*self._points(block), list(strips))
        return frame(strips, self._follow(layer, head)[1], plots.diverging(dark), plan, block)

    def still(self, token=None, layer=None, head=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, layer, head = self._place(token, layer, head)
        parts, limits = self.parts(token, layer, head), self._follow(layer, head)[1]
        texts = [[token["text"] for token in text["tokens"]] for text in self.story["texts"]]
        if len(texts) == 2:
            reached = [plots.visible(tokens[min(token, len(tokens) - 1)]) for tokens in texts]
            titles = f"first, after “{reached[0]}”", f"−  second, after “{reached[1]}”", "=  difference"
            figure = plots.states(dict(zip(titles, parts.values())), limits["memory"])
            return figure, (
                f"Layer {layer}, head {head}, after token {token + 1} of {max(map(len, texts))}: the memory of the "
                "first text, that of the second, and their difference.")
        record, real, row = self._records[0][layer], self._real[0], self.row
        alpha, beta = (gate[row, real, head] for gate in (record.alpha, record.beta))
        recall = record.answers(int(real[token]), head, row).cosine[real[: token + 1]]
        figure = stills.memory(parts, alpha, beta, recall, texts[0], limits["memory"])
        return figure, (
            f"Layer {layer}, head {head}, after token {token + 1} of {len(texts[0])}: the memory as what faded, minus "
            "what was erased, plus what was written; below, over the tokens, the gates alpha and beta and how well "
            "each earlier token is recalled.")

    # ----------------------------------------------------------------------------------------------- numbers and places

    def _follow(self, layer, head) -> tuple[list[Memory], dict]:
        """A head's memory along each text, and the limits of its colours: from the numbers of the page."""
        if self._followed[0] != (layer, head):
            Dk, Dv = self.story["key_dim"], self.story["value_dim"]
            numbers, start, memories = np.frombuffer(self.page(f"{layer} {head}"), "<f4").astype(np.float64), 0, []

            def take(*shape):
                nonlocal start
                start += int(np.prod(shape))
                return numbers[start - int(np.prod(shape)) : start].reshape(shape)

            for text in self.story["texts"]:
                T = len(text["tokens"])
                read = take(T, Dk), take(T, Dv), take(T), take(T)
                memories.append(Memory(*read, np.zeros((Dk, Dv)) if text["begins_empty"] else take(Dk, Dv)))
            self._followed = (layer, head), (memories, dict(zip(("memory", "key", "value"), take(3))))
        return self._followed[1]

    def _asked(self, asked, token, memories) -> tuple[np.ndarray, np.ndarray]:
        """Key and value of the token that is asked about."""
        asked = self.asked if asked is None else self._checked("asked", asked)
        tokens = [token for memory in memories for token in memory.tokens]
        return tokens[min(token, len(memories[0].tokens) - 1) if asked == -1 else asked][:2]

    def _block(self, exact) -> int:
        return 1 if (self.exact if exact is None else exact) else self.story["block"]

    def _points(self, block) -> tuple[int, int]:
        return -(-self.story["key_dim"] // block), -(-self.story["value_dim"] // block)

    @traitlets.validate("token", "layer", "head", "asked")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    def _place(self, *place) -> list[int]:
        """A token, layer and head; where one is None, our own."""
        return [getattr(self, name) if x is None else self._checked(name, x) for name, x in zip(self.position, place)]

    def _checked(self, name, value):
        lengths = [len(text["tokens"]) for text in self.story["texts"]]
        there = {"token": range(max(lengths)), "layer": self.story["layers"], "head": self.story["heads"],
                 "asked": range(-1, sum(lengths))}[name]
        if value not in there:
            hint = f"the last is {there[-1]}" if name != "layer" else f"Gated DeltaNet layers are {there}"
            raise QwenError(f"There is no {'token' if name == 'asked' else name} {value} to "
                            f"{'ask about' if name == 'asked' else 'explore'}; {hint}.")
        return value

    def __repr__(self) -> str:
        story = self.story
        tokens = " and ".join(str(len(text["tokens"])) for text in story["texts"])
        return (f"StateExplorer({tokens} tokens, {len(story['layers'])} Gated DeltaNet layers, "
                f"{len(story['heads'])} heads of {story['key_dim']} x {story['value_dim']})")
