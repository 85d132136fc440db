"""Lesson 09: who looks where in a piece, half-lives, how many directions a memory uses, and YaRN."""

import math

import torch
from torch import Tensor

from ...config import TextConfig
from ...model import rotary_frequencies
from ..judging import call, compare, demand, hints


@hints(
    "Draw it: two tokens come in behind three that were read before. Which of the five may each of the two see?",
    "There are S - T tokens before the piece, which all of it may see. Query i of the piece is token S - T + i of the "
    "text, and sees the keys up to itself.",
    "torch.ones(T, S, dtype=torch.bool) is True everywhere; .tril(n) keeps what is on or below the diagonal that is "
    "moved n places to the right. By how many places must it be moved?",
)
def my_piece_mask(mine):
    """each token of a piece sees all of the past, and itself"""
    for T, S in ((4, 9), (2, 5), (3, 3), (1, 4), (7, 8)):
        all_keys = torch.ones(T, S, dtype=torch.bool)
        right = torch.arange(S) <= S - T + torch.arange(T)[:, None]
        compare(call(mine, T, S), right, {
            "the diagonal begins in the corner, as if the piece were the beginning of the text: before it there are "
            "S - T tokens more": all_keys.tril(),
            "a token does not see itself: it may": all_keys.tril(S - T - 1),
            "a token sees the next one: it may not": all_keys.tril(S - T + 1),
            "a token sees the tokens of its piece that come after it": all_keys,
            "only the piece sees itself, and the past is hidden":
                right & (torch.arange(S) >= S - T),
            "it is the wrong way round: True is where a query may look": ~right,
        }, f"these are not the keys that {T} queries may see at the end of {S} tokens.", what="the mask")


@hints(
    "A head's g is the logarithm of what it keeps at a token. What is kept after many tokens, and when is that a half?",
    "Logarithms add up. If the mean of g over the tokens is m, a share of exp(n m) is left after n tokens: set it to a "
    "half, and solve for n.",
    "Of each head take the mean over the tokens, g.mean(0). exp(n m) = 1/2 means n m = -log 2; math.log(2) is about "
    "0.693. A mean of 0 has no sign: by .abs() it gives inf, and not -inf.",
)
def my_half_life(mine):
    """after so many tokens half of a memory is left"""
    for T, Hv in ((40, 3), (7, 5), (1, 2)):
        random = torch.Generator().manual_seed(T)
        g = -torch.rand(T, Hv, generator=random) ** 3
        m, half = g.mean(0), math.log(2)
        compare(call(mine, g), half / -m, {
            "that is how long it takes to 1/e, which is about a third: a half is asked for": -1 / m,
            "it is negative, and tokens are counted": half / m,
            "the decays are added up, but it is their mean that counts": half / -g.sum(0),
            "it is the mean of each token's half-life: take the mean of g first": (half / -g).mean(0),
            "alpha is averaged, which is exp(g): what counts is the mean of g": -half / g.exp().mean(0).log(),
            "all heads have got one half-life: each of them has its own": (half / -g.mean()).expand(Hv),
            "it is the base-two logarithm of a half that is missing: n = -log(2) / mean(g)": m.exp(),
        }, "these are not the numbers of tokens after which a half is left.", what="the half-lives")
    never = call(mine, torch.tensor([[0.0, -0.1], [0.0, -0.3]]))
    demand(isinstance(never, Tensor) and never.shape == (2,) and never[0].isinf() and never[0] > 0,
           "a head that never forgets, with g = 0 always, has no end: its half-life is inf, and not -inf.")


@hints(
    "torch.linalg.svdvals gives the singular values of each matrix. What do they look like in a memory that uses one "
    "direction, and in one that uses all of them alike?",
    "Divide the singular values by their sum, so that they are like probabilities. How many equally likely things have "
    "the same entropy?",
    "Divide s by s.sum(-1, keepdim=True) to have p; the entropy is -(p log p).sum(-1), with natural logarithms, and "
    "exp of it is the number. Where p is 0 there is nothing to add: torch.special.entr(p) is -p log p, and knows that.",
)
def my_effective_rank(mine):
    """how many directions a memory uses"""
    random = torch.Generator().manual_seed(0)
    for shape in ((4, 6, 5), (3, 8, 8), (2, 3, 5, 7)):
        states = torch.randn(shape, generator=random)
        s = torch.linalg.svdvals(states)
        p, energy = s / s.sum(-1, keepdim=True), s ** 2 / (s ** 2).sum(-1, keepdim=True)

        def entropy(p):
            return torch.special.entr(p).sum(-1)

        right = entropy(p).exp()
        compare(call(mine, states), right, {
            "that is the entropy: exp of it is the number of directions": entropy(p),
            "the singular values are squared: as they are, divided by their sum, they are the shares": entropy(energy)
            .exp(),
            "the entropy is in bits, and exp wants it in natural logarithms": (entropy(p) / math.log(2)).exp(),
            "these are ranks, which count a direction however little it is used": torch.linalg.matrix_rank(states)
            .to(right.dtype),
            "the singular values are not divided by their sum": entropy(s).exp(),
            "the sign of the entropy is missing": (-entropy(p)).exp(),
            "all memories are taken together: each matrix has a number of its own": right.mean().expand(right.shape),
        }, "these are not the numbers of directions.", what="the effective ranks")
    low = torch.zeros(3, 6, 5)
    low[0, 0, 0], low[1, :2, :2], low[2, :5] = 7.0, torch.eye(2), 0.3 * torch.eye(5)
    compare(call(mine, low), torch.tensor([1.0, 2.0, 5.0]), otherwise=(
        "matrices that use 1, 2 and 5 directions alike should give these numbers; mind that 0 log 0 is 0."),
        what="the effective ranks")


