"""Qwen3.5, the whole architecture, top to bottom.

A token becomes a vector; the vector passes a stack of layers; what stands at the top is turned into a guess of
the next token. Each layer first mixes along the sequence, then works on each position by itself:

    x  <-  x + mixer(RMSNorm(x))
    x  <-  x + MLP(RMSNorm(x))

In three layers of four the mixer is a Gated DeltaNet, a memory of fixed size that is written and overwritten; in
every fourth it is gated attention, which looks back at every token there was. In the largest models the MLP is a
mixture of experts: many small ones, of which each token is read by a few.

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

Where a comment says "official", it means the Qwen3.5 classes of `transformers` (models/qwen3_5/modeling_qwen3_5.py,
and qwen3_5_moe for the mixture of experts).
"""

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import handle_torch_function, has_torch_function_unary

from .cache import AttentionCache, Cache, DeltaCache, Padding, may_look, real_tokens, sequence_of_tokens
from .config import Config, TextConfig
from .delta_rule import check_packing, full_precision, l2norm
from .kernels import delta_rule_by
from .vision import VisionTower, mrope_positions, token_positions

__all__ = ["AttentionCache", "Cache", "DecoderLayer", "DeltaCache", "Experts", "GatedAttention", "GatedDeltaNet",
           "GatedRMSNorm", "MLP", "MixtureOfExperts", "MultiTokenPrediction", "Padding", "Qwen", "RMSNorm", "Router",
           "Step", "TextModel", "VisionTower", "linear", "mrope_positions", "rotary_angles", "rotary_frequencies",
           "rotate"]

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
    plain = weight.device.type == "cpu" and weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    tokens = x.numel() // x.shape[-1]
    if not plain or not 1 <= tokens <= 16 or weight.numel() < 2 ** 20 or torch.compiler.is_compiling():
        return F.linear(x, weight, bias)
    cores = math.gcd(len(weight), torch.get_num_threads())
    if cores == 1:
        return F.linear(x, weight, bias)
    parts = rearrange(weight, "(cores n) d -> cores n d", cores=cores)
    rows = x.reshape(tokens, -1).expand(cores, -1, -1)                                      # (cores, tokens, d)
    few = tokens < 4 or tokens == 4 and len(weight) >= weight.shape[1]   # of a wide matrix 4 tokens are many already
    y = torch.bmm(parts, rows.mT).mT if few else torch.bmm(rows, parts.mT)                  # (cores, tokens, n)
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


