"""What several tests build: small random models with every feature of the official ones, and errors in one number."""

from dataclasses import replace

import torch

from minqwen.config import Config
from minqwen.model import GatedRMSNorm, Qwen, RMSNorm
from minqwen.verify import for_transformers as for_transformers_with
from minqwen.verify import random_prompt

# Small, and nothing in it equal that could be confused: heads 2:6, keys narrower than values.
SMALL = {
    "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
    "linear_key_head_dim": 16, "linear_value_head_dim": 24, "tie_word_embeddings": True, "dtype": "float32",
    "rope_parameters": {"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.5,
                        "mrope_interleaved": True, "mrope_section": [3, 3, 2]},
}

# A tower as small: three heads of 16, learned positions on a grid of 6 x 6, patches of 4 x 4 pixels.
SMALL_VISION = {
    "depth": 3, "hidden_size": 48, "intermediate_size": 80, "num_heads": 3, "in_channels": 3, "patch_size": 4,
    "temporal_patch_size": 2, "spatial_merge_size": 2, "num_position_embeddings": 36, "out_hidden_size": 64,
}
IMAGE, VIDEO, VISION_START, VISION_END = 290, 291, 292, 293                       # ids below are text
KINDS = (IMAGE, "pixel_values", "image_grid_thw"), (VIDEO, "pixel_values_videos", "video_grid_thw")


def small_config(**changes) -> Config:
    return Config.from_dict({"model_type": "qwen3_5_text", **SMALL, **changes})


def seeing_config(vision: dict | None = None, **changes) -> Config:
    """With a tower, and with a head for multi-token prediction; of the _moe kind where num_experts are given."""
    text = {**SMALL, "mtp_num_hidden_layers": 1, **changes}
    return Config.from_dict({
        "model_type": "qwen3_5_moe" if "num_experts" in text else "qwen3_5",
        "text_config": text, "vision_config": {**SMALL_VISION, **(vision or {})},
        "tie_word_embeddings": text["tie_word_embeddings"], "image_token_id": IMAGE, "video_token_id": VIDEO,
        "vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END})


def random_qwen(config: Config | None = None, seed: int = 0) -> Qwen:
    """A fresh model whose norms are not the identity and whose tower has biases, so that none of them can hide."""
    torch.manual_seed(seed)
    qwen = Qwen(config or small_config()).eval().requires_grad_(False)
    for module in qwen.modules():
        if isinstance(module, RMSNorm | GatedRMSNorm):
            module.weight.add_(torch.randn_like(module.weight), alpha=0.2)
    for name, parameter in qwen.named_parameters():
        if name.startswith("model.visual.") and parameter.dim() == 1:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return qwen


def shape_of_0_8b() -> Config:
    """Layers, heads and their widths of Qwen3.5-0.8B, and nothing else of it: what an explorer must bear."""
    return Config(replace(Config.named("Qwen3.5-0.8B").text_config, hidden_size=32, intermediate_size=32,
                          vocab_size=SMALL["vocab_size"], mtp_num_hidden_layers=0, dtype="float32"))


def tokens(B: int, T: int, vocabulary: int = SMALL["vocab_size"], seed: int = 1) -> torch.Tensor:
    return torch.randint(vocabulary, (B, T), generator=torch.Generator().manual_seed(seed))


def prompt(*rows: list, side: str = "left", seed: int = 1) -> dict[str, torch.Tensor]:
    """A small model's inputs, by name, for rows of the kind [3, (4, 6), 5, (2, 4, 4)]: see `random_prompt`."""
    return random_prompt(seeing_config(), *rows, side=side, random=torch.Generator().manual_seed(seed))


def for_transformers(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same for the official model, which wants to be told which tokens are a picture's."""
    return for_transformers_with(seeing_config(), inputs)


def one_by_one(inputs):
    """Each row of a batch by itself, without its pads, and with its own pictures and clips."""
    ids = inputs["input_ids"]
    real = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    left = {kind: (list(inputs.get(grid, torch.zeros(0, 3, dtype=torch.long))), list(inputs.get(pixels, ())))
            for kind, pixels, grid in KINDS}
    for row, kept in enumerate(real):
        alone = {"input_ids": ids[row : row + 1, kept]}
        for kind, pixels, grid in KINDS:
            grids, patches = left[kind]
            wanted, taken, cut = 4 * int((alone["input_ids"] == kind).sum()), [], 0
            while cut < wanted:
                taken.append(grids.pop(0))
                cut += int(taken[-1].prod())
            if taken:
                alone |= {grid: torch.stack(taken), pixels: torch.stack(patches[:cut])}
                del patches[:cut]
        yield row, alone
    assert not any(grids or patches for grids, patches in left.values())


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest error over the largest entry of what is right. Not a number counts as infinitely wrong."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return ((ours - theirs).abs().max() / theirs.abs().max()).nan_to_num(torch.inf).item()


def contrast(one, other):
    """How well one colour is read on another, from 1 (not at all) to 21, as WCAG 2 defines it.

    Args:
        one, other: (red, green, blue) from 0 to 1.
    """
    def luminance(colour):
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)
