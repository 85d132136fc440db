"""Weights in 8 or 4 bits: small in memory, and quick where a token is read by every matrix.

    small = minqwen.quantize(qwen, bits=4)              # beside the old one
    qwen = minqwen.load("Qwen/Qwen3.5-9B", bits=4)      # while it is loaded: never whole in memory

A row of a matrix is cut into groups, of 128 numbers for instance. Each group has a scale, and each number becomes a
small whole number of that scale, its code:

    w  ~  scale * code,      code = round(w / scale),      -8 <= code <= 7 in 4 bits

So a number takes 4 bits and its share of a scale, and what is lost of it is at most half a scale. The largest number of
a group decides how coarse all are: with it in range, the others may share a few codes. So it pays to search. A scale
that is smaller cuts the largest short, and is finer for the rest; of a few, that one is taken which comes nearest to
the group in all, by the sum of squares. That needs no texts, and on the small model that is shipped it lost less than
GPTQ, which needs some.

Only what is wide is worth it. What stays as it is: vectors; convolutions; `in_proj_a` and `in_proj_b`, which steer how
a memory fades and is written, and are tiny; a router of experts. The embedding, and the head, which has the last word,
have 8 bits, and so has the vision tower.

`quantized.py` has the tensor that holds codes, and its products; `layouts.py` knows how others store such weights.
"""

import copy
import math
import re
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import QwenError
from .model import Qwen
from .quantized import FP8_BLOCK, QuantizedTensor, as_parameter, for_cpu, pack, quantized_bits, spread

__all__ = ["check_bits", "plan", "quantize", "quantizes", "rounded", "rounded_parts"]

BITS, GROUP = (8, 4, 3, 2), 128
SMALLER = (0.9, 0.8, 0.7, 0.6)                           # scales that are tried, as parts of the one that cuts nothing
EMBEDDING, HEAD, TOWER = "model.language_model.embed_tokens.weight", "lm_head.weight", "model.visual."
KEPT = re.compile(r"\.(in_proj_[ab]|shared_expert_gate|conv1d|mlp\.gate|patch_embed\.proj|pos_embed)\.")
AT_A_TIME = 2 ** 16                                      # numbers that are rounded together: they fit into a cache

# ------------------------------------------------------------------------------------------------------------ rounding


def rounded(weight: Tensor, bits: int, group: int, search: bool = True) -> QuantizedTensor:
    """A weight (..., N, K) as codes, with a scale for `group` numbers of a row. search: see the top of this file."""
    return rounded_parts([weight.flatten(0, -2)], weight.shape, weight.dtype, bits, group, search)


