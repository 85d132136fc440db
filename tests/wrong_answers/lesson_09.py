"""Wrong answers to the exercises of lesson 09."""

import math

import torch

from . import slip, wrong

# ---- my_piece_mask

slip("my_piece_mask", "the diagonal begins in the corner", ".tril(S - T)", ".tril()")
slip("my_piece_mask", "does not see itself", "tril(S - T)", "tril(S - T - 1)")
slip("my_piece_mask", "sees the next one", "tril(S - T)", "tril(S - T + 1)")
slip("my_piece_mask", "that come after it", ".tril(S - T)", "")
slip("my_piece_mask", "wrong way round", "return torch", "return ~torch")
slip("my_piece_mask", "should be torch.bool", ", dtype=torch.bool", "")
slip("my_piece_mask", "should have the shape", "torch.ones(T, S", "torch.ones(S, S")


@wrong("my_piece_mask", "the past is hidden")
def looks_at_its_own_piece_alone(T, S):
    mask = torch.zeros(T, S, dtype=torch.bool)
    mask[:, S - T :] = torch.ones(T, T, dtype=torch.bool).tril()
    return mask


@wrong("my_piece_mask", "that 4 queries may see at the end of 9 tokens")
def knows_that_three_came_before(T, S):
    return torch.ones(T, S, dtype=torch.bool).tril(3)


# ---- my_half_life

slip("my_half_life", "to 1/e", "math.log(2) /", "1 /")
slip("my_half_life", "it is negative", ".abs()", "")
slip("my_half_life", "their mean that counts", ".mean(0)", ".sum(0)")
slip("my_half_life", "should have the shape (3,)", "g.mean(0)", "g.mean(1)")
slip("my_half_life", "each of them has its own", "g.mean(0)", "g.mean().expand(g.shape[1])")


@wrong("my_half_life", "take the mean of g first")
def averages_the_half_lives(g):
    return (math.log(2) / -g).mean(0)


@wrong("my_half_life", "alpha is averaged")
def averages_alpha(g):
    return -math.log(2) / g.exp().mean(0).log()


@wrong("my_half_life", "its half-life is inf")
def is_afraid_of_zero(g):
    return math.log(2) / (-g.mean(0)).clamp(min=1e-6)


@wrong("my_half_life", "changes g")
def in_place(g):
    return math.log(2) / -g.mul_(1.0).add_(1e-9).mean(0)


# ---- my_effective_rank

slip("my_effective_rank", "that is the entropy", ".sum(-1).exp()", ".sum(-1)")
slip("my_effective_rank", "are squared", "svdvals(states)", "svdvals(states) ** 2")
slip("my_effective_rank", "in bits", ".sum(-1).exp()", ".sum(-1).div(math.log(2)).exp()")
slip("my_effective_rank", "not divided by their sum", "s / s.sum(-1, keepdim=True)", "s")
slip("my_effective_rank", "the sign of the entropy", "torch.special.entr(p)", "(p * p.log())")
slip("my_effective_rank", "0 log 0", "torch.special.entr(p)", "(-p * p.log())")


@wrong("my_effective_rank", "however little it is used")
def counts_all_directions(states):
    return torch.linalg.matrix_rank(states).float()


@wrong("my_effective_rank", "should have the shape")
def works_for_one_matrix(states):
    p = torch.linalg.svdvals(states).flatten()
    p = p / p.sum()
    return torch.special.entr(p).sum().exp()


# ---- my_yarn

slip("my_yarn", "nothing is stretched", "return plain * (1 - ramp) + plain / factor * ramp", "return plain")
slip("my_yarn", "all pairs are stretched", "return plain * (1 - ramp) + plain / factor * ramp", "return plain / factor")
slip("my_yarn", "slow pairs get faster", "plain / factor * ramp", "plain * factor * ramp")
slip("my_yarn", "wrong way round", "return plain * (1 - ramp) + plain / factor * ramp",
     "return plain * ramp + plain / factor * (1 - ramp)")
slip("my_yarn", "too fast or too slowly", "max(math.floor(pair_that_turns(fast)), 0)", "max(pair_that_turns(fast), 0)")
slip("my_yarn", "2 pi is missing", "(2 * math.pi * turns)", "turns")
slip("my_yarn", "too fast or too slowly", "(fast)", "(32)")
slip("my_yarn", "too fast or too slowly", "(slow)", "(1)")
slip("my_yarn", "so its shape should be", "torch.arange(dims // 2)", "torch.arange(dims)")
slip("my_yarn", "too fast or too slowly", "plain / factor * ramp", "plain / 4 * ramp")
slip("my_yarn", "too fast or too slowly", "math.log(original /", "math.log(262144 /")


@wrong("my_yarn", "not rounded")
def rounds_neither_end(dims, theta, factor, original, fast=32, slow=1):
    first, last = (dims * math.log(original / (2 * math.pi * turns)) / (2 * math.log(theta)) for turns in (fast, slow))
    first, last, i = max(first, 0), min(last, dims - 1), torch.arange(dims // 2)
    ramp, plain = ((i - first) / (last - first)).clamp(0, 1), theta ** (-2 * i / dims)
    return plain * (1 - ramp) + plain / factor * ramp


@wrong("my_yarn", "there is a step")
def has_no_ramp(dims, theta, factor, original, fast=32, slow=1):
    first = max(math.floor(dims * math.log(original / (2 * math.pi * fast)) / (2 * math.log(theta))), 0)
    i = torch.arange(dims // 2)
    plain = theta ** (-2 * i / dims)
    return torch.where(i <= first, plain, plain / factor)
