"""Held-out accuracy of the nano model, and its model card: `python -m minqwen.nano.score [--card]`.

Every sample is asked through the chat template and answered by greedy generation; an answer counts when it is right to
the letter. The samples come from random generators that training never uses, and the sums are pairs that training
leaves out.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import torch
from tqdm import tqdm

from ..chat import Assistant, load
from . import world
from .train import CONTEXT, MOST_DIGITS, MOST_FACTS


class Task(NamedTuple):
    """One line of the table: how its conversations are made. beyond: longer than anything in training?"""

    name: str
    make: Callable[[Random], world.Conversation]
    thinking: bool = False
    beyond: bool = False

    def samples(self, count: int) -> list[world.Conversation]:
        return [self.make(Random(f"held out: {self.name}, {i}")) for i in range(count)]


def facts(size: int, thinking: bool = False) -> Task:
    return Task(f"the latest of {size} facts{', thinking' * thinking}",
                lambda rng: world.facts_conversation(rng, size, 1, thinking), thinking, size > MOST_FACTS)


def sums(digits: int, thinking: bool) -> Task:
    return Task(f"{digits}-digit sums{', thinking' if thinking else ' at once'}",
                lambda rng: world.Conversation([world.addition(*world.pair(rng, digits, test=True), thinking)]),
                thinking, digits > MOST_DIGITS)


TASKS = [
    facts(12), facts(40), facts(64), facts(12, thinking=True),
    sums(3, thinking=True), sums(3, thinking=False), sums(4, thinking=True), sums(4, thinking=False),
]  # fmt: skip


class Score(NamedTuple):
    task: Task
    samples: int
    right: int
    mistakes: list[tuple[str, str, str]]                # (question, answer given, answer expected), the first few

    @property
    def accuracy(self) -> float:
        return self.right / self.samples


@torch.inference_mode()
def score(qwen: Assistant, task: Task, samples: int = 500, batch_size: int = 50) -> Score:
    """Ask `samples` held-out questions of one kind and count the answers that are right to the letter."""
    right, mistakes = 0, []
    conversations = task.samples(samples)
    for start in range(0, samples, batch_size):
        batch = conversations[start : start + batch_size]
        chats = [conversation.messages() for conversation in batch]
        replies = qwen.chat_batch(chats, thinking=task.thinking, max_new_tokens=200, temperature=0)
        for conversation, reply in zip(batch, replies):
            expected = conversation.turns[-1].answer
            right += reply == expected
            if reply != expected and len(mistakes) < 5:
                mistakes.append((conversation.turns[-1].question, str(reply), expected))
    return Score(task, samples, right, mistakes)


def table(scores: list[Score]) -> str:
    """A Markdown table; a star marks what is longer than anything in training."""
    rows = ["| held-out samples | right | of |", "|---|---:|---:|"]
    for s in scores:
        rows.append(f"| {s.task.name}{' *' if s.task.beyond else ''} | {s.accuracy:.1%} | {s.samples} |")
    return "\n".join(rows)


CARD = """\
---
license: apache-2.0
---
# minqwen nano

A Qwen3.5 of {parameters:,} parameters in the official layout, trained from scratch in a little world: people who
have things and are in places, all of which changes, and sums. It is here so that everything in this project - lessons,
pictures, tests - runs on a real trained model, offline. Outside of its world it knows nothing.

{layers} layers of width {width}: {delta} Gated DeltaNet ({Hk} key heads, {Hv} value heads of {Dk} x {Dv}) and
{attention} gated attention; a vocabulary of {vocabulary}, a context of {context} tokens.

## Scores

Asked through the chat template, answered greedily; right means right to the letter. Training saw stories of up to
{facts} facts and sums of up to {digits} digits; a star marks what is longer than that. Sums scored here were left out
of training.

{table}

Made by `python -m minqwen.nano.score --card`.

## Training

`{command}`

Seed {seed}, {steps} steps, {minutes:.0f} minutes on {threads} thread(s) of a shared machine, torch {torch}.
The curve is in `training.csv`.
"""


def write_card(qwen: Assistant, folder: Path, scores: list[Score]) -> None:
    """README.md and scores.json beside the weights, from what was measured."""
    text, training = qwen.config.text_config, json.loads((folder / "training.json").read_text())
    (folder / "README.md").write_text(CARD.format(
        parameters=sum(p.numel() for p in qwen.model.parameters()), layers=text.num_hidden_layers,
        delta=text.layer_types.count("linear_attention"), attention=text.layer_types.count("full_attention"),
        width=text.hidden_size, Hk=text.linear_num_key_heads, Hv=text.linear_num_value_heads,
        Dk=text.linear_key_head_dim, Dv=text.linear_value_head_dim, vocabulary=text.vocab_size, context=CONTEXT,
        facts=MOST_FACTS, digits=MOST_DIGITS, table=table(scores), minutes=training["seconds"] / 60, **training,
    ))
    measured = {s.task.name: {"right": s.right, "samples": s.samples} for s in scores}
    (folder / "scores.json").write_text(json.dumps(measured, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", nargs="?", help="a trained model's folder; the shipped one if not given")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--card", action="store_true", help="write the model card and scores.json beside the weights")
    args = parser.parse_args()
    qwen = load(args.path)
    scores = []
    for task in tqdm(TASKS, disable=None):
        scores.append(score(qwen, task, args.samples))
        tqdm.write(table(scores[-1:]).splitlines()[-1])
        for question, given, expected in scores[-1].mistakes[:2]:
            tqdm.write(f"    {question[-60:]!r}: {given!r}, not {expected!r}")
    if args.card:
        write_card(qwen, qwen.folder, scores)


if __name__ == "__main__":
    main()
