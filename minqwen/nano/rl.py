"""Reinforcement learning: `python -m minqwen.nano.rl --task sums`. From data/nano_sft to a model that answers better.

A rollout is a handful of questions and several answers to each, drawn from the model as it is. Each answer has its
reward, and its advantage is that minus the mean of the answers to the same question. Then every token of an answer that
was better than the others is made likelier, and of one that was worse less likely:

    the gradient of    the mean over all tokens of    advantage * log p(token)

That is the policy gradient (Williams 1992) with the group's mean for a baseline, and on-policy there is nothing to add:
no distance to an old model, no clipping, no division by a spread. A group of equal rewards teaches nothing and is left
out. It is off-policy that the `RATIOS` matter, where a rollout is used for several `updates`, or is `stale`: then the
tokens were drawn from another model than the one that learns, r = p(token) / p(token) when it was drawn is no longer 1,
and they differ in what they make of it.

Rollout s draws its questions and its answers from a generator seeded with (seed, s). A run that was interrupted goes on
from its last snapshot, to the same weights bit by bit on the same machine with as many threads.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from statistics import mean
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from ..chat import Assistant, load
from ..checkpoint import save_model
from ..errors import QwenError, number_above_0, whole_number
from ..files import check_place, write_csv, write_whole, writing
from ..model import Qwen
from ..snapshots import forget, keep, kept, may_diverge
from .rollouts import MOST_TOKENS, Answer, evaluate, rollout, sum_of
from .tasks import TASKS, Task
from .train import ROOT, nats, step_all

ROWS = 32                                                # answers in a forward pass of learning


@dataclass(frozen=True)
class Recipe:
    """What a run is, in plain numbers."""

    task: str = "sums"
    ratio: str = "none"
    seed: int = 0
    rollouts: int = 80
    updates: int = 1                                     # steps of the optimizer with each rollout
    stale: int = 0                                       # rollouts between drawing one and learning from it
    questions: int = 16                                  # of a rollout
    answers: int = 8                                     # to each question
    lr: float = 1e-4
    most_tokens: int = MOST_TOKENS                       # of an answer, or of each of its rounds
    judge: int = 64                                      # held-out sums of each length, before and after
    judge_every: int = 10                                # rollouts: the share of right answers to these, in the log


# ------------------------------------------------------------------------------------------------- what is learnt from


class Experience(NamedTuple):
    """An answer to learn from: see `Answer`, and how much better it was than the others to its question."""

    ids: list[int]
    written: list[bool]
    logprobs: list[float]
    advantage: float


def experience(groups: list[list[Answer]], task: Task) -> list[Experience]:
    """All answers with their advantages, but for the groups whose rewards are equal."""
    rows = []
    for group in groups:
        rewards = [task.reward(answer) for answer in group]
        if min(rewards) < max(rewards):
            rows += [Experience(answer.ids, answer.written, answer.logprobs, reward - mean(rewards))
                     for answer, reward in zip(group, rewards)]
    return rows


def logprobs(model: Qwen, rows: list[Experience]) -> Tensor:
    """Of all tokens that were written, one answer after the other, natural logarithms: (N,)."""
    ids = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.long)
    targets = torch.full_like(ids, -100)                                                # the next token, if written
    for i, row in enumerate(rows):
        ids[i, : len(row.ids)] = torch.tensor(row.ids)
        targets[i, : len(row.ids) - 1] = torch.tensor(
            [id if written else -100 for id, written in zip(row.ids[1:], row.written[1:])])
    return -nats(model, model.hidden_states(ids), targets)[targets >= 0]                # pads come last: causal will do


# ---------------------------------------------------------------------------------------------------------- the ratios
#
# For N tokens: `new` and `old`, (N,), natural logarithms of their probabilities now and when they were drawn; the
# advantage of the answer that each belongs to, (N,); and which answer that is, (N,). Each gives what is to become
# larger, for each token, (N,). Where new and old are equal, the gradients of all of them are the same.


def none(new: Tensor, old: Tensor, advantage: Tensor, answer: Tensor) -> Tensor:
    """The plain policy gradient, as if every token had been drawn just now."""
    return advantage * new


def clip(new: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """PPO's (arXiv 1707.06347): a token whose ratio has gone far enough in its direction is pulled no further."""
    return clipped((new - old).exp(), advantage, low, high)


