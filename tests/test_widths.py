"""Ring 2 at the true widths: one period (three Gated DeltaNets, one attention) of each published size.

Piece by piece, so that a failure names what is wrong; then the logits, over a short vocabulary. Both models hold the
very same tensors.
"""

from dataclasses import replace

import pytest
import torch
from support import error, random_qwen

from minqwen.model import Config, Qwen
from minqwen.verify import module_checks, official_twin


def one_period(name: str) -> Qwen:
    """Four layers as wide as the published model, with weights as `init_weights` makes them - but quicker.

    The 9B's four layers are 863 million numbers. All matrices are windows of one random vector per scale, each at its
    own place, so that drawing them takes a second and they take a fraction of their memory.
    """
    text = replace(Config.named(name).text_config, num_hidden_layers=4, layer_types=None, vocab_size=512,
                   mtp_num_hidden_layers=0)
    with torch.device("meta"):
        qwen = Qwen(Config(text))
    largest = max(p.numel() for p in qwen.parameters())
    noise, scaled, weights = torch.randn(largest + 10_000, generator=torch.Generator().manual_seed(0)), {}, {}
    small = random_qwen(Config(replace(text, hidden_size=64, intermediate_size=64, vocab_size=8))).state_dict()
    for i, (key, p) in enumerate(qwen.state_dict().items()):
        if p.dim() == 2:                                  # a matrix; its variance is 1 / width, less where it writes
            writes = 8 if key.endswith(("o_proj.weight", "out_proj.weight", "down_proj.weight")) else 1
            scale = (p.shape[1] * writes) ** -0.5
            buffer = scaled.setdefault(scale, noise * scale)
            weights[key] = buffer[97 * i :][: p.numel()].view(p.shape)
        elif p.dim() == 1 and key.endswith("norm.weight") and "linear_attn" not in key:
            weights[key] = 0.2 * noise[97 * i :][: p.numel()]
        else:
            weights[key] = small[key]                     # convolution, A_log, dt_bias, gated norm: no wider than here
    qwen.load_state_dict(weights, assign=True)
    return qwen.eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["Qwen3.5-0.8B", "Qwen3.5-2B", "Qwen3.5-4B", "Qwen3.5-9B"])
def test_one_period(name):
    pytest.importorskip("transformers", minversion="5.23")
    qwen = one_period(name)
    twin = official_twin(qwen)
    assert twin.model.layers[3].mlp.up_proj.weight.data_ptr() == \
        qwen.model.language_model.layers[3].mlp.up_proj.weight.data_ptr(), "one copy of the weights, not two"
    for check in module_checks(qwen, twin, torch.Generator().manual_seed(0), T=40):
        assert check.ok, check
    x = torch.randint(512, (1, 66), generator=torch.Generator().manual_seed(1))
    theirs = twin(x).logits
    assert error(qwen(x), theirs) < 2e-5
    padded, mask = torch.nn.functional.pad(x, (9, 0)), torch.nn.functional.pad(torch.ones_like(x), (9, 0))
    assert error(qwen(padded, attention_mask=mask)[:, 9:], theirs) < 1e-4
