"""Reading one token on a GPU, in Triton: the whole step of the text model in five or six kernels a layer.

To read a token, every weight is read once and multiplied with one vector: a thousand bytes come from memory for each
thousand sums, and the GPU could do hundreds of times as many. So a step takes the time in which its bytes pass
through, if nothing comes in between. And between two matrices there are always a few small things to be done - a norm,
a gate, a rotation. Each as a kernel of its own, they would take most of the time; so a kernel does the small things on
its way, even if hundreds of programs each do them anew:

    project    x -> norm -> up to four matrices side by side; of a Gated DeltaNet the convolution, too; also the head
    recall     the delta rule: unit length, gates, the memory read once and written once
    attend     norm and rotary positions of q and k, k and v into their slot, and softmax over a part of the past
    combine    the parts of the past as one, and the output gate
    add        (the memory's norm and gate ->) one matrix -> x
    swiglu     x -> norm -> two matrices, and silu(gate) * up

A program has some rows of a matrix, whole, in its registers. They do not depend on the kernel before; so they are on
their way before that one has ended (`begin`: on Hopper and later).

Measured on an H200, Qwen3.5-0.8B's shape in bfloat16, one row after 32 tokens: 0.67 ms a step, which reads its weights
at 53 % of the rate at which that GPU copies; 0.88 ms without the early start, and 4.2 ms for the model's own layers, as
a graph too.

How far the past reaches is read from the GPU's memory: one CUDA graph serves all lengths. Letters are those of
`model.py`; N is the number of projected rows side by side in y (B, N), R that of one program.

Source of `attend` and `combine`: "Flash-Decoding for long-context inference" (Dao et al. 2023), crfm.stanford.edu.
"""

from weakref import ref

import torch
import triton
import triton.language as tl
from torch import Tensor, nn
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from .cache import AttentionCache, DeltaCache
from .delta_rule_triton import precision, product, read, write
from .model import (
    MLP,
    DecoderLayer,
    GatedAttention,
    GatedDeltaNet,
    GatedRMSNorm,
    Linear,
    Qwen,
    RMSNorm,
    TextModel,
    rotary_angles,
)

__all__ = ["FusedStep"]

# As measured on an H200 with Qwen3.5-0.8B's shape in bfloat16: for 8 rows the fused step takes 2.8 ms, the plain one
# 4.5, and for 32 rows 10 ms and 5.6; one row after 32,768 tokens takes 0.80 ms with 256 programs, 0.86 with 128.
MOST_ROWS = 8                                            # of a batch
KNOWN = {TextModel, DecoderLayer, GatedAttention, GatedDeltaNet, MLP, Linear, RMSNorm, GatedRMSNorm,
         nn.ModuleList, nn.Embedding, nn.Conv1d}         # what is done here in other words
PROGRAMS = 256                                           # that read the past


# ------------------------------------------------------------------------------------------------------ small things


