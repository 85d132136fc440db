"""What a context costs: bytes that are kept, and operations that are done, for every size and up to a million tokens.

All of it is counted from a configuration, nothing is timed. A row of a batch keeps, for its whole context,

    keys and values     2 Hkv D numbers for each token and attention layer, in the model's dtype
    states              Hv Dk Dv numbers for each Gated DeltaNet layer, in float32, and a convolution's last inputs

beside the weights, which all rows share: in the dtype, or of 8 or 4 bits as `minqwen.quantize` makes them. A token
takes, an addition and a multiplication being two operations,

    matrices            2 for each weight of a matrix, the output head's included: "Scaling Laws for Neural Language
                        Models" (Kaplan et al. 2020, arXiv 2001.08361), table 1, on this architecture's matrices
    attention           4 Hq D for each token looked at and attention layer, 2 D for q . k and 2 D for the sum of
                        values: "Training Compute-Optimal Large Language Models" (Hoffmann et al. 2022, arXiv
                        2203.15556), appendix F, of the tokens that may be looked at alone
    delta rule          7 Dk Dv for each value head, 1 for the decay, 2 for S^T k, 2 for writing k u^T, 2 for S^T q:
                        equation 10 of "Gated Delta Networks" (arXiv 2412.06464), token by token (a chunked form does
                        some more, in faster products); and 2 K for each channel of its convolution of K taps

Norms, softmax, gates, activations and rotary positions are left out: they go with a width, matrices with its square.
Symbols are those of `model.py`.
"""

from contextlib import suppress

import numpy as np
import traitlets
from matplotlib.figure import Figure

from ..config import OFFICIAL_SIZES, Config
from ..errors import QwenError, short
from ..info import BYTES, bytes_by_part, in_thousands, memory, readable, shapes_of
from . import stills
from .explorer import Choice, Explorer, Place, sources, whole

CONTEXTS = [2 ** i for i in range(8, 21)]       # tokens: 256 to 1,048,576
BATCHES = [1, 2, 4, 8, 16, 32, 64]
DTYPES = ["bfloat16", "float32"]
BITS = [16, 8, 4]                               # of the weights; 16: as they are, in the dtype
GROUPS = [None, 64, 32, 16, 8]                  # sizes of groups that are tried where those of 128 do not fit a model
WORKS = ["token", "prompt"]                     # the work of the next token, or of a whole prompt
HEIGHT, STEP = 440, 70                          # pixels of a chart: its height, and from one context to the next
WIDTH = STEP * (len(CONTEXTS) - 1) + 1
CHARTS = {                                      # lines, from the back to the front
    "memory": ("all attention", "weights", "states", "keys and values"),
    "work": ("all attention", "matrices", "delta rule", "attention"),
}
COLOURS = {                                     # safe for colour-blind eyes, and told apart by their places as well
    "light": {"grid": "#e9ebee", "others": "#c3c8cf", "all attention": "#8a8f98", "here": "#1565c0",
              "keys and values": "#d8721b", "attention": "#d8721b", "states": "#2f7cba", "delta rule": "#2f7cba",
              "matrices": "#8e63b0", "weights": "#8e63b0"},
    "dark": {"grid": "#2a2e36", "others": "#505865", "all attention": "#9aa2ad", "here": "#64b5f6",
             "keys and values": "#e08a2e", "attention": "#e08a2e", "states": "#4597dc", "delta rule": "#4597dc",
             "matrices": "#ad85cf", "weights": "#ad85cf"},
}  # fmt: skip

# ------------------------------------------------------------------------------------------------------------ counting


