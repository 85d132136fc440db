"""How quantized weights lie in checkpoints: the layouts that others write and read.

    fp8                 numbers of 8 bits (e4m3), a scale for each block of 128 x 128: the official "-FP8" checkpoints
    gptq                codes packed along a column, 8 of 4 bits in an int32: the official "-GPTQ-Int4" ones
    awq                 codes packed along a row of the transposed matrix, in an order of its own, with zero points
    compressed-tensors  codes packed along a row ("pack-quantized"): what `save_model` writes

In each of them a weight (N, K) is several tensors, which are read into one `QuantizedTensor` and written from one.
Which weights are quantized is seen by what is stored; the settings in config.json say what cannot be seen. Experts lie
one by one in all of them.

Sources: compressed_tensors `pack_quantized`; AutoGPTQ `QuantLinear`; AutoAWQ `WQLinear_GEMM`; transformers
`finegrained_fp8`.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .errors import QwenError, remark, short
from .quantize import EMBEDDING, HEAD
from .quantized import FP8_BLOCK, QuantizedTensor, dequantized

__all__ = ["LAYOUTS", "Packed", "gathered", "layout_of", "written"]

AWQ_ORDER = [0, 4, 1, 5, 2, 6, 3, 7]                     # where in an int32 the code of each of 8 columns lies

# ----------------------------------------------------------------------------------------------- whole numbers in int32


def into_words(codes: Tensor, bits: int) -> Tensor:
    """(..., n) uint8 from 0 up -> (..., ceil(n * bits / 32)) int32, the first code in the lowest bits."""
    slots = 32 // bits
    codes = nn.functional.pad(codes.to(torch.int32), (0, -codes.shape[-1] % slots)).unflatten(-1, (-1, slots))
    return sum(codes[..., i] << bits * i for i in range(slots)).to(torch.int32)


def out_of_words(words: Tensor, bits: int, n: int) -> Tensor:
    """The way back: (..., n) uint8."""
    return torch.stack([(words >> bits * i) & 2 ** bits - 1 for i in range(32 // bits)], -1).flatten(-2)[..., :n].byte()


def made(codes: Tensor, scale: Tensor, zero: Tensor | None, bits: int) -> QuantizedTensor:
    """codes (N, K) and zero (N, K / group), uint8 from 0 up. Where all zeros are in the middle there are none."""
    group, middle = codes.shape[1] // scale.shape[1], 2 ** (bits - 1)
    if zero is None or (zero == middle).all():
        return QuantizedTensor.of((codes ^ middle if bits == 8 else codes - middle).view(torch.int8), scale, bits,
                                  (1, group))
    return QuantizedTensor.of(codes, scale, bits, (1, group), zero)


def taken_apart(weight: QuantizedTensor) -> tuple[Tensor, Tensor, Tensor]:
    """codes (N, K), scale and zero (N, K / group): what `made` takes."""
    integers, scale, middle = weight.integers(), weight.plain_scale(), 2 ** (weight.bits - 1)
    if weight.zero is not None:
        return integers, scale, weight.zero
    return (integers.view(torch.uint8) ^ middle if weight.bits == 8 else (integers + middle).view(torch.uint8),
            scale, torch.full_like(scale, middle, dtype=torch.uint8))


def in_order(g_idx: Tensor | None, K: int, group: int, name: str) -> None:
    if g_idx is not None and not torch.equal(g_idx.long(), torch.arange(K) // group):
        raise QwenError(f"The columns of {name} are grouped out of order (desc_act, actorder), which is not read here: "
                        f"take a checkpoint without.")


def as_words(weight: QuantizedTensor, bits: tuple[int, ...]) -> bool:
    return not weight.codes.is_floating_point() and weight.bits in bits and weight.block[0] == 1


def kinds_of(weights: dict[str, QuantizedTensor]) -> dict[tuple, list[str]]:
    """{(bits, group, symmetric): names}; a group of None is the whole row, however wide."""
    groups = {weight.block[1] for weight in weights.values() if weight.block[1] < weight.shape[-1]}
    kinds = {}
    for name, weight in weights.items():
        group = weight.block[1] if weight.block[1] in groups else None
        kinds.setdefault((weight.bits, group, weight.zero is None), []).append(name)
    return kinds


def one_kind(weights: dict[str, QuantizedTensor]) -> dict:
    """What all of them have; a group of -1 is the whole row."""
    bits, group, _ = next(iter(kinds_of(weights)))
    return {"bits": bits, "group_size": group or -1}


def left_out(weights: dict[str, QuantizedTensor], model: nn.Module) -> list[str]:
    """The linear modules that are stored as they are."""
    tied = ["lm_head"] * (HEAD not in dict(model.named_parameters()))                       # a module that others have
    return tied + [name for name, module in model.named_modules()
                   if isinstance(module, nn.Linear) and f"{name}.weight" not in weights]


# ------------------------------------------------------------------------------------------------------------- layouts


class Layout:
    """How a weight lies in a file. `parts` are its tensors, by the ends of their names.

    needs: the ends that must be there, the one that tells a quantized weight first; may: those that may be.
    known: values that settings must have, if they have any.
    everywhere: can the head and the tower be quantized, too, and in other bits?
    """

    needs, may, known, everywhere = (), (), {}, False

    def __init__(self, settings: dict):
        self.settings = settings


class CompressedTensors(Layout):
    """Codes packed along a row. Groups of modules may have bits of their own."""

    needs, may = ("weight_packed", "weight_scale", "weight_shape"), ("weight_zero_point", "weight_g_idx")
    known, everywhere = {"format": ("pack-quantized",)}, True

    def shape(self, stored):
        return tuple(stored["weight_shape"].read().tolist())

    def read(self, parts, name):
        N, K = parts["weight_shape"].tolist()
        bits = 32 // -(-K // parts["weight_packed"].shape[1])
        in_order(parts.get("weight_g_idx"), K, K // parts["weight_scale"].shape[1], name)
        zero = parts.get("weight_zero_point")
        if zero is not None:
            zero = out_of_words(zero.mT, bits, N).mT.contiguous()
        return made(out_of_words(parts["weight_packed"], bits, K), parts["weight_scale"], zero, bits)

    @staticmethod
    def holds(weight):
        return as_words(weight, (8, 4))

    @staticmethod
    def write(weight):
        codes, scale, zero = taken_apart(weight)
        parts = {"weight_packed": into_words(codes, weight.bits), "weight_scale": scale,
                 "weight_shape": torch.tensor(codes.shape)}
        if weight.zero is not None:
            parts["weight_zero_point"] = into_words(zero.mT, weight.bits).mT
        return parts

    @staticmethod
    def settings_of(weights, model):
        """The kind that is met most often is what a Linear is; modules of another are named."""
        groups, kinds = {}, sorted(kinds_of(weights).items(), key=lambda item: -len(item[1]))
        for i, ((bits, group, symmetric), names) in enumerate(kinds):
            names = [name.removesuffix(".weight") for name in names]
            groups[f"group_{i}"] = {"targets": names if i else ["Linear"], "format": "pack-quantized", "weights": {
                "num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False,
                "strategy": "channel" if group is None else "group", "group_size": group}}
        return {"format": "pack-quantized", "quantization_status": "compressed", "config_groups": groups,
                "ignore": left_out(weights, model)}


class GPTQ(Layout):
    """Codes packed along a column; zero points, too, and one less than they are."""

    needs, may = ("qweight", "qzeros", "scales"), ("g_idx",)
    known = {"bits": (8, 4), "checkpoint_format": ("gptq", "gptq_v2")}

    def shape(self, stored):
        words, N = stored["qweight"].shape
        return N, words * 32 // self.settings["bits"]

    def read(self, parts, name):
        bits, (words, N) = self.settings["bits"], parts["qweight"].shape
        K, scale = words * 32 // bits, parts["scales"].mT.contiguous()
        in_order(parts.get("g_idx"), K, K // scale.shape[1], name)
        less = self.settings.get("checkpoint_format") != "gptq_v2"
        zero = (out_of_words(parts["qzeros"], bits, N) + less) & 2 ** bits - 1
        return made(out_of_words(parts["qweight"].mT, bits, K), scale, zero.mT.contiguous(), bits)

    @staticmethod
    def holds(weight):
        return as_words(weight, (8, 4)) and weight.shape[-1] % 8 == weight.shape[-2] % 8 == 0

    @staticmethod
    def write(weight):
        codes, scale, zero = taken_apart(weight)
        zero = (zero.mT - 1) & 2 ** weight.bits - 1
        return {"qweight": into_words(codes, weight.bits).mT, "qzeros": into_words(zero, weight.bits),
                "scales": scale.mT, "g_idx": (torch.arange(codes.shape[1]) // weight.block[1]).int()}

    @staticmethod
    def settings_of(weights, model):
        return one_kind(weights) | {"desc_act": False, "lm_head": False, "checkpoint_format": "gptq",
                                    "sym": all(weight.zero is None for weight in weights.values())}


class AWQ(Layout):
    """Codes of the transposed matrix, packed along its rows, in an order of their own."""

    needs, known = ("qweight", "qzeros", "scales"), {"bits": (4,), "version": ("gemm", "GEMM")}

    def shape(self, stored):
        K, words = stored["qweight"].shape
        return words * 8, K

    def read(self, parts, name):
        codes, zero = (out_of_words(parts[part], 4, 8 * parts[part].shape[1]).unflatten(-1, (-1, 8))[..., AWQ_ORDER]
                       .flatten(-2).mT.contiguous() for part in ("qweight", "qzeros"))
        return made(codes, parts["scales"].mT.contiguous(), zero, 4)

    @staticmethod
    def holds(weight):
        return as_words(weight, (4,)) and weight.shape[-2] % 8 == 0

    @staticmethod
    def write(weight):
        codes, scale, zero = taken_apart(weight)
        order = torch.tensor(AWQ_ORDER).argsort()
        words = (into_words(x.mT.unflatten(-1, (-1, 8))[..., order].flatten(-2), 4) for x in (codes, zero))
        return dict(zip(("qweight", "qzeros"), words, strict=True)) | {"scales": scale.mT}

    @staticmethod
    def settings_of(weights, model):
        return one_kind(weights) | {"zero_point": True, "version": "gemm",
                                    "modules_to_not_convert": left_out(weights, model)}


class FP8(Layout):
    """Floats of 8 bits as they are, and what each block of them is multiplied by."""

    needs = ("weight", "weight_scale_inv")
    known = {"fmt": ("e4m3",), "activation_scheme": ("dynamic",), "weight_block_size": ([128, 128],)}

    def shape(self, stored):
        return stored["weight"].shape

    def read(self, parts, name):
        return QuantizedTensor(parts["weight"], parts["weight_scale_inv"], 8, FP8_BLOCK)

    @staticmethod
    def holds(weight):
        return weight.codes.is_floating_point()

    @staticmethod
    def write(weight):
        return {"weight": weight.codes, "weight_scale_inv": weight.scale}

    @staticmethod
    def settings_of(weights, model):
        return {"fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(FP8_BLOCK),
                "modules_to_not_convert": left_out(weights, model)}


LAYOUTS = {"compressed-tensors": CompressedTensors, "gptq": GPTQ, "awq": AWQ, "fp8": FP8}

# ---------------------------------------------------------------------------------------------------- whole checkpoints


class Packed(NamedTuple):
    """A weight that lies in a checkpoint as codes and scales. What it has is named as in `checkpoint.Stored`."""

    path: Path
    name: str
    shape: tuple
    dtype: None                                              # that of no tensor in the file
    parts: dict                                              # {the end of its name: Stored}
    layout: Layout


def settings_in(config: dict) -> dict | None:
    """What a config.json says of quantized weights, at either of the places where it is said."""
    return config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")


def layout_of(config: dict, folder: Path) -> Layout | None:
    """By which layout the checkpoint of this config.json is quantized; None: it is not.

    Raises:
        QwenError: by one that is not known, or that has settings that are not.
    """
    settings = settings_in(config)
    if not settings:
        return None
    if not isinstance(settings, dict):
        raise QwenError(f"{folder}: quantization_config must be an object, not {short(repr(settings))}.")
    method = settings.get("quant_method")
    otherwise = "take the checkpoint in bfloat16, or another of its quantized ones"
    if not isinstance(method, str) or method not in LAYOUTS:
        raise QwenError(f"{folder} is quantized by {short(repr(method))} (quantization_config), which is not known "
                        f"here; known are {', '.join(LAYOUTS)}: {otherwise}.")
    said = {name: value for name, value in settings.items() if value is not None}
    settings = {"bits": said.get("w_bit", 4)} | said
    for name, values in LAYOUTS[method].known.items():
        if name in settings and repr(settings[name]) not in map(repr, values):       # 4.0 is none of (8, 4)
            raise QwenError(f"{folder} is quantized ({method}) with {name} {short(repr(settings[name]))}, and known "
                            f"here is {' or '.join(map(repr, values))}: {otherwise}.")
    return LAYOUTS[method](settings)


def gathered(stored: dict, layout: Layout | None, folder: Path) -> dict:
    """{name: where it lies} of a checkpoint's tensors with those of a quantized weight as one, under the weight's name.

    Raises:
        QwenError: a part is missing.
    """
    stored = dict(stored)
    if layout is None:
        return stored
    first, *others = layout.needs
    tells = others[0] if first == "weight" else first        # a plain weight is called so, too
    for name in [name for name in stored if name.endswith(f".{tells}")]:
        module = name.removesuffix(tells)
        if lacks := [part for part in layout.needs if module + part not in stored]:
            raise QwenError(f"{folder} lacks the tensor {module}{lacks[0]}, a part of a quantized weight; fetch it "
                            f"again.")
        parts = {part: stored.pop(module + part) for part in (*layout.needs, *layout.may) if module + part in stored}
        where = parts[first].path
        try:
            shape = tuple(layout.shape(parts))
        except (TypeError, ValueError):
            raise QwenError(f"The tensor {module}{first} in {where} has the shape {parts[first].shape}, which is none "
                            f"of a quantized weight; fetch it again.") from None
        stored[f"{module}weight"] = Packed(where, f"{module}weight", shape, None, parts, layout)
    if not any(isinstance(where, Packed) for where in stored.values()):
        remark(f"config.json of {folder} speaks of quantized weights, but there are none: all are read as they are.")
    return stored


def written(state: dict[str, Tensor], model: nn.Module, method: str | None) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a quantized model as they go into a file, and the quantization_config beside them.

    method: one of `LAYOUTS`, as others read it: weights that these keep as they are - the embedding, and but for
        compressed-tensors all outside of the layers - are written as the numbers they stand for. None: all codes as
        they are.
    Raises:
        QwenError: there is no such layout, or it cannot hold these weights.
    """
    weights = {name: weight for name, weight in state.items() if isinstance(weight, QuantizedTensor)}
    floats = any(weight.codes.is_floating_point() for weight in weights.values())
    name = method or ("fp8" if floats else "compressed-tensors")
    if name not in LAYOUTS:
        raise QwenError(f"There is no layout {short(repr(name))}; there are {', '.join(LAYOUTS)}.")
    layout = LAYOUTS[name]
    if method is not None:                               # for others, who have codes in linear modules alone
        weights.pop(EMBEDDING, None)
    if not layout.everywhere:
        weights = {name: weight for name, weight in weights.items() if ".layers." in name}
    mixed = not layout.everywhere and len({kind[:2] for kind in kinds_of(weights)}) > 1
    for what, weight in weights.items():
        if mixed or not layout.holds(weight):
            kind = f"codes of {weight.bits} bits in blocks of {weight.block}{', and others of other kinds' * mixed}"
            raise QwenError(f"The layout {name!r} cannot hold {what}, which has {kind}; layouts are "
                            f"{', '.join(LAYOUTS)}.")
    tensors = {}
    for full, tensor in state.items():
        if full in weights:
            tensors |= {full.removesuffix("weight") + part: x.contiguous() for part, x in layout.write(tensor).items()}
        else:
            tensors[full] = dequantized(tensor)
    return tensors, {"quant_method": name} | layout.settings_of(weights, model)