def gspo(new: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, low: float = 3e-4, high: float = 4e-4) -> Tensor:
    """GSPO (arXiv 2507.18071): the same for the answer as a whole; its ratio is the geometric mean of its tokens'.

    An answer counts once for each of its tokens here, as in all the others; in the paper it counts once.
    """
    tokens = torch.bincount(answer)
    ratio = (new.new_zeros(len(tokens)).index_add(0, answer, new - old) / tokens).exp()   # of each answer
    return clipped(ratio[answer], advantage, low, high)


def sapo(new: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, up: float = 1.0, down: float = 1.05) -> Tensor:
    """SAPO (arXiv 2511.20347): a sigmoid, which has no edge, lets go of a token bit by bit, and sooner of one that is
    pushed down."""
    steep = torch.where(advantage > 0, up, down)
    return 4 / steep * torch.sigmoid(steep * ((new - old).exp() - 1)) * advantage


def cispo(new: Tensor, old: Tensor, advantage: Tensor, answer: Tensor, high: float = 4.0) -> Tensor:
    """CISPO (arXiv 2506.13585): the ratio only weighs, as far as 1 + high, and no token is ever let go."""
    return (new - old).exp().clamp(max=1 + high).detach() * advantage * new


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


RATIOS = {"none": none, "clip": clip, "gspo": gspo, "sapo": sapo, "cispo": cispo}


# ------------------------------------------------------------------------------------------------------------ learning


def learn(model: Qwen, optimizer: torch.optim.Optimizer, rows: list[Experience], recipe: Recipe) -> dict[str, float]:
    """One step -> how far the model is from the one that wrote these answers.

    "ratio off": the mean size of log r; "largest ratio": of a token; "let go": the share of tokens that are not pulled
    any more, though their answer was better or worse than others; "gradient": its length, before it is clipped to 1.
    """
    N = sum(len(row.logprobs) for row in rows)
    off, largest, let_go = 0.0, 0.0, 0
    rows = sorted(rows, key=lambda row: len(row.ids))
    for some in (rows[i : i + ROWS] for i in range(0, len(rows), ROWS)):
        answer = torch.tensor([i for i, row in enumerate(some) for _ in row.logprobs])
        advantage = torch.tensor([row.advantage for row in some])[answer]
        old = torch.tensor([x for row in some for x in row.logprobs])
        new = logprobs(model, some)                                                     # (tokens of these,)
        now = new.detach().requires_grad_()
        [pull] = torch.autograd.grad(RATIOS[recipe.ratio](now, old, advantage, answer).sum(), now)
        new.backward(-pull / N)                                                         # one mean over all tokens
        off += (now - old).abs().sum().item() / N
        largest = max(largest, (now - old).exp().max().item())
        let_go += ((pull == 0) & (advantage != 0)).sum().item()
    norm = step_all([optimizer], recipe.lr)
    return {"ratio off": off, "largest ratio": largest, "let go": let_go / N, "gradient": norm}


SMOOTH, WORSE = 0.1, 0.3                                 # of the mean reward: how it is smoothed, and may fall


@dataclass
class Progress:
    """How far a run has come.

    drawn: the experience that is not learnt from yet, of as many rollouts as a run is `stale`.
    """

    step: int = 0
    smooth: float = 0.0                                  # the reward, smoothed
    best: float = -math.inf                              # that it has been
    seconds: float = 0.0
    drawn: list[list[tuple]] = field(default_factory=list)
    log: list[dict] = field(default_factory=list)
    before: list[dict] = field(default_factory=list)     # what `evaluate` found

    def note(self, entry: dict) -> None:
        """After a step. Raises QwenError if it was the last one that makes sense."""
        self.step += 1
        self.log.append(entry)
        self.smooth += (1 if self.step == 1 else SMOOTH) * (entry["reward"] - self.smooth)
        self.best = max(self.best, self.smooth)
        if self.smooth < self.best - WORSE:
            raise QwenError(f"The reward has fallen from {self.best:.2f} to {self.smooth:.2f}")

    @property
    def well(self) -> bool:
        return self.smooth >= self.best - WORSE / 2


