"""Reinforcement learning of nano: ratios held against their formulae, rollouts against a fresh pass, runs that are
killed, and a toy that is learnt."""

import csv
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from support import error
from tuning_support import FULL, on_a_full_disk, spoil

import minqwen
from minqwen.checkpoint import save_model
from minqwen.config import Config
from minqwen.errors import QwenError
from minqwen.files import write_whole
from minqwen.model import Qwen
from minqwen.nano import records, rl, rollouts, sft, tasks, train, world
from minqwen.nano.rollouts import Answer, evaluate, pass_at, rollout, sum_of
from minqwen.nano.tokenizer import save_tokenizer
from minqwen.snapshots import SNAPSHOT, keep, kept


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model like nano, of a fifth of its layers' weights, and untrained."""
    folder = tmp_path_factory.mktemp("start")
    config = train.nano_config(save_tokenizer(folder)).to_dict()
    config["text_config"] |= {"num_hidden_layers": 4, "layer_types": None, "intermediate_size": 64,
                              "mtp_num_hidden_layers": 0, "max_position_embeddings": 512}
    config["vision_config"] |= {"depth": 1}
    torch.manual_seed(0)
    save_model(Qwen(Config.from_dict(config)), folder)
    return folder


@pytest.fixture
def qwen(folder):
    return minqwen.load(folder)


# ---------------------------------------------------------------------------------------------------------- the ratios

NEW = [-1.0, -2.0, -0.5, -3.0, -1.5, -0.1, -3.9]
OLD = [-1.1, -1.0, -0.5, -5.0, -1.0, -0.3, -3.9999]
ADVANTAGE = [0.5, 0.5, 0.5, -0.25, -0.25, -0.25, 0.75]
ANSWER = [0, 0, 0, 1, 1, 1, 2]


def by_hand(name, i):
    """What token i gives and how it is pulled, written out once more for a single number."""
    new, old, A = NEW[i], OLD[i], ADVANTAGE[i]
    r = math.exp(new - old)
    if name == "none":
        return A * new, A
    if name == "sapo":
        steep = 1.0 if A > 0 else 1.05
        gate = 1 / (1 + math.exp(-steep * (r - 1)))
        return 4 / steep * gate * A, 4 * gate * (1 - gate) * r * A
    if name == "cispo":
        return min(r, 5.0) * A * new, min(r, 5.0) * A
    low, high = 0.8, 1.2
    if name == "gspo":
        mine = [NEW[j] - OLD[j] for j in range(len(NEW)) if ANSWER[j] == ANSWER[i]]
        r, low, high = math.exp(sum(mine) / len(mine)), 1 - 3e-4, 1 + 4e-4
    gone = r > high if A > 0 else r < low
    return (high if A > 0 else low) * A if gone else r * A, 0.0 if gone else r * A


@pytest.mark.parametrize("name", rl.RATIOS)
def test_a_ratio_is_its_formula(name):
    new = torch.tensor(NEW, dtype=torch.double, requires_grad=True)
    old, advantage = torch.tensor(OLD, dtype=torch.double), torch.tensor(ADVANTAGE, dtype=torch.double)
    given = rl.RATIOS[name](new, old, advantage, torch.tensor(ANSWER))
    [pull] = torch.autograd.grad(given.sum(), new)
    expected = [by_hand(name, i) for i in range(len(NEW))]
    torch.testing.assert_close(given, torch.tensor([x for x, _ in expected], dtype=torch.double))
    torch.testing.assert_close(pull, torch.tensor([x for _, x in expected], dtype=torch.double))
    if name in ("clip", "gspo"):
        assert 0 < sum(x == 0 for x in pull.tolist()) < len(NEW)        # an edge was crossed, and not by all


@pytest.mark.parametrize("name", rl.RATIOS)
def test_on_policy_every_ratio_pulls_by_the_advantage(name):
    old = torch.tensor(OLD, dtype=torch.double)
    new, advantage = old.clone().requires_grad_(), torch.tensor(ADVANTAGE, dtype=torch.double)
    [pull] = torch.autograd.grad(rl.RATIOS[name](new, old, advantage, torch.tensor(ANSWER)).sum(), new)
    torch.testing.assert_close(pull, advantage)


def experiences(qwen, tools=()):
    """Two groups, with advantages of their own."""
    turns = [sum_of(Random(seed), digits) for seed, digits in ((0, 2), (1, 4))]
    groups = rollout(qwen, turns, 3, Random(5), tools, most_tokens=12)
    return [rl.Experience(answer.ids, answer.written, answer.logprobs, advantage)
            for answer, advantage in zip(itertools.chain(*groups), (0.5, -0.25, -0.25, 0.75, 0.0, -0.75))]


