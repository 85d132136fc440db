"""The gate explorer: what the gates of every layer do, token by token and head by head.

A Gated DeltaNet layer has three for each value head: alpha, the share of the memory that is kept; beta, how strongly
the token writes; and the output gate silu(z), a factor for each dimension of what was read. A gated attention layer
has one, sigmoid(gate), for each dimension of each query head.

For each gate the browser gets, of every head and token, the number and its place on the panel's scale, from 0 to 1;
and for the head that is looked at its output gate, dimension by dimension. `frame` and `dimensions` draw the same.
"""


import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure
from torch.nn import functional as F

from .. import plots
from ..delta_rule import full_precision
from ..errors import QwenError
from ..trace import AttentionRecord, DeltaRecord
from . import stills
from .explorer import LayerExplorer, in_base64, sources

WIDTH, ROOM, GAP, BAR, ACROSS = 640, 400, 4, 24, 56     # pixels: tokens, rows of panels, gaps, bars below, beside
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


def marks(name: str, limit: float) -> list[str]:
    """What is written along a panel's scale, in equal steps from its beginning to its end."""
    return ["0", "0.9", "0.99", "0.999", "≥ 0.9999"] if name == "alpha" else ["0", f"{limit:.4g}"]


# ------------------------------------------------------------------------------------- what is drawn, as pure functions


def frame(shares: np.ndarray, token: int, head: int, size: tuple[int, int], palette: np.ndarray) -> np.ndarray:
    """A panel, exactly as its canvas has it: every token's and head's place on the scale, and two profiles as bars.

    Heads are rows, the first at the bottom; tokens are columns. Beside it the heads of this token, below it the tokens
    of this head; their common bar has the full colour.

    Args:
        shares: (T, H), from 0 to 1.
        size: pixels of a cell, across and down.
        palette: (256, 3) uint8.
    Returns:
        (height, width, 4) uint8, transparent between the parts.
    """
    (T, H), (across, down) = shares.shape, size
    shares = shares.astype(np.float64)
    wide, high = T * across, H * down
    canvas = np.zeros((high + GAP + BAR, wide + GAP + ACROSS, 4), dtype=np.uint8)
    colours = np.insert(palette, 3, 255, axis=1)
    shade = np.floor(shares * 255 + 0.5).astype(int).T[::-1]                                # (H, T)
    canvas[:high, :wide] = colours[shade].repeat(down, axis=0).repeat(across, axis=1)
    canvas[:high, wide + GAP :] = canvas[high + GAP :, :wide] = colours[0]
    for h in range(H):
        top, bar = (H - 1 - h) * down, int(np.floor(shares[token, h] * ACROSS + 0.5))
        canvas[top : top + down - (down > 3), wide + GAP : wide + GAP + bar] = colours[255 if h == head else 140]
    for t in range(T):
        left, bar = t * across, int(np.floor(shares[t, head] * BAR + 0.5))
        canvas[len(canvas) - bar :, left : left + across - (across > 3)] = colours[255 if t == token else 140]
    return canvas


def dimensions(factors: np.ndarray, limit: float, signed: bool, size: tuple[int, int],
               palette: np.ndarray) -> np.ndarray:
    """A head's output gate, exactly as the canvas has it: dimensions are rows, from the top; tokens are columns.

    Args:
        factors: (T, D)
        limit: the factor that has the full colour.
        signed: colours about zero; else from zero on.
        size, palette: as for `frame`.
    """
    part = factors.astype(np.float64).T / limit
    shade = np.clip(np.floor(part * 127 + 128.5), 1, 255) if signed else np.clip(np.floor(part * 255 + 0.5), 0, 255)
    picture = np.insert(palette[shade.astype(int)], 3, 255, axis=2)
    return picture.repeat(size[1], axis=0).repeat(size[0], axis=1)


# ---------------------------------------------------------------------------------------------------------- the widget

PANELS = {                                      # of each kind of layer: which numbers, and how they are headed
    "delta": {"alpha": "α: share of the memory that is kept", "beta": "β: strength of writing",
              "output": "output gate silu(z): mean size of its factors"},
    "attention": {"output": "output gate sigmoid(gate): mean of its factors",
                  "shut": "dimensions that it shuts (factors below 0.1)"},
}


