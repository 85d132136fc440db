"""Ring 2 at the true widths: one period of each published size (three Gated DeltaNets, one attention), two blocks of
its tower, and its head for multi-token prediction.

Piece by piece, so that a failure names what is wrong; then the logits, over a short vocabulary. Both models hold the
very same tensors.
"""

from dataclasses import replace

import pytest
import torch
from support import error, random_qwen, seeing_config

from minqwen.config import Config
from minqwen.model import Qwen
from minqwen.verify import (
    for_transformers,
    module_checks,
    official_mtp_logits,
    official_twin,
    random_prompt,
    tower_checks,
)


def one_period(name: str) -> Qwen:
    """Four layers as wide as the published model, with weights as `init_weights` makes them - but quicker.

    The 9B's four layers, tower and head are 1.2 billion numbers. All matrices are windows of one random vector per
    scale, each at its own place, so that drawing them takes a second and they take a fraction of their memory.
    """
    published = Config.named(name)
    text = replace(published.text_config, num_hidden_layers=4, layer_types=None, vocab_size=512)
    if text.num_experts:                                  # as wide, but not as many
        text = replace(text, num_experts=16)
    config = replace(seeing_config(), text_config=text, vision_config=replace(published.vision_config, depth=2))
    with torch.device("meta"):
        qwen = Qwen(config)
    narrow = replace(text, hidden_size=64, intermediate_size=64, vocab_size=8, mtp_num_hidden_layers=0, num_experts=0)
    weights = {key: p for key, p in random_qwen(Config(narrow)).state_dict().items()
               if "linear_attn" in key and "proj" not in key}  # convolution, A_log, dt_bias, gated norm: as wide here

    def scale(key, p):
        if p.dim() == 1:
            return 0.2                                    # of a norm or a bias
        writes = 8 if key.removesuffix(".weight").endswith(("o_proj", "out_proj", "down_proj")) else 1
        width = p.shape[-1] if ".experts." in key else p[0].numel()
        return (width * writes) ** -0.5                   # the variance is 1 / width, less where it writes

    drawn = [(key, p, scale(key, p), slice(97 * i, 97 * i + p.numel()))
             for i, (key, p) in enumerate(qwen.state_dict().items()) if key not in weights]
    noise = torch.randn(max(here.stop for *_, here in drawn), generator=torch.Generator().manual_seed(0))
    scaled = {size: size * noise[: max(here.stop for *_, other, here in drawn if other == size)]
              for size in {size for *_, size, _ in drawn}}
    for key, p, size, here in drawn:
        weights[key] = scaled[size][here].view(p.shape)
        if "visual" in key and "norm" in key and key.endswith("weight"):
            weights[key] = 1 + weights[key]               # a LayerNorm's, which is no offset from one
    qwen.load_state_dict(weights, assign=True)
    return qwen.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["Qwen3.5-0.8B", "Qwen3.5-2B", "Qwen3.5-4B", "Qwen3.5-9B", "Qwen3.5-35B-A3B"])
def qwen(request):
    pytest.importorskip("transformers", minversion="5.23")
    return one_period(request.param)


@pytest.fixture
def random():
    return torch.Generator().manual_seed(0)


def test_one_period(qwen, random):
    twin = official_twin(qwen)
    last = "layers.3.mlp.experts.down_proj" if qwen.config.text_config.num_experts else "layers.3.mlp.up_proj.weight"
    assert twin.model.get_parameter(last).data_ptr() == \
        qwen.model.language_model.get_parameter(last).data_ptr(), "one copy of the weights, not two"
    for check in module_checks(qwen, twin, random, T=40):
        assert check.ok, check
    x = torch.randint(512, (1, 66), generator=torch.Generator().manual_seed(1))
    theirs = twin(x).logits
    assert error(qwen(x), theirs) < 2e-5
    padded, mask = torch.nn.functional.pad(x, (9, 0)), torch.nn.functional.pad(torch.ones_like(x), (9, 0))
    assert error(qwen(padded, attention_mask=mask)[:, 9:], theirs) < 1e-4


def test_two_blocks_of_the_tower(qwen, random):
    twin = official_twin(qwen, pictures=True)
    assert twin.model.visual.blocks[1].attn.qkv.weight.data_ptr() == \
        qwen.model.visual.blocks[1].attn.qkv.weight.data_ptr(), "one copy of the weights, not two"
    for check in tower_checks(qwen, twin, random):
        assert check.error < 2e-5, check
    inputs = random_prompt(qwen.config, [3, (4, 6), 5, (2, 4, 2), 20], random=random)
    assert error(qwen(**inputs), twin(**for_transformers(qwen.config, inputs)).logits) < 2e-5


def test_the_head_for_multi_token_prediction(qwen, random):
    twin = official_twin(qwen, pictures=True)
    inputs = random_prompt(qwen.config, [3, (6, 4), 30], random=random)
    assert error(qwen.mtp_logits(**inputs), official_mtp_logits(qwen, twin, inputs)) < 2e-5