def gradients(monkeypatch, qwen, rows, ratio, rows_at_once=rl.ROWS):
    monkeypatch.setattr(rl, "step_all", lambda *_: 1.0)
    monkeypatch.setattr(rl, "ROWS", rows_at_once)
    qwen.model.requires_grad_().zero_grad()
    found = rl.learn(qwen.model, None, rows, rl.Recipe(ratio=ratio))
    return found, {name: p.grad for name, p in qwen.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("ratio", rl.RATIOS)
def test_on_policy_learning_is_the_plain_policy_gradient(monkeypatch, qwen, ratio):
    """Each answer read by itself, its written tokens' logarithms times the advantage, one mean over all tokens."""
    rows = experiences(qwen)
    found, ours = gradients(monkeypatch, qwen, rows, ratio, rows_at_once=4)
    assert found["ratio off"] < 1e-4 and found["let go"] == 0 and abs(found["largest ratio"] - 1) < 1e-3
    qwen.model.zero_grad()
    gain, tokens = 0, 0
    for row in rows:
        likely = qwen.model(torch.tensor([row.ids]))[0].log_softmax(-1)
        for i in range(1, len(row.ids)):
            if row.written[i]:
                gain, tokens = gain + row.advantage * likely[i - 1, row.ids[i]], tokens + 1
    (-gain / tokens).backward()
    plain = {name: p.grad for name, p in qwen.model.named_parameters() if p.grad is not None}
    assert plain.keys() == ours.keys() and len(plain) > 20
    for name in plain:
        assert error(ours[name], plain[name]) < 2e-3, name      # the ratios are 1 as far as two ways to compute agree


def test_off_policy_they_part(monkeypatch, qwen):
    rows = experiences(qwen)
    rows = [row._replace(logprobs=[x + (-0.4 if i % 3 else 0.9) for i, x in enumerate(row.logprobs)]) for row in rows]
    found = {ratio: gradients(monkeypatch, qwen, rows, ratio) for ratio in rl.RATIOS}
    heads = {ratio: grads["model.language_model.embed_tokens.weight"].clone() for ratio, (_, grads) in found.items()}
    for one, other in itertools.combinations(heads, 2):
        assert error(heads[one], heads[other]) > 1e-3, (one, other)
    assert found["clip"][0]["let go"] > 0.2 and found["none"][0]["let go"] == 0 == found["cispo"][0]["let go"]
    assert found["none"][0]["ratio off"] == pytest.approx(1.7 / 3, rel=0.01)


def test_the_largest_ratio_is_that_of_all_rows(monkeypatch, qwen):
    """They are read some at a time, the short ones first; here the shortest has it."""
    shortest, *others = sorted(experiences(qwen), key=lambda row: len(row.ids))
    shortest = shortest._replace(logprobs=[x - 2 for x in shortest.logprobs])
    found = gradients(monkeypatch, qwen, [*others, shortest], "none", rows_at_once=1)[0]
    assert found["largest ratio"] == pytest.approx(math.exp(2), rel=1e-3)


def test_a_fallen_reward_is_not_kept_and_then_stops_the_run():
    progress = rl.Progress()
    found = []
    for reward in (1.0, 0.0, 0.0, 0.0):
        progress.note({"reward": reward})
        found.append((round(progress.smooth, 3), progress.well))
    assert found == [(1.0, True), (0.9, True), (0.81, False), (0.729, False)]
    with pytest.raises(QwenError, match="The reward has fallen from 1.00 to 0.66"):
        progress.note({"reward": 0.0})


# -------------------------------------------------------------------------------------------------- what is learnt from


def answer_to(a, b, text, thinking="", calls=0):
    return Answer(world.addition(a, b, thinking=True), [], [], text=text, thinking=thinking, calls=[None] * calls)


def test_groups_of_equal_reward_are_left_out_and_others_hold_the_mean_against_each():
    groups = [[answer_to(1, 2, text) for text in texts] for texts in (("3", "3"), ("3", "4"), ("5", "6"))]
    rows = rl.experience(groups, tasks.TASKS["sums"])
    assert [row.advantage for row in rows] == [0.5, -0.5]
    priced = [[answer_to(1, 2, "3", calls=2), answer_to(1, 2, "3"), answer_to(1, 2, "4", calls=2)]]
    rows = rl.experience(priced, tasks.TASKS["agent"])
    worth = [1 - 2 * tasks.PRICE, 1, -2 * tasks.PRICE]
    assert [row.advantage for row in rows] == pytest.approx([x - sum(worth) / 3 for x in worth])


def test_only_what_was_written_is_learnt(qwen):
    """Rows of all lengths side by side, with a result in the middle of one: each as if it were alone."""
    rows = [rl.Experience(list(range(5, 5 + n)), [i in written for i in range(n)], [0.0] * len(written), 1.0)
            for n, written in ((9, {3, 4, 7, 8}), (30, {29}), (12, set(range(4, 12))))]
    together = rl.logprobs(qwen.model, rows).split([4, 1, 8])
    for row, ours in zip(rows, together):
        likely = qwen.model(torch.tensor([row.ids]))[0].log_softmax(-1)
        theirs = torch.stack([likely[i - 1, row.ids[i]] for i in range(len(row.ids)) if row.written[i]])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("tools", [(), (world.add,)])
def test_recorded_logarithms_are_those_of_a_fresh_pass(qwen, tools):
    rows = experiences(qwen, tools)
    fresh = rl.logprobs(qwen.model, rows)
    recorded = torch.tensor([x for row in rows for x in row.logprobs])
    assert len({len(row.ids) for row in rows}) > 1 or len(recorded) > 20
    torch.testing.assert_close(recorded, fresh, rtol=1e-4, atol=1e-4)


def scripted(monkeypatch, qwen, *rounds):
    """A `generate` that writes these texts: for each round one for each row."""
    rounds = iter(rounds)

    def generate(model, rows, **options):
        texts = next(rounds)
        ids = [qwen.tokenizer.encode(text) for text in texts]
        assert len(ids) == len(rows)
        options["logprobs"] += [torch.full((len(ids),), -float(i)) for i in range(max(map(len, ids)))]
        return ids

    monkeypatch.setattr(rollouts, "generate", generate)


def test_a_call_is_run_and_its_result_is_read_but_not_learnt(monkeypatch, qwen):
    """What was read and written is to the letter the dialogue as the template has it."""
    long, short = world.calculation(48210, 3377, thinking=True), world.addition(2, 3, thinking=True)
    first = f"{long.thinking}\n</think>\n\n{long.call.text()}<|im_end|>"
    said = f"{long.call.thinking}\n</think>\n\n{long.answer}<|im_end|>"
    at_once = f"{short.thinking}\n</think>\n\n5<|im_end|>"
    scripted(monkeypatch, qwen, [first, at_once], [said])
    [[called], [alone]] = rollout(qwen, [long, short], 1, Random(0), (world.add,))
    for answer, turn, parts in ((called, long, [first, said]), (alone, short, [at_once])):
        dialogue = world.Conversation([turn], tools=[world.add]).dialogue()
        text = qwen.tokenizer.render(dialogue, add_generation_prompt=False, tools=[world.describe(world.add)])
        assert qwen.tokenizer.decode(answer.ids, False) + "\n" == text
        written = [id for id, mine in zip(answer.ids, answer.written, strict=True) if mine]
        assert qwen.tokenizer.decode(written, False) == "".join(parts) and answer.right
        assert len(answer.logprobs) == len(written) and answer.logprobs[:3] == [0, -1, -2]
    assert [one.result for one in called.calls] == ["51587"] and not alone.calls
    assert called.thinking == f"{long.thinking}\n{long.call.thinking}" and alone.thinking == short.thinking
    assert alone.thought == len(qwen.tokenizer.encode(short.thinking)) + 1              # and a line break
    assert called.thought == sum(len(qwen.tokenizer.encode(f"{x}\n")) for x in (long.thinking, long.call.thinking))


def test_who_only_calls_is_stopped(monkeypatch, qwen):
    turn = world.calculation(1, 2, thinking=False)
    scripted(monkeypatch, qwen, *[[f"\n</think>\n\n{turn.call.text()}<|im_end|>"]] * 9)
    [[answer]] = rollout(qwen, [turn], 1, Random(0), (world.add,))
    assert len(answer.calls) == rollouts.MOST_CALLS and not answer.right and answer.written[-1]


def test_an_answer_that_was_cut_short_is_none(monkeypatch, qwen):
    turn = world.addition(2, 3, thinking=False)
    scripted(monkeypatch, qwen, ["\n</think>\n\n5", "\n</think>\n\n5<|im_end|>"])
    [[cut, whole]] = rollout(qwen, [turn], 2, Random(0))
    assert not cut.right and whole.right


def test_a_seed_draws_the_same_answers(qwen):
    turns = [sum_of(Random(0), 2)]
    one, same, other = (rollout(qwen, turns, 2, Random(seed), most_tokens=6)[0] for seed in (1, 1, 2))
    assert [x.ids for x in one] == [x.ids for x in same] != [x.ids for x in other]
    assert one[0].ids != one[1].ids and [x.logprobs for x in one] == [x.logprobs for x in same]


# -------------------------------------------------------------------------------------------------- rewards, evaluation


def test_what_is_rewarded():
    assert tasks.right(answer_to(12, 9, "21")) == 1 and tasks.right(answer_to(12, 9, "021")) == 0
    assert tasks.right_at_a_price(answer_to(1, 2, "3", calls=2)) == pytest.approx(1 - 2 * tasks.PRICE)
    assert tasks.right_at_a_price(answer_to(1, 2, "4", calls=1)) == pytest.approx(-tasks.PRICE)


def test_the_bonus_is_gamed_by_columns_without_end_and_mended_it_is_not():
    true = "2 + 9 + 0 = 11\n1 + 0 + 1 = 2"
    honest, gaming = answer_to(12, 9, "21", true), answer_to(12, 9, "0", "\n".join(["0 + 0 + 0 = 0"] * 30))
    talking, swapped = answer_to(12, 9, "21", "it is long"), answer_to(12, 9, "21", "1 + 0 + 1 = 2\n2 + 9 + 0 = 11")
    padded = answer_to(12, 9, "21", f"{true}\n" + "\n".join(["0 + 0 + 0 = 0"] * 30))
    before, after = tasks.right_and_columns, tasks.right_and_right_columns
    assert before(gaming) > before(honest) and before(padded) > before(gaming) and before(talking) == 1
    assert before(honest) == before(swapped) == pytest.approx(1 + 2 * tasks.BONUS)
    assert after(gaming) == 0 and after(honest) == after(padded) == pytest.approx(1 + 2 * tasks.BONUS)
    assert after(talking) == after(swapped) == 1


def test_pass_at_k_counts_all_draws():
    for answers, right in ((5, 0), (5, 2), (5, 5), (4, 1)):
        marks = [True] * right + [False] * (answers - right)
        for k in range(1, answers + 1):
            draws = list(itertools.combinations(marks, k))
            assert pass_at(k, answers, right) == pytest.approx(sum(map(any, draws)) / len(draws))


@pytest.mark.parametrize("ask, says", [
    (lambda qwen: pass_at(5, 4, 1), "k must be between 1 and 4, not 5"), (lambda qwen: pass_at(0, 4, 1), "k must be"),
    (lambda qwen: pass_at(1, 0, 0), "answers must be 1 or more"), (lambda qwen: pass_at(1, 4, 5), "right must be be"),
    (lambda qwen: pass_at(1, 4, -1), "right must be between 0 and 4, not -1"),
    (lambda qwen: pass_at(1.0, 4, 2), "k must be a whole number, not 1.0"),
    (lambda qwen: sum_of(Random(0), 0), "digits must be 1 or more, not 0"),
    (lambda qwen: sum_of(Random(0), "4"), "digits must be a whole number, not '4'"),
    (lambda qwen: evaluate(qwen, 0), "digits must be 1 or more"), (lambda qwen: evaluate(qwen, 4.0), "digits must be"),
    (lambda qwen: evaluate(qwen, 3, questions=0), "questions must be 1 or more, not 0"),
    (lambda qwen: evaluate(qwen, 3, questions=1, answers=0), "answers must be 1 or more, not 0"),
    (lambda qwen: evaluate(qwen, 3, questions=1, most_tokens=-3), "most_tokens must be 1 or more, not -3"),
    (lambda qwen: rollout(qwen, [sum_of(Random(0), 2)], True, Random(0)), "answers must be a whole number, not True"),
    (lambda qwen: rl.check(rl.Recipe(rollouts="5")), "--rollouts must be a whole number, not '5'"),
    (lambda qwen: rl.check(rl.Recipe(lr="1")), "--lr must be a number above 0, not '1'"),
])
def test_numbers_that_cannot_be_are_told(qwen, ask, says):
    with pytest.raises(QwenError, match=f"^{says}.*[.]$"):
        ask(qwen)


def test_an_evaluation_asks_held_out_sums_and_counts(monkeypatch, qwen):
    asked, temperatures = [], []

    def answered(qwen, turns, answers, rng, tools, temperature=1.0, most_tokens=0):
        asked.extend(turns)
        temperatures.append((answers, temperature))
        groups = [[Answer(turn, [], [], text=turn.answer if i + n > 2 else "?", thought=10 * i) for i in range(answers)]
                  for n, turn in enumerate(turns)]
        return groups

    monkeypatch.setattr(rollouts, "rollout", answered)
    found = evaluate(qwen, 3, questions=2, answers=4)
    assert found == {"digits": 3, "pass@1": pytest.approx((1 + 2) / 8), "pass@4": 1.0, "greedy": 0, "thought": 15,
                     "calls": 0}
    assert temperatures == [(4, 1.0), (1, 0)]
    for turn in asked:
        a, b = map(int, turn.question.removeprefix("What is ").removesuffix("?").split(" + "))
        assert world.held_out(a, b) and len(str(a)) == len(str(b)) == 3


# ---------------------------------------------------------------------------------------------------------------- runs

SMALL = {"rollouts": 6, "questions": 2, "answers": 4, "most_tokens": 8, "judge": 2, "lr": 1e-3}


def even(answer):
    """The share of the written tokens whose ids are even: half by chance, and all when it has been learnt."""
    written = [id for id, mine in zip(answer.ids, answer.written) if mine]
    return sum(id % 2 == 0 for id in written) / len(written)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "sums", tasks.Task((1,), (1,), even))


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def log(out):
    with open(out / "log.csv", newline="") as file:
        return [{name: x for name, x in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def same(one, other):
    assert log(one) == log(other)
    for name, x in weights(one).items():
        assert torch.equal(x, weights(other)[name]), name


def test_a_toy_is_learnt_in_seconds(tmp_path, folder, toy):
    recipe = rl.Recipe(rollouts=25, questions=4, answers=8, most_tokens=8, judge=0, lr=1e-2)
    rl.reinforce(recipe, folder, tmp_path / "run")
    rewards = [float(row["reward"]) for row in log(tmp_path / "run")]
    assert 0.4 < rewards[0] < 0.6 and sum(rewards[-3:]) / 3 > 0.95


def test_stale_rollouts_are_learnt_from_later_and_each_as_often_as_is_said(tmp_path, monkeypatch, folder, toy):
    drawn, learnt, real = [], [], rl.experience
    monkeypatch.setattr(rl, "experience", lambda *args: drawn.append(real(*args)) or drawn[-1])
    monkeypatch.setattr(rl, "learn", lambda model, optimizer, rows, recipe: learnt.append(rows) or {"gradient": 0.0})
    rl.reinforce(rl.Recipe(**SMALL | {"stale": 2, "updates": 3, "judge": 0}), folder, tmp_path / "run")
    assert len(drawn) == 6 and all(drawn) and learnt == [rows for rows in drawn[:4] for _ in range(3)]
    assert [row["gradient"] for row in log(tmp_path / "run")] == ["", "", "0", "0", "0", "0"]
    teaching = [len({tuple(row.ids[: row.written.index(True)]) for row in rows}) for rows in drawn]     # questions
    assert [int(row["groups that teach"]) for row in log(tmp_path / "run")] == teaching


@pytest.mark.parametrize("changes", [{}, {"ratio": "gspo", "updates": 2, "stale": 2}])
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path, monkeypatch, folder, toy, changes):
    recipe = rl.Recipe(**SMALL | changes | {"judge_every": 3})
    rl.reinforce(recipe, folder, tmp_path / "whole", keep_every=2)
    assert [row["1 digits"] != "" for row in log(tmp_path / "whole")] == [False, False, True] * 2
    moved = weights(tmp_path / "whole")["model.language_model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(moved, load_file(folder / "model.safetensors")[
        "model.language_model.layers.0.mlp.up_proj.weight"])
    real, learnt = rl.step_all, []

    def interrupted(*args):
        learnt.append(real(*args))
        if len(learnt) in (3, 5):
            raise KeyboardInterrupt
        return learnt[-1]

    monkeypatch.setattr(rl, "step_all", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            rl.reinforce(recipe, folder, tmp_path / "broken", keep_every=2)
        assert not (tmp_path / "broken" / "model").exists()
    rl.reinforce(recipe, folder, tmp_path / "broken", keep_every=2)
    same(tmp_path / "whole", tmp_path / "broken")
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "broken")]
    assert [{**result, "seconds": 0} for result in results][0] == {**results[1], "seconds": 0}
    assert [row["digits"] for when in ("before", "after") for row in results[0][when]] == [1, 1]
    assert results[0]["example"]["question"].startswith("What is ") and len(results[0]["example"]) == 3