def counted(config: Config) -> dict[str, int]:
    """What all bytes and operations are made of; see the top of this file.

    key_values      numbers kept for each token
    states          bytes of the states; convolutions: numbers of the convolutions' last inputs
    matrices        operations of a token, without the output head; head: of the output head
    pair            operations of one token looking at one token, in all attention layers
    rule            operations of a token in all Gated DeltaNet layers, convolutions included
    weights         bytes of all weights, by dtype and bits: {"bfloat16 4": ...}
    layers, attention_layers
    """
    t = config.text_config
    d, Hq, Hkv, D = t.hidden_size, t.num_attention_heads, t.num_key_value_heads, t.head_dim
    Hk, Hv, Dk, Dv = (t.linear_num_key_heads, t.linear_num_value_heads, t.linear_key_head_dim, t.linear_value_head_dim)
    channels = 2 * Hk * Dk + Hv * Dv
    attention, linear = (t.layer_types.count(kind) for kind in ("full_attention", "linear_attention"))
    weights = attention * d * (2 * Hq * D + 2 * Hkv * D + Hq * D)               # q with its gate, k, v, o
    weights += linear * d * (channels + Hv * Dv + 2 * Hv + Hv * Dv)             # qkv, z, a and b, out
    mlp = 3 * d * t.intermediate_size
    if t.num_experts:                                                           # router, the chosen, shared, its gate
        mlp = d * (t.num_experts + 1) + 3 * d * (
            t.num_experts_per_tok * t.moe_intermediate_size + t.shared_expert_intermediate_size)
    weights += (attention + linear) * mlp
    kept = memory(config, 1, "float32")
    return {
        "key_values": kept.per_token // BYTES["float32"], "states": kept.states,
        "convolutions": kept.convolutions // BYTES["float32"],
        "matrices": 2 * weights, "head": 2 * t.vocab_size * d, "pair": attention * 4 * Hq * D,
        "rule": linear * (7 * Hv * Dk * Dv + 2 * t.linear_conv_kernel_dim * channels),
        "layers": attention + linear, "attention_layers": attention, "weights": weights_held(config),
    }


def weights_held(config: Config) -> dict[str, int]:
    """Bytes of all weights, by dtype and bits, as `minqwen info --bits` says them; 0 where no size of groups fits."""
    shapes, held = shapes_of(config), {}
    for dtype in DTYPES:
        for bits in BITS:
            sizes = {}
            for group in GROUPS:
                with suppress(QwenError):
                    sizes = bytes_by_part(shapes, dtype, None if bits == 16 else bits, group)
                    break
            held[f"{dtype} {bits}"] = sum(sizes.values())
    return held


def cost(counts: dict, context, batch: int, dtype: str, work: str, bits: int = 16) -> dict[str, dict]:
    """Bytes and operations of a batch at a context: chart -> line -> number, or an array like `context`.

    "all attention" is what keys and values, or attention's work, would be if every layer were one of attention.

    Args:
        counts: from `counted`.
        context: tokens in each row; the next token is the last of them, and looks at all.
        work: "token", the work of that token alone, or "prompt", of all of them, of which the last goes to the head.
        bits: of the weights, one of `BITS`.
    """
    more = counts["layers"] / (counts["attention_layers"] or 1)
    keys_and_values = batch * context * counts["key_values"] * BYTES[dtype]
    states = batch * (counts["states"] + counts["convolutions"] * BYTES[dtype]) + 0 * context
    tokens, pairs = (1 + 0 * context, context) if work == "token" else (context, context * (context + 1) / 2)
    attention = batch * pairs * counts["pair"]
    return {
        "memory": {"weights": counts["weights"][f"{dtype} {bits}"] + 0 * context, "keys and values": keys_and_values,
                   "states": states, "all attention": keys_and_values * more},
        "work": {"attention": attention, "delta rule": batch * tokens * counts["rule"],
                 "matrices": batch * (tokens * counts["matrices"] + counts["head"]),
                 "all attention": attention * more},
    }


def weights_in(dtype: str, bits: int) -> str:
    """In words."""
    return f"in {dtype}" if bits == 16 else f"of {bits} bits"


def operations(number: float) -> str:
    """1.2e12 -> "1.2 T": operations, in powers of a thousand."""
    return in_thousands(number, ("", "k", "M", "G", "T", "P", "E"))


# ---------------------------------------------------------------------------------------------------------- the widget


