"""The attention explorer: who looks at whom, in every layer and head at once, and in one of them cell by cell.

An attention layer's map holds softmax weights, from 0 to 1. A Gated DeltaNet layer has no such weights; its map is the
effective attention, the exact token-to-token matrix that the unrolled delta rule amounts to, with signs.

Of every map the browser first gets a thumbnail, at most as wide as its tile, in which a pixel stands for the strongest
weight of its block; and of the map that is opened all numbers.
"""

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure

from .. import plots
from ..delta_rule import effective_attention, full_precision
from ..trace import AttentionRecord, DeltaRecord
from . import stills
from .explorer import LayerExplorer, Place, Switch, in_base64, sources, token_at

SIDE, CELL = 480, 28                            # pixels: the largest side of an opened map, and of one of its cells
GRID_WIDTH, GRID_HEIGHT, TILE, GAP = 860, 500, 104, 4   # the room for all maps, a tile's largest side, between tiles

# --------------------------------------------------------------------------------------------- what there is to be seen


def head_map(record: AttentionRecord | DeltaRecord, head: int, row: int, real: torch.Tensor) -> np.ndarray:
    """(T, T) float32: one head's (effective) attention among the tokens `real` of a row; nothing above the diagonal.

    Where a conversation was going on before the record, what falls on its tokens (or comes out of the memory that was
    there) is left out: a row of softmax weights sums to less than one, then.
    """
    if record.kind == "full_attention":
        q, k = full_precision(record.q[row, head][real]), record.k[row]                     # (T, D), (Hkv, S, D)
        k = full_precision(k[head // (record.q.shape[1] // len(k))])                        # (S, D)
        mask = record.mask
        scores = (q @ k.mT * q.shape[-1] ** -0.5).masked_fill(~mask[row % len(mask), 0, real], -torch.inf)
        weights = scores.softmax(-1)[:, len(k) - record.q.shape[2] + real]
    else:
        key_head = head // (record.v.shape[2] // record.k.shape[2])
        q, k = (x[row, real, key_head][None, :, None] for x in (record.q, record.k))        # (1, T, 1, Dk)
        g, beta = (x[row, real, head][None, :, None] for x in (record.g, record.beta))      # (1, T, 1)
        weights = effective_attention(q, k, g, beta)[0, 0]
    return weights.float().cpu().numpy()


def limit_of(weights: np.ndarray) -> float:
    """The weight that gets the full colour: one in a hundred may be over it, or a few would leave the rest pale."""
    sizes = np.sort(np.abs(weights[np.tril_indices(len(weights))]))[::-1]
    return float(sizes[len(sizes) // 100] or sizes[0] or 1.0)


def habits(weights: np.ndarray) -> np.ndarray:
    """(3,): which shares of all weight, by size, fall on the token itself, the one before it, and the text's first.

    Means over the tokens from the third on, for which these are three different ones; zeros where there is none.
    """
    sizes = np.abs(weights.astype(np.float64))[2:]
    i, whole = np.arange(2, len(weights)), np.maximum(sizes.sum(-1), 1e-12)
    if not len(sizes):
        return np.zeros(3)
    return np.stack([(sizes[i - 2, j] / whole).mean() for j in (i, i - 1, 0 * i)])


def telling(weights: np.ndarray) -> tuple[float, int, int]:
    """Where a map shows most: how strong that is, and the cell: the token that looks, and the one that is looked at.

    Strong is a look whose share of all that the token looks at, by size, is far above an even share. A look at itself,
    or at the text's first token, where weight goes that is wanted nowhere, tells nothing.
    """
    T = len(weights)
    if T < 3:
        return 0.0, T - 1, 0
    sizes = np.abs(weights.astype(np.float64))
    shares = sizes / np.maximum(sizes.sum(-1, keepdims=True), 1e-12) - 1 / np.arange(1, T + 1)[:, None]
    shares[np.triu_indices(T)] = shares[:, 0] = -1
    token, seen = np.unravel_index(shares.argmax(), shares.shape)
    return float(shares[token, seen]), int(token), int(seen)


# ------------------------------------------------------------------------------------- what is drawn, as pure functions


def blocks(weights: np.ndarray, size: int) -> np.ndarray:
    """(n, n): the strongest weight, with its sign, of each block of size x size; of equals the first."""
    n = -(-len(weights) // size)
    padded = np.pad(weights, [(0, n * size - len(weights))] * 2)
    parts = padded.reshape(n, size, n, size).swapaxes(1, 2).reshape(n, n, size * size)
    return np.take_along_axis(parts, np.abs(parts).argmax(-1)[..., None], -1)[..., 0]


def shades(weights: np.ndarray, limit: float, signed: bool) -> np.ndarray:
    """Numbers of colours, uint8. With signs 128 is zero, 255 the limit and 1 its opposite; else 0 is zero."""
    part = weights.astype(np.float64) / limit
    shade = np.clip(np.floor(part * 127 + 128.5), 1, 255) if signed else np.clip(np.floor(part * 255 + 0.5), 0, 255)
    return shade.astype(np.uint8)


def coloured(shade: np.ndarray, palette: np.ndarray, unit: int) -> np.ndarray:
    """(n unit, n unit, 4) uint8: shades (n, n) in colours, each as a square; transparent above the diagonal."""
    picture = np.insert(palette[shade], 3, 255, axis=2) * np.tri(len(shade), dtype=np.uint8)[..., None]
    return picture.repeat(unit, axis=0).repeat(unit, axis=1)


def overview(tiles: list[np.ndarray], unit: int, palettes: list[np.ndarray]) -> np.ndarray:
    """All maps at once: a column of tiles for each layer, its first head at the bottom. (height, width, 4) uint8.

    Args:
        tiles: for each layer its heads' shades, (H, n, n).
        unit: pixels on a cell's side.
        palettes: for each layer (256, 3).
    """
    step, most = tiles[0].shape[1] * unit + GAP, max(map(len, tiles))
    canvas = np.zeros((most * step - GAP, len(tiles) * step - GAP, 4), dtype=np.uint8)
    for x, (heads, palette) in enumerate(zip(tiles, palettes)):
        for head, shade in enumerate(heads):
            y = most - 1 - head
            here = np.s_[y * step : (y + 1) * step - GAP, x * step : (x + 1) * step - GAP]
            canvas[here] = coloured(shade, palette, unit)
    return canvas


# ---------------------------------------------------------------------------------------------------------- the widget


class AttentionExplorer(LayerExplorer):
    """All maps of a text in one grid; a click or Enter opens one, with the tokens on both sides and every number.

        AttentionExplorer(qwen, "Ann has a red cup. Ann now has a gold key.")
        AttentionExplorer(qwen, [{"role": "user", "content": "..."}])       # a chat, by the checkpoint's template
        AttentionExplorer(t)                                                # a trace: of a generation, for example

    Args:
        qwen: what `minqwen.load()` gives, or a `Qwen`; or a `Trace` that holds what is to be shown.
        text: a string, chat messages, token ids; not with a trace.
        layer, head: where to begin; `layer` is the layer's number in the model, None the first attention layer. None is
            the head that shows most: see `telling`.
        token, seen: the cell to begin with: the token that looks and the one that is looked at; may be negative. None
            is the cell in which the map shows most.
        opened: begin with this map instead of the grid.
        row: which row of a traced batch.

    Raises:
        QwenError: no such layer, head or token, or more than 2048 tokens.
    """

    _esm, _css = sources("attention_explorer")
    position = ("layer", "head", "token", "seen", "opened")

    longest = 2048                              # tokens: of more, a single map would be larger than 8 MB

    seen = Place().tag(sync=True)
    opened = Switch(False).tag(sync=True)

    def __init__(self, qwen, text=None, *, layer: int | None = None, head: int | None = None,
                 token: int | None = None, seen: int | None = None, opened: bool = False, row: int = 0):
        tokens = self._read(qwen, text, row)
        T = len(tokens)
        layers = [{"index": i, "signed": record.kind == "linear_attention",
                   "heads": record.v.shape[2] if record.kind == "linear_attention" else record.q.shape[1]}
                  for i, record in self._records.items()]
        tile = max(8, min(TILE, GRID_WIDTH // len(layers) - GAP, GRID_HEIGHT // max(x["heads"] for x in layers) - GAP))
        block, tile_block = (-(-T // room) for room in (SIDE, tile))
        cells, tile_cells = -(-T // block), -(-T // tile_block)
        whole = not any(self._goes_on(record) for record in self._records.values())
        story = {
            "title": "Who looks at whom", "tokens": tokens, "layers": layers, "gap": GAP, "begins": whole,
            "map": {"block": block, "cells": cells, "unit": max(1, min(CELL, SIDE // cells))},
            "tile": {"block": tile_block, "cells": tile_cells, "unit": max(1, tile // tile_cells)},
            "map_bytes": 4 + 2 * T * (T + 1),
            "palettes": {"plain": in_base64(plots.sequential), "signed": in_base64(plots.diverging)},
        }
        size = sum(x["heads"] * (16 + tile_cells ** 2 + story["map_bytes"]) for x in layers)
        super().__init__(story=story | {"all_here": size <= self.at_once})
        attention = [x["index"] for x in layers if not x["signed"]]
        self.layer = (attention or list(self._records))[0] if layer is None else layer
        if head is None:
            head = max(range(self._layer(self.layer)["heads"]), key=lambda h: telling(self._map(self.layer, h))[0])
        self.head, self.opened = head, opened
        cell = zip(("token", "seen"), (token, seen), telling(self._map(self.layer, self.head))[1:])
        self.token, self.seen = (there if t is None else token_at(t, T, name) for name, t, there in cell)
        names = self.page_names() if size <= self.at_once else [f"map {self.layer} {head}", f"layer {self.layer}"]
        self.pages = {name: self.page(name) for name in names}

    def _goes_on(self, record) -> bool:
        """Whether there was something before the record's first token."""
        if record.kind == "full_attention":
            return record.k.shape[2] > record.q.shape[2]
        return bool(record.initial_state[self.row].any())

    def page_names(self, layers=None) -> list[str]:
        layers = self.story["layers"] if layers is None else layers
        return [*(f"layer {x['index']}" for x in layers),
                *(f"map {x['index']} {head}" for x in layers for head in range(x["heads"]))]

    def page(self, name: str) -> bytes:
        """A map: its limit, then its rows up to the diagonal, float32. Or a layer's heads in the grid.

        Of these for each head four float32, its limit and its habits; then for each head the shades of its thumbnail,
        (n, n) uint8.
        """
        kind, layer, *head = name.split()
        if kind == "map":
            weights = self._map(int(layer), int(*head))
            return np.float32([limit_of(weights), *weights[np.tril_indices(len(weights))]]).astype("<f4").tobytes()
        told, tiles, signed = [], [], self._layer(int(layer))["signed"]
        for head in range(self._layer(int(layer))["heads"]):
            weights = self._map(int(layer), head)
            limit = limit_of(weights)
            told += [limit, *habits(weights)]
            tiles.append(shades(blocks(weights, self.story["tile"]["block"]), limit, signed))
        return np.float32(told).astype("<f4").tobytes() + np.stack(tiles).tobytes()

    # -------------------------------------------------------------------------------------------- what can be had of it

    def weights(self, layer: int | None = None, head: int | None = None) -> np.ndarray:
        """(T, T): a head's map; rows look, columns are looked at. What is not given is where the explorer stands."""
        layer, head = self._place(layer, head)
        return self._map(layer, head)

    def overview(self, dark: bool = False) -> np.ndarray:
        """(height, width, 4) uint8: the pixels of the grid of all maps."""
        tiles, n = [], self.story["tile"]["cells"]
        for layer in self.story["layers"]:
            page = np.frombuffer(self.page(f"layer {layer['index']}"), np.uint8)
            tiles.append(page[16 * layer["heads"] :].reshape(-1, n, n))
        return overview(tiles, self.story["tile"]["unit"], [_palette(x["signed"], dark) for x in self.story["layers"]])

    def still(self, layer=None, head=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        layer, head = self._place(layer, head)
        tile, layers, kind = self.story["tile"], self.story["layers"], self._kind(layer)
        texts, weights = [token["text"] for token in self.story["tokens"]], self._map(layer, head)
        names = [f"{x['index']} {'delta rule' if x['signed'] else 'softmax'}" for x in layers]
        figure = stills.maps(self.overview(), tile["cells"] * tile["unit"], GAP, names, weights, texts,
                            f"layer {layer}, head {head}: {kind}", limit_of(weights), self._layer(layer)["signed"])
        return figure, (
            f"Left, the maps of all {len(layers)} layers and their heads, small, over {len(texts)} tokens. Right, the "
            f"one of layer {layer}, head {head} ({kind}), large: each row is a token that looks, each column one that "
            f"is looked at.")

    # ----------------------------------------------------------------------------------------------- numbers and places

    def _map(self, layer, head) -> np.ndarray:
        with torch.no_grad():
            return head_map(self._records[layer], head, self.row, self._real)

    def _kind(self, index) -> str:
        return "effective attention" if self._layer(index)["signed"] else "softmax"

    @traitlets.validate("seen")
    def _validate_seen(self, proposal):
        return self._checked("seen", proposal["value"])

    def _place(self, layer, head) -> tuple[int, int]:
        layer = self._checked("layer", self.layer if layer is None else layer)
        return layer, self._checked("head", self.head if head is None else head, layer)

    def __repr__(self) -> str:
        signed = [x["signed"] for x in self.story["layers"]]
        return (f"AttentionExplorer({len(self.story['tokens'])} tokens; {signed.count(False)} layers of softmax "
                f"attention, {signed.count(True)} of effective attention)")


def _palette(signed, dark) -> np.ndarray:
    return (plots.diverging if signed else plots.sequential)(dark)
