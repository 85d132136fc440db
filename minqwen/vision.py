"""Pictures and clips: the tower that turns them into vectors, and where their tokens stand.

A picture is cut into patches of 16 x 16 pixels, in pairs of frames; a still counts as two equal frames. The patches
come in the order in which the tower puts them together at its end: 2 x 2 neighbours, one after the other, become one
token. N counts patches, of all pictures and clips one after the other; a grid is (t, h, w), in patches: frames (in
pairs; 1 for a still), rows, columns.

Among words a picture's tokens have three positions each, time, height and width: M-RoPE, which `model.py` turns into
angles.
"""

from itertools import groupby

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .cache import Cache
from .config import Config, VisionConfig
from .delta_rule import full_precision

__all__ = ["PatchEmbedding", "PatchMerger", "VisionAttention", "VisionBlock", "VisionMLP", "VisionTower", "by_blocks",
           "mrope_positions", "token_positions"]

# ------------------------------------------------------------------------------------------------- the tower


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


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn every pair of a head's dimensions, i and i + D / 2, by its angle.

    x: (N, H, D), cos and sin: (N, 1, D / 2) -> (N, H, D)
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


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
        q, k = (turn(full_precision(y), cos, sin).to(x.dtype) for y in (q, k))            # (N, H, D)
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


# --------------------------------------------------------------------------------------- positions of M-RoPE


def mrope_positions(kinds: Tensor, grids: dict, start: int) -> Tensor:
    """Where the tokens of one sequence stand in time, height and width.

    Text goes on by one in all three. A picture is one moment: its tokens share a time, and have their row and column,
    counted from there. The text behind it resumes past its longer side. A clip is its slices one by one, each behind
    its own timestamp, which is text.

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


def token_positions(config: Config, input_ids: Tensor, valid: Tensor | None = None,
                    image_grid_thw: Tensor | None = None, video_grid_thw: Tensor | None = None,
                    cache: Cache | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
    """(3, B, T): every token's time, height and width; see `Qwen.positions`. valid: (B, T) from `real_tokens`."""
    B, T = input_ids.shape
    if image_grid_thw is None and video_grid_thw is None:
        return text_positions(input_ids, valid, cache, cu_seqlens).expand(3, B, T)
    merge, grids = config.vision_config.spatial_merge_size, {1: [], 2: []}
    for t, h, w in [] if image_grid_thw is None else image_grid_thw.tolist():
        grids[1].append((t, h // merge, w // merge))
    for t, h, w in [] if video_grid_thw is None else video_grid_thw.tolist():           # one slice at a time
        grids[2] += t * [(1, h // merge, w // merge)]
    kinds = torch.zeros_like(input_ids)
    for kind, token in ((1, config.image_token_id), (2, config.video_token_id)):
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


def text_positions(input_ids: Tensor, valid: Tensor | None, cache: Cache | None, cu_seqlens: Tensor | None) -> Tensor:
    """(B, T): the number of real tokens before each in its row (in its sequence, when packed)."""
    B, T = input_ids.shape
    steps = torch.arange(T, device=input_ids.device).expand(B, T)
    if cu_seqlens is not None:
        starts = cu_seqlens[:-1].repeat_interleave(cu_seqlens.diff())
        return steps - starts
    if valid is not None:
        steps = (valid.cumsum(-1) - 1).clamp(min=0)
    return steps if cache is None else steps + cache.positions[:, None]