CHILD = """
import sys, torch
from minqwen.nano import rl
torch.set_num_threads({threads})
rl.main({arguments!r})
"""


def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_weights(tmp_path, folder):
    """Killed at random moments, twice; then it is left alone."""
    def arguments(out):
        options = SMALL | {"rollouts": 12, "start": folder, "out": out, "task": "gamed", "keep_every": 1}
        return [word for name, x in options.items() for word in (f"--{name.replace('_', '-')}", str(x))]

    rl.main(arguments(tmp_path / "whole"))
    out, random, ends = tmp_path / "killed", Random(os.getpid()), []
    for _ in range(2):
        code = CHILD.format(threads=torch.get_num_threads(), arguments=arguments(out))
        before = (out / SNAPSHOT).stat().st_mtime_ns if out.exists() else 0
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as child:
            while child.poll() is None and not ((out / SNAPSHOT).exists()
                                                and (out / SNAPSHOT).stat().st_mtime_ns > before):
                time.sleep(0.002)
            time.sleep(random.random() * 0.3)
            child.send_signal(signal.SIGKILL)
        ends.append(child.returncode)
    assert -signal.SIGKILL in ends
    rl.main(arguments(out))
    same(tmp_path / "whole", out)


def test_another_recipe_does_not_go_on(tmp_path, folder, toy):
    recipe, out = rl.Recipe(**SMALL | {"rollouts": 1}), tmp_path / "run"
    rl.reinforce(recipe, folder, out, keep_every=1)
    with pytest.raises(QwenError, match="holds a run with another ratio and another seed: .*--restart"):
        rl.reinforce(rl.Recipe(**SMALL | {"rollouts": 1, "seed": 3, "ratio": "clip"}), folder, out)
    rl.reinforce(rl.Recipe(**SMALL | {"rollouts": 1, "seed": 3}), folder, out, restart=True)
    with pytest.raises(QwenError, match="--keep-every must be 1 or more, not 0"):
        rl.reinforce(recipe, folder, out, keep_every=0)
    (out / "file").touch()
    with pytest.raises(QwenError, match="Nothing can be written to"):
        rl.reinforce(recipe, folder, out / "file" / "run")
    (out / "other").mkdir()
    torch.save({"run": 5, "state": 6}, out / "other" / SNAPSHOT)
    with pytest.raises(QwenError, match="damaged.*--restart"):
        rl.reinforce(recipe, folder, out / "other")
    (out / SNAPSHOT).write_bytes((out / SNAPSHOT).read_bytes()[:5000])
    with pytest.raises(QwenError, match="damaged.*--restart"):
        rl.reinforce(recipe, folder, out)