def rotary_frequencies(config: TextConfig, device: torch.device | None = None) -> Tensor:
    """By how much each pair of dimensions is turned from one position to the next: (rotary_dim / 2,), radians.

    YaRN makes room for `factor` times the context that the model was trained on. A pair that came round often there
    (`beta_fast` times or more) tells near tokens apart, and keeps its frequency. One that hardly came round once
    (`beta_slow`) is slowed down by `factor`, so that it meets no angle it has not seen. Between the two is a ramp.

    Source: Peng et al. 2023 (arXiv 2309.00071), section 3.2; official `_compute_yarn_parameters`.
    """
    rope, dims, theta = config.rope_parameters, config.rotary_dim, config.rope_parameters.get("rope_theta", 10_000)
    i = torch.arange(dims // 2, device=device)
    # written so that all are the official ones to the last bit: 200,000 tokens on, that bit has become a thousandth of
    # a turn
    period = theta ** (2 * i.float() / dims)                                                # positions per radian
    if rope.get("rope_type", "default") == "default":
        return 1 / period
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    first, last = (dims * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))    # which pair turns so
                   for turns in (rope.get("beta_fast") or 32, rope.get("beta_slow") or 1))      # often: a fraction
    if rope.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, dims - 1)
    kept = 1 - ((i - first) / (last - first or 0.001)).clamp(0, 1)                          # 1 fast, 0 slow
    return 1 / (factor * period) * (1 - kept) + 1 / period * kept


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
    _, height, width = config.rope_parameters.get("mrope_section", [11, 11, 10])
    frequency = rotary_frequencies(config, position_ids.device)
    i = torch.arange(len(frequency), device=position_ids.device)
    clock = i % 3                                                                           # 0 time, 1 height, 2 width
    clock = clock * (i < 3 * torch.where(clock == 1, height, width))
    return rearrange(position_ids[clock], "f b t -> b t 1 f") * frequency


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first rotary_dim dimensions of every head: dimension i is paired with i + rotary_dim / 2.

    Args:
        x: (..., H, D)
        cos, sin: (..., 1, rotary_dim / 2)
    """
    a, b, rest = x.split([cos.shape[-1], cos.shape[-1], x.shape[-1] - 2 * cos.shape[-1]], dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


class Step(NamedTuple):
    """What all layers are told of a forward pass besides x itself: made once, read by each."""

    cos: Tensor                                          # (B, T, 1, rotary_dim / 2), of the tokens' angles
    sin: Tensor
    mask: Tensor | None = None                           # (B or 1, 1, T, S), True: may look; None: all of the past
    padding: Padding | None = None                       # which tokens are real; None: all
    cu_seqlens: Tensor | None = None                     # (N + 1,) ends of packed sequences; None: one in each row

    @classmethod
    def at(cls, position_ids: Tensor, config: TextConfig, dtype: torch.dtype, **others) -> "Step":
        """The step of tokens at these positions, (3, B, T)."""
        angles = rotary_angles(position_ids, config)                                        # (B, T, 1, rotary_dim / 2)
        cos, sin = (config.attention_factor * x for x in (angles.cos(), angles.sin()))      # a factor of YaRN, else 1
        return cls(cos.to(dtype), sin.to(dtype), **others)


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

    def forward(self, x: Tensor, step: Step, cache: AttentionCache | None = None) -> Tensor:
        q, gate = rearrange(self.q_proj(x), "b t (h two d) -> two b t h d", two=2, d=self.head_dim)
        k = rearrange(self.k_proj(x), "b t (h d) -> b t h d", d=self.head_dim)
        v = rearrange(self.v_proj(x), "b t (h d) -> b h t d", d=self.head_dim)
        q = rotate(self.q_norm(q), step.cos, step.sin).transpose(1, 2)                      # (B, Hq, T, D)
        k = rotate(self.k_norm(k), step.cos, step.sin).transpose(1, 2)                      # (B, Hkv, T, D)
        if cache is not None:
            k, v = cache.append(k, v)                                                       # (B, Hkv, S, D)
        o = self.gated(self.attend(q, k, v, step.mask).transpose(1, 2), gate)               # (B, T, Hq, D)
        return self.o_proj(o.flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q k^T / sqrt(D)) v over the past.

        q: (B, Hq, T, D), k and v: (B, Hkv, S, D), mask: (B or 1, 1, T, S), True where a query may look, or None: all
        of the past -> (B, Hq, T, D)
        """
        if q.shape[2] == 1:  # decoding: the query heads of one key head are the rows of one product, k and v uncopied
            o = F.scaled_dot_product_attention(q.unflatten(1, (k.shape[1], -1)).squeeze(3), k, v, attn_mask=mask)
            return o.flatten(1, 2).unsqueeze(2)
        if mask is None and q.shape[2] < k.shape[2]:
            return attend_from_the_end(q, k, v)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)

    def gated(self, o: Tensor, gate: Tensor) -> Tensor:
        """Each dimension of each head's answer is let through or held back. o, gate: (B, T, Hq, D)."""
        return o * torch.sigmoid(gate)