class ContextCost(Explorer):
    """Keys and values against states, and a token's work, over the context; and a table of all sizes.

        ContextCost()                                                   # every official size
        ContextCost(size="Qwen3.5-27B", context=262_144, batch=8, bits=4)
        ContextCost({"mine": qwen.config})                              # or others: names and configurations

    Args:
        configs: name -> `Config`; None: those of `Config.named`.
        size: which of them the charts are for.
        context: tokens in each row, a power of two from 256 to 1,048,576.
        batch: rows, a power of two from 1 to 64.
        dtype: "bfloat16" or "float32", for keys, values and a convolution's inputs; states are float32 always.
        work: "token" for the work of the next token, "prompt" for that of a whole prompt.
        bits: of the weights, 8 or 4 as `minqwen.quantize` makes them; 16 for weights as they are, in the dtype.

    Raises:
        QwenError: no such size, context, batch, dtype, work or bits.
    """

    _esm, _css = sources("cost_explorer")
    position = ("size", "context", "batch", "dtype", "work", "bits")

    size, dtype, work = (Choice().tag(sync=True) for _ in range(3))
    context, batch, bits = (Place().tag(sync=True) for _ in range(3))

    def __init__(self, configs: dict[str, Config] | None = None, *, size: str | None = None, context: int = 32_768,
                 batch: int = 1, dtype: str = "bfloat16", work: str = "token", bits: int = 16):
        if configs is None:
            configs = {name: Config.named(name) for name in OFFICIAL_SIZES}
        if not (isinstance(configs, dict) and configs and all(isinstance(x, Config) for x in configs.values())):
            raise QwenError("Give names and configurations, ContextCost({'mine': qwen.config}), or nothing for the "
                            "official sizes.")
        self.counts = {name: counted(config) for name, config in configs.items()}
        longest = {name: config.text_config.max_position_embeddings for name, config in configs.items()}
        super().__init__(story={
            "title": "What a context costs", "counts": self.counts, "longest": longest, "contexts": CONTEXTS,
            "batches": BATCHES, "dtypes": DTYPES, "bytes": BYTES, "works": WORKS, "charts": CHARTS,
            "bits": BITS, "colours": COLOURS, "canvas": [HEIGHT, WIDTH],
            "decades": {f"{chart} {work}": self._decades(chart, work) for chart in CHARTS for work in WORKS},
        })
        self.size = next(iter(configs)) if size is None else size
        self.context, self.batch, self.dtype, self.work, self.bits = context, batch, dtype, work, bits

    def _decades(self, chart, work) -> list[int]:
        """Powers of ten that all lines of all sizes and batches lie between, so that the axis never moves."""
        ends = [x for counts in self.counts.values() for batch in (BATCHES[0], BATCHES[-1]) for dtype in DTYPES
                for context in (CONTEXTS[0], CONTEXTS[-1]) for bits in BITS
                for x in cost(counts, context, batch, dtype, work, bits)[chart].values() if x]
        return [int(np.floor(np.log10(min(ends)))), int(np.ceil(np.log10(max(ends))))]

    def page_names(self) -> list[str]:
        return []                                                       # the story says it all

    # -------------------------------------------------------------------------------------------- what can be had of it

    def numbers(self, size=None, context=None, batch=None, dtype=None, work=None,
                bits=None) -> dict[str, dict[str, float]]:
        """chart -> line -> bytes, or operations; what is not given is where the explorer stands. See `cost`."""
        size, *place = self._place(size, context, batch, dtype, work, bits)
        return cost(self.counts[size], *place)

    def still(self, size=None, context=None, batch=None, dtype=None, work=None, bits=None) -> tuple[Figure, str]:
        """What it shows, as a figure that stands still, and its description."""
        size, context, batch, dtype, work, bits = place = self._place(size, context, batch, dtype, work, bits)
        costs = cost(self.counts[size], np.array(CONTEXTS, dtype=float), batch, dtype, work, bits)
        what = "the next token" if work == "token" else "the whole prompt"
        colours = COLOURS["light"]
        titles = {"memory": f"bytes kept by {size}", "work": f"operations for {what}"}
        written = {"memory": readable, "work": operations}
        lines = {chart: {name: (costs[chart][name], colours[name]) for name in CHARTS[chart]} for chart in CHARTS}
        figure = stills.context_cost(CONTEXTS, {titles[chart]: (written[chart], lines[chart]) for chart in CHARTS},
                                     context)
        here = self.numbers(*place)["memory"]
        return figure, (
            f"Two charts over the context on logarithmic axes, for {size}, {batch} row{'s' * (batch > 1)}, {dtype}. "
            f"Left, bytes: keys and values rise with the context, {readable(here['keys and values'])} at {context:,} "
            f"tokens, states stay at {readable(here['states'])}, and the weights {weights_in(dtype, bits)} at "
            f"{readable(here['weights'])}. Right, operations for {what}: matrices, delta rule "
            f"and attention.")

    # ----------------------------------------------------------------------------------------------- numbers and places

    @traitlets.validate("size", "context", "batch", "dtype", "work", "bits")
    def _validate(self, proposal):
        return self._checked(proposal["trait"].name, proposal["value"])

    def _checked(self, name, value):
        there = {"size": list(self.counts), "context": CONTEXTS, "batch": BATCHES, "dtype": DTYPES, "work": WORKS,
                 "bits": BITS}[name]
        if isinstance(there[0], int):
            value = whole(name, value)
        if not isinstance(value, str | int) or value not in there:
            shown = ", ".join(f"{x:,}" if isinstance(x, int) else x for x in there)
            raise QwenError(f"There is no {name} {short(repr(value))} to show; there are {shown}.")
        return value

    def __repr__(self) -> str:
        return f"ContextCost({', '.join(self.counts)}: {CONTEXTS[0]:,} to {CONTEXTS[-1]:,} tokens)"