@pytest.mark.parametrize("fault, says", [
    ("weights", "The weights are no numbers any more, in rollout 3; the last good state is kept.*lower --lr"),
    ("gradient", "The gradient is not a number, in rollout 3; the last good state is kept.*lower --lr"),
    ("reward", r"The reward has fallen from 0.\d\d to -\d.*, in rollout 4; the last good state is kept")])
def test_a_run_that_comes_to_nothing_stops_in_a_sentence(tmp_path, monkeypatch, folder, toy, fault, says):
    """The last good state stays, and with a lower learning rate the run goes on from there."""
    real, out, steps = rl.step_all, tmp_path / "run", []

    def broken(optimizers, lr):
        steps.append(lr)
        if len(steps) == 3:
            spoil(optimizers[0], fault)
        return real(optimizers, lr)

    if fault == "reward":
        worse = tasks.Task((1,), (1,), lambda answer: even(answer) - 9 * (len(steps) >= 3))
        monkeypatch.setitem(tasks.TASKS, "sums", worse)
    monkeypatch.setattr(rl, "step_all", broken)
    with pytest.raises(QwenError, match=says):
        rl.reinforce(rl.Recipe(**SMALL), folder, out, keep_every=1)
    kept = torch.load(out / SNAPSHOT, weights_only=True)["state"]
    assert kept["progress"]["step"] == {"weights": 2, "gradient": 2, "reward": 3}[fault]
    assert all(x.isfinite().all() for x in kept["model"].values()) and not (out / "model").exists()


