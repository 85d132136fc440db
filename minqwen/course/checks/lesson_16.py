"""Lesson 16: which rows a rank keeps, whose mean a step learns from, a part of a text as a map, days of training."""

import torch
from torch import Tensor

from ...delta_rule import recurrent_gated_delta_rule
from ...verify import rule_inputs
from ..judging import apart, call, compare, demand, hints, near, parts


@hints(
    "How many rows has each rank, if nobody may have more than he must, and the first ones have all alike?",
    "Each has the number of rows over the number of ranks, rounded up. So rank r begins behind r such pieces. Where "
    "that is beyond the last row, nothing is left for it: then its beginning and its end are both the number of rows.",
    "-(-rows // ranks) is rounded up. Beginning and end are rank and rank + 1 times that, each of them at most `rows`: "
    "min(...) sees to it.",
)
def my_own_rows(mine):
    """pieces of one size, the last ones shorter or empty"""
    for rows, ranks in ((8, 2), (12, 4), (10, 4), (7, 3), (5, 4), (1, 3), (248_320, 64), (6, 1), (9, 8)):
        each, less = -(-rows // ranks), rows // ranks
        found = []
        for rank in range(ranks):
            pair = parts(call(mine, rows, rank, ranks), "start", "end")
            demand(all(isinstance(x, int) for x in pair), "start and end are whole numbers: rows cannot be cut.")
            found.append(pair)
        right = [(min(rank * each, rows), min((rank + 1) * each, rows)) for rank in range(ranks)]
        slips = {
            "it rounds down, and the last rows are nobody's: round up":
                [(rank * less, (rank + 1) * less) for rank in range(ranks)],
            "the last rank takes all that is left over: round up, so that nobody has more than the first":
                [(rank * less, rows if rank == ranks - 1 else (rank + 1) * less) for rank in range(ranks)],
            "the pieces go on beyond the last row":
                [(rank * each, (rank + 1) * each) for rank in range(ranks)],
            "a rank for which nothing is left begins beyond the last row: let it begin and end there":
                [(rank * each, min((rank + 1) * each, rows)) for rank in range(ranks)],
            "the rows that are left over are dealt out to the first ranks, one each: here all pieces but the last ones "
            "are of one size": [(rank * less + min(rank, rows % ranks),
                                 (rank + 1) * less + min(rank + 1, rows % ranks)) for rank in range(ranks)],
            "every rank is given the same rows": [right[0]] * ranks,
            "the end is the last row itself: it should be the one behind it":
                [(start, max(start, end - 1)) for start, end in right],
        }
        for slip, wrong in slips.items():
            demand(found == right or found != wrong, f"{slip}.")
        for rank, (pair, wanted) in enumerate(zip(found, right)):
            demand(pair == wanted, f"of {rows:,} rows rank {rank} of {ranks} should keep {wanted}, and not {pair}.")


@hints(
    "Each rank's gradient is that of the mean over its own tokens. What is wanted is that of the mean over all tokens "
    "of all ranks.",
    "A rank that has read twice as many tokens counts twice as much. First make sums of the means again, then one mean "
    "of these.",
    "gradients has one dimension more than counts, or several: view(-1, *[1] * (gradients.dim() - 1)) gives counts as "
    "many. Multiply, sum over the ranks, and divide by the sum of counts.",
)
def my_shared_gradient(mine):
    """every token counts the same, whoever has read it"""
    random = torch.Generator().manual_seed(0)
    for shape, counts in (((2, 5), (10, 30)), ((3, 4, 6), (1, 100, 17)), ((4, 2, 3, 2), (5, 5, 0, 7)), ((1, 3), (9,)),
                          ((2, 3), (0, 4))):
        gradients, counts = torch.randn(*shape, generator=random), torch.tensor(counts)
        weights = counts.view(-1, *[1] * (len(shape) - 1)).float()
        right = (gradients * weights).sum(0) / counts.sum()
        compare(call(mine, gradients, counts), right, {
            "all ranks count the same, and some have read more tokens than others": gradients.mean(0),
            "gradients are added up: a mean is wanted": gradients.sum(0),
            "these are sums over the tokens: divide by how many there are in all": (gradients * weights).sum(0),
            "it divides by the number of ranks, and should by that of all tokens":
                (gradients * weights).sum(0) / len(counts),
            "it is the gradient of one rank: that of all is wanted": gradients[0],
            "the one with the most tokens decides alone: all count": gradients[counts.argmax()],
            "it divides by the tokens of a rank, where it should multiply":
                (gradients / weights.clamp(min=1)).sum(0) / counts.sum(),
        }, "it should be the gradients times their counts, summed over the ranks, over the sum of all counts.",
            "the gradient")


@hints(
    "Whatever the state is in the beginning, a part of a text makes another one of it by the same steps. What becomes "
    "of an empty state? And what becomes of a state if nothing is written?",
    "The rule is linear in the state. From an empty state comes W. P is what keys and gates alone do: run the rule "
    "with values of zero. If the state is the identity then, what comes out is P itself.",
    "my_gated_delta_rule(k, k, v, g, beta) gives W as its second result; q is of no account. For P take values of "
    "zeros, (B, T, Hv, Dk), and initial_state the identity, torch.eye(Dk), expanded to (B, Hv, Dk, Dk).",
)
def my_part_as_map(mine):
    """a part of a text makes P S + W of any state S"""
    for sizes in ((1, 6, 1, 1, 4, 4), (2, 9, 2, 4, 8, 5), (3, 1, 1, 3, 6, 8)):
        (_, k, v, g, beta), S = rule_inputs(*sizes, -2.0, torch.Generator().manual_seed(sum(sizes)))
        (B, _, _, _, Dk, Dv), Hv = sizes, sizes[3]
        P, W = parts(call(mine, k, v, g, beta), "P", "W")
        rule = _final(k, g, beta)
        empty = v.new_zeros(B, Hv, Dk, Dv)
        compare(W, rule(v, empty), {
            "W is nothing, and should be what the part writes into an empty state": empty,
            "W is written without the gates: they are arguments, too": _final(k, 0 * g, beta)(v, empty),
        }, "W should be the state behind the part if there was none before.", "W", 1e-9)
        right = rule(v.new_zeros(*v.shape[:3], Dk), torch.eye(Dk, dtype=v.dtype).expand(B, Hv, Dk, Dk))
        decay = g.sum(1).exp()[..., None, None]
        compare(P, right, {
            "P is transposed: it stands left of the state": right.mT,
            "P is the decay alone: what is written under a key erases what was there": decay * torch.eye(Dk),
            "P is the identity, as if a part left the state alone":
                torch.eye(Dk, dtype=v.dtype).expand(B, Hv, Dk, Dk),
            "P is without the decay": _final(k, 0 * g, beta)(
                v.new_zeros(*v.shape[:3], Dk), torch.eye(Dk, dtype=v.dtype).expand(B, Hv, Dk, Dk)),
            "P holds what the part writes as well: for P nothing is to be written": rule(
                v, torch.eye(Dk, Dv, dtype=v.dtype).expand(B, Hv, Dk, Dv)),
        }, "P should be what keys and gates make of the identity, if all values are zero.", "P", 1e-9)
        compare(P @ S + W, rule(v, S), what="P S + W", tolerance=1e-9)


def _final(k: Tensor, g: Tensor, beta: Tensor):
    return lambda v, S: recurrent_gated_delta_rule(k, k, v, g, beta, initial_state=S, output_final_state=True)[1]


@hints(
    "How many operations does a token take, and how many of them do all GPUs together do in a second?",
    "Six for each parameter and token: two forward, a multiplication and an addition, and four backward. A GPU reaches "
    "the share `used` of its peak. A day has 24 * 3600 seconds.",
    "6 * parameters * tokens operations, over gpus * peak * used of them in a second, over 24 * 3600 seconds a day.",
)
def my_training_days(mine):
    """six operations for each parameter and token"""
    cases = [(N, D, gpus, peak, used) for N, D in ((8e8, 2e13), (9e9, 1e12), (2e6, 3e8)) for gpus in (1, 64, 1000)
             for peak, used in ((989e12, 0.4), (1e14, 0.25), (3e11, 1.0))]
    found = [call(mine, *case) for case in cases]
    for days in found:
        demand(isinstance(days, (int, float)), f"a number of days is wanted, and not a {type(days).__name__}.")
    right = [6 * N * D / (gpus * peak * used) / 86_400 for N, D, gpus, peak, used in cases]
    slips = {
        "these are the operations of reading alone: backward takes twice as many again": lambda N, D, n, peak, u: 1 / 3,
        "backward takes four for each parameter and token, and forward two": lambda N, D, n, peak, u: 4 / 6,
        "a multiplication and an addition are two operations: three for each parameter are half of them":
            lambda N, D, n, peak, u: 1 / 2,
        "these are seconds": lambda N, D, n, peak, u: 86_400,
        "these are hours": lambda N, D, n, peak, u: 24,
        "the peak is not reached: only the share `used` of it is": lambda N, D, n, peak, u: u,
        "`used` is on the wrong side: who reaches less takes longer": lambda N, D, n, peak, u: u * u,
        "it is one GPU's time: all of them compute": lambda N, D, n, peak, u: n,
        "more GPUs take less time, and not more": lambda N, D, n, peak, u: n * n,
    }
    for slip, factor in slips.items():
        wrong = [wanted * factor(*case) for wanted, case in zip(right, cases)]
        demand(not all(apart(*pair) <= 1e-9 for pair in zip(found, wrong)), f"{slip}.")
    for (N, D, gpus, peak, used), days, wanted in zip(cases, found, right):
        demand(near(apart(days, wanted), 1e-9), (
            f"for {N:.0e} parameters, {D:.0e} tokens and {gpus} GPUs of {peak:.0e} operations a second, of which "
            f"{used:.0%} are reached, it should be {wanted:.3g} days, and not {days:.3g}."))
