"""Wrong answers to the exercises of lesson 16."""

import torch

from . import slip, wrong


def my_gated_delta_rule(q, k, v, g, beta, initial_state=None):
    """Stands here for lesson 03's, which an answer finds beside it."""


# ---- my_own_rows

slip("my_own_rows", "it rounds down", "-(-rows // ranks)", "rows // ranks")
slip("my_own_rows", "beyond the last row", "min(rank * each, rows), min((rank + 1) * each, rows)",
     "rank * each, (rank + 1) * each")
slip("my_own_rows", "let it begin and end there", "min(rank * each, rows), ", "rank * each, ")
slip("my_own_rows", "the same rows", "return min(rank * each, rows), min((rank + 1) * each, rows)", "return 0, each")
slip("my_own_rows", "the one behind it", "min((rank + 1) * each, rows)",
     "max(min(rank * each, rows), min((rank + 1) * each, rows) - 1)")
slip("my_own_rows", "whole numbers", "-(-rows // ranks)", "rows / ranks")
slip("my_own_rows", "should keep", "-(-rows // ranks)", "-(-rows // ranks) + 1")
slip("my_own_rows", "start, end", "return min(rank * each, rows), min((rank + 1) * each, rows)", "return each")


@wrong("my_own_rows", "takes all that is left over")
def last_takes_the_rest(rows, rank, ranks):
    each = rows // ranks
    return rank * each, rows if rank == ranks - 1 else (rank + 1) * each


@wrong("my_own_rows", "dealt out to the first ranks")
def as_even_as_can_be(rows, rank, ranks):
    each, more = divmod(rows, ranks)
    return rank * each + min(rank, more), (rank + 1) * each + min(rank + 1, more)


@wrong("my_own_rows", "should keep")
def knows_two_ranks(rows, rank, ranks):
    half = -(-rows // 2)
    return (0, half) if rank == 0 else (half, rows)


# ---- my_shared_gradient

slip("my_shared_gradient", "all ranks count the same", "return (weights * gradients).sum(0) / counts.sum()",
     "return gradients.mean(0)")
slip("my_shared_gradient", "a mean is wanted", "return (weights * gradients).sum(0) / counts.sum()",
     "return gradients.sum(0)")
slip("my_shared_gradient", "sums over the tokens", " / counts.sum()", "")
slip("my_shared_gradient", "by the number of ranks", "/ counts.sum()", "/ len(counts)")
slip("my_shared_gradient", "where it should multiply", "weights * gradients", "gradients / weights.clamp(min=1)")
slip("my_shared_gradient", "of one rank", "return (weights * gradients).sum(0) / counts.sum()", "return gradients[0]")
slip("my_shared_gradient", "decides alone", "return (weights * gradients).sum(0) / counts.sum()",
     "return gradients[counts.argmax()]")
slip("my_shared_gradient", "stops with", "counts.view(-1, *[1] * (gradients.dim() - 1))", "counts")


@wrong("my_shared_gradient", "it changes gradients")
def in_place(gradients, counts):
    for gradient, count in zip(gradients, counts):
        gradient *= count / counts.sum()
    return gradients.sum(0)


@wrong("my_shared_gradient", "times their counts")
def leaves_short_ones_out(gradients, counts):
    weights = counts.view(-1, *[1] * (gradients.dim() - 1)) * (gradients[:1] * 0 + 1)
    weights = weights * (weights > 8)
    return (weights * gradients).sum(0) / weights.sum(0)


# ---- my_part_as_map

slip("my_part_as_map", "W is nothing", "return P, W", "return P, 0 * W")
slip("my_part_as_map", "W is written without the gates", "my_gated_delta_rule(k, k, v, g, beta)",
     "my_gated_delta_rule(k, k, v, 0 * g, beta)")
slip("my_part_as_map", "transposed", "return P, W", "return P.mT, W")
slip("my_part_as_map", "as if a part left the state alone", "return P, W", "return identity, W")
slip("my_part_as_map", "P is without the decay", "nothing, g, beta", "nothing, 0 * g, beta")
slip("my_part_as_map", "P, W", "return P, W", "return P")
slip("my_part_as_map", "P should have the shape", "return P, W", "return P[:, :1], W")
slip("my_part_as_map", "keys and gates make of the identity", "nothing, g, beta", "nothing + 1, g, beta")
slip("my_part_as_map", "if there was none before", "return P, W", "return P, P @ W + W")


@wrong("my_part_as_map", "P is the decay alone")
def forgets_only(k, v, g, beta):
    _, W = my_gated_delta_rule(k, k, v, g, beta)
    decay = g.sum(1).exp()[..., None, None]
    return decay * torch.eye(k.shape[-1], dtype=v.dtype), W


@wrong("my_part_as_map", "what the part writes as well")
def takes_the_values_along(k, v, g, beta):
    B, Hv, Dk, Dv = len(g), g.shape[2], k.shape[-1], v.shape[-1]
    _, W = my_gated_delta_rule(k, k, v, g, beta)
    _, P = my_gated_delta_rule(k, k, v, g, beta, torch.eye(Dk, Dv, dtype=v.dtype).expand(B, Hv, Dk, Dv))
    return P, W


# ---- my_training_days

slip("my_training_days", "reading alone", "6 * parameters", "2 * parameters")
slip("my_training_days", "four for each parameter", "6 * parameters", "4 * parameters")
slip("my_training_days", "half of them", "6 * parameters", "3 * parameters")
slip("my_training_days", "these are seconds", " / (24 * 3600)", "")
slip("my_training_days", "these are hours", "(24 * 3600)", "3600")
slip("my_training_days", "is not reached", "gpus * peak * used", "gpus * peak")
slip("my_training_days", "on the wrong side", "(gpus * peak * used)", "(gpus * peak) * used")
slip("my_training_days", "one GPU's time", "gpus * peak * used", "peak * used")
slip("my_training_days", "and not more", "(gpus * peak * used)", "(peak * used) * gpus")
slip("my_training_days", "it should be", "6 * parameters", "7 * parameters")


@wrong("my_training_days", "a number of days is wanted")
def in_words(parameters, tokens, gpus, peak, used):
    return f"{6 * parameters * tokens / (gpus * peak * used) / 86400:.1f} days"
