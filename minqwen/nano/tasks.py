"""What reinforcement learning can be asked to make nano learn: which sums, with what at hand, and what is rewarded.

A reward is a small function of an `Answer`. Whatever it does not say, learning does not know.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from . import world
from .rollouts import Answer

PRICE = 0.3                                              # of a call of the calculator, where a right answer is worth 1
BONUS = 1.0                                              # of a column, likewise
COLUMN = re.compile(r"\d \+ \d \+ [01] = \d+")


def right(answer: Answer) -> float:
    """1 for the right answer, to the letter."""
    return float(answer.right)


def right_at_a_price(answer: Answer) -> float:
    """The right answer, less what calling costs."""
    return right(answer) - PRICE * len(answer.calls)


def right_and_columns(answer: Answer) -> float:
    """The right answer, and a bonus for working it out: for every line that looks like a column of a sum.

    It can be gamed: columns are cheaper than the right answer, and there is no end of them.
    """
    return right(answer) + BONUS * sum(COLUMN.fullmatch(line) is not None for line in answer.thinking.split("\n"))


def right_and_right_columns(answer: Answer) -> float:
    """The same mended: a bonus for every column of this very sum, as far as they are right and in their places."""
    lines, expected = answer.thinking.split("\n"), answer.turn.thinking.split("\n")
    return right(answer) + BONUS * sum(line == column for line, column in zip(lines, expected))


@dataclass(frozen=True)
class Task:
    """digits: lengths of the sums that are asked, each as often as it is there; judged: what the evaluation asks."""

    digits: tuple[int, ...]
    judged: tuple[int, ...]
    reward: Callable[[Answer], float]
    tools: tuple[Callable, ...] = ()


TASKS = {
    "sums": Task((3, 4), (3, 4, 5), right),
    "narrow": Task((4,), (3, 4, 5), right),
    "agent": Task((1, 1, 1, 2, 2, 2, 3, 4, 5, 6), (1, 2, 3, 4, 5, 6), right_at_a_price, (world.add,)),
    "gamed": Task((4,), (4,), right_and_columns),
    "mended": Task((4,), (4,), right_and_right_columns),
}
