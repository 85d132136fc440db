"""The expert explorer: which experts of a mixture read which token, layer by layer.

The browser gets, of every layer, what each expert counts for each token (nothing, if it does not read it), how probable
the router found it, and how loud the shared expert is; and of all layers, how many tokens each expert reads.
"""

import numpy as np
from matplotlib.figure import Figure

from .. import plots
from ..errors import QwenError
from . import stills
from .explorer import LayerExplorer, in_base64, sources, token_at

WIDTH, ROOM, GAP, BAR, ACROSS = 440, 192, 4, 18, 56     # pixels: tokens, experts, gaps, bars below, beside
SHARED, LOADS = 14, 160                                 # the shared expert's row; the layers in the map of loads

# --------------------------------------------------------------------------------------------- what there is to be seen


def numbers(record, row: int, real) -> dict[str, np.ndarray]:
    """Of the tokens `real` of a row: "weights" and "probabilities" (T, E), "shared" (T, 1); float32."""
    logits, chosen, weights = (x[row, real].float() for x in (record.router_logits, record.experts,
                                                              record.expert_weights))
    counts = logits.new_zeros(logits.shape).scatter(1, chosen.long(), weights)
    told = {"weights": counts, "probabilities": logits.softmax(-1), "shared": record.shared_gate[row, real, None]}
    return {name: x.float().cpu().numpy() for name, x in told.items()}


# ---------------------------------------------------------------------------------------------------------- the widget


class ExpertExplorer(LayerExplorer):
    """Sliders, keys and clicks for token, layer and expert; the text with an expert's tokens marked, all experts of the
    layer over the text, and the loads of all experts of all layers.

        ExpertExplorer(qwen, "Ann has a red cup. What does Ann have?")      # qwen: a mixture of experts
        ExpertExplorer(qwen, [{"role": "user", "content": "..."}])          # a chat, by the checkpoint's template
        ExpertExplorer(t)                                                   # a trace: of a generation, for example

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`; or a `Trace` that holds what is to be shown.
        text: a string, chat messages, token ids; not with a trace.
        token, layer, head: where to begin; `head` is an expert, one row of the picture; None: the token's first one.
            `layer` is the layer's number in the model, `token` may be negative.
        row: which row of a traced batch.

    Raises:
        QwenError: no such token, layer or expert, more than 4096 tokens, or a model without experts.
    """

    _esm, _css = sources("experts_explorer")
    position = ("token", "layer", "head")

    longest = 4096                              # tokens: of more, a picture would be wider than a canvas may be
    rows = "expert"

    def __init__(self, qwen, text=None, *, token: int = -1, layer: int = 0, head: int | None = None, row: int = 0):
        tokens = self._read(qwen, text, row)
        T = len(tokens)
        self._numbers = {i: numbers(record, self.row, self._real) for i, record in self._records.items()}
        E = self._numbers[next(iter(self._numbers))]["weights"].shape[1]
        across, down = max(2, min(26, WIDTH // T)), max(1, min(22, ROOM // E))
        layers = [self._described(record, [across, down]) for record in self._records.values()]
        whole = sum(len(self._page(i)) for i in self._numbers)
        super().__init__(story={
            "title": "Which expert reads which token", "tokens": tokens, "layers": layers, "gap": GAP,
            "bars": [BAR, ACROSS], "shared": [across, SHARED], "load": [max(3, min(26, LOADS // len(layers))), down],
            "most": max(max(x["load"]) for x in layers), "palette": in_base64(plots.sequential),
            "all_here": whole <= self.at_once,
        })
        self.layer, self.token = layer, token_at(token, T)
        self.head = int(self.values("weights")[self.token].argmax()) if head is None else head
        names = self.page_names() if whole <= self.at_once else [f"layer {layer}"]
        self.pages = {name: self.page(name) for name in names}

    def _described(self, record, cell) -> dict:
        weights = self._numbers[record.index]["weights"]
        kind = "delta" if record.kind == "linear_attention" else "attention"
        return {"index": record.index, "kind": kind, "heads": weights.shape[1], "chosen": record.experts.shape[-1],
                "limit": float(weights.max()), "cell": cell, "load": (weights > 0).mean(0).tolist()}

    def page_names(self, layers=None) -> list[str]:
        return [f"layer {x['index']}" for x in (self.story["layers"] if layers is None else layers)]

    def page(self, name: str) -> bytes:
        """A layer's weights and probabilities, (T, E), and its shared expert's loudness, (T,): float32, in a row."""
        return self._page(self._checked("layer", int(name.split()[1])))

    def _page(self, layer) -> bytes:
        return b"".join(x.astype("<f4").tobytes() for x in self._numbers[layer].values())

    # -------------------------------------------------------------------------------------------- what can be had of it

    def values(self, name: str, layer: int | None = None) -> np.ndarray:
        """(T, E): a layer's "weights" - 0 where an expert does not read the token - or "probabilities"; or (T, 1):
        "shared", how loud the shared expert is."""
        told = self._numbers[self._place(None, layer, None)[1]]
        if name not in told:
            raise QwenError(f"An ExpertExplorer has no {name!r}; it has {', '.join(told)}.")
        return told[name]

    def loads(self) -> np.ndarray:
        """(layers, E): the share of the tokens that each expert reads; a layer's add up to the experts of a token."""
        return np.array([x["load"] for x in self.story["layers"]])

    def still(self, token=None, layer=None, head=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        token, layer, head = self._place(token, layer, head)
        told, texts = self._numbers[layer], [token["text"] for token in self.story["tokens"]]
        at = [x["index"] for x in self.story["layers"]]
        figure = stills.expert_maps(told["weights"], told["shared"][:, 0], self.loads(), at, texts, token, layer, head)
        return figure, (
            f"What each of the {told['weights'].shape[1]} experts of layer {layer} counts for {len(texts)} tokens, a "
            "row for each expert, and below how loud the shared one is. Beside them, for all layers, the share of the "
            f"tokens that each expert reads. Token {token + 1} and expert {head} are marked.")

    def __repr__(self) -> str:
        layers = self.story["layers"]
        return (f"ExpertExplorer({len(self.story['tokens'])} tokens; {len(layers)} layers of {layers[0]['heads']} "
                f"experts, {layers[0]['chosen']} for a token)")
