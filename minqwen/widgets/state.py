"""The state explorer: the memory of one Gated DeltaNet head, token by token; of one text, or of two side by side.

No pictures are sent. The browser gets keys, values, alphas and betas, runs the delta rule itself and colours what comes
out: kilobytes instead of megabytes, every number exact under the pointer, and no kernel in between.

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
from ..trace import Trace
from . import stills
from .explorer import Explorer, Place, Switch, in_base64, row_of, sources, token_at, tokens_of, traced_text, whole

PARTS = ("decayed", "erased", "written")        # of a step; the memory is the first minus the second plus the third
POINTS = 64                                     # on a drawn memory's side, at the most
KEPT = 64_000_000                               # bytes of states that are kept while a memory is followed

# ---------------------------------------------------------------------------------------------------------- the widget


class StateExplorer(Explorer):
    """Sliders and keys for token, layer and head; the memory there, and this step's fading, erasing and writing.

        StateExplorer(qwen, "Ann has a red cup. Ann now has a gold key.")
        StateExplorer(qwen, [{"role": "user", "content": "..."}])           # a chat, by the checkpoint's template
        StateExplorer(t)                                                    # a trace: of a generation, for example
        StateExplorer.compare(qwen, "Ann has a red cup.", "Ann has a blue cup.")

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

    token, layer, head = (Place().tag(sync=True) for _ in range(3))
    asked = Place(-1).tag(sync=True)
    decayed, erased, written = (Switch(True).tag(sync=True) for _ in PARTS)
    exact = Switch(False).tag(sync=True)                        # draw every cell, however many there are

    def __init__(self, qwen, text=None, second=None, *, token: int = -1, layer: int | None = None, head: int = 0,
                 row: int = 0, asked: int = -1):
        if isinstance(qwen, Trace) != (text is None):
            raise QwenError("Give a model and a text, StateExplorer(qwen, 'Ann has ...'), or a trace alone.")
        if second is not None and isinstance(qwen, Trace) != isinstance(second, Trace):
            raise QwenError("Two things are compared that are both texts, for one model, or both traces.")
        texts = [text] if second is None else [text, second]
        self.traces = ([qwen, second][: len(texts)] if isinstance(qwen, Trace) else
                       [traced_text("StateExplorer", qwen, text) for text in texts])
        self.trace = self.traces[0]
        self.row = row = row_of(min(self.traces, key=lambda t: len(t.valid)), row)
        self._records = [{record.index: record for record in t.delta_layers} for t in self.traces]
        if not self._records[0]:
            raise QwenError("This model has no Gated DeltaNet layer, so there is no state to explore.")
        shapes = [[(index, *record.k.shape[2:], *record.v.shape[2:]) for index, record in records.items()]
                  for records in self._records]
        if shapes[0] != shapes[-1]:
            raise QwenError("These two traces are of models of different shape: their memories cannot be compared.")
        self._real = [t.valid[row].nonzero()[:, 0] for t in self.traces]        # pads do nothing: leave them out
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
        self.token = token_at(token, max(lengths))
        self.head, self.asked = head, asked
        self.pages = {name: self.page(name) for name in (self.page_names() if few else [f"{self.layer} {head}"])}

    @classmethod
    def compare(cls, qwen, first, second, **place) -> "StateExplorer":
        """Two texts side by side: the memory of each at the same token, layer and head, and their difference.

        Args:
            qwen: the model that reads both.
            first, second: texts, chats or ids, as for `StateExplorer`. The shorter one waits at its end.
            place: token, layer, head and asked, as there; `token` counts in the longer text.
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

    def parts(self, token=None, layer=None, head=None, second: bool = False) -> dict:
        """(Dk, Dv) each of a step: "memory", after it, is "decayed" - "erased" + "written".

        Args:
            token, layer, head: what is not given is where the explorer stands.
            second: of the second text.
        """
        token, layer, head = self._place(token, layer, head)
        record, real = self._records[second][layer], self._real[second]
        place = int(real[min(token, len(real) - 1)]), head, self.row
        return {"memory": record.state(*place), "decayed": record.decayed(*place), "erased": record.erase(*place),
                "written": record.write(*place)}

    def still(self, token=None, layer=None, head=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, layer, head = self._place(token, layer, head)
        limit = np.frombuffer(self.page(f"{layer} {head}"), "<f4")[-3].item()           # of the colours of a memory
        texts = [[token["text"] for token in text["tokens"]] for text in self.story["texts"]]
        if len(texts) == 2:
            reached = [plots.visible(tokens[min(token, len(tokens) - 1)]) for tokens in texts]
            titles = f"first, after “{reached[0]}”", f"−  second, after “{reached[1]}”", "=  difference"
            first, second = (self.parts(token, layer, head, which)["memory"] for which in (False, True))
            figure = plots.states(dict(zip(titles, (first, second, first - second))), limit)
            return figure, (
                f"Layer {layer}, head {head}, after token {token + 1} of {max(map(len, texts))}: the memory of the "
                "first text, that of the second, and their difference.")
        record, real, row = self._records[0][layer], self._real[0], self.row
        alpha, beta = (gate[row, real, head] for gate in (record.alpha, record.beta))
        recall = record.answers(int(real[token]), head, row).cosine[real[: token + 1]]
        figure = stills.memory(self.parts(token, layer, head), alpha, beta, recall, texts[0], limit)
        return figure, (
            f"Layer {layer}, head {head}, after token {token + 1} of {len(texts[0])}: the memory as what faded, minus "
            "what was erased, plus what was written; below, over the tokens, the gates alpha and beta and how well "
            "each earlier token is recalled.")

    # ----------------------------------------------------------------------------------------------- numbers and places

    @traitlets.validate("token", "layer", "head", "asked")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    def _checked(self, name, value):
        value = whole(name, value)
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
