"""Qwen3.5, the whole architecture, top to bottom.

A token becomes a vector; the vector passes a stack of layers; what stands at the top is turned into a guess of
the next token. Each layer first mixes along the sequence, then works on each position by itself:

    x  <-  x + mixer(RMSNorm(x))
    x  <-  x + MLP(RMSNorm(x))

In three layers of four the mixer is a Gated DeltaNet, a memory of fixed size that is written and overwritten; in
every fourth it is gated attention, which looks back at every token there was.

Pictures and clips come in through a tower of their own, which turns them into vectors that stand among the words'. And
a small head reads on from the top: having heard the next token too, it guesses the one after that.

Module and parameter names are the official ones, so that `state_dict()` is the official checkpoint: nothing is renamed.

Symbols, the same everywhere in this project:

    B, T, S     rows of the batch, tokens that come in now, tokens there have been in all (S >= T when there is a cache)
    Hq, Hkv, D  attention's query heads, its key-value heads, and their width:
                num_attention_heads, num_key_value_heads, head_dim
    Hk, Hv      the delta rule's key heads and value heads, Hv a multiple of Hk:
                linear_num_key_heads, linear_num_value_heads
    Dk, Dv      the width of its keys and of its values: linear_key_head_dim, linear_value_head_dim
    g, beta     log decay and writing strength of the delta rule; alpha = exp(g)
    t, h, w     a picture's grid of patches: frames (in pairs; 1 for a still), rows, columns
    N           patches of all pictures, one after the other

Where a comment says "official", it means the Qwen3.5 classes of `transformers` (models/qwen3_5/modeling_qwen3_5.py).
"""

import math
import weakref
from itertools import groupby

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .config import Config, TextConfig, VisionConfig
from .delta_rule import chunk_gated_delta_rule, full_precision, l2norm, recurrent_gated_delta_rule

# ----------------------------------------------------------------------------------------------------- projections


class Linear(nn.Linear):
    """x W^T, with a bias if there is one. Decoding reads all of W for a token or a few, which is most of its time."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`, and for a few tokens in float32 on a CPU the same with every core reading its part of the matrix.

    There `F.linear` leaves nearly all to one core: on two, a part for each is 2 to 4 times as fast for up to 4 tokens,
    and 1.4 to 1.8 times for up to 16.
    """
    tokens, cores = x.numel() // x.shape[-1], math.gcd(len(weight), torch.get_num_threads())
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not plain or not 1 <= tokens <= 16 or cores == 1 or weight.numel() < 2 ** 20:
        return F.linear(x, weight, bias)
    parts = rearrange(weight, "(cores n) d -> cores n d", cores=cores)
    rows = x.reshape(tokens, -1).expand(cores, -1, -1)                                      # (cores, tokens, d)
    y = torch.bmm(parts, rows.mT).mT if tokens <= 4 else torch.bmm(rows, parts.mT)          # (cores, tokens, n)
    y = rearrange(y, "cores t n -> t (cores n)").view(*x.shape[:-1], -1)
    return y if bias is None else y + bias


# -------------------------------------------------------------------------------------------------------- norms


class RMSNorm(nn.Module):
    """x / rms(x) * (1 + weight), computed in float32. The weight is an offset from one, so a fresh norm holds zeros."""

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        weight = 1 + full_precision(self.weight)
        return F.rms_norm(full_precision(x), weight.shape, weight, self.eps).to(x.dtype)


