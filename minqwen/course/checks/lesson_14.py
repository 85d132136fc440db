"""Lesson 14: advantages, the loss of the policy gradient, pass@k, and two ways to use what another model has drawn."""

from itertools import combinations

import torch
from torch import Tensor

from ...nano.rl import clip, gspo
from ..judging import call, compare, demand, hints, near


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@hints(
    "What would have been a fair guess of an answer's reward, before it was written? Only the others to the same "
    "question can tell.",
    "Of each row take the mean, and subtract it from every reward of that row.",
    "rewards.mean(dim=1, keepdim=True) has a number for each question, and it can be subtracted as it is.",
)
def my_advantages(mine):
    """each answer against the others to its question"""
    for rewards in (torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 1]]), _random(3, 3), _random(5, 8), _random(1, 6) + 4,
                    torch.full((2, 4), 0.5)):
        A, mean = rewards.shape[1], rewards.mean(1, keepdim=True)
        right = rewards - mean
        others = rewards - (A * mean - rewards) / (A - 1)
        compare(call(mine, rewards), right, {
            "these are the rewards themselves: subtract the mean of each question's": rewards,
            "all questions have one mean: each has its own": rewards - rewards.mean(),
            "the mean is that of a column: a row holds the answers to one question": rewards - rewards.mean(0),
            "they are divided by the spread of the group: leave them as large as they are":
                right / rewards.std(1, keepdim=True),
            "they are divided by the spread of the group, with a little added: leave them as large as they are":
                right / (rewards.std(1, keepdim=True) + 1e-4),
            "the mean is that of the others alone: take that of the whole group": others,
            "it is the best answer that the others are held against: take the mean":
                rewards - rewards.amax(1, keepdim=True),
            "the sign is turned round: what is better than the mean is above 0": -right,
        }, "they should be each reward less the mean of its row.")


@hints(
    "Every token counts once. What is to become larger is its logarithm, as far as its answer was better than others.",
    "An answer's advantage holds for all of its tokens: advantages[answer] has one for each token. A loss is what "
    "becomes smaller.",
    "Multiply advantages[answer] by logprobs, take .mean(), and turn the sign round.",
)
def my_policy_loss(mine):
    """every token is pulled by the advantage of its answer, and counts once"""
    for lengths in ((3, 1, 4), (2, 2), (7,), (1, 9, 2, 5)):
        answer = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
        answer = answer.roll(2)                         # whose token it is, `answer` says, and not its place
        logprobs, advantages = -_random(len(answer)).exp(), _random(len(lengths))
        gain = advantages[answer] * logprobs
        each = torch.zeros(len(lengths)).index_add(0, answer, gain)
        compare(call(mine, logprobs, advantages, answer), -gain.mean(), {
            "the sign is wrong: what is better than the mean would become less likely": gain.mean(),
            "it is a sum: with long answers steps would be longer, too": -gain.sum(),
            "each answer has a mean of its own: a token of a long answer would count less":
                -(each / torch.tensor(lengths)).mean(),
            "it is divided by the number of answers, and should be by that of the tokens": -each.mean(),
            "it pulls at the probabilities: the gradient of the expected reward has their logarithms":
                -(advantages[answer] * logprobs.exp()).mean(),
            "the advantages are not used": -logprobs.mean(),
        }, "it should be the mean over all tokens of advantage times logarithm, and its sign turned round.")
        with torch.enable_grad():
            learnt = logprobs.clone().requires_grad_()
            found = mine(learnt, advantages, answer)
            demand(found.requires_grad, "nothing can be learnt from it: the logarithms' gradient is cut off.")
            [pull] = torch.autograd.grad(found, learnt)
        compare(pull, -advantages[answer] / len(answer), otherwise="its gradient is not the advantages'.",
                what="the gradient")


@hints(
    "Of n answers k are picked. When is none of them right?",
    "All k then come from the n - right wrong ones. Count in how many ways that can be, and in how many ways k can be "
    "picked at all.",
    "math.comb(n, k) is in how many ways k of n can be picked; it is 0 where there are fewer than k.",
)
def my_pass_at(mine):
    """as often as one of k is right, over all ways to pick them"""
    for n, right in ((8, 3), (5, 0), (5, 5), (6, 1), (4, 2), (7, 6), (1, 1)):
        marks = [1] * right + [0] * (n - right)
        for k in range(1, n + 1):
            wanted = sum(map(max, combinations(marks, k))) / sum(1 for _ in combinations(marks, k))
            found = call(mine, k, n, right)
            demand(isinstance(found, int | float), f"a number is wanted, and not a {type(found).__name__}.")
            share = right / n
            for slip, wrong in {
                "each answer is drawn anew, and may come twice: they are picked from those that there are":
                    1 - (1 - share) ** k,
                "it is the share of right answers, whatever k is": share,
                "it is how likely none is right": 1 - wanted,
                "it is how likely all k are right": sum(map(min, combinations(marks, k))) / sum(
                    1 for _ in combinations(marks, k)),
                "right answers are counted, and one is enough": min(1.0, k * share),
            }.items():
                demand(abs(found - wanted) < 1e-6 or abs(found - wrong) > 1e-6, f"{slip}.")
            demand(near(abs(found - wanted), 1e-6),
                   f"of {n} answers {right} are right: one of {k} is so with {wanted:.3f}, and not with {found:.3f}.")