def attend_from_the_end(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`GatedAttention.attend` for the last T of S tokens, with a mask of S + T numbers instead of T S.

    A prompt that is read in pieces needs little memory, then, however long it is. From the last query to the first,
    each may look at one key fewer: so all of their masks are one row, which each reads one place further on.
    """
    T, S = q.shape[2], k.shape[2]
    row = q.new_zeros(S + T - 1)
    row[S:] = -torch.inf
    mask = row.as_strided((T, S), (1, 1))                                                   # [i, j] is row[i + j]
    return F.scaled_dot_product_attention(q.flip(2), k, v, attn_mask=mask, enable_gqa=True).flip(2)


# ----------------------------------------------------------------------------------------------- Gated DeltaNet


class GatedDeltaNet(nn.Module):
    """A memory of fixed size per head, written and erased by the gated delta rule: see `delta_rule.py`.

    The way of a token: one projection to q, k and v; a short causal convolution over each channel; unit length for q
    and k. Two numbers per value head say how much to forget (g) and how strongly to write (beta). Then the rule, and
    what it reads is normed, gated and projected out.

    Source: "Gated Delta Networks" (Yang, Kautz, Hatamizadeh 2024, arXiv 2412.06464), figure 1.
    """

    kernel = "auto"                                      # or another of `kernels.KERNELS`

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

    def forward(self, x: Tensor, step: Step, cache: DeltaCache | None = None) -> Tensor:
        padding = step.padding
        if padding is not None:                          # nothing of a padded token may reach the memory:
            x = padding.pack(x)                          # real tokens first, pads - as zeros - behind them
        mixed = self.in_proj_qkv(x)                                                         # (B, T, channels)
        q, k, v = self.convolve(mixed, step, cache).split([self.key_dim, self.key_dim, self.value_dim], dim=-1)
        q = l2norm(full_precision(q).unflatten(-1, (self.num_k_heads, -1)))                 # (B, T, Hk, Dk), float32,
        k = l2norm(full_precision(k).unflatten(-1, (self.num_k_heads, -1)))                 # unrounded into the rule
        v = v.unflatten(-1, (self.num_v_heads, -1))                                         # (B, T, Hv, Dv)
        z = self.in_proj_z(x).unflatten(-1, (self.num_v_heads, -1))                         # (B, T, Hv, Dv)
        beta = torch.sigmoid(self.in_proj_b(x))                                             # (B, T, Hv)
        # float32 here whatever the model's dtype: g is small and adds up over thousands of tokens
        g = -full_precision(self.A_log).exp() * F.softplus(full_precision(self.in_proj_a(x)) + self.dt_bias)
        if padding is not None:                          # beta = 0 and g = 0: a pad leaves the memory as it is
            beta, g = beta * padding.packed[..., None], g * padding.packed[..., None]

        state = None if cache is None else cache.recurrent_state
        if cache is not None:
            cache.note(mixed, k, v, g, beta)
        o, state = self.delta_rule(q, k, v, g, beta, state, step.cu_seqlens)
        if cache is not None:
            cache.recurrent_state = state
        o = self.out_proj(self.norm(o, z).flatten(2))                                       # (B, T, hidden_size)
        return o if padding is None else padding.unpack(o)

    def convolve(self, x: Tensor, step: Step, cache: DeltaCache | None = None) -> Tensor:
        """silu of a causal convolution over the last `kernel_size` tokens, each channel by itself. x: (B, T, channels).

        Before the first token there are zeros, or - with a cache - the inputs that came last.
        """
        (B, T, channels), K = x.shape, self.kernel_size
        before = x.new_zeros(B, K - 1, channels) if cache is None else cache.conv_state.to(x.dtype)
        window = torch.cat((before, x), dim=1)                                              # (B, K - 1 + T, channels)
        if cache is not None:
            if step.padding is None:
                cache.conv_state = window[:, T:].clone()
            else:                                        # the last inputs that were real, row by row
                last = step.padding.lengths[:, None, None] + torch.arange(K - 1, device=x.device)[:, None]
                cache.conv_state = window.gather(1, last.expand(B, K - 1, channels))
        weight = self.conv1d.weight[:, 0]                                                   # (channels, K)
        if T == 1:
            return F.silu((full_precision(window) * weight.mT).sum(1, keepdim=True).to(x.dtype))
        if step.cu_seqlens is None:
            # as a picture one pixel high: there channels may lie side by side, and a conv1d would reorder them first
            picture = window.mT.unsqueeze(2)                                                # (B, channels, 1, S)
            return F.silu(F.conv2d(picture, self.conv1d.weight.unsqueeze(2), groups=channels).squeeze(2).mT)
        sequence = sequence_of_tokens(step.cu_seqlens, T)
        taps = []
        for back in range(K):                            # never look across the border of a packed sequence
            same = F.pad(sequence[back:] == sequence[: T - back], (back, 0))
            taps.append(window[:, K - 1 - back : K - 1 - back + T] * weight[:, K - 1 - back] * same[:, None])
        return F.silu(sum(taps))

    def delta_rule(self, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor | None,
                   cu_seqlens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The memory at work: (o, new state). One token takes the recurrence itself, in place; more go in chunks. By
        which `kernel`: see `kernels.py`."""
        return delta_rule_by(self.kernel, q, k, v, g, beta, state, cu_seqlens)


# ------------------------------------------------------------------------------------------- layers and decoder


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)). Shazeer 2020 (arXiv 2002.05202)."""

    def __init__(self, hidden_size: int, intermediate_size: int):
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.up_proj = Linear(hidden_size, intermediate_size, bias=False)
        self.down_proj = Linear(intermediate_size, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class MixtureOfExperts(nn.Module):
    """Many small MLPs, of which each token is read by a few - and one, the shared expert, which reads every token.

    So a model can know much and still be quick: of 35 billion parameters a token meets 3. Which experts a token goes
    to, a router says. How loud the shared one is, a gate of its own says, from 0 to 1.

    Source: "Outrageously Large Neural Networks" (Shazeer et al. 2017, arXiv 1701.06538); the shared expert:
    "DeepSeekMoE" (Dai et al. 2024, arXiv 2401.06066).
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        d = config.hidden_size
        self.gate = Router(config)
        self.experts = Experts(config)
        self.shared_expert = MLP(d, config.shared_expert_intermediate_size)
        self.shared_expert_gate = Linear(d, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)                                                            # (B T, hidden_size)
        y = self.experts(tokens, *self.gate(tokens)).view(x.shape)
        return y + torch.sigmoid(self.shared_expert_gate(x)) * self.shared_expert(x)


