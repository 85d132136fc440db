"""The seedling: its stories, its training, what is seen of it, and what it is with a part taken out."""

import json
import math
import os
import re
import signal
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from tuning_support import FULL, on_a_full_disk

from minqwen.errors import QwenError
from minqwen.model import GatedDeltaNet
from minqwen.nano import ablations, seedling, variants
from minqwen.nano.seedling import Plan, Recorder, Run, batch_of, grow, held_out, read_in_step, tell
from minqwen.nano.variants import VARIANTS, Additive, as_another
from minqwen.trace import trace

PLAN = Plan(steps=4, stories=2, facts=(2, 4), people=(2, 3))


@pytest.fixture(scope="module")
def tokenizer():
    return seedling.words()


@pytest.fixture
def as_before():
    """The commands set torch's threads, and what it does with denormal numbers, for their whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.set_flush_denormal(False)


def fresh(tokenizer, variant="as it is, 3:1", plan=PLAN):
    return grow(plan, tokenizer.vocab_size, VARIANTS[variant])


# ------------------------------------------------------------------------------------------------------------ stories


def test_stories_are_true():
    """Answers are the latest of each person, everybody is asked for once, and what changed is known."""
    both = set()
    for i in range(40):
        story = tell(Random(i), facts=2 + i % 7, people=1 + i % 5)
        has, changed = {}, set()
        for name, again, thing in re.findall(r"(\w+) (now )?has (a \w+ \w+)\.", story.pieces[0][0]):
            assert bool(again) == (name in has)
            changed |= {name} if name in has else set()
            has[name] = thing
        questions, answers = story.pieces[1::2], story.pieces[2::2]
        asked = [re.fullmatch(r" What does (\w+) have\?", text)[1] for text, _ in questions]
        assert sorted(asked) == sorted(has) and [text for text, _ in answers] == [f" {has[name]}." for name in asked]
        assert story.changed == [name in changed for name in asked]
        assert [learnt for _, learnt in story.pieces] == [False, *len(asked) * [False, True]]
        both |= set(story.changed)
    assert both == {True, False}


def test_steps_read_what_the_plan_says():
    stories = [read_in_step(PLAN, step) for step in range(30)]
    facts = [[text.pieces[0][0].count(".") for text in some] for some in stories]
    assert all(len(some) == 2 and len(set(some)) == 1 for some in facts)
    assert {n for some in facts for n in some} == {2, 3, 4}
    assert stories[3] == read_in_step(PLAN, 3) != read_in_step(replace(PLAN, seed=1), 3)
    tests = {story.pieces[0][0] for story in held_out(PLAN, 20)}
    assert len(tests) == 20 and not tests & {story.pieces[0][0] for some in stories for story in some}


def test_a_batch_learns_answers_alone(tokenizer):
    stories = [tell(Random(i), facts, 3) for i, facts in enumerate((2, 5))]
    batch = batch_of(tokenizer, stories)
    for row, story in enumerate(stories):
        text = "".join(text for text, _ in story.pieces)
        real = len(tokenizer.encode(text))
        assert tokenizer.decode(batch.input_ids[row, :real]) == text
        assert (batch.input_ids[row, real:] == tokenizer.pad_token_id).all()
        assert (batch.targets[row, real:] == -100).all()
        learnt = batch.targets[row] >= 0
        assert torch.equal(batch.targets[row][learnt], batch.input_ids[row].roll(-1)[learnt])
        answers = [text for text, its_own in story.pieces if its_own]
        first = sum(len(story.changed) for story in stories[:row])
        for i, answer in enumerate(answers):
            assert tokenizer.decode(batch.targets[row][batch.answers[row] == first + i]) == answer
        assert torch.equal(learnt, batch.answers[row] >= 0)
    assert batch.changed.tolist() == [yes for story in stories for yes in story.changed]


# ----------------------------------------------------------------------------------------------------------- training


def test_the_loss_and_the_recall(tokenizer):
    batch = batch_of(tokenizer, held_out(PLAN, 6))
    model, there = fresh(tokenizer), batch.targets >= 0
    expected = F.cross_entropy(model(batch.input_ids)[there], batch.targets[there])
    assert torch.allclose(seedling.answer_loss(model, batch), expected, atol=1e-5)

    def says(wrong):                                     # everything right, but for the last token of these answers
        ids = batch.targets.clamp(min=0)
        for answer in wrong:
            row, place = (batch.answers == answer).nonzero()[-1]
            ids[row, place] += 1
        return lambda input_ids: F.one_hot(ids, model.config.text_config.vocab_size).float()

    changed = [int(i) for i in batch.changed.nonzero()[:, 0]]
    once = [i for i in range(len(batch.changed)) if i not in changed]
    assert seedling.recall(says([]), batch) == (1, 1)
    assert seedling.recall(says(changed[:2]), batch) == pytest.approx((1, 1 - 2 / len(changed)))
    assert seedling.recall(says(once), batch) == (0, 1)


def test_a_seedling_is_its_seeds(tokenizer):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, two, other = fresh(tokenizer), fresh(tokenizer), fresh(tokenizer, plan=replace(PLAN, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    same = [torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters())]
    assert all(same) and not torch.equal(next(one.parameters()), next(other.parameters()))


def test_it_learns_and_again_the_same(tokenizer):
    plan, losses = replace(PLAN, steps=12, stories=4), []
    for _ in range(2):
        model = fresh(tokenizer, plan=plan)
        with torch.no_grad():                            # as lessons are
            losses.append([loss for _, loss in seedling.learning(model, plan, tokenizer)])
    assert losses[0] == losses[1] and losses[0][-1] < 0.8 * losses[0][0]


def test_a_loss_that_is_no_number_is_told(tokenizer):
    model = fresh(tokenizer)
    next(model.parameters()).data.fill_(torch.nan)
    with pytest.raises(QwenError, match="The gradient is not a number, in step 1: take a smaller learning rate than 0"):
        next(seedling.learning(model, PLAN, tokenizer))


# ------------------------------------------------------------------------------------------------------ what was seen


def test_the_recorder_sees_the_model(tokenizer):
    model, recorder = fresh(tokenizer), Recorder(PLAN, tokenizer, stories=4)
    with pytest.raises(QwenError, match="Nothing was seen yet"):
        recorder.run()
    recorder.note(3.0)
    recorder.note(1.0)
    recorder.look(model, 5)
    recorder.note(0.5)
    recorder.look(model, 9)
    first = Recorder(PLAN, tokenizer, stories=4)         # nothing was learnt yet, but it has a loss
    assert first.look(model, 0)["loss"] == pytest.approx(seedling.answer_loss(model, first.batch).item())
    run, t = recorder.run(), trace(model).run(recorder.ids)
    assert run.steps.tolist() == [5, 9] and run.loss.tolist() == [2.0, 0.5] and len(run) == 2
    assert "".join(run.tokens) == seedling.STORY and run.layers.tolist() == [0, 1, 2, 4, 5, 6]
    for l, record in enumerate(t.delta_layers):
        for name in ("k", "v", "alpha", "beta"):
            assert np.allclose(getattr(run, name)[0, l], getattr(record, name)[0].detach(), atol=2e-3, rtol=2e-3)
        assert np.allclose(run.memory(0, record.index, 1), record.state(-1, 1), atol=5e-3)
        with as_another(model.model.language_model.layers[record.index].linear_attn, Additive):
            assert run.without[1, l] == pytest.approx(seedling.recall(model, recorder.batch)[1])


def test_a_run_is_kept(tmp_path):
    from test_training_widget import a_run

    run, path = a_run(), tmp_path / "some" / "run.npz"
    run.save(path)
    again = Run.load(path)
    for name in seedling.names_of(Run):
        assert np.array_equal(getattr(again, name), getattr(run, name)), name
    assert np.allclose(run.corrections(), run.changed[:, None] - run.without) and run.overwriting_layer() == 1
    whole = path.read_bytes()
    for damaged in (b"nothing", b"", whole[: len(whole) // 2], whole[:3000] + bytes(500) + whole[3500:]):
        path.write_bytes(damaged)
        with pytest.raises(QwenError, match="holds no run of training"):
            Run.load(path)
    with pytest.raises(QwenError, match="python -m minqwen.nano.seedling makes one"):
        Run.load(tmp_path / "nowhere.npz")


def test_a_jump_is_a_change_point():
    """A threshold or the steepest place would be misled by what is odd here."""
    assert seedling.jump([0, 0, 0, 1, 1]) == 3 and seedling.jump([0, 0.5, 1, 0, 0, 0, 0, 0.9, 1, 1, 1]) == 7
    assert seedling.jump([-0.2, -0.2, 0.3, 0.5, 0, 0.4, 1, 0.4, 1.1, 1.1]) == 6
    with pytest.raises(QwenError, match="two numbers or more"):
        seedling.jump([1])


def test_the_command_records_a_run(tmp_path, capsys, as_before):
    seedling.main(["--steps", "2", "--seed", "3", "--snapshots", "2", "--out", str(tmp_path / "run.npz")])
    run, plan = Run.load(tmp_path / "run.npz"), Plan(seed=3, steps=2)
    assert run.steps.tolist() == [0, 1, 2] and "3 snapshots" in capsys.readouterr().out
    tokenizer = seedling.words()
    _, loss = next(seedling.learning(grow(plan, tokenizer.vocab_size), plan, tokenizer))
    assert run.loss[:2].tolist() == pytest.approx([loss, loss]) and not np.array_equal(run.k[0], run.k[2])


def test_what_cannot_be_is_said_before_the_first_step(tmp_path, monkeypatch, capsys, as_before):
    monkeypatch.setattr(seedling, "learning", lambda *_: 1 / 0)
    (tmp_path / "file").touch()
    for options, says in ((["--out", str(tmp_path / "file" / "run.npz")], "Nothing can be written to"),
                          (["--out", str(tmp_path)], "is a folder: name a file (--out), such as "),
                          (["--snapshots", "0"], "--snapshots must be 1 or more, not 0."),
                          (["--steps", "0"], "steps must be 1 or more, not 0.")):
        with pytest.raises(SystemExit):
            seedling.main(["--out", str(tmp_path / "run.npz"), *options])
        assert says in capsys.readouterr().err and not (tmp_path / "run.npz").exists()


@pytest.mark.parametrize("wrong, says", [
    ({"steps": 0}, "steps must be 1 or more"), ({"steps": 2.5}, "steps must be a whole number, not 2.5"),
    ({"stories": "3"}, "stories must be a whole number"), ({"lr": -1}, "lr must be a number above 0, not -1"),
    ({"lr": math.nan}, "lr must be a number above 0, not n"), ({"facts": 3}, "facts are the least and the most, such"),
    ({"facts": (4, 2)}, "facts are the least and the most, in"), ({"facts": (0, 2)}, "facts must be 1 or"),
    ({"people": (2, 900)}, "people must be between 1 and [0-9]+, not 900"),
    ({"half_lives": (0, 3)}, "half_lives must be a number above 0, not 0"),
])
def test_a_plan_that_cannot_be_is_none(wrong, says):
    with pytest.raises(QwenError, match=f"^{says}.*[.]$"):
        replace(PLAN, **wrong)


def test_stories_of_nothing_are_told(tokenizer):
    for ask, says in ((lambda: tell(Random(0), 0, 2), "facts must be 1"), (lambda: tell(Random(0), 2, 0), "people mu"),
                      (lambda: held_out(PLAN, 0), "stories must be 1 or more, not 0"),
                      (lambda: Recorder(PLAN, tokenizer, stories=0), "stories must be 1 or more, not 0")):
        with pytest.raises(QwenError, match=says):
            ask()


# ----------------------------------------------------------------------------------------------------------- variants


def rule_inputs(Hk, Hv, T=9):
    random = torch.Generator().manual_seed(0)
    q, k = F.normalize(torch.randn(2, 2, T, Hk, 4, generator=random), dim=-1)
    v, g = torch.randn(2, T, Hv, 6, generator=random), -torch.rand(2, T, Hv, generator=random)
    return q, k, v, g, torch.rand(2, T, Hv, generator=random)


def walk(q, k, v, g, beta):
    """The recurrence without its correction, token by token."""
    (B, T, Hv, Dv), r = v.shape, v.shape[2] // k.shape[2]
    o = torch.zeros(B, T, Hv, Dv)
    for b in range(B):
        for h in range(Hv):
            state = torch.zeros(k.shape[-1], Dv)
            for t in range(T):
                state = g[b, t, h].exp() * state + beta[b, t, h] * torch.outer(k[b, t, h // r], v[b, t, h])
                o[b, t, h] = state.T @ q[b, t, h // r] * k.shape[-1] ** -0.5
    return o


def test_without_correction_the_memory_adds(tokenizer):
    mixer = fresh(tokenizer, "no correction").model.language_model.layers[0].linear_attn
    for heads in ((2, 2), (2, 4)):
        x = rule_inputs(*heads)
        assert torch.allclose(mixer.delta_rule(*x, None)[0], walk(*x), atol=1e-5)
    with pytest.raises(QwenError, match="without cache and cu_seqlens"):
        mixer.delta_rule(*x, torch.zeros(2, 4, 4, 6))
    with pytest.raises(QwenError, match="without cache and cu_seqlens"):
        mixer.delta_rule(*x, None, torch.tensor([0, 9]))


def test_the_other_parts_are_gone(tokenizer):
    x, (q, k, v, g, beta) = torch.randn(1, 5, 96), rule_inputs(2, 2)
    layer = {name: fresh(tokenizer, name).model.language_model.layers for name in VARIANTS}
    whole = layer["as it is, 3:1"][0].linear_attn
    never = layer["no decay"][0].linear_attn.delta_rule(q, k, v, g, beta, None)[0]
    assert torch.allclose(never, whole.delta_rule(q, k, v, 0 * g, beta, None)[0])
    assert not torch.allclose(never, whole.delta_rule(q, k, v, g, beta, None)[0])
    assert torch.equal(layer["no convolution"][0].linear_attn.convolve(x, None), F.silu(x))
    norm, z = layer["no output gate"][0].linear_attn.norm, torch.randn(1, 5, 2, 16)
    assert torch.allclose(norm(z, 3 * z), z * z.square().mean(-1, keepdim=True).add(norm.eps).rsqrt(), atol=1e-5)
    assert torch.equal(layer["no output gate"][3].self_attn.gated(z, -z), z)
    assert (layer["dt_bias of 1"][0].linear_attn.dt_bias == 1).all()
    plain = layer["plain initialisation"][0].linear_attn.in_proj_qkv.weight
    q, k, _ = plain.split([32, 32, 32])
    assert not torch.equal(q, k) and torch.equal(*whole.in_proj_qkv.weight.split([32, 32, 32])[:2])


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns(tokenizer, name):
    """Its layers are as it says, and it takes a step."""
    model, variant = fresh(tokenizer, name), VARIANTS[name]
    kinds = model.config.text_config.layer_types
    assert "".join("D" if kind == "linear_attention" else "A" for kind in kinds) == variant.layers and len(kinds) == 8
    before = [p.clone() for p in model.parameters()]
    (step, loss), *_ = seedling.learning(model, replace(PLAN, steps=1), tokenizer)
    assert step == 1 and np.isfinite(loss)
    assert sum(not torch.equal(a, b) for a, b in zip(before, model.parameters())) > len(before) // 2


def test_a_part_is_taken_out_everywhere_and_no_other(tokenizer):
    """In each layer that has it; the weights stay where they were."""
    whole = fresh(tokenizer)
    for name, gone in (("no correction", {"GatedDeltaNet": "Additive"}), ("no decay", {"GatedDeltaNet": "NeverFading"}),
                       ("no convolution", {"GatedDeltaNet": "WithoutConvolution"}),
                       ("no output gate", {"GatedRMSNorm": "PlainNorm", "GatedAttention": "OpenAttention"})):
        model = fresh(tokenizer, name)
        for own, other in zip(whole.modules(), model.modules()):
            kind = type(own).__name__
            assert type(other).__name__ == gone.get(kind, kind)
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters()))


def test_another_for_a_while(tokenizer):
    mixer = fresh(tokenizer).model.language_model.layers[1].linear_attn
    with pytest.raises(KeyError), as_another(mixer, Additive):
        assert type(mixer) is Additive
        raise KeyError
    assert type(mixer) is GatedDeltaNet


# ---------------------------------------------------------------------------------------------------------- ablations


def test_a_run_of_the_table(as_before, monkeypatch):
    monkeypatch.setattr(ablations, "STORIES", 3)
    monkeypatch.setattr(ablations, "EVERY", 2)
    run = ablations.measure("1:1", replace(PLAN, steps=5, seed=2))
    assert (run["variant"], run["seed"], run["steps"]) == ("1:1", 2, [2, 4, 5])
    assert all(len(run[name]) == 3 for name in ("loss", "once", "changed")) and run["seconds"] > 0
    assert run["loss"] == ablations.measure("1:1", replace(PLAN, steps=5, seed=2))["loss"] == json.loads(
        json.dumps(run))["loss"]


def test_a_table_goes_on_where_it_stood(tmp_path, monkeypatch):
    """One run is there, and one is missing; a table of another plan is no table of this one."""
    path, plan = tmp_path / "table.json", replace(PLAN, steps=1)
    there = {"variant": "no decay", "seed": 0, "seconds": 1.0, "parameters": 1, "steps": [1], "loss": [1.0],
             "once": [0.5], "changed": [0.25]}
    ablations.write(path, plan, [there])
    runs = ablations.fill(path, plan, ["1:1", "no decay"], seeds=1)
    assert [run["variant"] for run in runs] == ["no decay", "1:1"] and runs[0] == there
    table = ablations.table(path)
    assert list(table) == ["no decay", "1:1"] and table["no decay"] == [there]
    assert ablations.ended(there) == 0.25 and ablations.ended(there, "once") == 0.5
    assert [line.count('"variant"') for line in path.read_text().splitlines()] == [0, 0, 0, 0, 1, 1, 0, 0]
    with pytest.raises(QwenError, match="holds runs of another plan: add --restart"):
        ablations.fill(path, replace(plan, steps=2), ["1:1"], seeds=1)
    with pytest.raises(SystemExit, match="another plan"):
        ablations.main(["--out", str(path), "--variants", "1:1"])
    with pytest.raises(QwenError, match="python -m minqwen.nano.ablations makes it"):
        ablations.table(tmp_path / "none.json")
    with pytest.raises(QwenError, match="--seeds must be 1 or more, not 0"):
        ablations.fill(path, plan, ["1:1"], seeds=0)
    with pytest.raises(QwenError, match="There is no variant '2:2'; there are as it is, 3:1, "):
        ablations.fill(path, plan, ["1:1", "2:2"], seeds=1)
    with pytest.raises(SystemExit, match="steps must be 1 or more, not 0"):
        ablations.main(["--out", str(path), "--steps", "0"])
    with pytest.raises(QwenError, match=FULL):
        with monkeypatch.context() as full:
            full.setattr(ablations, "write", on_a_full_disk(ablations.write))
            ablations.fill(path, plan, ["1:1"], seeds=2)
    with pytest.raises(QwenError, match="Nothing can be written to"):
        ablations.fill(path / "table.json", plan, ["1:1"], seeds=1)
    path.write_text('{"runs": []}')
    for ask in (lambda: ablations.fill(path, plan, ["1:1"], seeds=1), lambda: ablations.table(path)):
        with pytest.raises(QwenError, match="holds no table of ablations"):
            ask()


def dies(variant, plan):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(ablations, "measure", dies)
    with pytest.raises(QwenError, match="A process was ended from outside.*: the same command goes on"):
        ablations.fill(tmp_path / "table.json", replace(PLAN, steps=1), ["1:1"], seeds=1)


def test_the_table_that_is_shipped():
    """Every run is of the same plan, and every variant of the lesson is one of these."""
    runs = ablations.table()
    assert set(runs) <= set(VARIANTS) and "as it is, 3:1" in runs
    assert len({tuple(run["steps"]) for some in runs.values() for run in some}) == 1
    for name, some in runs.items():
        assert [run["seed"] for run in some] == list(range(len(some))), name
    assert ablations.EVERY == some[0]["steps"][0] and variants.Variant.layers == "DDDADDDA"
