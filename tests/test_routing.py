"""Where tokens go: the balancing loss is that of `transformers`, and a trace has what the routers did."""

import copy

import pytest
import torch
from support import error, random_qwen, small_config, tokens
from test_moe import EXACT, NUMBERS, mixture
from torch.nn import functional as F

import minqwen
from minqwen.config import Config
from minqwen.errors import QwenError
from minqwen.generate import generate
from minqwen.routing import balancing_loss, routing
from minqwen.verify import official_twin

pytest.importorskip("transformers", minversion="5.23")


@pytest.fixture(scope="module")
def qwen():
    return random_qwen(mixture())


@pytest.fixture(scope="module")
def twin(qwen):
    return official_twin(qwen)


def left_padded(B, T, *pads):
    ids, mask = tokens(B, T), torch.ones(B, T, dtype=torch.long)
    for row, pad in enumerate(pads):
        mask[row, :pad] = 0
    return ids, mask


# ------------------------------------------------------------------------------------------------ the balancing loss


@pytest.mark.parametrize("pads", [(), (0, 0, 0), (5, 0, 11)])
def test_the_balancing_loss_is_that_of_transformers(qwen, twin, pads):
    ids, mask = left_padded(3, 20, *pads)
    mask = mask if pads else None
    with routing(qwen) as logits:
        qwen(ids, attention_mask=mask)
    ours = balancing_loss(logits, 3, mask)
    theirs = twin(ids, attention_mask=mask, labels=ids, output_router_logits=True)
    assert len(logits) == 4 and error(ours, theirs.aux_loss) < EXACT
    assert 3 < ours < 7
    # as in its whole loss, by the coefficient
    plain = twin(ids, attention_mask=mask, labels=ids).loss
    assert error(plain + qwen.config.text_config.router_aux_loss_coef * ours, theirs.loss) < EXACT


def test_its_gradients_too(qwen, twin):
    ours, theirs = copy.deepcopy(qwen).requires_grad_(), copy.deepcopy(twin).requires_grad_()
    with routing(ours) as logits:
        ours(tokens(2, 20))
    balancing_loss(logits, 3).backward()
    theirs(tokens(2, 20), labels=tokens(2, 20), output_router_logits=True).aux_loss.backward()
    for mine, layer in zip(ours.model.language_model.layers, theirs.model.layers, strict=True):
        assert mine.mlp.gate.weight.grad.abs().max() > 0
        assert error(mine.mlp.gate.weight.grad, layer.mlp.gate.weight.grad) < 1e-4


def test_it_is_least_where_all_are_used_alike():
    """By the formula: top_k where probabilities are even; all experts' number where the same ones have everything."""
    even, one = torch.zeros(8, 4), torch.zeros(8, 4)
    even[torch.arange(8), torch.arange(8) % 4] = 1e-3
    one[:, 2] = 50.0
    assert error(balancing_loss([even], 1), torch.tensor(1.0)) < 1e-4
    assert error(balancing_loss([one], 1), torch.tensor(4.0)) < 1e-4
    assert error(balancing_loss([even, one], 1), torch.tensor(4 * (5 / 8 * 5 / 8 + 3 * 1 / 8 * 1 / 8))) < 1e-3


def test_half_precision_is_worked_out_in_float32():
    logits = [torch.randn(60, 7, generator=torch.Generator().manual_seed(i)).bfloat16() for i in range(2)]
    assert torch.equal(balancing_loss(logits, 3), balancing_loss([layer.float() for layer in logits], 3))


def test_without_experts_there_is_nothing_to_balance():
    dense = random_qwen()
    with routing(dense) as logits:
        dense(tokens(1, 5))
    assert logits == [] and balancing_loss(logits, 8) == 0


def test_padding_alone_is_nothing_to_balance_either(qwen, twin):
    """Of which `transformers` makes NaN; a shorter batch at the end of an epoch would spoil all that was learnt."""
    learner, ids, mask = copy.deepcopy(qwen).requires_grad_(), tokens(2, 6), torch.zeros(2, 6, dtype=torch.long)
    with routing(learner) as logits:
        learner(ids, attention_mask=mask)
    assert twin(ids, attention_mask=mask, labels=ids, output_router_logits=True).aux_loss.isnan()
    loss = balancing_loss(logits, 3, mask)
    loss.backward()
    assert loss == 0
    assert all((layer.mlp.gate.weight.grad == 0).all() for layer in learner.model.language_model.layers)