@pytest.mark.parametrize("at", ["save_model", "write_whole"])
def test_a_disk_that_is_full_in_the_end_is_told_and_the_run_is_not_lost(tmp_path, monkeypatch, folder, toy, at):
    recipe, out = rl.Recipe(**SMALL | {"rollouts": 2, "judge": 0}), tmp_path / "run"
    with monkeypatch.context() as full:
        full.setattr(rl, at, on_a_full_disk(getattr(rl, at)))
        with pytest.raises(QwenError, match=FULL):
            rl.reinforce(recipe, folder, out)
    rl.reinforce(recipe, folder, tmp_path / "whole")
    monkeypatch.setattr(rl, "learn", None)               # nothing is learnt again
    rl.reinforce(recipe, folder, out)
    same(out, tmp_path / "whole")


def test_a_place_that_is_gone_costs_the_snapshot_alone(tmp_path):
    """Where nothing can be written nothing can be removed either; and an empty file is no snapshot."""
    (tmp_path / "run").touch()
    with pytest.warns(UserWarning, match=r"snapshot.pt cannot be written \(File exists\): the run goes on"):
        keep(tmp_path / "run", {}, {})
    (tmp_path / SNAPSHOT).touch()
    with pytest.raises(QwenError, match=r"snapshot.pt is damaged \(EOFError\): add --restart[.]$"):
        kept(tmp_path, {})