class Router(nn.Module):
    """Which experts read a token, and how much what each of them says counts.

    The most probable `num_experts_per_tok` of all, and their probabilities, made to add up to one again.
    """

    def __init__(self, config: TextConfig):
        super().__init__()
        self.top_k = config.num_experts_per_tok
        self.weight = nn.Parameter(torch.zeros(config.num_experts, config.hidden_size))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (tokens, hidden_size) -> (weights, numbers of the experts), each (tokens, top_k)."""
        probabilities = full_precision(F.linear(x, self.weight)).softmax(-1)                # (tokens, num_experts)
        weights, chosen = probabilities.topk(self.top_k)
        return (weights / weights.sum(-1, keepdim=True)).to(x.dtype), chosen


class Experts(nn.Module):
    """All experts of a layer: each an `MLP`, its matrices a slice of two tensors. Each reads its own tokens alone."""

    def __init__(self, config: TextConfig):
        super().__init__()
        E, d, n = config.num_experts, config.hidden_size, config.moe_intermediate_size
        self.gate_up_proj = nn.Parameter(torch.zeros(E, 2 * n, d))                          # gate first
        self.down_proj = nn.Parameter(torch.zeros(E, d, n))

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """x: (tokens, hidden_size); weights, chosen: (tokens, top_k), from the router -> (tokens, hidden_size)."""
        expert, order = chosen.flatten().sort()          # those of one expert side by side
        numbers = torch.arange(len(self.down_proj), device=x.device)
        ends = torch.searchsorted(expert, numbers, right=True, out_int32=True)              # (num_experts,)
        gate, up = by_groups(x[order // chosen.shape[1]], self.gate_up_proj, ends).chunk(2, dim=-1)
        y = by_groups(F.silu(gate) * up, self.down_proj, ends)                              # (tokens * top_k, hidden)
        y = y[order.argsort()].view(*chosen.shape, -1)                                      # (tokens, top_k, hidden)
        return (y * weights[..., None]).sum(1)


def by_groups(x: Tensor, matrices: Tensor, ends: Tensor) -> Tensor:
    """x W^T with a matrix of its own for each group of rows; group i ends before row ends[i].

    x: (rows, d), matrices: (groups, n, d), ends: (groups,) int32 -> (rows, n). By one call, where torch (2.10) has it;
    matrices of another kind, such as quantized ones, may bring a way of their own.
    """
    if has_torch_function_unary(matrices):
        return handle_torch_function(by_groups, (matrices,), x, matrices, ends)
    whole_lines = all(size * x.element_size() % 16 == 0 for size in matrices.shape[1:])     # as that call wants them
    if hasattr(F, "grouped_mm") and x.dtype == matrices.dtype != torch.float64 and whole_lines:
        return F.grouped_mm(x, matrices.mT, offs=ends)
    groups = x.tensor_split(ends[:-1].tolist())
    return torch.cat([F.linear(rows, matrix) for rows, matrix in zip(groups, matrices, strict=True)])


class DecoderLayer(nn.Module):
    """Norm, mixer, norm, MLP or experts; both add to the stream they read from."""

    def __init__(self, config: TextConfig, layer_type: str):
        super().__init__()
        if layer_type == "full_attention":
            self.self_attn = GatedAttention(config)
        else:
            self.linear_attn = GatedDeltaNet(config)
        mixture = config.num_experts > 0
        self.mlp = MixtureOfExperts(config) if mixture else MLP(config.hidden_size, config.intermediate_size)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.layer_type = layer_type

    def forward(self, x: Tensor, step: Step, cache: AttentionCache | DeltaCache | None = None) -> Tensor:
        mixer = self.self_attn if self.layer_type == "full_attention" else self.linear_attn
        x = x + mixer(self.input_layernorm(x), step, cache)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextModel(nn.Module):
    """Embedding, the layers, a last norm."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config, layer_type) for layer_type in config.layer_types)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, step: Step, cache: Cache | None = None) -> Tensor:
        """x: embeddings (B, T, hidden_size) -> (B, T, hidden_size), normed."""
        for i, layer in enumerate(self.layers):
            x = layer(x, step, None if cache is None else cache.layers[i])
        return self.norm(x)


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

    def forward(self, hidden: Tensor, next_embeddings: Tensor, step: Step,
                caches: list[AttentionCache] | None = None) -> Tensor:
        """hidden, next_embeddings: (B, T, hidden_size); step: at the positions of the tokens of `hidden`; caches: one
        for each layer -> (B, T, hidden_size), normed."""
        x = torch.cat((self.pre_fc_norm_embedding(next_embeddings), self.pre_fc_norm_hidden(hidden)), dim=-1)
        x = self.fc(x)
        for i, layer in enumerate(self.layers):
            x = layer(x, step, None if caches is None else caches[i])
        return self.norm(x)


