"""Questions, and what a model answers to them: many answers to each, drawn, with the calculator in the loop.

    groups = rollout(qwen, [sum_of(Random(0), digits=4)], answers=8, rng=Random(1))

An `Answer` holds the very tokens that were read and written, and how likely the model found those that it wrote: what
learning from it takes. What the template puts between two rounds - the result of a call - is read and not learnt.

`evaluate` counts what is right: pass@1 is the share of drawn answers that are right; pass@k the share of questions of
which one in k drawn answers is, without bias (arXiv 2107.03374, section 2.1).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb
from random import Random
from statistics import mean

import torch

from ..chat import Assistant, Inputs
from ..errors import whole_number
from ..generate import generate
from ..speech import Speech
from ..tools import ToolCall, call
from . import world

MOST_TOKENS = 96                                         # of a round: a sum of six digits takes 81
MOST_CALLS = 2                                           # then the answer must come


@dataclass
class Answer:
    """An answer to a question, with all that came before it.

    ids: the question as the template has it, what the model wrote, and if it called the calculator what came back and
        what it wrote then.
    written: of each of these, whether the model wrote it.
    logprobs: of those that it wrote, natural logarithms.
    """

    turn: world.Turn
    ids: list[int]
    written: list[bool]
    logprobs: list[float] = field(default_factory=list)
    text: str = ""                                       # the answer, without the thinking; none if it was cut short
    thinking: str = ""                                   # of all rounds
    thought: int = 0                                     # tokens of it
    calls: list[ToolCall] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """To the letter."""
        return self.text == self.turn.answer

    def read(self, ids: Sequence[int]) -> None:
        self.ids += ids
        self.written += [False] * len(ids)

    def write(self, ids: Sequence[int], logprobs: Sequence[float]) -> None:
        self.ids += ids
        self.written += [True] * len(ids)
        self.logprobs += logprobs


def sum_of(rng: Random, digits: int, test: bool = False) -> world.Turn:
    """A sum of two numbers, the longer of so many digits, and how it is done on paper. test: one that is held out.

    Raises: QwenError if there are no such numbers.
    """
    return world.addition(*world.pair(rng, digits, test), thinking=True)


def rollout(qwen: Assistant, turns: Sequence[world.Turn], answers: int, rng: Random, tools: Sequence[Callable] = (),
            temperature: float = 1.0, most_tokens: int = MOST_TOKENS) -> list[list[Answer]]:
    """So many answers to each question, all of them drawn at once.

    Args:
        rng: where the seeds of the draws come from.
        tools: the functions at hand. What is called is run, and the answer goes on in another round.
        most_tokens: of a round.

    Raises: QwenError for numbers that cannot be.
    """
    whole_number("answers", answers, 1)
    whole_number("most_tokens", most_tokens, 1)
    groups, waiting = [], []
    for turn in turns:
        prompt = qwen.inputs(turn.question, thinking=True, tools=tools)
        group = [Answer(turn, list(prompt.ids), [False] * len(prompt.ids)) for _ in range(answers)]
        groups.append(group)
        waiting += [(answer, prompt) for answer in group]
    while waiting:
        logprobs: list[torch.Tensor] = []
        rows = generate(qwen.model, [answer.ids for answer, _ in waiting], max_new_tokens=most_tokens,
                        temperature=temperature, seed=rng.getrandbits(63), stop_ids=qwen.tokenizer.stop_ids,
                        logprobs=logprobs)
        logprobs = torch.stack(logprobs, dim=1).tolist()                                # (rows, tokens)
        for (answer, _), ids, likely in zip(waiting, rows, logprobs):
            answer.write(ids, likely[: len(ids)])
        waiting = [(answer, after) for (answer, prompt), ids in zip(waiting, rows)
                   if (after := hear(qwen, answer, prompt, ids, tools))]
    return groups


def hear(qwen: Assistant, answer: Answer, prompt: Inputs, ids: list[int], tools: Sequence[Callable]) -> Inputs | None:
    """What was written after this prompt, understood. If there are calls they are run, and the answer reads what came
    back -> the prompt of the next round; else None."""
    speech = Speech(qwen.tokenizer, prompt.text, tools=tools)
    for _ in speech.follow(ids):
        pass
    reply = speech.reply()
    answer.text, answer.thought = str(reply) if reply.stopped else "", answer.thought + speech.thought
    answer.thinking = "\n".join(filter(None, (answer.thinking, reply.thinking)))
    if not reply.tool_calls or not reply.stopped or len(answer.calls) >= MOST_CALLS:
        return None
    for one in reply.tool_calls:
        one.result = call(tools, one)
    answer.calls += reply.tool_calls
    asked = [{"role": "user", "content": answer.turn.question},
             {"role": "assistant", "content": "", "tool_calls": [one.official() for one in reply.tool_calls]}]
    results = [{"role": "tool", "content": one.result} for one in reply.tool_calls]
    before = qwen.inputs(asked, thinking=True, add_generation_prompt=False, tools=tools).ids
    after = qwen.inputs([*asked, *results], thinking=True, tools=tools)
    end = max(i for i, id in enumerate(before) if id in qwen.tokenizer.stop_ids) + 1    # where the model stopped itself
    answer.read(after.ids[end:])
    return after


def evaluate(qwen: Assistant, digits: int, tools: Sequence[Callable] = (), questions: int = 64, answers: int = 8,
             most_tokens: int = MOST_TOKENS) -> dict[str, float]:
    """Held-out sums of one length, each answered so often at temperature 1, and once by the likeliest tokens.

    Returns: pass@1, pass@4 and so on up to all answers, the share of right greedy answers, tokens of thinking and calls
    of an answer.
    Raises: QwenError for numbers that cannot be.
    """
    whole_number("questions", questions, 1)
    turns = [sum_of(Random(f"held out: {digits} digits, {i}"), digits, test=True) for i in range(questions)]
    rng = Random(f"evaluation, {digits} digits")
    groups = rollout(qwen, turns, answers, rng, tools, most_tokens=most_tokens)
    greedy = rollout(qwen, turns, 1, rng, tools, temperature=0, most_tokens=most_tokens)
    right = [sum(answer.right for answer in group) for group in groups]
    drawn = [answer for group in groups for answer in group]
    return {"digits": digits, **{f"pass@{k}": mean(pass_at(k, answers, n) for n in right)
                                 for k in dict.fromkeys((1, min(4, answers), answers))},
            "greedy": mean(answer.right for [answer] in greedy),
            "thought": mean(answer.thought for answer in drawn), "calls": mean(len(answer.calls) for answer in drawn)}


def pass_at(k: int, answers: int, right: int) -> float:
    """How likely one of k answers is right, drawn from so many of which so many are right.

    Raises: QwenError for numbers that cannot be.
    """
    whole_number("answers", answers, 1)
    whole_number("k", k, 1, answers)
    whole_number("right", right, 0, answers)
    return 1 - comb(answers - right, k) / comb(answers, k)