def step(qwen: Assistant, optimizer: torch.optim.Optimizer, task: Task, recipe: Recipe, progress: Progress) -> dict:
    """A rollout, and what is learnt from it, or from an older one -> an entry of the log."""
    rng = Random(f"{recipe.seed} {progress.step}")
    turns = [sum_of(rng, rng.choice(task.digits)) for _ in range(recipe.questions)]
    groups = rollout(qwen, turns, recipe.answers, rng, task.tools, most_tokens=recipe.most_tokens)
    answers = [answer for group in groups for answer in group]
    drawn = experience(groups, task)
    progress.drawn.append([tuple(row) for row in drawn])
    rows = [Experience(*row) for row in progress.drawn.pop(0)] if len(progress.drawn) > recipe.stale else []
    entry = {
        "rollout": progress.step + 1, "lr": recipe.lr,
        "reward": mean(task.reward(answer) for answer in answers), "right": mean(answer.right for answer in answers),
        "thought": mean(answer.thought for answer in answers), "calls": mean(len(answer.calls) for answer in answers),
        "nats a token": -mean(x for answer in answers for x in answer.logprobs),
        "groups that teach": len(drawn) // recipe.answers,
    }
    for _ in range(recipe.updates if rows else 0):
        entry |= learn(qwen.model, optimizer, rows, recipe)
    return entry


def reinforce(recipe: Recipe, start: str | Path, out: Path, keep_every: int = 5, restart: bool = False) -> dict:
    """Learn as the recipe says, from the beginning or from where the run was interrupted -> what came of it.

    Args:
        start: the checkpoint to begin with: a folder.
        out: the run's folder, for its snapshot; and in the end log.csv, result.json and the model, in model/.
        keep_every: rollouts.
        restart: forget what is there.
    Raises:
        QwenError: a recipe that cannot be, or is not the one that began here; a gradient or weights that are no
            numbers, or a reward that has fallen; no room for what came of it.
    """
    check(recipe)
    whole_number("--keep-every", keep_every, 1)
    check_place(out)
    torch.set_flush_denormal(True)
    qwen, task = load(start, dtype="float32"), TASKS[recipe.task]
    learning = {name: p.requires_grad_() for name, p in qwen.model.named_parameters()
                if not name.startswith(("model.visual.", "mtp."))}
    optimizer = torch.optim.AdamW([{"params": learning.values(), "pace": 1.0}], weight_decay=0.0, betas=(0.9, 0.95))
    run, progress = asdict(recipe) | {"start": str(start)}, Progress()
    if restart:
        forget(out)
    if saved := kept(out, run, may_change=("lr",)):
        qwen.model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        progress = Progress(**saved["progress"])
        print(f"{out} holds this run at rollout {progress.step}: it goes on from there.")
    else:
        progress.before = judged(qwen, task, recipe)

    def snapshot():
        keep(out, run, {"model": qwen.model.state_dict(), "optimizer": optimizer.state_dict(),
                        "progress": vars(progress)})

    bar = tqdm(range(progress.step, recipe.rollouts), initial=progress.step, total=recipe.rollouts, unit="rollout",
               disable=None)
    for number in bar:
        started = time.perf_counter()
        with may_diverge(out, recipe.lr, f"rollout {number + 1}"):
            progress.note(entry := step(qwen, optimizer, task, recipe, progress))
        progress.seconds += time.perf_counter() - started
        entry["seconds"] = round(progress.seconds, 1)
        if recipe.judge and progress.step % recipe.judge_every == 0:
            entry |= {f"{found['digits']} digits": found["pass@1"] for found in judged(qwen, task, recipe, answers=4)}
        bar.set_postfix(reward=f"{progress.smooth:.2f}", right=f"{entry['right']:.0%}", thought=round(entry["thought"]))
        if progress.well and (progress.step % keep_every == 0 or progress.step == recipe.rollouts):
            snapshot()
    return finish(qwen, task, recipe, out, progress)


def judged(qwen: Assistant, task: Task, recipe: Recipe, answers: int = 8) -> list[dict]:
    """What `evaluate` finds, for each length of sums that the task is judged by."""
    return [evaluate(qwen, digits, task.tools, recipe.judge, answers, recipe.most_tokens)
            for digits in (task.judged if recipe.judge else ())]