def test_a_full_disk_costs_the_snapshot_alone(tmp_path, monkeypatch, folder, toy):
    out, real, calls = tmp_path / "run", os.fsync, []

    def full(file):
        calls.append(file)
        if len(calls) == 3:                              # the last, which leaves nothing half behind
            raise OSError(28, "No space left on device")
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match=r"snapshot.pt cannot be written \(No space left on device\): the run goes on, "
                                         "and the one before stays"):
        rl.reinforce(rl.Recipe(**SMALL | {"rollouts": 3, "judge": 0}), folder, out, keep_every=1)
    assert len(calls) == 3 and len(log(out)) == 3 and not list(out.glob("*.part"))


def test_what_cannot_be_is_said_before_anything_is_loaded(capsys):
    for options, says in ((["--task", "x"], "There is no task 'x'; there are sums, narrow, agent, gamed, mended."),
                          (["--ratio", "ppo"], "There is no ratio 'ppo'; there are none, clip, gspo, sapo, cispo."),
                          (["--answers", "1"], "--answers must be 2 or more, not 1."),
                          (["--judge", "-1"], "--judge must be 0 or more, not -1."),
                          (["--lr", "nan"], "--lr must be a number above 0, not nan.")):
        with pytest.raises(SystemExit) as stop:
            rl.main([*options, "--start", "nowhere"])
        assert stop.value.code == says


# ---------------------------------------------------------------------------------------------------- the recorded runs


