"""What several tests build: small random models with every feature of the official ones, and errors in one number."""

import torch

from minqwen.model import Config, GatedRMSNorm, Qwen, RMSNorm

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


def small_config(**changes) -> Config:
    return Config.from_dict({"model_type": "qwen3_5_text", **SMALL, **changes})


def seeing_config(vision: dict | None = None, **changes) -> Config:
    """With a tower, and with a head for multi-token prediction."""
    text = {**SMALL, "mtp_num_hidden_layers": 1, **changes}
    return Config.from_dict({
        "model_type": "qwen3_5", "text_config": text, "vision_config": {**SMALL_VISION, **(vision or {})},
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


def tokens(B: int, T: int, vocabulary: int = SMALL["vocab_size"], seed: int = 1) -> torch.Tensor:
    return torch.randint(vocabulary, (B, T), generator=torch.Generator().manual_seed(seed))


def prompt(*rows: list, side: str = "left", patch: int = 3 * 2 * 4 * 4, seed: int = 1) -> dict[str, torch.Tensor]:
    """What `Qwen.forward` takes, by name, for rows of the kind [3, (4, 6), 5, (2, 4, 4)].

    These are three tokens of text, a picture of 4 x 6 patches, five of text, and a clip of two groups of frames, 4 x 4
    patches each, either of them behind two tokens of text, its timestamp. Pixels are noise, `patch` numbers for each
    patch. Shorter rows are padded on their `side`; without any there is no mask.
    """
    random = torch.Generator().manual_seed(seed)
    ids, grids = [], {IMAGE: [], VIDEO: []}

    def text(n):
        return torch.randint(IMAGE, (n,), generator=random).tolist()

    for row in rows:
        ids.append([])
        for part in row:
            if isinstance(part, int):
                ids[-1] += text(part)
                continue
            kind, (t, h, w) = (IMAGE, (1, *part)) if len(part) == 2 else (VIDEO, part)
            grids[kind].append((t, h, w))
            for _ in range(t):
                ids[-1] += text(2 * (kind == VIDEO)) + [VISION_START] + h * w // 4 * [kind] + [VISION_END]
    length = max(map(len, ids))
    pads = [[0] * (length - len(row)) for row in ids]
    place = (lambda x, pad: pad + x) if side == "left" else (lambda x, pad: x + pad)
    inputs = {"input_ids": torch.tensor([place(row, pad) for row, pad in zip(ids, pads)])}
    if any(pads):
        inputs["attention_mask"] = torch.tensor([place([1] * len(row), pad) for row, pad in zip(ids, pads)])
    for kind, pixels, grid in ((IMAGE, "pixel_values", "image_grid_thw"),
                               (VIDEO, "pixel_values_videos", "video_grid_thw")):
        if grids[kind]:
            inputs[grid] = torch.tensor(grids[kind])
            inputs[pixels] = torch.randn(int(inputs[grid].prod(-1).sum()), patch, generator=random)
    return inputs


def for_transformers(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same for the official model, which wants to be told which tokens are a picture's (1) and a clip's (2)."""
    ids = inputs["input_ids"]
    return {**inputs, "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int()}


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest error over the largest entry of what is right. Not a number counts as infinitely wrong."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return ((ours - theirs).abs().max() / theirs.abs().max()).nan_to_num(torch.inf).item()