def rounded_parts(parts: Iterable[Tensor], shape: Sequence[int], dtype: torch.dtype, bits: int, group: int,
                  search: bool = True) -> QuantizedTensor:
    """`rounded` for rows that come one part after the other, (n, K) each, so that never all of them need be there."""
    if bits == "fp8":
        return rounded_to_floats(torch.cat(list(parts)).view(shape).to(dtype))
    *lead, K = shape
    codes = torch.empty(math.prod(lead), K * bits_held(bits) // 8, dtype=torch.int8 if bits == 8 else torch.uint8)
    scales = torch.empty(math.prod(lead), K // group, dtype=dtype)
    row = 0
    for part in parts:
        for rows in part.split(max(AT_A_TIME // K, 1)):
            groups = rows.float().unflatten(-1, (-1, group))                                # (n, K / group, group)
            scale = best_scale(groups, bits, dtype, search)
            found = codes_of(groups, scale.float(), bits).to(torch.int8).flatten(1)
            here = slice(row, row := row + len(rows))
            codes[here] = found if bits == 8 else pack(found + 2 ** (bits - 1), bits)
            scales[here] = scale.squeeze(-1)
    return QuantizedTensor(codes.view(*lead, -1), scales.view(*lead, -1), bits, (1, group))


def best_scale(groups: Tensor, bits: int, dtype: torch.dtype, search: bool) -> Tensor:
    """(..., group) -> (..., 1). The first has the largest number half a code beyond the last one."""
    widest = (groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 0.5)).clamp(min=1e-30)
    best, least = widest.to(dtype), None
    for part in (1.0, *SMALLER) if search and bits < 8 else ():
        scale = (part * widest).to(dtype)                                                   # as it will be held
        lost = (groups - scale.float() * codes_of(groups, scale.float(), bits)).square().sum(-1, keepdim=True)
        best = scale if least is None else torch.where(lost < least, scale, best)
        least = lost if least is None else torch.minimum(lost, least)
    return best


def codes_of(x: Tensor, scale: Tensor, bits: int) -> Tensor:
    return (x / scale).round().clamp(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def rounded_to_floats(weight: Tensor) -> QuantizedTensor:
    """As in the official FP8 checkpoints: floats of 8 bits (e4m3: four of exponent, three of mantissa), and a scale for
    each block of 128 x 128, by which its largest number becomes the largest there is, 448. weight: (..., N, K)."""
    *_, N, K = weight.shape
    blocks = F.pad(weight, (0, -K % 128, 0, -N % 128)).unflatten(-1, (-1, 128)).unflatten(-3, (-1, 128))
    scale = (blocks.abs().amax((-3, -1)).float() / 448).clamp(min=1e-30).to(weight.dtype)   # (..., N / 128, K / 128)
    codes = (weight.float() / spread(scale.float(), FP8_BLOCK, N, K)).clamp(-448, 448)
    return QuantizedTensor(codes.to(torch.float8_e4m3fn), scale, 8, FP8_BLOCK)


def bits_held(bits: int) -> int:
    """How many a code takes in memory: two of 3 bits share a byte."""
    return 8 // (8 // bits)


# ------------------------------------------------------------------------------------------------------- whole models


def quantize(qwen, bits: int = 4, group_size: int | None = None, embeddings: int = 8, search: bool = True):
    """A model of the same shape with its widest weights in few bits. The others share the memory of the first one's.

    Args:
        qwen: a `Qwen`, or what `minqwen.load` gives; the same comes back.
        bits: 8 or 4; 3 and 2 to see what becomes of it; "fp8" for floats of 8 bits, in the decoder's layers alone.
        group_size: how many numbers of a row share a scale; None: 128, and in 8 bits the whole row.
        embeddings: bits of the embedding and of the head.
        search: for the scale that fits each group best; False rounds to nearest with the largest number in range.

    Raises:
        QwenError: bits or groups that cannot be; a model that is quantized already, or that has no weights.
    """
    model = qwen if isinstance(qwen, Qwen) else getattr(qwen, "model", None)
    if not isinstance(model, Qwen):
        raise QwenError(f"quantize takes what minqwen.load() gives, or a Qwen, not a {type(qwen).__name__}.")
    if had := quantized_bits(model):
        raise QwenError(f"This model is quantized already ({had}): load it in bfloat16, and quantize that.")
    if model.head_weight.is_meta:
        raise QwenError("This model has shapes and no weights (it is on the device 'meta'): load it first.")
    weights = dict(model.named_parameters())
    chosen = plan({name: weight.shape for name, weight in weights.items()}, bits, group_size, embeddings)
    small = copy.deepcopy(model, {id(weight): as_parameter(weight.detach()) for weight in weights.values()}).eval()
    for name, how in chosen.items():
        place, _, leaf = name.rpartition(".")
        codes = for_cpu(rounded(weights[name].detach(), *how, search))
        setattr(small.get_submodule(place), leaf, as_parameter(codes))
    if qwen is model:
        return small
    again = copy.copy(qwen)
    again.model, again.source = small, None
    return again


def plan(shapes: dict[str, Sequence[int]], bits: int, group_size: int | None = None,
         embeddings: int = 8) -> dict[str, tuple[int, int]]:
    """Which weights become codes, of how many bits, and how many numbers share a scale: {name: (bits, group)}.

    shapes: of all of a model's parameters, by name; the others are `quantize`'s, as are the errors.
    """
    check_bits(bits, group_size, embeddings)
    chosen = {}
    for name, shape in shapes.items():
        if len(shape) > 1 and not KEPT.search(name):
            tower = name.startswith(TOWER)
            if bits == "fp8":
                if ".layers." in name:
                    chosen[name] = bits, FP8_BLOCK[1]
                if name.endswith("experts.gate_up_proj") and shape[1] // 2 % FP8_BLOCK[0]:
                    raise QwenError(f"Experts {shape[1] // 2} wide cannot be floats of 8 bits, of which {FP8_BLOCK[0]} "
                                    f"rows share a scale: take bits=8.")
                continue
            of = 8 if tower else embeddings if name in (EMBEDDING, HEAD) else bits
            whole = of == 8 and (tower or bits != 8 or group_size is None)
            chosen[name] = of, shape[-1] if whole else group_size or GROUP
    for name, (_, group) in chosen.items():
        if shapes[name][-1] % group and bits != "fp8":
            common = math.gcd(*(shapes[name][-1] for name in chosen if not name.startswith(TOWER)))
            fits = [size for size in (64, 32, 16, 8) if common % size == 0]
            raise QwenError(f"The rows of {name} have {shapes[name][-1]} numbers, which groups of {group} do not "
                            f"divide: {f'pass group_size={fits[0]}' if fits else 'no group_size fits this model'}.")
    return chosen


def quantizes(bits: int | str | None, group_size: int | None, embeddings: int) -> bool:
    """Do such options of `minqwen.load` ask for few bits? A QwenError where they only say how."""
    if bits is None and (group_size is not None or embeddings != 8):
        raise QwenError("group_size and embeddings say how weights are quantized, but not to how many bits: give bits, "
                        "too, such as bits=4, or leave them out.")
    return bits is not None


def check_bits(bits: int, group_size: int | None = None, embeddings: int = 8) -> None:
    """Raise a QwenError unless there are such bits and groups."""
    if bits == "fp8" and group_size is not None:
        raise QwenError(f"Floats of 8 bits come in blocks of {FP8_BLOCK}: leave out group_size={group_size!r}.")
    for name, x in (("bits", bits), ("embeddings", embeddings)):
        if (type(x) is not int or x not in BITS) and not (name == "bits" and x == "fp8"):
            raise QwenError(f"{name} must be 8 or 4 (3 and 2 are for experiments: 3 take as much as 4), not {x!r}.")
    if group_size is not None and (not isinstance(group_size, int) or group_size < 8 or group_size % 8):
        raise QwenError(f"group_size must be a multiple of 8, such as 128, 64 or 32, not {group_size!r}.")