@pytest.mark.parametrize("says, top_k, mask", [
    ("attention_mask is of 6 tokens, but 5 were routed", 3, torch.ones(2, 3)),
    ("top_k is 8, but must be from 1 to 7", 8, None),
    ("top_k is 0, but must be from 1 to 7", 0, None)])
def test_what_cannot_be_balanced_is_told_in_one_sentence(qwen, says, top_k, mask):
    with routing(qwen) as logits:
        qwen(tokens(1, 5))
    with pytest.raises(QwenError, match=f"^{says}[^\n]*[.]$"):
        balancing_loss(logits, top_k, mask)


def test_nothing_is_watched_afterwards(qwen):
    with routing(qwen) as logits:
        qwen(tokens(1, 5))
    qwen(tokens(1, 5))
    assert len(logits) == 4
    with pytest.raises(KeyError), routing(qwen) as logits:
        raise KeyError
    qwen(tokens(1, 5))
    assert logits == []


def test_the_head_for_multi_token_prediction_is_left_out(qwen):
    with routing(qwen) as logits:
        qwen.mtp_logits(tokens(1, 5))
    assert [len(layer) for layer in logits] == [5] * 4


def test_its_coefficient_is_read_and_written():
    numbers = {**mixture().to_dict()["text_config"], "model_type": "qwen3_5_moe_text", "router_aux_loss_coef": 0.25}
    config = Config.from_dict(numbers)
    assert config.text_config.router_aux_loss_coef == 0.25
    assert config.to_dict()["text_config"]["router_aux_loss_coef"] == 0.25
    assert mixture().text_config.router_aux_loss_coef == 0.001                               # as `transformers` has it
    dense = small_config(router_aux_loss_coef=0.25)
    assert "router_aux_loss_coef" not in dense.to_dict()["text_config"]
    with pytest.raises(ValueError, match="router_aux_loss_coef must be a number"):
        Config.from_dict(numbers | {"router_aux_loss_coef": "much"})


# --------------------------------------------------------------------------------------------------------- the trace


def test_a_trace_has_what_the_routers_did(qwen, twin):
    ids, mask = left_padded(2, 14, 6, 0)
    with torch.no_grad(), minqwen.trace(qwen) as t:
        qwen(ids, attention_mask=mask)
    theirs = twin(ids, attention_mask=mask, output_router_logits=True).router_logits
    for layer, logits in zip(t.layers, theirs, strict=True):
        here = t.valid
        assert error(layer.router_logits[here], logits.view(2, 14, 7)[here]) < EXACT
        probabilities = layer.router_logits.softmax(-1)
        weights = probabilities.gather(-1, layer.experts)
        assert error(layer.expert_weights, weights / weights.sum(-1, keepdim=True)) < 1e-6
        assert (probabilities.topk(3).indices == layer.experts).all()
    x = qwen.model.language_model.embed_tokens(ids)
    assert layer.shared_gate.shape == x.shape[:2] and 0 < layer.shared_gate.min() < layer.shared_gate.max() < 1


def test_a_trace_of_a_generation_is_that_of_one_forward(qwen):
    ids = tokens(1, 6)
    with minqwen.trace(qwen) as t:
        generate(qwen, ids, max_new_tokens=5)
    assert len(t) > 6
    whole = minqwen.trace(qwen).run(t.input_ids)
    for one, other in zip(t.layers, whole.layers, strict=True):
        assert torch.equal(one.experts, other.experts)
        for name in ("router_logits", "expert_weights", "shared_gate"):
            assert error(getattr(one, name), getattr(other, name)) < EXACT


def test_a_dense_layer_says_that_it_has_none():
    t = minqwen.trace(random_qwen()).run(tokens(1, 4))
    for name in ("router_logits", "experts", "expert_weights", "shared_gate"):
        with pytest.raises(QwenError, match=f"Layer 3 has an MLP and no experts, and so no {name}"):
            getattr(t.layers[3], name)


def test_a_gradient_reaches_the_routers(qwen):
    """Through the loss of the words, and through the balance."""
    learner = copy.deepcopy(qwen).requires_grad_()
    with routing(learner) as logits:
        loss = F.cross_entropy(learner(tokens(1, 8)).flatten(0, 1), tokens(1, 8).flatten())
    (loss + balancing_loss(logits, NUMBERS["num_experts_per_tok"])).backward()
    assert all(layer.mlp.gate.weight.grad.abs().sum() > 0 for layer in learner.model.language_model.layers)
