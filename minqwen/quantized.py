"""A weight that is held as small whole numbers, and what is computed with it.

A row of a matrix is cut into groups, and each group has a scale: w = scale * code. A `QuantizedTensor` stands where the
weight stood, under its name. `linear` and `embedding` know how to work on its codes; everything else that is done with
it sees the numbers it stands for. It cannot be written to, so it cannot be trained.

`quantize.py` makes them; `layouts.py` knows how others store them.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from .errors import QwenError
from .model import by_groups

__all__ = ["QuantizedTensor", "as_parameter", "for_cpu", "pack", "quantized_bits", "unpack"]

FEW = {4: 64, 8: 32}                                     # tokens for which a packed product is the quicker way, by bits
PIECE = 2 ** 23                                          # numbers that are made out of codes at a time
FP8_BLOCK = 128, 128                                     # numbers that share a scale in the official FP8 checkpoints
FIXED = ("A quantized weight cannot be written to, nor trained: load the model in bfloat16, change that, and quantize "
         "what it becomes.")
aten = torch.ops.aten

# --------------------------------------------------------------------------------------------------------- the weight


class QuantizedTensor(Tensor):
    """A matrix (N, K), or one for each expert (E, N, K), that is held as codes and scales.

    Attributes:
        codes: whole numbers in int8, or float8 as it is; of fewer bits 8 // bits in a byte, from 0 up, the first in the
            lowest bits: (..., N, K * bits / 8) uint8.
        scale: (..., N / rows, K / columns), in the dtype that the tensor seems to have.
        zero: the code that means 0, for each scale, uint8; None where all codes are counted from the middle.
        bits: of a code.
        block: (rows, columns) of the numbers that share a scale.
        packed: whether codes and scales lie as torch's product on a CPU wants them, see `for_cpu`.
    """

    @staticmethod
    def __new__(cls, codes: Tensor, scale: Tensor, bits: int, block: tuple[int, int], zero: Tensor | None = None,
                packed: bool = False):
        shape = *codes.shape[:-1], codes.shape[-1] * (8 // bits)
        self = Tensor._make_wrapper_subclass(cls, shape, dtype=scale.dtype, device=codes.device)
        self.codes, self.scale, self.bits, self.block, self.zero, self.packed = codes, scale, bits, block, zero, packed
        return self

    @classmethod
    def of(cls, integers: Tensor, scale: Tensor, bits: int, block: tuple[int, int], zero: Tensor | None = None):
        """From codes one by one: int8 (from -2^(bits-1) up), with a `zero` uint8 (from 0 up), or float8."""
        if bits < 8:
            integers = pack(integers if zero is not None else integers + 2 ** (bits - 1), bits)
        return cls(integers, scale, bits, block, zero)

    def integers(self) -> Tensor:
        """The codes one by one, as `of` takes them: (..., N, K)."""
        if self.bits == 8:
            return self.codes
        codes = unpack_for_cpu(self.codes) if self.packed else unpack(self.codes, self.bits)
        return codes if self.zero is not None else codes.view(torch.int8) - 2 ** (self.bits - 1)

    def dequantize(self) -> Tensor:
        """The numbers that it stands for: (..., N, K)."""
        rows, columns = self.block
        if self.packed:                                  # as below, in few passes over long runs: a prompt waits for it
            *experts, N, K = self.shape
            blocks = self.codes.view(*experts, N // 64, K, 32).view(torch.int64)             # see `unpack_for_cpu`
            codes = blocks.transpose(-2, -3).contiguous().view(torch.uint8) ^ 0x88          # (..., K, N / 64, 32)
            w = torch.cat((codes << 4, codes & 0xF0), dim=-1).view(torch.int8).to(self.dtype)   # 16 (code - 8)
            w.view(*experts, -1, columns, N).mul_((self.scale[..., 0] / 16).unsqueeze(-2))
            return w.view(*experts, K, N).mT
        w, zero = self.integers().to(self.dtype), self.zero
        if rows > 1:
            return w.mul_(spread(self.scale, self.block, *w.shape[-2:]))
        groups = w.unflatten(-1, (-1, columns))
        if zero is not None:
            groups.sub_(zero.unsqueeze(-1))
        groups.mul_(self.scale.unsqueeze(-1))
        return w

    def plain_scale(self) -> Tensor:
        return self.scale[..., 0].mT if self.packed else self.scale

    def bytes(self) -> int:
        return sum(x.nbytes for x in (self.codes, self.scale, self.zero) if x is not None)

    def map(self, change: Callable[[Tensor], Tensor]) -> "QuantizedTensor":
        """The same with each of its tensors changed."""
        zero = None if self.zero is None else change(self.zero)
        return QuantizedTensor(change(self.codes), change(self.scale), self.bits, self.block, zero, self.packed)

    def matrix(self, i: int) -> "QuantizedTensor":
        """One of several. In `torch.inference_mode` an index from outside, `weight[i]`, cannot be one of these."""
        return self.map(lambda x: x[i])

    def plain(self) -> "QuantizedTensor":
        """The same, its codes row by row."""
        if not self.packed:
            return self
        return QuantizedTensor.of(self.integers(), self.plain_scale().contiguous(), self.bits, self.block, self.zero)

    def rows(self, start: int, stop: int) -> "QuantizedTensor":
        """Some rows of a matrix. Where several share a scale, or lie packed, these are all of them."""
        if self.packed and (start % 64 or stop % 64):
            return self.plain().rows(start, stop)
        if self.packed:
            codes, scale = self.codes[start:stop], self.scale[:, start:stop]
            return QuantizedTensor(codes, scale, self.bits, self.block, packed=True)
        here = slice(start // self.block[0], -(-stop // self.block[0]))
        return QuantizedTensor(self.codes[start:stop], self.scale[here], self.bits, self.block,
                               None if self.zero is None else self.zero[here])

    def pieces(self) -> Iterator["QuantizedTensor"]:
        """Some rows after the other, none of many numbers."""
        N, K = self.shape
        step = max(PIECE // K // 128, 1) * 128
        for start in range(0, N, step):
            yield self.rows(start, min(start + step, N))

    @classmethod
    def stacked(cls, matrices: "list[QuantizedTensor]", shape: tuple[int, int, int]) -> "QuantizedTensor":
        """Those of all experts, gate above up, as one: (E, N, K)."""
        first = matrices[0]
        parts = [torch.cat([getattr(matrix, part) for matrix in matrices]).unflatten(0, (shape[0], -1))
                 for part in ("codes", "scale", "zero") if getattr(first, part) is not None]
        return cls(*parts[:2], first.bits, first.block, *parts[2:])

    # ---- what torch does with it

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if own := OWN.get(function):
            return own(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        """All that is not a product: a copy has codes, too, and anything else reads the numbers."""
        first, kwargs = args[0], kwargs or {}
        if isinstance(first, cls):
            if function in (aten.detach.default, aten.alias.default):
                return first.map(lambda x: x)
            if function == aten.clone.default:
                return first.map(torch.clone)
            if function == aten._to_copy.default:
                return first.to_copy(**kwargs)
            if function == aten.select.int and first.dim() == 3 and args[1] == 0:
                return first.matrix(args[2])
            if function == aten.split.Tensor and first.dim() == 2 and not args[2:]:
                return tuple(first.rows(i, min(i + args[1], len(first))) for i in range(0, len(first), args[1]))
            if function._schema.is_mutable:
                raise QwenError(FIXED)
        return function(*tree_map(dequantized, args), **tree_map(dequantized, kwargs))

    def to_copy(self, dtype=None, device=None, **_) -> "QuantizedTensor":
        plain, dtype = self.plain(), dtype or self.dtype
        if not dtype.is_floating_point:
            return self.dequantize().to(dtype)
        moved = plain.map(lambda x: x.to(device, copy=True))
        return for_cpu(QuantizedTensor(moved.codes, moved.scale.to(dtype), self.bits, self.block, moved.zero))

    def data_ptr(self) -> int:
        return self.codes.data_ptr()

    def __setitem__(self, place, x):
        raise QwenError(FIXED)

    def requires_grad_(self, requires_grad: bool = True) -> "QuantizedTensor":
        if requires_grad:
            raise QwenError("A quantized model cannot be trained: its weights are whole numbers, which have no "
                            "gradients; load it in bfloat16, and quantize what training gives.")
        return self

    def __tensor_flatten__(self):                        # that modules swap it when they are moved, and not its outside
        return ["codes", "scale"] + ["zero"] * (self.zero is not None), (self.bits, self.block, self.packed)

    @staticmethod
    def __tensor_unflatten__(parts, context, outer_size, outer_stride):
        bits, block, packed = context
        return QuantizedTensor(parts["codes"], parts["scale"], bits, block, parts.get("zero"), packed)

    def __deepcopy__(self, memo):
        return memo.setdefault(id(self), as_parameter(self.map(torch.clone)))

    def __reduce_ex__(self, protocol):
        return _rebuilt, (self.codes, self.scale, self.bits, self.block, self.zero, self.packed)

    def __repr__(self):
        return f"QuantizedTensor({tuple(self.shape)}, {self.bits} bits, a scale for {self.block}, {self.dtype})"


def _rebuilt(codes, scale, bits, block, zero, packed):
    tensor = QuantizedTensor(codes, scale, bits, block, zero, packed)
    return as_parameter(for_cpu(tensor.plain()) if packed else tensor)


torch.serialization.add_safe_globals([_rebuilt])         # it makes tensors of tensors: torch.load may call it


def as_parameter(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)


def dequantized(x):
    return x.dequantize() if isinstance(x, QuantizedTensor) else x


def spread(scale: Tensor, block: tuple[int, int], N: int, K: int) -> Tensor:
    """The scale of each number: (..., N / rows, K / columns) -> (..., N, K). The last blocks may be cut."""
    return scale.repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)[..., :N, :K]


def pack(codes: Tensor, bits: int) -> Tensor:
    """(..., K) whole numbers of so many bits, from 0 up -> (..., K * bits / 8) bytes."""
    slots = 8 // bits
    codes = codes.view(torch.uint8).unflatten(-1, (-1, slots))
    return sum(codes[..., i] << i * (8 // slots) for i in range(slots))


def unpack(codes: Tensor, bits: int) -> Tensor:
    """The way back: uint8."""
    slots = 8 // bits
    return torch.stack([(codes >> i * (8 // slots)) & 2 ** bits - 1 for i in range(slots)], -1).flatten(-2)


# ------------------------------------------------------------------------------------------------------------ products


def product(x: Tensor, weight: QuantizedTensor, bias: Tensor | None = None) -> Tensor:
    """x W^T. x: (..., K) -> (..., N).

    A few tokens in bfloat16 on a CPU are multiplied with the codes as they are, and the fewer bytes there are to read,
    the sooner it is done. Measured on a Zen 5 with two threads: 4 bits take a quarter of bfloat16's time for one token,
    8 bits two fifths; for 32 they are even. For many it is quicker to make numbers of them first, piece by piece, which
    comes on top of bfloat16's own product. Measured with one thread, for 512 tokens: a matrix of 0.8B's MLP takes 1.4
    times as long in 4 bits, and 1.15 times in 8; all layers together, to the first token, 1.2 and 1.05 times. A product
    of whole numbers, `torch._int_mm`, would take half of bfloat16's time, but rounds what is read, too: to 8 bits, of
    which an outlier leaves the rest few. With all that it needs around it the first token would come 1.02 times as soon
    as in bfloat16 for 8 bits, and 0.92 times for 4.
    """
    K = weight.shape[-1]
    if (x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.numel() <= FEW.get(weight.bits, 0) * K
            and not (x.requires_grad and torch.is_grad_enabled())):
        rows, y = x.reshape(-1, K), None
        if weight.packed:
            y = aten._weight_int4pack_mm_for_cpu(rows, weight.codes, weight.block[1], weight.scale)
        elif weight.codes.dtype == torch.int8 and weight.block == (1, K):
            y = aten._weight_int8pack_mm(rows, weight.codes, weight.scale[:, 0])
        if y is not None:
            y = y.view(*x.shape[:-1], -1)
            return y if bias is None else y + bias
    y = [F.linear(x, piece.dequantize()) for piece in weight.pieces()]
    y = y[0] if len(y) == 1 else torch.cat(y, dim=-1)
    return y if bias is None else y + bias


def look_up(ids: Tensor, weight: QuantizedTensor, *_, **__) -> Tensor:
    """Rows of an embedding. ids: (B, T) -> (B, T, K)."""
    if weight.packed:                                    # see `unpack_for_cpu`
        codes = weight.codes.view(-1, weight.shape[-1], 32)[ids // 64, :, ids % 32]         # (..., K), two in a byte
        codes = (codes >> (ids // 32 % 2 * 4).to(torch.uint8).unsqueeze(-1)) & 15
        scale = weight.scale[:, ids, 0].movedim(0, -1)
        return QuantizedTensor.of(codes.view(torch.int8) - 8, scale, 4, weight.block).dequantize()
    zero = None if weight.zero is None else weight.zero[ids]
    return QuantizedTensor(weight.codes[ids], weight.scale[ids], weight.bits, weight.block, zero).dequantize()


def groups_by_product(x: Tensor, matrices: QuantizedTensor, ends: Tensor) -> Tensor:
    """`model.by_groups`: of the experts, those that have something to read."""
    groups = x.tensor_split(ends[:-1].tolist())
    return torch.cat([product(rows, matrices.matrix(i)) for i, rows in enumerate(groups) if len(rows)])


# ------------------------------------------------------------------------------------ what torch does to its outside


def as_numbers(function: Callable) -> Callable:
    """The same of the numbers that a weight stands for: what leaves torch does not come by `__torch_dispatch__`."""
    return lambda weight, *args, **kwargs: function(weight.dequantize(), *args, **kwargs)


def refuse(weight: QuantizedTensor, *_) -> None:
    raise QwenError(FIXED)


def no_storage(weight: QuantizedTensor) -> None:
    raise QwenError("A quantized weight is several tensors and has no storage of its own: minqwen.save_model and "
                    "torch.save can write it, and its dequantize() is a plain tensor.")


def share(weight: QuantizedTensor) -> QuantizedTensor:
    weight.map(Tensor.share_memory_)
    return weight


OWN = {F.linear: product, F.embedding: look_up, by_groups: groups_by_product,
       Tensor.numpy: as_numbers(Tensor.numpy), Tensor.tolist: as_numbers(Tensor.tolist),
       Tensor.__array__: as_numbers(Tensor.__array__), Tensor.share_memory_: share,
       Tensor.untyped_storage: no_storage, Tensor.storage: no_storage, Tensor.data.__set__: refuse,
       Tensor.requires_grad.__set__: QuantizedTensor.requires_grad_}

# -------------------------------------------------------------------------------------------------- which product it is


def products(bits: int | str, dtype: str) -> str:
    """By which way weights of so many bits are multiplied on this machine's CPU, in words."""
    if dtype == "bfloat16" and (bits == 8 or (bits == 4 and packs_as_we_know())):
        return (f"on this CPU by torch's product for {bits}-bit codes, where no more than {FEW[bits]} tokens are "
                f"read;\n              for more, numbers are made of the codes first")
    return f"on this CPU numbers are made of the codes each time: no product of torch takes {bits} with {dtype} here"