class GateExplorer(LayerExplorer):
    """Sliders, keys and clicks for token, layer and head; the layer's gates over the text, and two profiles.

        GateExplorer(qwen, "ann has a red cup. ann now has a gold key.")
        GateExplorer(qwen, [{"role": "user", "content": "..."}])            # a chat, by the checkpoint's template
        GateExplorer(t)                                                     # a trace: of a generation, for example

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`; or a `Trace` that holds what is to be shown.
        text: a string, chat messages, token ids; not with a trace.
        token, layer, head: where to begin. `layer` is the layer's number in the model, `token` may be negative.
        row: which row of a traced batch.

    Raises:
        QwenError: no such token, layer or head, or more than 4096 tokens.
    """

    _esm, _css = sources("gates_explorer")
    position = ("token", "layer", "head")

    longest = 4096                              # tokens: of more, a picture would be wider than a canvas may be

    def __init__(self, qwen, text=None, *, token: int = -1, layer: int = 0, head: int = 0, row: int = 0):
        tokens = self._read(qwen, text, row)
        T = len(tokens)
        self._numbers = {i: numbers(record, row, self._real) for i, record in self._records.items()}
        across = max(2, min(18, WIDTH // T))
        layers = [self._described(record, across) for record in self._records.values()]
        story = {
            "title": "What the gates let through", "tokens": tokens, "layers": layers, "gap": GAP,
            "bars": [BAR, ACROSS], "shut": SHUT,
            "palettes": {"plain": in_base64(plots.sequential), "signed": in_base64(plots.diverging)},
        }
        whole = sum(4 * T * x["heads"] * (len(x["told"]) + len(x["panels"])) for x in layers)
        dims = sum(4 * (1 + T * x["dims"]) * x["heads"] for x in layers)
        super().__init__(story=story | {"all_here": whole + dims <= self.at_once})
        self.layer, self.head = layer, head
        self.token = token + T if -T <= token < 0 else token
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
        room, highest = (ROOM, 22) if delta else (ROOM + 76, 36)
        down = max(3, min(highest, room // (heads * len(PANELS[kind]))))
        return {"index": record.index, "kind": kind, "heads": heads, "dims": dims, "told": list(told),
                "panels": [{"name": name, "title": title, "limit": limits[name], "marks": marks(name, limits[name])}
                           for name, title in PANELS[kind].items()],
                "cell": [across, down], "dim_cell": [across, max(1, min(4, 128 // dims))]}

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
            return np.float32([_limit(factors, layer), *factors.flat]).astype("<f4").tobytes()
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

    def frame(self, token: int | None = None, layer: int | None = None, head: int | None = None, panel: int = 0,
              dark: bool = False) -> np.ndarray:
        """(height, width, 4) uint8: the pixels of one of the layer's panels, counted from the top."""
        token, layer, head = self._place(token, layer, head)
        shown = self._layer(layer)
        if not 0 <= panel < len(shown["panels"]):
            raise QwenError(f"There is no panel {panel} to explore; the last is {len(shown['panels']) - 1}.")
        name, limit = shown["panels"][panel]["name"], shown["panels"][panel]["limit"]
        shares = places(name, self._numbers[layer][name], limit)
        return frame(shares, token, head, shown["cell"], plots.sequential(dark))

    def dimensions(self, layer: int | None = None, head: int | None = None, dark: bool = False) -> np.ndarray:
        """(height, width, 4) uint8: the pixels of the panel that shows a head's output gate, dimension by dimension."""
        _, layer, head = self._place(None, layer, head)
        shown, factors = self._layer(layer), self.factors(layer, head)
        signed = shown["kind"] == "delta"
        palette = (plots.diverging if signed else plots.sequential)(dark)
        return dimensions(factors, _limit(factors, shown), signed, shown["dim_cell"], palette)

    def still(self, token=None, layer=None, head=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, layer, head = self._place(token, layer, head)
        shown, told = self._layer(layer), self._numbers[layer]
        panels = {x["title"]: (places(x["name"], told[x["name"]], x["limit"]).T, x["marks"]) for x in shown["panels"]}
        factors, texts = self.factors(layer, head), [token["text"] for token in self.story["tokens"]]
        figure = stills.gate_maps(panels, factors, _limit(factors, shown), shown["kind"] == "delta", texts, token, head)
        kind = "a Gated DeltaNet layer" if shown["kind"] == "delta" else "a gated attention layer"
        return figure, (
            f"The gates of layer {layer}, {kind}, over {len(texts)} tokens, a row for each of {shown['heads']} heads: "
            f"{'; '.join(panels)}. Below them, the output gate of head {head}, a row for each dimension. Token "
            f"{token + 1} and head {head} are marked.")

    # ----------------------------------------------------------------------------------------------- numbers and places

    @traitlets.validate("token", "layer", "head")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    def _place(self, token, layer, head) -> list[int]:
        """A token, layer and head; where one is None, our own."""
        layer = self._checked("layer", self.layer if layer is None else layer)
        token = self._checked("token", self.token if token is None else token)
        own = min(self.head, self._layer(layer)["heads"] - 1)
        return [token, layer, self._checked("head", own if head is None else head, layer)]

    def __repr__(self) -> str:
        kinds = [x["kind"] for x in self.story["layers"]]
        return (f"GateExplorer({len(self.story['tokens'])} tokens; {kinds.count('delta')} Gated DeltaNet layers, "
                f"{kinds.count('attention')} of gated attention)")


def _limit(factors, layer) -> float:
    """The factor that has the full colour: 1 of a sigmoid; of silu, which has no bound, the head's largest."""
    return 1.0 if layer["kind"] == "attention" else float(np.abs(factors).max()) or 1.0