@triton.jit
def begin(EARLY: tl.constexpr):
    """From here on everything is there that the kernel before has written. The next one may start, and wait here."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def rounded(x, like):
    """x in float32 as it would be, had it been kept in the dtype of the tensor `like` meanwhile."""
    return x.to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def normed(x, norm, eps, d, D: tl.constexpr):
    """`RMSNorm` of the one vector at x: (BK,) float32."""
    a = tl.load(x + d, mask=d < D, other=0.0).to(tl.float32)
    weight = 1 + tl.load(norm + d, mask=d < D, other=0.0).to(tl.float32)
    return rounded(a * tl.rsqrt(tl.sum(a * a, 0) / D + eps) * weight, x)


@triton.jit
def turned(x, start, exists, norm, position, frequency, eps, D: tl.constexpr, ROTARY: tl.constexpr, BD: tl.constexpr):
    """Heads that begin at x + start, normed and turned by their position: (heads, BD) float32; see `rotate`."""
    HALF: tl.constexpr = ROTARY // 2
    d = tl.arange(0, BD)
    pair = tl.where(d < HALF, d + HALF, tl.where(d < ROTARY, d - HALF, d))
    here, there = exists[:, None] & (d < D)[None, :], exists[:, None] & (pair < D)[None, :]
    a = tl.load(x + start[:, None] + d[None, :], mask=here, other=0.0).to(tl.float32)
    b = tl.load(x + start[:, None] + pair[None, :], mask=there, other=0.0).to(tl.float32)
    length = tl.rsqrt(tl.sum(a * a, 1) / D + eps)[:, None]
    a = rounded(a * length * (1 + tl.load(norm + d, mask=d < D, other=0.0).to(tl.float32))[None, :], x)
    b = rounded(b * length * (1 + tl.load(norm + pair, mask=pair < D, other=0.0).to(tl.float32))[None, :], x)
    angle = position.to(tl.float32) * tl.load(frequency + d % HALF, mask=d < ROTARY, other=0.0)   # 0: is not turned
    cos, sin = rounded(tl.cos(angle), x), rounded(tl.sin(angle), x)
    return a * cos[None, :] + b * (tl.where(d < HALF, -1.0, 1.0) * sin)[None, :]


# ------------------------------------------------------------------------------------------- matrices and one vector


@triton.jit
def below(block, above, w, n, w_next, n_next, R: tl.constexpr):
    """Matrices one below the other, each in blocks of R rows: if the block is not of this one, go to the next."""
    blocks = tl.cdiv(n, R)
    beyond = block >= blocks
    return (tl.where(beyond, block - blocks, block), tl.where(beyond, above + n, above),
            tl.where(beyond, w_next, w), tl.where(beyond, n_next, n))


@triton.jit
def project(
    x, norm, y, w, w1, w2, w3, n, n1, n2, n3, filters, conv_state, eps, B,
    K: tl.constexpr, TAPS: tl.constexpr, R: tl.constexpr, BK: tl.constexpr, BT: tl.constexpr, EARLY: tl.constexpr,
):
    """R rows of one of up to four matrices, w to w3 of n to n3 rows. Those of the first may have filters (n, TAPS): a
    causal convolution over this token and the ones before, conv_state (B, TAPS - 1, n), which moves on."""
    N, channels = n + n1 + n2 + n3, n
    block, above = tl.program_id(0), 0
    block, above, w, n = below(block, above, w, n, w1, n1, R)
    block, above, w, n = below(block, above, w, n, w2, n2, R)
    block, above, w, n = below(block, above, w, n, w3, n3, R)
    r, d, t = block * R + tl.arange(0, R), tl.arange(0, BK), tl.arange(0, BT)
    w_r = read(w, r, n, K, d, K)                                               # (R, BK), in registers
    begin(EARLY)
    for b in range(B):
        x_b = normed(x + b * K, norm, eps, d, K)
        y_b = tl.sum(w_r.to(tl.float32) * x_b[None, :], 1).to(y.dtype.element_ty)             # (R,)
        if filters is not None:
            if above == 0:
                past = conv_state + b * (TAPS - 1) * channels + t[None, :] * channels + r[:, None]
                exists = (r < n)[:, None] & (t < TAPS)[None, :]
                window = tl.load(past, mask=exists & (t < TAPS - 1)[None, :], other=0.0)
                window = tl.where((t == TAPS - 1)[None, :], y_b[:, None], window)             # (R, BT)
                tl.debug_barrier()                       # all have read before it moves on
                tl.store(past - channels, window, mask=exists & (t > 0)[None, :])
                filter = read(filters, r, n, TAPS, t, TAPS).to(tl.float32)
                filtered = rounded(tl.sum(window.to(tl.float32) * filter, 1), y)
                y_b = (filtered * tl.sigmoid(filtered)).to(y.dtype.element_ty)
        tl.store(y + b * N + above + r, y_b, mask=r < n)


@triton.jit
def swiglu(
    x, norm, gate, up, h, eps, B, n,
    K: tl.constexpr, R: tl.constexpr, BK: tl.constexpr, EARLY: tl.constexpr,
):
    """silu(gate x) * up x of the normed x: R rows of both matrices (n, K)."""
    r, d = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, BK)
    gate_r, up_r = read(gate, r, n, K, d, K), read(up, r, n, K, d, K)          # (R, BK), in registers
    begin(EARLY)
    for b in range(B):
        x_b = normed(x + b * K, norm, eps, d, K)[None, :]
        g = rounded(tl.sum(gate_r.to(tl.float32) * x_b, 1), h)
        u = rounded(tl.sum(up_r.to(tl.float32) * x_b, 1), h)
        tl.store(h + b * n + r, (rounded(g * tl.sigmoid(g), h) * u).to(h.dtype.element_ty), mask=r < n)


@triton.jit
def add(
    h, z, norm, w, x, eps, B, n, z_stride,
    H: tl.constexpr, D: tl.constexpr, R: tl.constexpr, BH: tl.constexpr, BD: tl.constexpr, EARLY: tl.constexpr,
):
    """x <- x + w h: R rows of w (n, H D). With z, (B, H, D), each head of h first passes `GatedRMSNorm`."""
    r, i = tl.program_id(0) * R + tl.arange(0, R), tl.arange(0, BH * BD)
    head, d = i // BD, i % BD
    column = i if BD == D else head * D + d
    exists = (head < H) & (d < D)
    w_r = tl.load(w + r[:, None].to(tl.int64) * (H * D) + column[None, :],
                  mask=(r < n)[:, None] & exists[None, :], other=0.0)          # (R, BH BD), in registers
    begin(EARLY)
    for b in range(B):
        h_b = tl.load(h + b * H * D + column, mask=exists, other=0.0).to(tl.float32)
        if z is not None:
            heads = tl.reshape(h_b, (BH, BD))
            length = tl.rsqrt(tl.sum(heads * heads, 1) / D + eps)
            h_b = rounded(tl.reshape(heads * length[:, None], (BH * BD,)), h)
            z_b = tl.load(z + b * z_stride + column, mask=exists, other=0.0).to(tl.float32)
            weight = tl.load(norm + d, mask=exists, other=0.0).to(tl.float32)
            h_b = rounded(weight * h_b * (z_b * tl.sigmoid(z_b)), h)
        y = rounded(tl.sum(w_r.to(tl.float32) * h_b[None, :], 1), x)                          # (R,)
        x_b = tl.load(x + b * n + r, mask=r < n, other=0.0).to(tl.float32)
        tl.store(x + b * n + r, (x_b + y).to(x.dtype.element_ty), mask=r < n)


# -------------------------------------------------------------------------------------------------------- the memory


@triton.jit
def recall(
    y, A_log, dt_bias, state, o, N, scale,
    Hk: tl.constexpr, Hv: tl.constexpr, Dk: tl.constexpr, Dv: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    EARLY: tl.constexpr,
):
    """One row, one value head, BV columns of its memory. y: q, k, v, z, b, a side by side, as they were projected."""
    BLOCKS: tl.constexpr = (Dv + BV - 1) // BV
    block, row, h = tl.program_id(0) % BLOCKS, tl.program_id(0) // BLOCKS // Hv, tl.program_id(0) // BLOCKS % Hv
    d, e = tl.arange(0, BK), block * BV + tl.arange(0, BV)
    memory = state + (row * Hv + h).to(tl.int64) * Dk * Dv
    S = read(memory, d, Dk, Dv, e, Dv)                                         # (BK, BV), in registers
    decay, dt = -tl.exp(tl.load(A_log + h).to(tl.float32)), tl.load(dt_bias + h).to(tl.float32)
    begin(EARLY)
    q = y + row * N + h // (Hv // Hk) * Dk
    k, v = q + Hk * Dk, y + row * N + 2 * Hk * Dk + h * Dv
    b = y + row * N + 2 * Hk * Dk + 2 * Hv * Dv + h
    q_t = tl.load(q + d, mask=d < Dk, other=0.0).to(tl.float32)
    k_t = tl.load(k + d, mask=d < Dk, other=0.0).to(tl.float32)
    v_t = tl.load(v + e, mask=e < Dv, other=0.0).to(tl.float32)
    beta, a = rounded(tl.sigmoid(tl.load(b).to(tl.float32)), y), tl.load(b + Hv).to(tl.float32) + dt
    g = decay * tl.where(a > 20, a, tl.log(1 + tl.exp(a)))                     # softplus
    q_t *= tl.rsqrt(tl.sum(q_t * q_t, 0) + 1e-6) * scale
    k_t *= tl.rsqrt(tl.sum(k_t * k_t, 0) + 1e-6)
    S *= tl.exp(g)
    u = beta * (v_t - tl.sum(k_t[:, None] * S, 0))                                            # (BV,)
    S += k_t[:, None] * u[None, :]
    tl.store(o + (row * Hv + h) * Dv + e, tl.sum(q_t[:, None] * S, 0).to(o.dtype.element_ty), mask=e < Dv)
    write(memory, d, Dk, Dv, e, Dv, S)


# ------------------------------------------------------------------------------------------------- all of the past


@triton.jit
def attend(
    y, q_norm, k_norm, frequency, positions, slot, valid, keys, values, parts, weights, N, length, eps, scale,
    Hq: tl.constexpr, Hkv: tl.constexpr, D: tl.constexpr, ROTARY: tl.constexpr, G: tl.constexpr, BD: tl.constexpr,
    BN: tl.constexpr, SPLITS: tl.constexpr, PRECISION: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):
    """One row, one key head, one part of the slots before `slot`; the first part has the token itself, too.

    y: q and gate of each head, then k, v, as they were projected. Leaves the part's answer, parts (B, Hq, SPLITS, D),
    and the logarithm of what its scores sum up to, weights (B, Hq, SPLITS)."""
    split, head, row = tl.program_id(0) % SPLITS, tl.program_id(0) // SPLITS % Hkv, tl.program_id(0) // SPLITS // Hkv
    i, d, one = tl.arange(0, G), tl.arange(0, BD), tl.arange(0, 1)
    h, is_head = head * (Hq // Hkv) + i, i < Hq // Hkv                         # the query heads of this key head
    begin(EARLY)
    end, position, y = tl.load(slot).to(tl.int32), tl.load(positions + row), y + row * N
    k_head = keys + (row * Hkv + head).to(tl.int64) * length * D
    v_head = values + (row * Hkv + head).to(tl.int64) * length * D
    q = turned(y, h * 2 * D, is_head, q_norm, position, frequency, eps, D, ROTARY, BD).to(y.dtype.element_ty)

    m, total = tl.full((G,), float("-inf"), tl.float32), tl.zeros((G,), tl.float32)
    o = tl.zeros((G, BD), tl.float32)
    if split == 0:
        k = 2 * Hq * D + head * D
        k_t = turned(y, k + one, one == 0, k_norm, position, frequency, eps, D, ROTARY, BD)   # (1, BD)
        v_t = read(y + k + Hkv * D, one, 1, D, d, D)
        write(k_head, end + one, length, D, d, D, k_t)
        write(v_head, end + one, length, D, d, D, v_t)
        m = scale * tl.sum(q.to(tl.float32) * rounded(k_t, y), 1)
        total += 1
        o += v_t.to(tl.float32)
    slots = tl.cdiv(tl.cdiv(end, BN), SPLITS) * BN                             # of each part
    for start in tl.range(split * slots, tl.minimum(end, split * slots + slots), BN, num_stages=STAGES):
        j = start + tl.arange(0, BN)
        seen = tl.load(valid + row * length + j, mask=j < end, other=0) != 0
        scores = scale * product(q, tl.trans(read(k_head, j, end, D, d, D)), PRECISION)       # (G, BN)
        scores = tl.where(seen[None, :], scores, float("-inf"))
        highest = tl.maximum(m, tl.max(scores, 1))
        finite = tl.where(highest == float("-inf"), 0.0, highest)              # nothing but pads so far
        p, fade = tl.exp(scores - finite[:, None]), tl.exp(m - finite)
        v_t = read(v_head, j, end, D, d, D)
        o = o * fade[:, None] + product(p.to(v_t.dtype), v_t, PRECISION)
        total = total * fade + tl.sum(p, 1)
        m = highest
    line = (row * Hq + h) * SPLITS + split
    total = tl.maximum(total, 1.0)                       # the highest score counts 1; none: there was nothing to see
    tl.store(weights + line, m + tl.log(total), mask=is_head)
    tl.store(parts + line[:, None] * D + d[None, :], o / total[:, None], mask=is_head[:, None] & (d < D)[None, :])


@triton.jit
def combine(
    y, parts, weights, o, N,
    Hq: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr,
):
    """One row, one query head, BD of its dimensions: softmax over the parts, and the output gate."""
    BLOCKS: tl.constexpr = (D + BD - 1) // BD
    block, row, h = tl.program_id(0) % BLOCKS, tl.program_id(0) // BLOCKS // Hq, tl.program_id(0) // BLOCKS % Hq
    s, d = tl.arange(0, SPLITS), block * BD + tl.arange(0, BD)
    begin(EARLY)
    line = (row * Hq + h) * SPLITS + s
    w = tl.load(weights + line)
    w = tl.exp(w - tl.max(w, 0))
    there = (w > 0)[:, None] & (d < D)[None, :]
    part = tl.load(parts + line[:, None] * D + d[None, :], mask=there, other=0.0)
    answer = rounded(tl.sum(w[:, None] * part, 0) / tl.sum(w, 0), o)                          # (BD,)
    gate = tl.load(y + row * N + (2 * h + 1) * D + d, mask=d < D, other=0.0).to(tl.float32)
    answer *= rounded(tl.sigmoid(gate), o)
    tl.store(o + (row * Hq + h) * D + d, answer.to(o.dtype.element_ty), mask=d < D)


# ------------------------------------------------------------------------------------------------------- from PyTorch


def power(n: int) -> int:
    return triton.next_power_of_2(n)


def rows_of_a_program(rows: int, width: int, item: int, matrices: int = 1) -> dict:
    """How many rows of a matrix one program has: 32 kB, or down to 8, so that the whole GPU shares a small matrix."""
    line = item * matrices * power(width)                                      # bytes
    R = max(1, 32_768 // line)
    while R > 1 and R * line > 8_192 and rows < 128 * R:
        R //= 2
    return {"R": R, "num_warps": 4 if R * line <= 32_768 else 8}


class FusedStep:
    """`logits = step(caches, ids, slot, positions)`: what `Qwen.forward` is for one token of each row, all on the GPU.

    Args:
        model: one for which `fits` is true.
        valid: (B, slots) of the model's cache, which slots may be seen.
    """

    def __init__(self, model: Qwen, valid: Tensor):
        self.model, self.valid = ref(model), valid.view(torch.uint8)
        one = torch.ones(3, 1, 1, dtype=torch.long, device=valid.device)
        self.frequency = rotary_angles(one, model.config.text_config).flatten()             # (rotary_dim / 2,)
        hopper = valid.is_cuda and torch.cuda.get_device_capability(valid.device) >= (9, 0)
        self.early = {"EARLY": True, "launch_pdl": True} if hopper else {"EARLY": False}

    @staticmethod
    def fits(model: Qwen, batch_size: int) -> bool:
        """Are there kernels for this model? Not for biases, experts, quantized matrices and YaRN, nor for many rows;
        and who loads a model with kernel="chunk" or "recurrent" wants that rule, not ours."""
        text, dtype = model.model.language_model, model.head_weight.dtype
        known = all(type(module) in KNOWN for module in text.modules())                     # and no subclass of these
        matrices = [module for module in text.modules() if isinstance(module, Linear)]
        plain = all(x.bias is None and x.weight.dtype == dtype for x in matrices) and all(
            type(p) is nn.Parameter for p in model.parameters())                            # and no codes
        kernels = {module.kernel for module in text.modules() if isinstance(module, GatedDeltaNet)}
        return (known and plain and kernels <= {"auto", "triton"} and batch_size <= MOST_ROWS
                and text.config.linear_conv_kernel_dim > 1 and text.config.attention_factor == 1
                and dtype in (torch.float32, torch.bfloat16, torch.float16))

    def __call__(self, caches: list[AttentionCache | DeltaCache], ids: Tensor, slot: Tensor, positions: Tensor):
        """ids, positions: (B,), slot: (1,) -> logits (B, V). The caches' tensors are written in place."""
        text = self.model().model.language_model
        x = text.embed_tokens(ids)                                                          # (B, hidden_size)
        with torch.cuda.device_of(x):
            for layer, cache in zip(text.layers, caches, strict=True):
                if layer.layer_type == "full_attention":
                    self.attention(layer, layer.self_attn, x, cache, slot, positions)
                else:
                    self.delta_net(layer, layer.linear_attn, x, cache)
                self.mlp(layer, layer.mlp, x)
            return self.project(x, text.norm, self.model().head_weight)

    def delta_net(self, layer: DecoderLayer, mixer: GatedDeltaNet, x: Tensor, cache: DeltaCache) -> None:
        y = self.project(x, layer.input_layernorm, mixer.in_proj_qkv.weight, mixer.in_proj_z.weight,
                         mixer.in_proj_b.weight, mixer.in_proj_a.weight, convolution=(mixer.conv1d.weight, cache))
        (B, Hv, Dk, Dv), Hk = cache.recurrent_state.shape, mixer.num_k_heads
        o = x.new_empty(B, Hv * Dv)
        BV = min(16, power(Dv))
        recall[(B * Hv * triton.cdiv(Dv, BV),)](
            y, mixer.A_log, mixer.dt_bias, cache.recurrent_state, o, y.shape[1], Dk ** -0.5,
            Hk=Hk, Hv=Hv, Dk=Dk, Dv=Dv, BK=power(Dk), BV=BV, num_warps=2, **self.early)
        z = y[:, 2 * mixer.key_dim + mixer.value_dim :]
        self.add(o, mixer.out_proj.weight, x, heads=(Hv, Dv), gate=z, norm=mixer.norm)

    def attention(self, layer: DecoderLayer, mixer: GatedAttention, x: Tensor, cache: AttentionCache, slot: Tensor,
                  positions: Tensor) -> None:
        y = self.project(x, layer.input_layernorm, mixer.q_proj.weight, mixer.k_proj.weight, mixer.v_proj.weight)
        (B, Hkv, length, D), N = cache.keys.shape, y.shape[1]
        Hq, BN = mixer.o_proj.weight.shape[1] // D, 32
        splits = max(1, min(power(length) // BN, power(PROGRAMS // (B * Hkv))))
        parts, weights = (x.new_empty(B, Hq, splits, *width, dtype=torch.float32) for width in ((D,), ()))
        attend[(B * Hkv * splits,)](
            y, mixer.q_norm.weight, mixer.k_norm.weight, self.frequency, positions, slot, self.valid,
            cache.keys, cache.values, parts, weights, N, length, mixer.q_norm.eps, D ** -0.5,
            Hq=Hq, Hkv=Hkv, D=D, ROTARY=2 * len(self.frequency), G=max(16, power(Hq // Hkv)), BD=max(16, power(D)),
            BN=BN, SPLITS=splits, PRECISION=precision(x.dtype), STAGES=3, num_warps=4, **self.early)
        o, BD = x.new_empty(B, Hq * D), min(64, power(D))
        combine[(B * Hq * triton.cdiv(D, BD),)](y, parts, weights, o, N, Hq=Hq, D=D, BD=BD, SPLITS=splits, num_warps=4,
                                                **self.early)
        self.add(o, mixer.o_proj.weight, x)

    def mlp(self, layer: DecoderLayer, mlp: MLP, x: Tensor) -> None:
        (B, K), (n, _), norm = x.shape, mlp.gate_proj.weight.shape, layer.post_attention_layernorm
        h, tiles = x.new_empty(B, n), rows_of_a_program(n, K, x.itemsize, matrices=2)
        swiglu[(triton.cdiv(n, tiles["R"]),)](
            x, norm.weight, mlp.gate_proj.weight, mlp.up_proj.weight, h, norm.eps, B, n, K=K, BK=power(K), **tiles,
            **self.early)
        self.add(h, mlp.down_proj.weight, x)

    def project(self, x: Tensor, norm: nn.Module, *matrices: Tensor, convolution: tuple | None = None) -> Tensor:
        """(B, K) -> (B, N): what all these matrices make of the normed x, side by side."""
        (B, K), rows = x.shape, [len(w) for w in matrices]
        y, tiles = x.new_empty(B, sum(rows)), rows_of_a_program(sum(rows), K, x.itemsize)
        filters, cache = convolution or (None, None)
        missing, taps = 4 - len(matrices), 1 if filters is None else filters.shape[-1]
        project[(sum(triton.cdiv(n, tiles["R"]) for n in rows),)](
            x, norm.weight, y, *matrices, *matrices[:1] * missing, *rows, *[0] * missing, filters,
            None if cache is None else cache.conv_state, norm.eps, B,
            K=K, TAPS=taps, BK=power(K), BT=power(taps), **tiles, **self.early)
        return y

    def add(self, h: Tensor, w: Tensor, x: Tensor, heads: tuple[int, int] | None = None, gate: Tensor | None = None,
            norm: nn.Module | None = None) -> None:
        """x <- x + w h, in place; with heads (their number, their width), through their norm and gate."""
        (B, n), (H, D) = x.shape, heads or (1, w.shape[1])
        tiles = rows_of_a_program(n, power(H) * power(D), x.itemsize)
        add[(triton.cdiv(n, tiles["R"]),)](
            h, gate, None if norm is None else norm.weight, w, x, 0.0 if norm is None else norm.eps, B, n,
            0 if gate is None else gate.stride(0), H=H, D=D, BH=power(H), BD=power(D), **tiles, **self.early)