def packable(shape: Sequence[int], bits: int, block: tuple[int, int], dtype: torch.dtype) -> bool:
    """Has torch a product on this CPU for a weight like this, whose codes lie in an order of their own?"""
    N, K = shape[-2:]
    return (bits == 4 and dtype == torch.bfloat16 and block[0] == 1 and block[1] in (32, 64, 128, 256)
            and K % block[1] == 0 and N % 64 == 0 and packs_as_we_know())


def bytes_held(shape: Sequence[int], bits: int | str, group: int, dtype: torch.dtype) -> int:
    """What a quantized weight of this shape takes in memory."""
    if bits == "fp8":
        blocks = math.prod(-(-n // of) for n, of in zip(shape[-2:], FP8_BLOCK)) * math.prod(shape[:-2])
        return math.prod(shape) + blocks * dtype.itemsize
    beside = 2 if packable(shape, bits, (1, group), dtype) else 1                           # see `for_cpu`
    return math.prod(shape) // (8 // bits) + math.prod(shape) // group * dtype.itemsize * beside


def for_cpu(weight: QuantizedTensor) -> QuantizedTensor:
    """The same as torch's product of 4 bits on a CPU wants it, if it can: codes in an order of its own, and beside each
    scale what is added. The codes change places where they are: memory never holds them twice. `unpack_for_cpu` is the
    way back."""
    if (not packable(weight.shape, weight.bits, weight.block, weight.dtype) or weight.zero is not None
            or weight.packed or weight.device.type != "cpu"):
        return weight
    K = weight.shape[-1]
    codes = weight.codes.view(-1, K // 2)                                                   # experts, one on another
    for part in codes.split(max(2 ** 18 // K // 64, 1) * 64):
        part.copy_(aten._convert_weight_to_int4pack_for_cpu(unpack(part, 4).int(), 1))
    scale = weight.scale.mT
    scale = torch.stack((scale, torch.zeros_like(scale)), dim=-1).contiguous()              # (..., K / columns, N, 2)
    return QuantizedTensor(weight.codes, scale, 4, weight.block, packed=True)


def unpack_for_cpu(codes: Tensor) -> Tensor:
    """Codes in the order of processors with AVX-512: 64 rows side by side, of which the later half lies in the higher
    bits. (..., N, K / 2) -> (..., N, K) uint8."""
    *experts, N, half = codes.shape
    blocks = codes.reshape(*experts, N // 64, 2 * half, 32)
    return torch.cat((blocks & 15, blocks >> 4), dim=-1).mT.reshape(*experts, N, 2 * half).contiguous()


@lru_cache
def packs_as_we_know() -> bool:
    """Another processor has another order, or none: then codes stay row by row."""
    codes = torch.arange(64 * 32).remainder(15).view(64, 32)
    try:
        packed = aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    except (AttributeError, RuntimeError):
        return False
    return torch.equal(unpack_for_cpu(packed.view(64, 16)), codes.to(torch.uint8))


def quantized_bits(model: nn.Module) -> str:
    """How many bits a model's weights have, such as "4 bits" or "4 and 8 bits"; "" if none of them is quantized."""
    found = {p for p in model.parameters() if isinstance(p, QuantizedTensor)}
    if any(p.codes.is_floating_point() for p in found):
        return "8 bits (fp8)"
    return f"{' and '.join(map(str, sorted({p.bits for p in found})))} bits" if found else ""
