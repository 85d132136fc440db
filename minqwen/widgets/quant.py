"""The explorer of quantization: what few bits leave of a weight, number by number.

The browser gets the numbers as they are, some rows at a time, and rounds them by itself, in float32 as
`minqwen.quantize` does; and what the whole matrix loses, for each number of bits and each size of the groups.
"""

import difflib
from functools import lru_cache

import numpy as np
import torch
import traitlets
from matplotlib.figure import Figure

from .. import plots
from ..errors import QwenError
from ..model import Qwen
from ..quantize import BITS, SMALLER, rounded
from ..quantized import QuantizedTensor
from . import stills
from .explorer import Explorer, Place, in_base64, sources, whole

ROWS, WIDE, DOWN = 48, 896, 2                   # rows on a page, pixels across all of a row, and down for each
CHART, MARGIN = 130, 6                          # pixels: how high the group's chart is, and what is free in it
SIZES, MOST, LONGEST = (8, 16, 32, 64, 128, 256, 512), 2 ** 24, 4096    # numbers: of a group, in all, in a row
COLOURS = {"light": {"rung": "#d9dce1", "number": "#2f7cba", "off": "#d8721b"},
           "dark": {"rung": "#3a404a", "number": "#4597dc", "off": "#e08a2e"}}


def weight_of(qwen, name) -> torch.Tensor:
    """The matrix that is called so in a model; a tensor is its own."""
    model = qwen if isinstance(qwen, Qwen) else getattr(qwen, "model", None)
    if torch.is_tensor(qwen) and name is None:
        weight, name = qwen, "this tensor"
    elif isinstance(model, Qwen) and name is not None:
        weights = dict(model.named_parameters())
        if name not in weights:
            near = difflib.get_close_matches(str(name), weights, n=1, cutoff=0) or list(weights)[:1]
            raise QwenError(f"There is no weight {name!r} in this model; one is called {near[0]!r}.")
        weight = weights[name]
    else:
        raise QwenError("Give a model and the name of a weight, QuantExplorer(qwen, 'model.language_model...'), or a "
                        "matrix alone.")
    if isinstance(weight, QuantizedTensor):
        raise QwenError(f"{name} is quantized already: load the model in bfloat16 to see what bits leave of it.")
    if weight.dim() != 2 or weight.shape[1] % SIZES[0]:
        raise QwenError(f"QuantExplorer shows matrices whose rows are groups of {SIZES[0]} numbers, and {name} has the "
                        f"shape {tuple(weight.shape)}.")
    if weight.numel() > MOST or weight.shape[1] > LONGEST:
        raise QwenError(f"QuantExplorer has room for {MOST:,} numbers in rows of {LONGEST:,}, and {name} has the shape "
                        f"{tuple(weight.shape)}: give some of it, QuantExplorer(weight[:1024, :1024]).")
    return weight.detach().float().cpu()


