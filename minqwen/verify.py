"""Compare piece by piece with `transformers`."""

import torch
from torch import nn

from minqwen.errors import QwenError
from minqwen.model import Qwen


def official_twin(qwen: Qwen) -> nn.Module:
    """`transformers`' own language model on the very same weights: built without memory, then given our tensors.

    Raises:
        QwenError: `transformers` is not installed.
    """
    official = _official()
    config = official.Qwen3_5TextConfig(**qwen.config.to_dict()["text_config"])
    with torch.device("meta"):
        twin = official.Qwen3_5ForCausalLM(config)
    ours = {name.replace("language_model.", ""): tensor for name, tensor in qwen.state_dict().items()}
    twin.load_state_dict(ours | {"lm_head.weight": qwen.head_weight.detach()}, assign=True)
    twin.tie_weights()
    twin.model.rotary_emb = official.Qwen3_5TextRotaryEmbedding(config).to(qwen.head_weight.device)
    return twin.eval().requires_grad_(False)


def _official():
    try:
        from transformers.models.qwen3_5 import modeling_qwen3_5
    except ImportError:
        raise QwenError("Verification compares with transformers, which is missing here: pip install 'minqwen[verify]' "
                        "(5.23 or newer).") from None
    return modeling_qwen3_5