# ------------------------------------------------------------------------------------------------- the whole model


class Multimodal(nn.Module):
    """What the official checkpoints call `model`: the language model and, beside it, the vision tower."""

    def __init__(self, config: Config):
        super().__init__()
        self.language_model = TextModel(config.text_config)
        if config.vision_config is not None:
            self.visual = VisionTower(config.vision_config)


def shape_of_ids(input_ids: Tensor) -> tuple[int, int]:
    """(B, T); a ValueError if these are no token ids."""
    given = isinstance(input_ids, Tensor)
    if not given or input_ids.ndim != 2 or input_ids.numel() == 0 or input_ids.dtype not in (torch.int64, torch.int32):
        what = f"{tuple(input_ids.shape)} of {input_ids.dtype}" if given else f"a {type(input_ids).__name__}"
        raise ValueError(f"input_ids must be a tensor of ids, int64 or int32, (B, T) with at least one token, but is "
                         f"{what}.")
    return input_ids.shape


class Qwen(nn.Module):
    """The whole model: `logits = Qwen(config)(input_ids)`."""

    def __init__(self, config: Config):
        super().__init__()
        if not isinstance(config, Config):
            raise TypeError(f'Qwen takes a Config, such as Config.named("Qwen3.5-0.8B"), and not a '
                            f"{type(config).__name__}; minqwen.load loads a checkpoint.")
        self.config = config
        self.model = Multimodal(config)
        if not config.tie_word_embeddings:               # else the embedding is the head, and stored once
            self.lm_head = Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        if config.text_config.mtp_num_hidden_layers:
            self.mtp = MultiTokenPrediction(config.text_config)
        if not self.head_weight.is_meta:                 # there is nothing to fill, and trying takes a second
            self.init_weights()

    def forward(self, input_ids: Tensor, *inputs, logits_to_keep: int = 0, **named) -> Tensor:
        """The next token's logits at every position: (B, T, vocab_size).

        Args:
            input_ids: (B, T); the other arguments are those of `hidden_states`, as are its errors.
            logits_to_keep: 0 = all positions, n = the last n alone (the head is the widest matrix there is).
        """
        return self.head(self.hidden_states(input_ids, *inputs, **named)[:, -logits_to_keep:])

    def hidden_states(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        cache: Cache | None = None,
        cu_seqlens: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """What stands at the top, behind the last norm, for the head to read: (B, T, hidden_size).

        Args:
            input_ids: (B, T)
            attention_mask: (B, T), 0 = padding, left or right; with a cache also (B, tokens before + T).
            position_ids: (3, B, T) time, height, width; None: as `positions` has them.
            pixel_values, image_grid_thw: the pictures, in order of reading; see `embed`.
            pixel_values_videos, video_grid_thw: the clips, likewise.
            cache: from `new_cache`; read, and moved on by T tokens. Prefill, in one or more pieces, and decoding are
                this one function.
            cu_seqlens: (N + 1,) ends of N sequences packed into B = 1; none sees another, positions start anew in each.
            inputs_embeds: (B, T, hidden_size) from `embed`, where the pictures are seen already: a prompt that is read
                in pieces is embedded once. Its `position_ids` come from `positions`, then.

        Raises:
            ValueError: ids beyond the vocabulary; pictures that do not fit their placeholders; a mask, positions or a
                cache that do not fit; a cache that is full.
        """
        B, T = shape_of_ids(input_ids)
        if cu_seqlens is not None and (cache is not None or attention_mask is not None or B != 1):
            raise ValueError("Packed sequences (cu_seqlens) come in a batch of one, without mask and cache.")
        if cu_seqlens is not None:
            check_packing(cu_seqlens, B, T)
        valid = real_tokens(input_ids, attention_mask, cache)                           # (B, T) bool, or None: all real
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
        step = Step.at(position_ids, self.config.text_config, x.dtype, cu_seqlens=cu_seqlens,
                       mask=may_look(B, T, valid, cache, cu_seqlens, x.device),
                       padding=None if valid is None else Padding(valid))
        if cache is None:
            return self.model.language_model(x, step)
        cache.advance(position_ids, valid)
        x = self.model.language_model(x, step, cache)
        cache.midway, cache.top = False, None if cache.mtp is None else x
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
        traced = torch.compiler.is_compiling()           # a graph cannot depend on the numbers
        if not traced and (input_ids.min() < 0 or input_ids.max() >= vocab_size):
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
                  video_grid_thw: Tensor | None = None, cache: Cache | None = None,
                  cu_seqlens: Tensor | None = None) -> Tensor:
        """(3, B, T): every token's time, height and width; for text all three are the count of real tokens before.

        With a cache they go on where it stands: after a picture that is not where its tokens end, see
        `mrope_positions`. Pads get some position, which nobody looks at.

        Raises:
            ValueError: placeholders and grids that do not fit; or there is no tower.
        """
        if image_grid_thw is not None or video_grid_thw is not None:
            self._check_tower()
        valid = real_tokens(input_ids, attention_mask, cache)
        return token_positions(self.config, input_ids, valid, image_grid_thw, video_grid_thw, cache, cu_seqlens)

    def mtp_logits(self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None,
                   **pictures) -> Tensor:
        """The multi-token-prediction head's logits: row i is its guess of token i + 2, given the tokens up to i + 1.

        Args:
            input_ids: (B, T), T >= 2; the other arguments are those of `hidden_states`, pictures and clips included.
        Returns:
            (B, T - 1, vocab_size). A row whose token or next token is padding says nothing.
        Raises:
            ValueError: there is no such head, or but one token.
        """
        B, T = shape_of_ids(input_ids)
        if not self.config.text_config.mtp_num_hidden_layers:
            raise ValueError("This model has no head for multi-token prediction (mtp.*): its checkpoint held none.")
        if T < 2:
            raise ValueError("Multi-token prediction needs two tokens or more: one to stand on, and the next.")
        if position_ids is None:
            grids = pictures.get("image_grid_thw"), pictures.get("video_grid_thw")
            position_ids = self.positions(input_ids, attention_mask, *grids)
        x = self.embed(input_ids, **pictures)
        hidden = self.hidden_states(input_ids, attention_mask, position_ids, inputs_embeds=x)
        valid = real_tokens(input_ids, attention_mask)
        both = None if valid is None else valid[:, :-1] & valid[:, 1:]                  # a token, and its next one
        step = Step.at(position_ids.expand(3, B, T)[..., :-1], self.config.text_config, x.dtype,
                       mask=may_look(B, T - 1, both, device=x.device))
        return self.head(self.mtp(hidden[:, :-1], x[:, 1:], step))

    def head(self, x: Tensor) -> Tensor:
        """(B, T, hidden_size) -> (B, T, vocab_size). As one list of tokens: for a slice of a longer text, (B, T, C),
        `linear` would multiply row by row, and first copy the widest matrix there is."""
        return linear(x.flatten(0, 1), self.head_weight).unflatten(0, x.shape[:2])

    @property
    def head_weight(self) -> Tensor:
        """(vocab_size, hidden_size): the matrix that turns the last hidden state into logits."""
        return self.model.language_model.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight

    def new_cache(self, batch_size: int = 1, max_length: int = 4096) -> Cache:
        """Room for the keys, values and states of `batch_size` rows of up to `max_length` tokens each."""
        weight = self.model.language_model.embed_tokens.weight
        return Cache(self.config.text_config, batch_size, max_length, weight.dtype, weight.device)

    def _check_tower(self):
        if self.config.vision_config is None:
            raise ValueError("This model has no vision tower (vision_config), so it cannot see pictures and clips.")

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fresh weights for training from scratch.

        Matrices are normal with variance 1 / width, those that write into the stream smaller by the square root of
        their number. The decay is the point: A is uniform in (1, 16) and `dt_bias` the inverse softplus of a time step
        drawn log-uniformly from 0.001 to 0.1 (Mamba-2, arXiv 2405.21060), so that some heads forget within a token or
        so and others remember for hundreds. With `dt_bias` = 1, as the official code leaves it, nearly every token
        wipes the memory, and no recall is ever learnt.
        """
        vision, writing = self.config.vision_config, 2 * self.config.text_config.num_hidden_layers
        writers = {("o_proj", "out_proj", "down_proj"): writing,
                   ("attn.proj", "mlp.linear_fc2"): 2 * vision.depth if vision else 0}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv3d):
                std = module.weight[0].numel() ** -0.5                                   # 1 / sqrt(inputs)
                for names, number in writers.items():
                    std *= number ** -0.5 if name.endswith(names) else 1
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, Router):
                nn.init.normal_(module.weight, std=module.weight.shape[-1] ** -0.5)
            elif isinstance(module, Experts):
                for matrices, number in (module.gate_up_proj, 1), (module.down_proj, writing):
                    nn.init.normal_(matrices, std=(matrices.shape[-1] * number) ** -0.5)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=module.embedding_dim ** -0.5)
            elif isinstance(module, GatedDeltaNet):
                nn.init.uniform_(module.conv1d.weight, -module.kernel_size ** -0.5, module.kernel_size ** -0.5)
                module.A_log.uniform_(1, 16).log_()
                dt = 10 ** torch.empty_like(module.dt_bias).uniform_(-3, -1)
                module.dt_bias.copy_(dt + torch.log(-torch.expm1(-dt)))              # softplus(dt_bias) = dt