class GatedRMSNorm(nn.Module):
    """x / rms(x) * weight * silu(z): the norm behind the delta rule, and its output gate z.

    Here the weight is plain, not 1 + weight; the official checkpoints hold it in float32, and it is kept so.
    """

    def __init__(self, size: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        normed = F.rms_norm(full_precision(x), self.weight.shape, eps=self.eps).to(x.dtype)
        return (self.weight * normed * F.silu(full_precision(z))).to(x.dtype)


# --------------------------------------------------------------------------------------------- rotary positions


def rotary_angles(position_ids: Tensor, config: TextConfig) -> Tensor:
    """M-RoPE: the angle by which each pair of dimensions is turned.

    A token has three positions (time, height, width); for text they are the same number. The frequencies are dealt
    out to them in turn - t h w t h w ... - until height and width have their share of `mrope_section`; the rest
    follow time.

    Args:
        position_ids: (3, B, T)
    Returns:
        (B, T, 1, rotary_dim / 2), radians. Attention layers only; three quarters of each head are not turned at all.
    Source: "Qwen3-VL Technical Report" (arXiv 2511.21631), interleaved M-RoPE; RoPE: Su et al. 2021 (arXiv 2104.09864).
    """
    rope, dims = config.rope_parameters, config.rotary_dim
    section = torch.tensor(rope.get("mrope_section", [11, 11, 10]), device=position_ids.device)
    i = torch.arange(dims // 2, device=position_ids.device)
    # radians per position, written so that they are the official ones to the last bit: 200,000 tokens on, that bit has
    # become a thousandth of a turn
    frequency = 1 / rope.get("rope_theta", 10_000) ** (2 * i.float() / dims)
    clock = torch.where(i < 3 * section[i % 3], i % 3, 0)                                   # 0 time, 1 height, 2 width
    return rearrange(position_ids[clock], "f b t -> b t 1 f") * frequency


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first rotary_dim dimensions of every head: dimension i is paired with i + rotary_dim / 2.

    Args:
        x: (..., H, D)
        cos, sin: (..., 1, rotary_dim / 2)
    """
    a, b, rest = x.split([cos.shape[-1], cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


# ---------------------------------------------------------------------------------------------- gated attention


class GatedAttention(nn.Module):
    """Softmax attention: grouped heads, a norm on every query and key, partial rotary positions - and an output gate.

    Source: "Gated Attention for Large Language Models" (Qiu et al. 2025, arXiv 2505.06708), gate G1.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        d, D, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.head_dim = D
        self.q_proj = Linear(d, config.num_attention_heads * 2 * D, bias=bias)           # per head: query, then gate
        self.k_proj = Linear(d, config.num_key_value_heads * D, bias=bias)
        self.v_proj = Linear(d, config.num_key_value_heads * D, bias=bias)
        self.o_proj = Linear(config.num_attention_heads * D, d, bias=bias)
        self.q_norm = RMSNorm(D, config.rms_norm_eps)
        self.k_norm = RMSNorm(D, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None,
                cache: "AttentionCache | None") -> Tensor:
        q, gate = rearrange(self.q_proj(x), "b t (h two d) -> two b t h d", two=2, d=self.head_dim)
        k = rearrange(self.k_proj(x), "b t (h d) -> b t h d", d=self.head_dim)
        v = rearrange(self.v_proj(x), "b t (h d) -> b h t d", d=self.head_dim)
        q = rotate(self.q_norm(q), cos, sin).transpose(1, 2)                                # (B, Hq, T, D)
        k = rotate(self.k_norm(k), cos, sin).transpose(1, 2)                                # (B, Hkv, T, D)
        if cache is not None:
            k, v = cache.append(k, v)                                                       # (B, Hkv, S, D)
        o = self.gated(self.attend(q, k, v, mask).transpose(1, 2), gate)                    # (B, T, Hq, D)
        return self.o_proj(o.flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q k^T / sqrt(D)) v over the past.

        q: (B, Hq, T, D), k and v: (B, Hkv, S, D), mask: (B or 1, 1, T, S), True where a query may look, or None: all
        of the past -> (B, Hq, T, D)
        """
        if q.shape[2] == 1:  # decoding: the query heads of one key head are the rows of one product, k and v uncopied
            o = F.scaled_dot_product_attention(q.unflatten(1, (k.shape[1], -1)).squeeze(3), k, v, attn_mask=mask)
            return o.flatten(1, 2).unsqueeze(2)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)

    def gated(self, o: Tensor, gate: Tensor) -> Tensor:
        """Each dimension of each head's answer is let through or held back. o, gate: (B, T, Hq, D)."""
        return o * torch.sigmoid(gate)


# ----------------------------------------------------------------------------------------------- Gated DeltaNet


def sequence_of_tokens(cu_seqlens: Tensor, T: int) -> Tensor:
    """(T,): which of the packed sequences each token belongs to."""
    return torch.bucketize(torch.arange(T, device=cu_seqlens.device), cu_seqlens[1:], right=True)


class GatedDeltaNet(nn.Module):
    """A memory of fixed size per head, written and erased by the gated delta rule: see `delta_rule.py`.

    The way of a token: one projection to q, k and v; a short causal convolution over each channel; unit length for q
    and k. Two numbers per value head say how much to forget (g) and how strongly to write (beta). Then the rule, and
    what it reads is normed, gated and projected out.

    Source: "Gated Delta Networks" (Yang, Kautz, Hatamizadeh 2024, arXiv 2412.06464), figure 1.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        d, self.kernel_size = config.hidden_size, config.linear_conv_kernel_dim
        self.num_k_heads, self.num_v_heads = config.linear_num_key_heads, config.linear_num_value_heads
        self.key_dim = self.num_k_heads * config.linear_key_head_dim
        self.value_dim = self.num_v_heads * config.linear_value_head_dim
        channels = 2 * self.key_dim + self.value_dim
        self.in_proj_qkv = Linear(d, channels, bias=False)
        self.in_proj_z = Linear(d, self.value_dim, bias=False)
        self.in_proj_b = Linear(d, self.num_v_heads, bias=False)
        self.in_proj_a = Linear(d, self.num_v_heads, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, self.kernel_size, groups=channels, bias=False)
        self.A_log = nn.Parameter(torch.zeros(self.num_v_heads))         # float32 in the checkpoints, and kept so
        self.dt_bias = nn.Parameter(torch.zeros(self.num_v_heads))
        self.norm = GatedRMSNorm(config.linear_value_head_dim, config.rms_norm_eps)
        self.out_proj = Linear(self.value_dim, d, bias=False)

    def forward(self, x: Tensor, padding: "Padding | None", cu_seqlens: Tensor | None,
                cache: "DeltaCache | None") -> Tensor:
        if padding is not None:                          # nothing of a padded token may reach the memory:
            x = padding.pack(x)                          # real tokens first, pads - as zeros - behind them
        qkv = self.convolve(self.in_proj_qkv(x), padding, cu_seqlens, cache)
        q, k, v = qkv.split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        q = l2norm(full_precision(q).unflatten(-1, (self.num_k_heads, -1)))                 # (B, T, Hk, Dk), float32,
        k = l2norm(full_precision(k).unflatten(-1, (self.num_k_heads, -1)))                 # unrounded into the rule
        v = v.unflatten(-1, (self.num_v_heads, -1))                                         # (B, T, Hv, Dv)
        z = self.in_proj_z(x).unflatten(-1, (self.num_v_heads, -1))                         # (B, T, Hv, Dv)
        beta = torch.sigmoid(self.in_proj_b(x))                                             # (B, T, Hv)
        # float32 here whatever the model's dtype: g is small and adds up over thousands of tokens
        g = -full_precision(self.A_log).exp() * F.softplus(full_precision(self.in_proj_a(x)) + self.dt_bias)
        if padding is not None:                          # beta = 0 and g = 0: a pad leaves the memory as it is
            beta, g = beta * padding.packed[..., None], g * padding.packed[..., None]

        o, state = self.delta_rule(q, k, v, g, beta, None if cache is None else cache.recurrent_state, cu_seqlens)
        if cache is not None:
            cache.recurrent_state = state
        o = self.out_proj(self.norm(o, z).flatten(2))                                       # (B, T, hidden_size)
        return o if padding is None else padding.unpack(o)

    def convolve(self, x: Tensor, padding: "Padding | None", cu_seqlens: Tensor | None,
                 cache: "DeltaCache | None") -> Tensor:
        """silu of a causal convolution over the last `kernel_size` tokens, each channel by itself. x: (B, T, channels).

        Before the first token there are zeros, or - with a cache - the inputs that came last.
        """
        (B, T, channels), K = x.shape, self.kernel_size
        before = x.new_zeros(B, K - 1, channels) if cache is None else cache.conv_state.to(x.dtype)
        window = torch.cat((before, x), dim=1)                                              # (B, K - 1 + T, channels)
        if cache is not None:
            if padding is None:
                cache.conv_state = window[:, T:].clone()
            else:                                        # the last inputs that were real, row by row
                last = padding.lengths[:, None, None] + torch.arange(K - 1, device=x.device)[:, None]
                cache.conv_state = window.gather(1, last.expand(B, K - 1, channels))
        weight = self.conv1d.weight[:, 0]                                                   # (channels, K)
        if T == 1:
            return F.silu((full_precision(window) * weight.mT).sum(1, keepdim=True).to(x.dtype))
        if cu_seqlens is None:
            # as a picture one pixel high: there channels may lie side by side, and a conv1d would reorder them first
            picture = window.mT.unsqueeze(2)                                                # (B, channels, 1, S)
            return F.silu(F.conv2d(picture, self.conv1d.weight.unsqueeze(2), groups=channels).squeeze(2).mT)
        sequence = sequence_of_tokens(cu_seqlens, T)
        taps = []
        for back in range(K):                            # never look across the border of a packed sequence
            same = F.pad(sequence[back:] == sequence[: T - back], (back, 0))
            taps.append(window[:, K - 1 - back : K - 1 - back + T] * weight[:, K - 1 - back] * same[:, None])
        return F.silu(sum(taps))

    def delta_rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None,
                   cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The memory at work: (o, new state). One token takes the recurrence itself, in place; more go in chunks."""
        if k.shape[1] == 1 and state is not None and not torch.is_grad_enabled():
            return recurrent_gated_delta_rule(q, k, v, g, beta, initial_state=state, output_final_state=True,
                                              inplace_final_state=True)
        return chunk_gated_delta_rule(q, k, v, g, beta, initial_state=state, output_final_state=True,
                                      cu_seqlens=cu_seqlens)


# ------------------------------------------------------------------------------------------- layers and decoder


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Shazeer 2020 (arXiv 2002.05202)."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    """Norm, mixer, norm, MLP; both add to the stream they read from."""

    def __init__(self, config: TextConfig, layer_type: str):
        super().__init__()
        if layer_type == "full_attention":
            self.self_attn = GatedAttention(config)
        else:
            self.linear_attn = GatedDeltaNet(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.layer_type = layer_type

    def forward(self, x: Tensor, cos, sin, mask, padding, cu_seqlens, cache) -> Tensor:
        normed = self.input_layernorm(x)
        if self.layer_type == "full_attention":
            x = x + self.self_attn(normed, cos, sin, mask, cache)
        else:
            x = x + self.linear_attn(normed, padding, cu_seqlens, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextModel(nn.Module):
    """Embedding, the layers, a last norm."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer_type) for layer_type in config.layer_types)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, position_ids: Tensor, mask: Tensor | None, padding: "Padding | None",
                cu_seqlens: Tensor | None, cache: "Cache | None") -> Tensor:
        """x: embeddings (B, T, hidden_size), position_ids: (3, B, T) -> (B, T, hidden_size), normed."""
        angles = rotary_angles(position_ids, self.config)                                   # (B, T, 1, rotary_dim / 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask, padding, cu_seqlens, None if cache is None else cache.layers[i])
        return self.norm(x)


# ------------------------------------------------------------------------------------------------- vision tower
#
# A picture is cut into patches of 16 x 16 pixels, in pairs of frames; a still counts as two equal frames. The patches
# come in the order in which the tower puts them together at its end: 2 x 2 neighbours, one after the other, become one
# token. N counts patches, of all pictures and clips one after the other; a grid is (t, h, w), in patches.


def by_blocks(x: Tensor, merge: int) -> Tensor:
    """(h, w, C) -> (h w, C): a grid's patches in the order in which they are merged, block by block."""
    return rearrange(x, "(h i) (w j) c -> (h w i j) c", i=merge, j=merge)


class PatchEmbedding(nn.Module):
    """A patch's pixels to a vector: in the checkpoint a 3-D convolution whose steps are as long as its kernel."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.hidden_size, kernel, stride=kernel)

    def forward(self, pixel_values: Tensor) -> Tensor:
        # the patches do not overlap, so that the convolution is one matrix product
        return F.linear(pixel_values.to(self.proj.weight.dtype), self.proj.weight.flatten(1), self.proj.bias)


class VisionAttention(nn.Module):
    """Every patch of a frame looks at every other one, and at none of another frame. No mask, no gate, no grouping."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, frames: list[int]) -> Tensor:
        """x: (N, hidden_size), cos and sin: (N, 1, D / 2), frames: how many patches each has -> (N, hidden_size)"""
        q, k, v = rearrange(self.qkv(x), "n (three h d) -> three n h d", three=3, h=self.num_heads)
        q, k = (rotate(full_precision(y), cos, sin).to(x.dtype) for y in (q, k))            # (N, H, D)
        answers, start = [], 0
        for patches, alike in groupby(frames):           # neighbours of one size in one go
            here = slice(start, start := start + patches * len(list(alike)))
            q_f, k_f, v_f = (rearrange(y[here], "(f p) h d -> f h p d", p=patches) for y in (q, k, v))
            o = F.scaled_dot_product_attention(q_f, k_f, v_f)                               # (frames, H, patches, D)
            answers.append(rearrange(o, "f h p d -> (f p) (h d)"))
        return self.proj(torch.cat(answers))


class VisionMLP(nn.Module):
    """Two matrices and a GELU in its tanh form."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.linear_fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.linear_fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    """Norm, attention, norm, MLP. These norms are LayerNorms, with a mean and a bias."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.norm2 = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, frames: list[int]) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, frames)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """2 x 2 neighbouring patches to one vector of the language model. The GELU here is the exact one."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.merged = config.hidden_size * config.spatial_merge_size ** 2
        self.norm = nn.LayerNorm(config.hidden_size, eps=1e-6)
        self.linear_fc1 = nn.Linear(self.merged, self.merged)
        self.linear_fc2 = nn.Linear(self.merged, config.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x).view(-1, self.merged)                                              # (N / merge^2, merged)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class VisionTower(nn.Module):
    """Pixels to vectors that stand among those of words. There is no norm at its end: the merger begins with one.

    Source: "Qwen3-VL Technical Report" (arXiv 2511.21631), section 2; official class Qwen3_5VisionModel.
    """

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbedding(config)
        self.pos_embed = nn.Embedding(config.num_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(self, pixel_values: Tensor, grid_thw: Tensor) -> Tensor:
        """
        Args:
            pixel_values: (N, channels x temporal_patch_size x patch_size x patch_size), from `media.py`.
            grid_thw: (pictures, 3): each one's t, h and w in patches; their products add up to N.
        Returns:
            (N / spatial_merge_size^2, out_hidden_size): a vector for each placeholder token, in order of reading.
        Raises:
            ValueError: pixels and grids do not fit each other, or a grid cannot be merged.
        """
        grids, merge = grid_thw.tolist(), self.config.spatial_merge_size
        if any(h % merge or w % merge for _, h, w in grids):
            raise ValueError(f"The grids {grids} must be multiples of {merge} down and across (spatial_merge_size).")
        needed = sum(t * h * w for t, h, w in grids), self.patch_embed.proj.weight[0].numel()
        if pixel_values.shape != needed:
            raise ValueError(f"The grids {grids} need pixels of {needed}, patches and numbers in each, "
                             f"but these are {tuple(pixel_values.shape)}.")
        x = self.patch_embed(pixel_values)                                                  # (N, hidden_size)
        x = x + torch.cat([self.learned_positions(h, w).repeat(t, 1) for t, h, w in grids]).to(x.dtype)
        angles = torch.cat([self.rotary_angles(h, w).repeat(t, 1, 1) for t, h, w in grids])
        cos, sin = angles.cos(), angles.sin()                                               # (N, 1, D / 2), float32
        frames = [h * w for t, h, w in grids for _ in range(t)]
        for block in self.blocks:
            x = block(x, cos, sin, frames)
        return self.merger(x)

    def learned_positions(self, h: int, w: int) -> Tensor:
        """(h w, hidden_size): the learned square grid stretched over h x w patches, corner on corner, bilinearly."""
        side = round(self.config.num_position_embeddings ** 0.5)
        square = rearrange(full_precision(self.pos_embed.weight), "(h w) c -> 1 c h w", h=side)
        stretched = F.interpolate(square, size=(h, w), mode="bilinear", align_corners=True)
        return by_blocks(rearrange(stretched, "1 c h w -> h w c"), self.config.spatial_merge_size)

    def rotary_angles(self, h: int, w: int) -> Tensor:
        """(h w, 1, D / 2): radians by which each pair of a head's dimensions turns, half by row and half by column."""
        device, D = self.pos_embed.weight.device, self.config.hidden_size // self.config.num_heads
        frequency = 1 / 10_000 ** (torch.arange(0, D // 2, 2, device=device).float() / (D // 2))        # (D / 4,)
        rows, columns = (torch.arange(n, device=device).float() for n in (h, w))
        angles = torch.cat(((rows[:, None, None] * frequency).expand(h, w, -1),
                            (columns[None, :, None] * frequency).expand(h, w, -1)), dim=-1)
        return by_blocks(angles, self.config.spatial_merge_size).unsqueeze(1)


def mrope_positions(kinds: Tensor, grids: dict, start: int) -> Tensor:
    """Where the tokens of one sequence stand in time, height and width.

    Text goes on by one in all three. A picture is one moment: its tokens share a time, and have their row and column,
    counted from there. The text behind it resumes past its longer side. A clip is its groups of frames one by one, each
    behind its own timestamp, which is text.

    Args:
        kinds: (T,) 0 for text, 1 where a picture's token stands, 2 where a clip's does.
        grids: 1 and 2 -> an iterator over (t, h, w) in tokens, which is moved on.
        start: the first token's position.
    Returns:
        (3, T), time, height, width.
    Source: official `get_rope_index`; "Qwen2-VL" (arXiv 2409.12191), figure 3.
    """
    parts, device = [], kinds.device
    for kind, count in zip(*(x.tolist() for x in kinds.unique_consecutive(return_counts=True)), strict=True):
        if kind == 0:
            parts.append(torch.arange(start, start + count, device=device).expand(3, count))
            start += count
        while kind and count > 0:
            t, h, w = next(grids[kind], (0, 0, 0))
            count -= t * h * w
            if t * h * w == 0 or count < 0:
                raise ValueError("The placeholder tokens of pictures and clips do not fit the grids that are given.")
            grid = torch.meshgrid(*(torch.arange(n, device=device) for n in (t, h, w)), indexing="ij")
            parts.append(torch.stack(grid).flatten(1) + start)
            start += max(h, w)
    return torch.cat(parts, dim=1) if parts else kinds.new_zeros(3, 0, dtype=torch.long)


# ------------------------------------------------------------------------------------------ multi-token prediction


class MultiTokenPrediction(nn.Module):
    """Guess one token further: a head that hears of the next token, and predicts the one after it.

    It reads the vector that stands at the top of the model for token i - behind the last norm - and the embedding of
    token i + 1, each normed; one matrix makes one vector of both (the embedding first); a layer of gated attention
    follows, and a norm. Embedding and output matrix are the model's own. To draft further tokens, feed back its own
    output as the next hidden state.

    Source: "DeepSeek-V3 Technical Report" (arXiv 2412.19437), section 2.2. `transformers` ignores these weights; the
    order of the two halves is that of vLLM's Qwen3-Next.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config, width = config, config.hidden_size
        self.pre_fc_norm_embedding = RMSNorm(width, config.rms_norm_eps)
        self.pre_fc_norm_hidden = RMSNorm(width, config.rms_norm_eps)
        self.fc = Linear(2 * width, width, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(config, "full_attention") for _ in range(config.mtp_num_hidden_layers))
        self.norm = RMSNorm(width, config.rms_norm_eps)

    def forward(self, hidden: Tensor, next_embeddings: Tensor, position_ids: Tensor, mask: Tensor | None,
                caches: "list[AttentionCache] | None" = None) -> Tensor:
        """hidden, next_embeddings: (B, T, hidden_size), position_ids: (3, B, T), of the tokens of `hidden`;
        caches: one for each layer -> (B, T, hidden_size), normed."""
        x = torch.cat((self.pre_fc_norm_embedding(next_embeddings), self.pre_fc_norm_hidden(hidden)), dim=-1)
        x = self.fc(x)
        angles = rotary_angles(position_ids, self.config)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, mask, None, None, None if caches is None else caches[i])
        return self.norm(x)


# ------------------------------------------------------------------------------------------------- the whole model


class Multimodal(nn.Module):
    """What the official checkpoints call `model`: the language model and, beside it, the vision tower."""

    def __init__(self, config: Config):
        super().__init__()
        self.language_model = TextModel(config.text_config)
        if config.vision_config is not None:
            self.visual = VisionTower(config.vision_config)


class Qwen(nn.Module):
    """The whole model: `logits = Qwen(config)(input_ids)`."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.model = Multimodal(config)
        if not config.tie_word_embeddings:               # else the embedding is the head, and stored once
            self.lm_head = Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        if config.text_config.mtp_num_hidden_layers:
            self.mtp = MultiTokenPrediction(config.text_config)
        if not self.head_weight.is_meta:                 # there is nothing to fill, and trying takes a second
            self.init_weights()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        cache: "Cache | None" = None,
        logits_to_keep: int = 0,
        cu_seqlens: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """The next token's logits at every position.

        Args:
            input_ids: (B, T)
            attention_mask: (B, T), 0 = padding, left or right; with a cache also (B, tokens before + T).
            position_ids: (3, B, T) time, height, width; None: as `positions` has them.
            pixel_values, image_grid_thw: the pictures, in order of reading; see `embed`.
            pixel_values_videos, video_grid_thw: the clips, likewise.
            cache: from `new_cache`; read, and moved on by T tokens. Prefill, in one or more pieces, and decoding are
                this one function.
            logits_to_keep: 0 = all positions, n = the last n (the head is the widest matrix there is).
            cu_seqlens: (N + 1,) ends of N sequences packed into B = 1; none sees another, positions start anew in each.
            inputs_embeds: (B, T, hidden_size) from `embed`, where the pictures are seen already: a prompt that is read
                in pieces is embedded once. Its `position_ids` come from `positions`, then.

        Returns:
            (B, T or n, vocab_size)

        Raises:
            ValueError: ids beyond the vocabulary; pictures that do not fit their placeholders; a mask, positions or a
                cache that do not fit; a cache that is full.
        """
        x = self.hidden_states(input_ids, attention_mask, position_ids, pixel_values, image_grid_thw,
                               pixel_values_videos, video_grid_thw, cache, cu_seqlens, inputs_embeds)
        return self.head(x[:, -logits_to_keep:])

    def hidden_states(self, input_ids, attention_mask=None, position_ids=None, pixel_values=None, image_grid_thw=None,
                      pixel_values_videos=None, video_grid_thw=None, cache=None, cu_seqlens=None,
                      inputs_embeds=None) -> Tensor:
        """What stands at the top, behind the last norm: (B, T, hidden_size). Arguments and errors as in `forward`."""
        B, T = input_ids.shape
        before = 0 if cache is None else cache.length
        if input_ids.numel() == 0:
            raise ValueError(f"input_ids must be (B, T) with at least one token, but is {tuple(input_ids.shape)}.")
        if cu_seqlens is not None and (cache is not None or attention_mask is not None or B != 1):
            raise ValueError("Packed sequences (cu_seqlens) come in a batch of one, without mask and cache.")
        valid = self._valid(input_ids, attention_mask, before)                          # (B, T) bool, or None: all real
        if cache is not None:
            cache.check_room(B, T)
        if position_ids is None:
            position_ids = self.positions(input_ids, attention_mask, image_grid_thw, video_grid_thw, cache, cu_seqlens)
        if position_ids.shape not in ((B, T), (3, B, T)):
            raise ValueError(f"position_ids must be {(3, B, T)} for these tokens, but is {tuple(position_ids.shape)}.")
        position_ids = position_ids.expand(3, B, T)
        x = inputs_embeds
        if x is None:
            x = self.embed(input_ids, pixel_values, image_grid_thw, pixel_values_videos, video_grid_thw)
        if x.shape[:2] != (B, T):
            raise ValueError(f"inputs_embeds must be {(B, T, x.shape[-1])} for these tokens, but is {tuple(x.shape)}.")
        mask = self._attention_mask(B, T, valid, cache, cu_seqlens)
        if cache is not None:
            cache.advance(position_ids, valid)

        padding = None if valid is None else Padding(valid)
        x = self.model.language_model(x, position_ids, mask, padding, cu_seqlens, cache)
        if cache is not None:
            cache.midway = False
        return x

    def embed(self, input_ids: Tensor, pixel_values: Tensor | None = None, image_grid_thw: Tensor | None = None,
              pixel_values_videos: Tensor | None = None, video_grid_thw: Tensor | None = None) -> Tensor:
        """Tokens to vectors; where a placeholder of a picture or clip stands, what the tower sees there.

        Args:
            input_ids: (B, T); each placeholder (`config.image_token_id`, `config.video_token_id`) stands as often as
                its picture has tokens. Without pixels a placeholder is a token like any other.
            pixel_values, image_grid_thw: (N, ...) patches and (pictures, 3) grids, as `media.py` makes them, of all
                rows, the first row's first.
        Returns:
            (B, T, hidden_size)
        Raises:
            ValueError: ids beyond the vocabulary; as many vectors as placeholders are needed; or there is no tower.
        """
        vocab_size = self.config.text_config.vocab_size
        if input_ids.min() < 0 or input_ids.max() >= vocab_size:
            raise ValueError(f"Token ids run from 0 to {vocab_size - 1}, "
                             f"but these from {input_ids.min()} to {input_ids.max()}.")
        x = self.model.language_model.embed_tokens(input_ids)                           # (B, T, hidden_size)
        seen = (("picture", self.config.image_token_id, pixel_values, image_grid_thw),
                ("clip", self.config.video_token_id, pixel_values_videos, video_grid_thw))
        for what, token, pixels, grid_thw in seen:
            if pixels is None:
                continue
            if grid_thw is None:
                raise ValueError(f"The {what}s come without their grids: image_grid_thw belongs to pixel_values, and "
                                 f"video_grid_thw to pixel_values_videos.")
            self._check_tower()
            features, here = self.model.visual(pixels.to(x.device), grid_thw).to(x.dtype), input_ids == token
            if here.sum() != len(features):
                raise ValueError(f"The {what}s make {len(features)} tokens, but {here.sum()} placeholders stand in "
                                 f"input_ids.")
            x = x.masked_scatter(here.unsqueeze(-1), features)
        return x

    def positions(self, input_ids: Tensor, attention_mask: Tensor | None = None, image_grid_thw: Tensor | None = None,
                  video_grid_thw: Tensor | None = None, cache: "Cache | None" = None,
                  cu_seqlens: Tensor | None = None) -> Tensor:
        """(3, B, T): every token's time, height and width; for text all three are the count of real tokens before.

        With a cache they go on where it stands: after a picture that is not where its tokens end, see
        `mrope_positions`. Pads get some position, which nobody looks at.

        Raises:
            ValueError: placeholders and grids that do not fit; or there is no tower.
        """
        B, T = input_ids.shape
        valid = self._valid(input_ids, attention_mask, 0 if cache is None else cache.length)
        if image_grid_thw is None and video_grid_thw is None:
            return self._text_positions(input_ids, valid, cache, cu_seqlens).expand(3, B, T)
        self._check_tower()
        merge, grids = self.config.vision_config.spatial_merge_size, {1: [], 2: []}
        for t, h, w in [] if image_grid_thw is None else image_grid_thw.tolist():
            grids[1].append((t, h // merge, w // merge))
        for t, h, w in [] if video_grid_thw is None else video_grid_thw.tolist():       # one group of frames at a time
            grids[2] += t * [(1, h // merge, w // merge)]
        kinds = torch.zeros_like(input_ids)
        for kind, token in ((1, self.config.image_token_id), (2, self.config.video_token_id)):
            kinds[input_ids == token] = kind if grids[kind] else 0
        grids = {kind: iter(shapes) for kind, shapes in grids.items()}

        position_ids = torch.zeros(3, B, T, dtype=torch.long, device=input_ids.device)
        starts = [0] * B if cache is None else cache.positions.tolist()
        for row in range(B):
            ends = [0, T] if cu_seqlens is None else cu_seqlens.tolist()
            for a, b in zip(ends, ends[1:], strict=False):
                real = torch.ones(b - a, dtype=torch.bool, device=kinds.device) if valid is None else valid[row, a:b]
                position_ids[:, row, a:b][:, real] = mrope_positions(kinds[row, a:b][real], grids, starts[row])
        if any(next(left, None) for left in grids.values()):
            raise ValueError("There are more pictures or clips than placeholders for them in input_ids.")
        return position_ids

    def mtp_logits(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
                   **pictures) -> Tensor:
        """The multi-token-prediction head's logits: row i is its guess of token i + 2, given the tokens up to i + 1.

        Args:
            input_ids: (B, T), T >= 2; the other arguments are those of `forward`, pictures and clips included.
        Returns:
            (B, T - 1, vocab_size). A row whose token or next token is padding says nothing.
        Raises:
            ValueError: there is no such head, or but one token.
        """
        B, T = input_ids.shape
        if not self.config.text_config.mtp_num_hidden_layers:
            raise ValueError("This model has no head for multi-token prediction (mtp.*): its checkpoint held none.")
        if T < 2:
            raise ValueError("Multi-token prediction needs two tokens or more: one to stand on, and the next.")
        if position_ids is None:
            grids = pictures.get("image_grid_thw"), pictures.get("video_grid_thw")
            position_ids = self.positions(input_ids, attention_mask, *grids)
        x = self.embed(input_ids, **pictures)
        hidden = self.hidden_states(input_ids, attention_mask, position_ids, inputs_embeds=x)
        valid = self._valid(input_ids, attention_mask, 0)
        both = None if valid is None else valid[:, :-1] & valid[:, 1:]                  # a token, and its next one
        mask = self._attention_mask(B, T - 1, both, None, None)
        x = self.mtp(hidden[:, :-1], x[:, 1:], position_ids.expand(3, B, T)[..., :-1], mask)
        return self.head(x)

    def head(self, x: Tensor) -> Tensor:
        """(B, T, hidden_size) -> (B, T, vocab_size). As one list of tokens: for a slice of a longer text, (B, T, C),
        `linear` would multiply row by row, and first copy the widest matrix there is."""
        return linear(x.flatten(0, 1), self.head_weight).unflatten(0, x.shape[:2])

    @property
    def head_weight(self) -> Tensor:
        """(vocab_size, hidden_size): the matrix that turns the last hidden state into logits."""
        return self.model.language_model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def new_cache(self, batch_size: int = 1, max_length: int = 4096) -> "Cache":
        """Room for the keys, values and states of `batch_size` rows of up to `max_length` tokens each."""
        weight = self.model.language_model.embed_tokens.weight
        return Cache(self.config.text_config, batch_size, max_length, weight.dtype, weight.device)

    def _check_tower(self):
        if self.config.vision_config is None:
            raise ValueError("This model has no vision tower (vision_config), so it cannot see pictures and clips.")

    def _valid(self, input_ids, attention_mask, before):
        B, T = input_ids.shape
        if attention_mask is None:
            return None
        if attention_mask.shape not in ((B, T), (B, before + T)):
            raise ValueError(f"attention_mask must be {(B, T)}" + (f" or {(B, before + T)}" if before else "")
                             + f" for these tokens, but is {tuple(attention_mask.shape)}.")
        valid = attention_mask[:, -T:].bool()
        return None if valid.all() else valid

    def _text_positions(self, input_ids, valid, cache, cu_seqlens):
        """Each token's position is the number of real tokens before it in its row (in its sequence, when packed)."""
        B, T = input_ids.shape
        steps = torch.arange(T, device=input_ids.device).expand(B, T)
        if cu_seqlens is not None:
            starts = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff())
            return steps - starts
        if valid is not None:
            steps = (valid.cumsum(-1) - 1).clamp(min=0)
        return steps if cache is None else steps + cache.positions[:, None]

    def _attention_mask(self, B, T, valid, cache, cu_seqlens):
        """(B or 1, 1, T, S), True where a query may look, or None where plain causality says it all."""
        device = self.head_weight.device
        if cu_seqlens is not None:
            sequence = sequence_of_tokens(cu_seqlens, T)
            return (sequence[:, None] == sequence).tril()[None, None]
        before, padded = (0, False) if cache is None else (cache.length, cache.padded)
        if valid is None and not padded and (before == 0 or T == 1):
            return None
        causal = torch.ones(T, before + T, dtype=torch.bool, device=device).tril(before)
        if valid is None and not padded:
            return causal[None, None]
        now = torch.ones(B, T, dtype=torch.bool, device=device) if valid is None else valid
        real = now if cache is None else torch.cat((cache.valid[:, :before], now), dim=1)   # (B, S)
        # a pad may look at itself, so that its softmax has something to sum over: its answer is finite, and never read
        itself = torch.eye(T, dtype=torch.bool, device=device)
        return ((causal & real[:, None]) | F.pad(itself, (before, 0)))[:, None]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights for training from scratch.

        Matrices are normal with variance 1 / width, those that write into the stream smaller by the square root of
        their number. The decay is the point: A is uniform in (1, 16) and `dt_bias` the inverse softplus of a time step
        drawn log-uniformly from 0.001 to 0.1 (Mamba-2, arXiv 2405.21060), so that some heads forget within a token or
        so and others remember for hundreds. With `dt_bias` = 1, as the official code leaves it, nearly every token
        wipes the memory, and no recall is ever learnt.
        """
        vision = self.config.vision_config
        writers = {("o_proj", "out_proj", "down_proj"): 2 * self.config.text_config.num_hidden_layers,
                   ("attn.proj", "mlp.linear_fc2"): 2 * vision.depth if vision else 0}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                std = module.weight[0].numel() ** -0.5                                   # 1 / sqrt(inputs)
                for names, number in writers.items():
                    std *= number ** -0.5 if name.endswith(names) else 1
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=module.embedding_dim ** -0.5)
            elif isinstance(module, GatedDeltaNet):
                nn.init.uniform_(module.conv1d.weight, -module.kernel_size ** -0.5, module.kernel_size ** -0.5)
                module.A_log.uniform_(1, 16).log_()
                dt = 10 ** torch.empty_like(module.dt_bias).uniform_(-3, -1)
                module.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))              # softplus(dt_bias) = dt


# ------------------------------------------------------------------------------------------------------- caches


class Padding:
    """Which tokens of a batch are real, and how to close the gaps.

    A recurrent layer has no positions, only an order: moving every row's real tokens to the front, with the pads as
    exact no-ops behind them, makes a padded row the same computation as the row alone - padded left, right or in the
    middle, and whatever the memory held before.
    """

    def __init__(self, valid: Tensor):
        """valid: (B, T) bool, True for a real token."""
        self.lengths = valid.sum(-1)                                                        # (B,)
        self.packed = torch.arange(valid.shape[1], device=valid.device) < self.lengths[:, None]
        self.order = torch.argsort((~valid).byte(), dim=1, stable=True)  # where each packed token stands in its row
        self.place = torch.argsort(self.order, dim=1)                    # and where each token of a row is packed

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, C): the rows' real tokens first, then zeros."""
        return x.gather(1, self.order[..., None].expand_as(x)).masked_fill(~self.packed[..., None], 0)

    def unpack(self, x: Tensor) -> Tensor:
        """(B, T, C): every token back in its place, zeros for the pads."""
        return x.masked_fill(~self.packed[..., None], 0).gather(1, self.place[..., None].expand_as(x))


class AttentionCache:
    """Keys (after norm and rotary) and values of every token so far: (B, Hkv, max_length, D), filled up to `length`."""

    def __init__(self, config: TextConfig, batch_size, max_length, dtype, device):
        shape = (batch_size, config.num_key_value_heads, max_length, config.head_dim)
        self.keys, self.values = (torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        self.length = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        end = self.length + k.shape[2]
        self.keys[:, :, self.length : end], self.values[:, :, self.length : end] = k, v
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def snapshot(self):
        return self.length

    def restore(self, saved) -> None:
        self.length = saved


class DeltaCache:
    """A Gated DeltaNet layer's past, of constant size: the memory, and the convolution's last inputs."""

    def __init__(self, config: TextConfig, batch_size, max_length, dtype, device):
        Hv, Dk, Dv = config.linear_num_value_heads, config.linear_key_head_dim, config.linear_value_head_dim
        channels = 2 * config.linear_num_key_heads * Dk + Hv * Dv
        self.recurrent_state = torch.zeros(batch_size, Hv, Dk, Dv, device=device)           # float32 whatever the dtype
        before = config.linear_conv_kernel_dim - 1
        self.conv_state = torch.zeros(batch_size, before, channels, dtype=dtype, device=device)

    def snapshot(self):
        return self.recurrent_state.clone(), self.conv_state.clone()

    def restore(self, saved) -> None:
        self.recurrent_state, self.conv_state = (x.clone() for x in saved)


class Snapshot:
    """Where a cache stood. Keys and values are not copied: they stay in their slots until others are written there."""

    def __init__(self, cache: "Cache"):
        self.length, self.padded, self.positions = cache.length, cache.padded, cache.positions.clone()
        self.layers = [layer.snapshot() for layer in cache.layers]
        self.overwritten = False


class Cache:
    """What the model remembers of the tokens it has read, layer by layer.

    length:     slots filled so far, pads included.
    positions:  (B,) the next text position of each row: its count of real tokens, and less than that after a picture,
                whose tokens lie side by side.
    valid:      (B, max_length) which slots hold a real token.
    midway:     a forward pass is on its way, or broke off: some layers have read its tokens and others have not.
    """

    def __init__(self, config: TextConfig, batch_size: int, max_length: int, dtype: torch.dtype, device: torch.device):
        kinds = {"full_attention": AttentionCache, "linear_attention": DeltaCache}
        self.layers = [kinds[kind](config, batch_size, max_length, dtype, device) for kind in config.layer_types]
        self.batch_size, self.max_length = batch_size, max_length
        self.length, self.padded, self.midway = 0, False, False
        self.positions = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.valid = torch.ones(batch_size, max_length, dtype=torch.bool, device=device)
        self._snapshots = weakref.WeakSet()

    def check_room(self, batch_size: int, tokens: int) -> None:
        if self.midway:
            raise ValueError("A forward pass broke off and left the layers of this cache at different tokens: restore "
                             "a snapshot of it, or make a new one.")
        if batch_size != self.batch_size:
            raise ValueError(f"This cache was made for {self.batch_size} rows, but the batch has {batch_size}: "
                             f"make a new one.")
        if self.length + tokens > self.max_length:
            raise ValueError(f"The cache holds {self.length} of {self.max_length} tokens and {tokens} more do not fit: "
                             f"make it longer with new_cache(max_length=...).")

    def advance(self, position_ids: Tensor, valid: Tensor | None) -> None:
        """Make room for tokens at these positions, (3, B, T), of which `valid`, (B, T), are real (None: all)."""
        for snapshot in self._snapshots:
            snapshot.overwritten |= snapshot.length > self.length
        end = self.length + position_ids.shape[-1]
        self.valid[:, self.length : end] = True if valid is None else valid
        past = position_ids.amax(0) + 1                                                     # (B, T)
        past = past if valid is None else past.masked_fill(~valid, 0)
        self.positions = torch.maximum(self.positions, past.amax(-1))
        self.padded |= valid is not None
        self.length, self.midway = end, True

    def snapshot(self) -> Snapshot:
        """Remember this place: a recurrent state cannot be cropped, so one can only go back to where it was kept."""
        snapshot = Snapshot(self)
        self._snapshots.add(snapshot)
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to `snapshot`, as often as you like.

        Raises:
            ValueError: tokens it counted on were overwritten meanwhile, after going back further than it.
        """
        if snapshot.overwritten:
            raise ValueError("This snapshot cannot be restored: after going back to an earlier one, new tokens were "
                             "written over its keys and values.")
        self.length, self.padded, self.positions = snapshot.length, snapshot.padded, snapshot.positions.clone()
        self.midway = False
        for layer, saved in zip(self.layers, snapshot.layers, strict=True):
            layer.restore(saved)