def _tokens() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of 40 tokens of six answers: logarithms now and before, far apart here and there; advantages; which answer."""
    random = torch.Generator().manual_seed(3)
    answer = torch.tensor([0] * 9 + [1] * 3 + [2] * 12 + [3] * 1 + [4] * 8 + [5] * 7)
    old = -torch.rand(40, generator=random, dtype=torch.double) * 3
    new = old + torch.randn(40, generator=random, dtype=torch.double) * 0.4
    return new, old, torch.randn(6, generator=random, dtype=torch.double)[answer], answer


def _pull(gain, new: Tensor) -> Tensor:
    with torch.enable_grad():
        learnt = new.clone().requires_grad_()
        found = gain(learnt)
        demand(isinstance(found, Tensor) and found.requires_grad,
               "nothing can be learnt from it: the gradient of `new` is cut off.")
        return torch.autograd.grad(found.sum(), learnt)[0]


@hints(
    "The ratio is exp(new - old). There are two things to compare: the ratio times the advantage, and the same with "
    "the ratio kept between 1 - low and 1 + high.",
    "Of the two the smaller one counts, token by token. That lets go of a token whose ratio has gone far enough in the "
    "direction of its advantage, and of no other.",
    "torch.minimum takes the smaller of two tensors, number by number; ratio.clamp(1 - low, 1 + high) keeps the ratio.",
)
def my_clipped(mine):
    """a token that has gone far enough is pulled no further"""
    new, old, advantage, answer = _tokens()
    for low, high in ((0.2, 0.2), (0.1, 0.5), (0.3, 0.05)):
        ratio = (new - old).exp()
        kept = ratio.clamp(1 - low, 1 + high)
        compare(call(mine, new, old, advantage, low, high), clip(new, old, advantage, answer, low, high), {
            "nothing is clipped: it is the ratio times the advantage": ratio * advantage,
            "the ratio is clipped always: one that went the wrong way could never come back": kept * advantage,
            "the larger of the two is taken: the smaller one is wanted": torch.maximum(ratio * advantage,
                                                                                        kept * advantage),
            "the ratio is turned round: it is the probability now over that before":
                torch.minimum(advantage / ratio, (1 / ratio).clamp(1 - low, 1 + high) * advantage),
            "the ratio is no difference of logarithms: take exp of it": torch.minimum(
                (new - old) * advantage, (new - old).clamp(1 - low, 1 + high) * advantage),
            "low and high are swapped": clip(new, old, advantage, answer, high, low),
        }, "it should be the smaller of ratio times advantage and clipped ratio times advantage.")
        compare(_pull(lambda x, low=low, high=high: mine(x, old, advantage, low, high), new),
                _pull(lambda x, low=low, high=high: clip(x, old, advantage, answer, low, high), new),
                otherwise="its gradient is not the right one: only `new` depends on the weights, and all of it.",
                what="the gradient")


@hints(
    "The product of all ratios of an answer is how much likelier the whole of it has become. Of a long answer that is "
    "huge or next to nothing, so the root is taken, of as many as it has tokens.",
    "In logarithms: the mean of new - old over the tokens of an answer. Then exp, and every token gets its answer's.",
    "torch.bincount(answer) counts tokens, and torch.zeros(...).index_add(0, answer, new - old) adds them up, answer "
    "by answer; [answer] hands an answer's number to its tokens.",
)
def my_answer_ratio(mine):
    """one ratio for an answer as a whole"""
    new, old, _, answer = _tokens()
    for keep in (answer >= 0, answer < 2, answer > 3):
        a, b, c = new[keep], old[keep], (answer[keep] - answer[keep].min()).roll(2)
        tokens, logs = torch.bincount(c), a - b
        total = logs.new_zeros(len(tokens)).index_add(0, c, logs)
        ratios = logs.new_zeros(len(tokens)).index_add(0, c, logs.exp())
        right = (total / tokens).exp()[c]
        ours = call(mine, a, b, c)
        demand(getattr(ours, "shape", None) != tokens.shape or len(tokens) == len(c),
               "there is a number for each answer, and one is wanted for each token.")
        compare(ours, right, {
            "these are the tokens' own ratios: an answer has one for all": logs.exp(),
            "it is the product of all ratios: take the root, the mean of the logarithms": total.exp()[c],
            "it is the mean of the ratios: take that of their logarithms": (ratios / tokens)[c],
            "exp is missing: these are logarithms": (total / tokens)[c],
            "all answers have one ratio: each has its own": logs.mean().exp().expand(len(c)),
            "it is turned round: now over before": (-total / tokens).exp()[c],
        }, "it should be exp of the mean of new - old over the tokens of an answer.")
    weights = torch.randn(len(new), generator=torch.Generator().manual_seed(4), dtype=torch.double)
    wide = 1e9                                          # edges that nothing comes to
    compare(_pull(lambda x: mine(x, old, answer) * weights, new),
            _pull(lambda x: gspo(x, old, weights, answer, wide, wide), new),
            otherwise="its gradient is not the right one: all tokens of an answer move its ratio.", what="the gradient")
