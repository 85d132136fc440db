"""The gate explorer: what the gates of every layer do, token by token and head by head.

A Gated DeltaNet layer has three for each value head: alpha, the share of the memory that is kept; beta, how strongly
the token writes; and the output gate silu(z), a factor for each dimension of what was read. A gated attention layer
has one, sigmoid(gate), for each dimension of each query head.

For each gate the browser gets, of every head and token, the number and its place on the panel's scale, from 0 to 1;
and for the head that is looked at its output gate, dimension by dimension.
"""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.nn import functional as F

from .. import plots
from ..delta_rule import full_precision
from ..errors import QwenError
from ..trace import AttentionRecord, DeltaRecord
from . import stills
from .explorer import LayerExplorer, in_base64, sources, token_at

WIDTH, ROOM, GAP, BAR, ACROSS = 640, 192, 4, 18, 56     # pixels: tokens, rows of panels, gaps, bars below, beside
SHUT = 0.1                                              # an output gate's factor below this lets next to nothing by

# --------------------------------------------------------------------------------------------- what there is to be seen


def output_gate(record: AttentionRecord | DeltaRecord, head: int, row: int, real: torch.Tensor) -> np.ndarray:
    """(T, D) float32: one head's output gate, silu(z) or sigmoid(gate), for the tokens `real` of a row."""
    if record.kind == "linear_attention":
        factors = F.silu(full_precision(record.z[row, real, head]))
    else:
        factors = torch.sigmoid(full_precision(record.gate[row, real, head]))
    return factors.float().cpu().numpy()


def numbers(record: AttentionRecord | DeltaRecord, row: int, real: torch.Tensor) -> dict[str, np.ndarray]:
    """What there is to say of every token and head, (T, H) float32 each.

    alpha, beta     of a Gated DeltaNet layer alone
    output          the output gate's mean over the head's dimensions, of the factors' size
    shut            how many of them are smaller than 0.1
    """
    heads = record.o.shape[2 if record.kind == "linear_attention" else 1]
    factors = np.abs(np.stack([output_gate(record, head, row, real) for head in range(heads)], axis=1))     # (T, H, D)
    told = {"output": factors.mean(-1), "shut": (factors < SHUT).sum(-1)}
    if record.kind == "linear_attention":
        gates = {name: getattr(record, name)[row, real].float().cpu().numpy() for name in ("alpha", "beta")}
        told = gates | told
    return {name: x.astype(np.float32) for name, x in told.items()}


def places(name: str, values: np.ndarray, limit: float) -> np.ndarray:
    """Where numbers stand on their panel's scale, from 0 to 1, float32.

    alpha by its nines - 0, 0.9, 0.99, 0.999, 0.9999 are as far from each other, and beyond the last there is no more -
    because a memory's alphas are close to one and what matters is how close. The others from 0 to `limit`.
    """
    if name != "alpha":
        return (values / np.float32(limit)).astype(np.float32)
    lost = np.maximum(1 - values.astype(np.float64), 1e-4)
    return np.clip(-np.log10(lost) / 4, 0, 1).astype(np.float32)


def limit_of(factors: np.ndarray, kind: str) -> float:
    """The factor that has the full colour: 1 of a sigmoid; of silu, which has no bound, the head's largest."""
    return 1.0 if kind == "attention" else float(np.abs(factors).max()) or 1.0


def marks(name: str, limit: float) -> list[str]:
    """What is written along a panel's scale, in equal steps from its beginning to its end."""
    return ["0", "0.9", "0.99", "0.999", "≥ 0.9999"] if name == "alpha" else ["0", f"{limit:.4g}"]


# ---------------------------------------------------------------------------------------------------------- the widget

PANELS = {                                      # of each kind of layer: which numbers, and how they are headed
    "delta": {"alpha": "α: share of the memory that is kept", "beta": "β: strength of writing",
              "output": "output gate silu(z): mean size of its factors"},
    "attention": {"output": "output gate sigmoid(gate): mean of its factors",
                  "shut": "dimensions that it shuts (factors below 0.1)"},
}