class QuantExplorer(Explorer):
    """A matrix and what rounding changes of it, in pictures; one group of its numbers on its grid; and what is lost.

        QuantExplorer(qwen, "model.language_model.layers.0.mlp.down_proj.weight")
        QuantExplorer(qwen, "...", bits=3, group_size=32, row=5)
        QuantExplorer(torch.randn(64, 256), search=False)               # or any matrix

    Args:
        qwen: what `minqwen.load()` gives, a `Qwen`, or a matrix (N, K).
        name: of a weight of the model.
        bits: of a code, 8, 4, 3 or 2.
        group_size: how many numbers of a row share a scale; the largest that there is, up to 128, if None.
        row, column: a number of the group that is chosen.
        search: for the scale that fits each group best, as `minqwen.quantize`.

    Raises:
        QwenError: no such weight, or one that is no matrix or too large; no such bits, group size, row or column.
    """

    _esm, _css = sources("quant_explorer")
    position = ("row", "column", "bits", "size")

    row, column, bits, size = (Place().tag(sync=True) for _ in range(4))

    def __init__(self, qwen, name: str | None = None, *, bits: int = 4, group_size: int | None = None, row: int = 0,
                 column: int = 0, search: bool = True):
        self.weight, self.search = weight_of(qwen, name), search
        N, K = self.weight.shape
        sizes = sorted({size for size in (*SIZES, K) if K % size == 0})
        self._rounded = lru_cache(maxsize=2)(self._round)
        limit = self.weight.abs().max().item()
        super().__init__(story={
            "title": "What few bits leave of a weight", "name": name or "a matrix", "shape": [N, K],
            "bits": sorted(BITS), "sizes": sizes, "parts": [1.0, *SMALLER] if search else [1.0], "rows": ROWS,
            "cell": [max(1, WIDE // K), DOWN], "chart": [CHART, MARGIN], "limit": limit or 1.0,
            "lost": {f"{b} {size}": self._lost(b, size) for b in BITS for size in sizes},
            "palette": in_base64(plots.diverging), "colours": COLOURS,
        })
        self.bits, self.row, self.column = bits, row, column
        self.size = max(x for x in sizes if x <= 128) if group_size is None else group_size
        here = f"rows {row // ROWS}"
        self.pages = {name: self.page(name) for name in
                      (self.page_names() if self.weight.nbytes <= self.at_once else [here])}

    def page_names(self) -> list[str]:
        return [f"rows {i}" for i in range(-(-len(self.weight) // ROWS))]

    def page(self, name: str) -> bytes:
        """Some rows of the matrix, (ROWS, K) float32; the last page may have fewer."""
        first = ROWS * int(name.split()[1])
        self._checked("row", first)
        return self.weight[first : first + ROWS].numpy().astype("<f4").tobytes()

    # -------------------------------------------------------------------------------------------- what can be had of it

    def becomes(self, bits: int | None = None, size: int | None = None) -> np.ndarray:
        """(N, K) float32: what codes of so many bits, in groups of this size, stand for."""
        *_, bits, size = self._place(None, None, bits, size)
        return self._rounded(bits, size).dequantize().numpy()

    def lost(self, bits: int | None = None, size: int | None = None) -> float:
        """The size of what rounding changes, the root of the sum of squares, beside that of the matrix."""
        *_, bits, size = self._place(None, None, bits, size)
        return self.story["lost"][f"{bits} {size}"]

    def group(self, row=None, column=None, bits=None, size=None) -> tuple[np.ndarray, np.ndarray, float]:
        """A group's numbers, what they become, (size,) each, and the scale that they share."""
        row, column, bits, size = self._place(row, column, bits, size)
        first = column // size * size
        here = slice(first, first + size)
        scale = self._rounded(bits, size).scale[row, first // size].item()
        return self.weight[row, here].numpy(), self.becomes(bits, size)[row, here], scale

    def still(self, row=None, column=None, bits=None, size=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        row, column, bits, size = place = self._place(row, column, bits, size)
        first, group = row // ROWS * ROWS, self.group(*place)
        block, limit = self.weight[first : first + ROWS].numpy(), self.story["limit"]
        off = block - self.becomes(bits, size)[first : first + ROWS]
        figure = stills.rounding(block, off, limit, group, first, row - first, column // size * size, bits)
        return figure, (
            f"{len(block)} rows of {self.story['name']} as colours, and below what each number is off by in codes of "
            f"{bits} bits with a scale for {size}: {self.lost(bits, size):.1%} of the whole. Under them one group, "
            f"each number beside what it becomes.")

    def _round(self, bits, size) -> QuantizedTensor:
        return rounded(self.weight, bits, size, self.search)

    def _lost(self, bits, size) -> float:
        off = self.weight - self._round(bits, size).dequantize()
        return (off.double().norm() / self.weight.double().norm().clamp(min=1e-30)).item()

    # ----------------------------------------------------------------------------------------------- numbers and places

    @traitlets.validate("row", "column", "bits", "size")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    def _checked(self, name, value):
        value = whole(name, value)
        if name in ("row", "column"):
            many = self.weight.shape[name == "column"]
            if value not in range(many):
                raise QwenError(f"There is no {name} {value} to explore; the last is {many - 1}.")
        elif value not in self.story["bits" if name == "bits" else "sizes"]:
            there = ", ".join(map(str, self.story["bits" if name == "bits" else "sizes"]))
            what = "bits" if name == "bits" else "group size"
            raise QwenError(f"{what} {value!r} cannot be shown of this matrix; there are {there}.")
        return value

    def __repr__(self) -> str:
        N, K = self.weight.shape
        return f"QuantExplorer({self.story['name']}: {N} x {K})"