def test_a_run_that_is_recorded_leaves_its_log_and_its_result(tmp_path, monkeypatch, folder, toy):
    recipes = [rl.Recipe(**SMALL | {"rollouts": 2, "judge": 0, "seed": seed}) for seed in (0, 1)]
    monkeypatch.setattr(records, "RECIPES", recipes)
    for recipe in recipes:
        records.record(recipe, folder, tmp_path / "runs", tmp_path / "data")
    runs = records.recorded(tmp_path / "data", task="sums")
    assert [run.result["recipe"]["seed"] for run in runs] == [0, 1]
    assert runs[1].log["rollout"] == [1, 2] and len(runs[1].log["reward"]) == 2
    assert len(records.recorded(tmp_path / "data", seed=1)) == 1
    with monkeypatch.context() as full:
        full.setattr(records, "write_whole", on_a_full_disk(write_whole))
        with pytest.raises(QwenError, match=FULL):
            records.record(recipes[0], folder, tmp_path / "runs", tmp_path / "more")
    with pytest.raises(QwenError, match="No such run was recorded.*minqwen.nano.records makes them"):
        records.recorded(tmp_path / "data", task="agent")
    monkeypatch.setattr(records, "reinforce", lambda *_: 1 / 0)         # it is there, and is not made again
    records.record(recipes[0], folder, tmp_path / "runs", tmp_path / "data")
    with pytest.raises(ZeroDivisionError):               # but another recipe of that name is
        records.record(replace(recipes[0], questions=3), folder, tmp_path / "runs", tmp_path / "data")


def test_what_is_shipped_is_what_the_recipes_say():
    """All of them, with their own settings; three seeds of sums bring what is claimed of them."""
    for recipe in records.RECIPES:
        [run] = [run for run in records.recorded(**{name: getattr(recipe, name) for name in (
            "task", "ratio", "seed", "updates", "stale")})]
        assert run.result["recipe"] == asdict(recipe) and len(run.log["reward"]) == recipe.rollouts
    runs = records.recorded(task="sums", updates=1)
    at = {when: [{row["digits"]: row["pass@1"] for row in run.result[when]} for run in runs]
          for when in ("before", "after")}
    assert len(runs) == 3
    for before, after in zip(at["before"], at["after"]):
        assert 0.2 <= before[4] <= 0.8 and after[4] >= before[4] + 0.3 and after[5] > before[5]


# ------------------------------------------------------------------------------------------------- the supervised start


def test_half_of_what_is_shown_has_a_calculator_at_hand_and_half_of_that_calls():
    found = [sample for seed in range(20) for sample in sft.samples(Random(seed), 64)]
    lengths = {digits: 0 for digits in range(1, 7)}
    for i, (_, conversation, pieces) in enumerate(found):
        [turn] = conversation.turns
        a, b = map(int, turn.question.removeprefix("What is ").removesuffix("?").split(" + "))
        assert not world.held_out(a, b) and turn.thinking and turn.answer == str(a + b)
        assert conversation.tools == [world.add] * (i % 2) and bool(turn.call) == (i % 4 == 1)
        digits = max(len(str(a)), len(str(b)))
        lengths[digits] += not conversation.tools
        assert conversation.tools or digits in sft.LENGTHS
        assert pieces == world.pieces(conversation)
    assert 0.2 < lengths[4] / 640 < 0.4 and 0.45 < lengths[5] / 640 < 0.65 and lengths[6] == 0