class GateExplorer(LayerExplorer):
    """Sliders, keys and clicks for token, layer and head; the layer's gates over the text, and two profiles.

        GateExplorer(qwen, "Ann has a red cup. Ann now has a gold key.")
        GateExplorer(qwen, [{"role": "user", "content": "..."}])            # a chat, by the checkpoint's template
        GateExplorer(t)                                                     # a trace: of a generation, for example

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`; or a `Trace` that holds what is to be shown.
        text: a string, chat messages, token ids; not with a trace.
        token, layer, head: where to begin. `layer` is the layer's number in the model, `token` may be negative. None is
            where the layer's first panel shows most: where a head is farthest from its mean over the text.
        row: which row of a traced batch.

    Raises:
        QwenError: no such token, layer or head, or more than 4096 tokens.
    """

    _esm, _css = sources("gates_explorer")
    position = ("token", "layer", "head")

    longest = 4096                              # tokens: of more, a picture would be wider than a canvas may be

    def __init__(self, qwen, text=None, *, token: int | None = None, layer: int = 0, head: int | None = None,
                 row: int = 0):
        tokens = self._read(qwen, text, row)
        T = len(tokens)
        self._numbers = {i: numbers(record, self.row, self._real) for i, record in self._records.items()}
        across = max(2, min(26, WIDTH // T))
        layers = [self._described(record, across) for record in self._records.values()]
        story = {
            "title": "What the gates let through", "tokens": tokens, "layers": layers, "gap": GAP,
            "bars": [BAR, ACROSS], "shut": SHUT,
            "palettes": {"plain": in_base64(plots.sequential), "signed": in_base64(plots.diverging)},
        }
        whole = sum(4 * T * x["heads"] * (len(x["told"]) + len(x["panels"])) for x in layers)
        dims = sum(4 * (1 + T * x["dims"]) * x["heads"] for x in layers)
        super().__init__(story=story | {"all_here": whole + dims <= self.at_once})
        self.layer = layer
        panel = self._layer(layer)["panels"][0]
        shares = places(panel["name"], self._numbers[layer][panel["name"]], panel["limit"])                # (T, H)
        apart = np.abs(shares - shares.mean(0))
        self.head = head = int(apart.max(0).argmax()) if head is None else head
        token = int(apart[:, self.head].argmax()) if token is None else token
        self.token = token_at(token, T)
        names = self.page_names()
        if whole + dims > self.at_once:
            here = [name for name in names if name.startswith("layer")] if whole <= self.at_once else [f"layer {layer}"]
            names = [*here, f"dims {layer} {head}"]
        self.pages = {name: self.page(name) for name in names}

    def _described(self, record, across) -> dict:
        told, delta = self._numbers[record.index], record.kind == "linear_attention"
        heads, kind = told["output"].shape[1], "delta" if delta else "attention"
        dims = record.z.shape[-1] if delta else record.gate.shape[-1]
        limits = {"alpha": 1.0, "beta": 1.0, "shut": float(told["shut"].max()) or 1.0,
                  "output": float(told["output"].max()) or 1.0 if delta else 1.0}
        # a layer of attention has a panel less: its rows are higher, so that both kinds are about as high
        room, highest = (ROOM, 16) if delta else (ROOM + 54, 30)
        low = max(1, min(4, 128 // dims))
        room -= max(0, low * dims - 128)                    # what many dimensions take is not there for the panels
        down = max(2, min(highest, room // (heads * len(PANELS[kind]))))
        return {"index": record.index, "kind": kind, "heads": heads, "dims": dims, "told": list(told),
                "panels": [{"name": name, "title": title, "limit": limits[name], "marks": marks(name, limits[name])}
                           for name, title in PANELS[kind].items()],
                "cell": [across, down], "dim_cell": [across, low]}

    def page_names(self, layers=None) -> list[str]:
        layers = self.story["layers"] if layers is None else layers
        return [*(f"layer {x['index']}" for x in layers),
                *(f"dims {x['index']} {head}" for x in layers for head in range(x["heads"]))]

    def page(self, name: str) -> bytes:
        """A layer's numbers and then each panel's places, (T, H); or of one head a limit and the factors, (T, D).

        float32, one after the other.
        """
        kind, index, *head = name.split()
        layer = self._layer(int(index))
        if kind == "dims":
            factors = self.factors(layer["index"], int(*head))
            return np.float32([limit_of(factors, layer["kind"]), *factors.flat]).astype("<f4").tobytes()
        told = self._numbers[layer["index"]]
        parts = [*told.values(), *(places(x["name"], told[x["name"]], x["limit"]) for x in layer["panels"])]
        return b"".join(x.astype("<f4").tobytes() for x in parts)

    # -------------------------------------------------------------------------------------------- what can be had of it

    def values(self, name: str, layer: int | None = None) -> np.ndarray:
        """(T, H): a layer's "alpha", "beta", "output" (its mean size) or "shut" (dimensions): see `numbers`."""
        told = self._numbers[self._place(None, layer, None)[1]]
        if name not in told:
            raise QwenError(f"This layer has no {name!r}; it has {', '.join(told)}.")
        return told[name]

    def factors(self, layer: int | None = None, head: int | None = None) -> np.ndarray:
        """(T, D): the factors of a head's output gate."""
        _, layer, head = self._place(None, layer, head)
        return output_gate(self._records[layer], head, self.row, self._real)

    def still(self, token=None, layer=None, head=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, layer, head = self._place(token, layer, head)
        shown, told = self._layer(layer), self._numbers[layer]
        panels = {x["title"]: (places(x["name"], told[x["name"]], x["limit"]).T, x["marks"]) for x in shown["panels"]}
        factors, texts = self.factors(layer, head), [token["text"] for token in self.story["tokens"]]
        delta, limit = shown["kind"] == "delta", limit_of(factors, shown["kind"])
        figure = stills.gate_maps(panels, factors, limit, delta, texts, token, head)
        kind = "a Gated DeltaNet layer" if delta else "a gated attention layer"
        return figure, (
            f"The gates of layer {layer}, {kind}, over {len(texts)} tokens, a row for each of {shown['heads']} heads: "
            f"{'; '.join(panels)}. Below them, the output gate of head {head}, a row for each dimension. Token "
            f"{token + 1} and head {head} are marked.")

    def __repr__(self) -> str:
        kinds = [x["kind"] for x in self.story["layers"]]
        return (f"GateExplorer({len(self.story['tokens'])} tokens; {kinds.count('delta')} Gated DeltaNet layers, "
                f"{kinds.count('attention')} of gated attention)")