def example(qwen: Assistant, task: Task, recipe: Recipe) -> dict[str, str]:
    """A held-out sum, and what the model thinks and answers to it."""
    turn = sum_of(Random("example"), task.judged[-1], test=True)
    [[answer]] = rollout(qwen, [turn], 1, Random("answer"), task.tools, most_tokens=recipe.most_tokens)
    return {"question": turn.question, "thinking": answer.thinking, "answer": answer.text}


def finish(qwen: Assistant, task: Task, recipe: Recipe, out: Path, progress: Progress) -> dict:
    """The model, the log and the result, into the run's folder."""
    result = {"recipe": asdict(recipe), "before": progress.before, "after": judged(qwen, task, recipe),
              "example": example(qwen, task, recipe),
              "seconds": round(progress.seconds), "threads": torch.get_num_threads(), "torch": torch.__version__}
    with writing(out):
        save_model(qwen.model, out / "model", overwrite=True, tokenizer_from=qwen.folder)
        write_csv(out / "log.csv", progress.log)
        write_whole(out / "result.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def check(recipe: Recipe) -> None:
    """Raises QwenError for what cannot be, before anything is loaded."""
    for name, known in (("task", TASKS), ("ratio", RATIOS)):
        if getattr(recipe, name) not in known:
            raise QwenError(f"There is no {name} {getattr(recipe, name)!r}; there are {', '.join(known)}.")
    for name, least in (("rollouts", 1), ("updates", 1), ("stale", 0), ("questions", 1), ("answers", 2),
                        ("most_tokens", 1), ("judge", 0), ("judge_every", 1)):
        whole_number(f"--{name.replace('_', '-')}", getattr(recipe, name), least)
    number_above_0("--lr", recipe.lr)


def name_of(recipe: Recipe) -> str:
    """What a run is called: "sums-none-0"; and where it is off-policy "sums-clip-0-updates-4-stale-2"."""
    off = "".join(f"-{name}-{getattr(recipe, name)}" for name in ("updates", "stale")
                  if getattr(recipe, name) != getattr(Recipe, name))
    return f"{recipe.task}-{recipe.ratio}-{recipe.seed}{off}"


def table(result: dict) -> str:
    """Before and after, a line for each length of sums."""
    names = [name for name in result["after"][0] if name != "digits"] if result["after"] else []
    lines = [" | ".join(["digits", *names])]
    for before, after in zip(result["before"], result["after"]):
        lines.append(" | ".join([f"{before['digits']:6d}", *(f"{before[name]:.2f} -> {after[name]:.2f}"
                                                             for name in names)]))
    return "\n".join(lines)


OPTIONS = {                                              # of the command: what they are
    "task": f"one of {', '.join(TASKS)}", "ratio": f"one of {', '.join(RATIOS)}", "seed": "", "rollouts": "",
    "updates": "steps with each rollout", "stale": "rollouts between drawing one and learning from it",
    "questions": "of a rollout", "answers": "to each question", "lr": "learning rate",
    "most_tokens": "of an answer, or of each of its rounds", "judge": "held-out sums of each length, before and after",
    "judge_every": "rollouts: how many of these are right is in the log",
}  # fmt: skip


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, words in OPTIONS.items():
        default = getattr(Recipe(), name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default,
                            help=f"{words} (default: {default})".strip())
    parser.add_argument("--start", type=Path, default=ROOT / "data" / "nano_sft", help="the checkpoint to begin with")
    parser.add_argument("--out", type=Path, help="the run's folder (default: one in runs/rl, by its recipe)")
    parser.add_argument("--keep-every", type=int, default=5, metavar="ROLLOUTS")
    parser.add_argument("--restart", action="store_true", help="forget a run that was interrupted")
    args = vars(parser.parse_args(arguments))
    recipe = Recipe(**{name: args.pop(name) for name in OPTIONS})
    args["out"] = args["out"] or ROOT / "runs" / "rl" / name_of(recipe)
    try:
        print(table(reinforce(recipe, **args)))
    except QwenError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