def _turns(turns, dims, theta, original):
    return dims * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta))


@hints(
    "Begin with the plain frequencies, theta ** (-2 i / dims). Which pairs keep theirs, and which are divided by the "
    "factor? The formula for the pair that turns so often says where the ramp begins and ends.",
    "The ramp is 0 up to the pair that turns `fast` times (rounded down, at least 0), and 1 from the pair that turns "
    "`slow` times (rounded up, at most dims - 1). Between a pair's two frequencies, kept and divided, take as much of "
    "the second as the ramp says.",
    "first = max(math.floor(...), 0) with `fast`, last = min(math.ceil(...), dims - 1) with `slow`; the ramp is "
    "((i - first) / (last - first)).clamp(0, 1), and what it says is taken of plain / factor, the rest of plain. If "
    "first and last are the same, divide by 0.001 instead.",
)
def my_yarn(mine):
    """fast pairs keep their frequency, slow ones are stretched, and between them is a ramp"""
    settings = [(64, 10_000_000, 4.0, 262_144, 32, 1), (16, 10_000, 16.0, 512, 32, 1), (32, 10_000, 2.0, 4_096, 8, 2),
                (24, 500.0, 8.0, 64, 32, 1), (16, 100.0, 3.0, 40, 4, 3.5)]
    for dims, theta, factor, original, fast, slow in settings:
        config = TextConfig(head_dim=dims, max_position_embeddings=original, rope_parameters={
            "rope_type": "yarn", "rope_theta": theta, "partial_rotary_factor": 1, "factor": factor,
            "original_max_position_embeddings": original, "beta_fast": fast, "beta_slow": slow})
        i = torch.arange(dims // 2)
        plain = theta ** (-2 * i / dims)
        right = rotary_frequencies(config)
        first, last = (_turns(turns, dims, theta, original) for turns in (fast, slow))
        whole = max(math.floor(first), 0), min(math.ceil(last), dims - 1)

        def stretched(first, last, i=i, plain=plain, factor=factor):
            ramp = ((i - first) / ((last - first) or 0.001)).clamp(0, 1)
            return plain * (1 - ramp) + plain / factor * ramp

        found = call(mine, dims, theta, factor, original, fast, slow)
        demand(isinstance(found, Tensor), f"it should return a tensor, and not a {type(found).__name__}.")
        demand(found.shape == right.shape, f"there are dims / 2 pairs, so its shape should be {tuple(right.shape)}, "
                                           f"and not {tuple(found.shape)}.")
        pairs = {
            "nothing is stretched: these are the plain frequencies": plain,
            "all pairs are stretched: the fast ones keep their frequency": plain / factor,
            "slow pairs get faster: divide by the factor": plain * (1 - (r := (1 - stretched(*whole) / plain)
                                                                        / (1 - 1 / factor))) + plain * factor * r,
            "the ramp is the wrong way round: the fast pairs, which come first, keep their frequency":
                plain + plain / factor - stretched(*whole),
            "the ramp's ends are not rounded, down where it begins and up where it ends":
                stretched(max(first, 0), min(last, dims - 1)),
            "2 pi is missing: a turn is 2 pi radians": stretched(
                max(math.floor(_turns(fast / (2 * math.pi), dims, theta, original)), 0),
                min(math.ceil(_turns(slow / (2 * math.pi), dims, theta, original)), dims - 1)),
            "there is a step where a ramp should be": torch.where(i <= whole[0], plain, plain / factor),
        }
        # beside the plain ones: else the slow pairs, which are what it is about, would not count
        compare(found.float() / plain, right / plain, {slip: wrong / plain for slip, wrong in pairs.items()},
                f"of {dims} dimensions, theta {theta:g} and a text {factor:g} times as long as {original} tokens, some "
                f"pairs are turned too fast or too slowly.", what="each frequency beside the plain one")
