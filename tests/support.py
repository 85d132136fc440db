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


def small_config(**changes) -> Config:
    return Config.from_dict({"model_type": "qwen3_5_text", **SMALL, **changes})


def random_qwen(config: Config | None = None, seed: int = 0) -> Qwen:
    """A fresh model whose norms are not the identity, so that no norm can hide."""
    torch.manual_seed(seed)
    qwen = Qwen(config or small_config()).eval().requires_grad_(False)
    for module in qwen.modules():
        if isinstance(module, RMSNorm | GatedRMSNorm):
            module.weight.add_(torch.randn_like(module.weight), alpha=0.2)
    return qwen


def tokens(B: int, T: int, vocabulary: int = SMALL["vocab_size"], seed: int = 1) -> torch.Tensor:
    return torch.randint(vocabulary, (B, T), generator=torch.Generator().manual_seed(seed))


def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """The largest error over the largest entry of what is right. Not a number counts as infinitely wrong."""
    assert ours.shape == theirs.shape, f"{tuple(ours.shape)} is not {tuple(theirs.shape)}"
    ours, theirs = ours.detach().double(), theirs.detach().double()
    return ((ours - theirs).abs().max() / theirs.abs().max()).nan_to_num(torch.inf).item()
