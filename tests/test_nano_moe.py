"""The small mixture of experts: trained as the recipe says, balanced, resumed; and what is shipped of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import random_qwen, tokens
from test_moe import mixture
from test_nano_training import resumes_to_the_same_weights

import minqwen
from minqwen.nano import score as scoring
from minqwen.nano import train
from minqwen.nano.recipe import EXPERTS, Recipe
from minqwen.nano.samples import phase_samples
from minqwen.routing import balancing_loss, routing

MOE = Path(__file__).parents[1] / "data" / "nano_moe"
LAYERS, E, K = 8, 8, 2


@pytest.fixture(scope="module")
def qwen():
    return minqwen.load(MOE)


# ---------------------------------------------------------------------------------------------------------- training


def learner(coefficient):
    config = mixture(router_aux_loss_coef=coefficient, mtp_num_hidden_layers=0)
    return random_qwen(replace(config, vision_config=None)).requires_grad_()


def batch_of(ids, real=None):
    targets = ids.roll(-1, dims=1)
    targets[:, -1] = -100
    return train.Batch(["facts"] * len(ids), ids, targets, {}, real)


def routers_of(model):
    return [layer.mlp.gate.weight for layer in model.model.language_model.layers]


def test_the_balance_is_learnt_by_its_coefficient():
    """The gradient with it is that without it, plus so many times that of the balancing loss; it is logged in any
    case."""
    batches, recipe = [batch_of(tokens(2, 30)), batch_of(tokens(1, 12, seed=2))], replace(EXPERTS, enough=1)
    gradients, told = {}, {}
    for coefficient in (0.0, 0.5):
        model = learner(coefficient)
        told[coefficient] = train.step_losses(model, batches, {"facts": 1.0}, recipe, drafts=0)
        gradients[coefficient] = [weight.grad for weight in routers_of(model)]
    model, balance = learner(0.0), 0
    for batch in batches:
        with routing(model) as logits:
            model(batch.input_ids)
        balance = balance + balancing_loss(logits, 3) / 2
    wanted = torch.autograd.grad(balance, routers_of(model))
    for without, with_it, more in zip(gradients[0.0], gradients[0.5], wanted, strict=True):
        torch.testing.assert_close(with_it - without, 0.5 * more, rtol=1e-3, atol=1e-6)
    assert told[0.0] == pytest.approx(told[0.5]) and told[0.0]["balance"] == pytest.approx(balance.item())
    assert told[0.0]["mtp"] == 0


def test_padding_is_not_balanced():
    ids, model = tokens(2, 20), learner(0.5)
    real = torch.ones(2, 20, dtype=torch.bool)
    real[1, 8:] = False
    padded = train.step_losses(model, [batch_of(ids, real)], {"facts": 1.0}, EXPERTS, drafts=0)["balance"]
    with routing(model) as logits:
        model(ids)
    assert padded == pytest.approx(balancing_loss(logits, 3, real).item())
    assert abs(padded - balancing_loss(logits, 3).item()) > 1e-4


def test_a_batch_knows_its_padding(qwen):
    encode = train.Encoder(qwen.tokenizer.fast, None)
    rows = [train.Row("facts", list(range(n)), [True] * n, {}) for n in (5, 9)]
    assert encode.batch(rows).real.sum(-1).tolist() == [5, 9]


def test_experts_and_routers_are_no_projections():
    """Muon is for matrices that project; these are stacks of them, rows to choose by, and a single row."""
    model = learner(0.0)
    muon, adam = train.optimizers_for(model, matrix_pace=3.0)
    ids = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in model.named_parameters() if id(p) in ids}
    assert any(name.endswith("shared_expert.down_proj.weight") for name in names)
    assert not [name for name in names if "gate.weight" in name or ".experts." in name or "embed" in name]
    assert sum(len(group["params"]) for o in (muon, adam) for group in o.param_groups) == len(list(model.parameters()))


def test_it_reads_stories_and_sums_alone():
    from random import Random

    for phase in EXPERTS.phases:
        kinds = {sample.kind for seed in range(10) for sample in phase_samples(Random(seed), phase, EXPERTS, 20)}
        assert kinds == ({"facts", "sums"} if phase.sums else {"facts"})
        assert phase.drafts == 0


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path, monkeypatch):
    resumes_to_the_same_weights(tmp_path, monkeypatch, "--experts")
    made = minqwen.load(tmp_path / "whole-out")
    text = made.config.text_config
    assert (text.num_hidden_layers, text.num_experts, text.num_experts_per_tok) == (LAYERS, E, K)
    assert made.config.vision_config is None and not (tmp_path / "whole-out" / "preprocessor_config.json").exists()
    facts = json.loads((tmp_path / "whole-out" / "training.json").read_text())
    assert facts["command"].startswith("python -m minqwen.nano.train --experts --seed 2 ")
    assert "loss balance" in (tmp_path / "whole-out" / "training.csv").read_text().splitlines()[0]


def test_the_probe_asks_what_it_has_learnt(qwen):
    encode = train.Encoder(qwen.tokenizer.fast, minqwen.media.Processor.from_folder(MOE))
    assert set(train.probe(qwen.model, encode, samples=2)) == {"12 facts", "40 facts", "sums thinking", "sums at once"}


# -------------------------------------------------------------------------------------------------- what is shipped


def test_it_is_small():
    assert sum(path.stat().st_size for path in MOE.iterdir()) < 5_000_000


def test_it_says_how_it_was_made(qwen):
    facts, card = json.loads((MOE / "training.json").read_text()), (MOE / "README.md").read_text()
    assert Recipe.from_dict(facts["recipe"]) == EXPERTS, "`make nano_moe` makes another model than the one shipped"
    assert facts["command"] in card
    assert f"{sum(p.numel() for p in qwen.model.parameters()):,} parameters" in card
    log = (MOE / "training.csv").read_text().splitlines()
    assert log[0].startswith("step,seconds,") and log[-1].startswith(f"{EXPERTS.steps},")


def test_its_experts_all_have_work(qwen):
    """The balancing loss has kept them at it: none is idle, in no layer."""
    from minqwen.nano.balance import loads

    found = torch.tensor(loads(qwen, samples=10))
    assert found.shape == (LAYERS, E) and torch.allclose(found.sum(-1), torch.full((LAYERS,), float(K)))
    assert found.min() > 0.005 and found.mean(0).max() < 2.5 * K / E


def test_the_record_of_the_balancing_loss():
    record = json.loads((MOE / "balance.json").read_text())
    assert record["command"].startswith("python -m minqwen.nano.balance ")
    for name, zero in (("with", False), ("without", True)):
        run = record[name]
        assert (run["coefficient"] == 0) == zero and torch.tensor(run["loads"]).shape == (LAYERS, E)
        assert len(run["steps"]) == len(run["balance"]) == len(run["loss"])


@pytest.mark.parametrize("task", scoring.IN_WORDS, ids=lambda task: task.name)
def test_it_can_what_its_card_says(qwen, task):
    """A few of the samples again: as many right as the card's share lets one expect."""
    kept = json.loads((MOE / "scores.json").read_text())[task.name]
    p, n = kept["right"] / kept["samples"], 40
    again = scoring.score(qwen, task, samples=n)
    assert abs(again.right - n * p) <= 4 * (n * p * (1 - p)) ** 0.5 + 1