def test_a_start_is_shown_sums_until_it_is_right_often_enough(tmp_path, monkeypatch, folder):
    """And goes on to the same weights where it was interrupted."""
    judged = []

    def found(qwen, digits, questions):
        judged.append(digits)
        return {"pass@1": (0.0, 0.1, 0.2, 0.3)[(len(judged) - 1) // 2] + (0.01 if digits == 4 else -0.01)}

    monkeypatch.setattr(sft, "evaluate", found)
    recipe = sft.Recipe(steps=9, sums=4, until=0.25, judge_every=2)
    result = sft.supervise(recipe, folder, tmp_path / "whole", tmp_path / "run")
    assert [row["step"] for row in result["log"]] == [2, 4, 5, 6] and judged == [4, 5] * 4
    assert [row["right"] for row in result["log"]] == pytest.approx([0.0, 0.1, 0.2, 0.3])
    judged.clear()
    real = sft.step_all
    monkeypatch.setattr(sft, "step_all", lambda *args: real(*args) if len(judged) < 4 else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sft.supervise(recipe, folder, tmp_path / "again", tmp_path / "other")
    monkeypatch.setattr(sft, "step_all", real)
    saved = torch.load(tmp_path / "other" / SNAPSHOT, weights_only=True)
    torch.save({**saved, "state": saved["state"] | {"seconds": 1000.0}}, tmp_path / "other" / SNAPSHOT)
    again = sft.supervise(recipe, folder, tmp_path / "again", tmp_path / "other")
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again"))
    assert again["seconds"] >= 1000 and again["log"] == result["log"]
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(QwenError, match="holds a run with another start"):
        sft.supervise(recipe, tmp_path / "whole", tmp_path / "again", tmp_path / "run")
    judged.clear()
    sft.supervise(recipe, tmp_path / "whole", tmp_path / "anew", tmp_path / "run", restart=True)
    for wrong, says in (({"sums": 0}, "--sums must be 1 or more, not 0"), ({"steps": 2.5}, "--steps must be a whole"),
                        ({"judge_every": -1}, "--judge-every must be 1"), ({"lr": math.nan}, "--lr must be a num"),
                        ({"until": math.nan}, "--until must be a num"), ({"until": 30}, "--until is a share")):
        with pytest.raises(QwenError, match=says):
            sft.supervise(replace(recipe, **wrong), folder, tmp_path / "again", tmp_path / "run")
    with pytest.raises(QwenError, match="Nothing can be written to"):
        sft.supervise(recipe, folder, tmp_path / "whole" / "sft.json" / "out", tmp_path / "run")
    assert minqwen.load(tmp_path / "whole").tokenizer.supports_tools
    judged[:] = []
    with monkeypatch.context() as full:
        full.setattr(sft, "save_model", on_a_full_disk(sft.save_model))
        with pytest.raises(QwenError, match=FULL):
            sft.supervise(recipe, folder, tmp_path / "again", tmp_path / "run", restart=True)
    judged[:] = []
    with pytest.raises(SystemExit, match="After 2 steps less than 90% of the answers .* give it more --steps"):
        sft.main(["--steps", "2", "--sums", "4", "--until", "0.9", "--judge-every", "1", "--start", str(folder),
                  "--out", str(tmp_path / "never"), "--run", str(tmp_path / "short")])


def test_the_loss_of_the_start_is_that_of_all_it_is_shown(tmp_path, monkeypatch, folder):
    """However many batches a step is cut into: the mean over the tokens of all of them."""
    monkeypatch.setattr(sft, "evaluate", lambda *_, **__: {"pass@1": 1.0})
    monkeypatch.setattr(sft, "AREA", 500)
    result = sft.supervise(sft.Recipe(steps=1, sums=8, judge_every=1), folder, tmp_path / "out", tmp_path / "run")
    qwen = minqwen.load(folder, dtype="float32")
    encode = train.Encoder(qwen.tokenizer.fast, qwen.processor)
    batches = encode.batches(sft.samples(Random("0 0"), 8), 500)
    with torch.no_grad():
        parts = [train.losses(qwen.model, batch, drafts=0)[0][batch.targets >= 0] for batch in batches]
    assert len(parts) > 2 and result["log"][0]["loss"] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-5)


@pytest.mark.parametrize("fault, says", [
    ("gradient", "The gradient is not a number, in step 3; the last good state is kept: the same command goes on"),
    ("weights", "The weights are no numbers any more, in step 3; the last good state is kept: the same command goes"),
    ("loss", r"The loss has risen from \d.\d\d to \d+.\d\d, in step 3; the last good state is kept: the same command"),
])
def test_a_start_that_comes_to_nothing_stops_in_a_sentence(tmp_path, monkeypatch, folder, fault, says):
    real, steps = sft.step_all, []

    def broken(optimizers, lr):
        steps.append(lr)
        if len(steps) == 3:
            spoil(optimizers[0], fault)
        return real(optimizers, lr)

    def losing(*args):
        return nats(*args) * (5 if fault == "loss" and len(steps) == 2 else 1)

    nats = sft.nats
    monkeypatch.setattr(sft, "evaluate", lambda *_, **__: {"pass@1": 0.0})
    monkeypatch.setattr(sft, "step_all", broken)
    monkeypatch.setattr(sft, "nats", losing)
    recipe, run = sft.Recipe(steps=4, sums=4, judge_every=1), tmp_path / "run"
    with pytest.raises(QwenError, match=says):
        sft.supervise(recipe, folder, tmp_path / "out", run)
    kept = torch.load(run / SNAPSHOT, weights_only=True)["state"]
    assert kept["step"] == 2 and all(x.isfinite().all() for x in kept["model"].values())
    with pytest.raises(QwenError, match="After 4 steps less than"):      # with a lower rate it goes on from there
        sft.supervise(replace(recipe, lr=1e-4), folder, tmp_path / "out", run)
    assert steps == [1e-3] * 3 + [1e-4] * 2 and not (tmp_path / "out").exists()


def test_a_start_whose_loss_is_rising_is_not_kept(tmp_path, monkeypatch, folder):
    """By less than what stops it: it may come back, or it may not."""
    nats, step_all, steps = sft.nats, sft.step_all, []

    def losing(model, hidden, targets):                 # in the third step, after two
        return nats(model, hidden, targets) + (targets >= 0) * (0.75 * sft.WORSE if len(steps) == 2 else 0.0)

    monkeypatch.setattr(sft, "evaluate", lambda *_, **__: {"pass@1": 0.0})
    monkeypatch.setattr(sft, "nats", losing)
    monkeypatch.setattr(sft, "step_all", lambda *args: steps.append(args) or step_all(*args))
    with pytest.raises(QwenError, match="After 3 steps less than"):
        sft.supervise(sft.Recipe(steps=3, sums=4, judge_every=1, lr=1e-7), folder, tmp_path / "out", tmp_path / "run")
    kept = torch.load(tmp_path / "run" / SNAPSHOT, weights_only=True)["state"]
    assert len(steps) == 3 and kept["step"] == 2
