"""Lesson 00: how sure is the model of each token of its answer?"""

import torch

from ..judging import call, compare, demand, hints


@hints(
    "Begin with the probabilities of all tokens at each position: which function of torch makes them of logits, and "
    "over which axis do they sum to 1?",
    "The probabilities are a table (T, vocabulary). Of row 0 you want the column tokens[0], of row 1 "
    "the column tokens[1], and so on: one number from each row.",
    "A table p can be asked for pairs: p[rows, columns], with two lists of equal length. The rows are 0, 1, ..., "
    "T - 1; torch.arange makes them. (Or look at torch.gather.)",
)
def my_confidence(mine):
    """that is how sure it is of each token"""
    for T, V in ((4, 11), (1, 5), (7, 3)):
        random = torch.Generator().manual_seed(T)
        logits, tokens = 3 * torch.randn(T, V, generator=random), torch.randint(V, (T,), generator=random)
        found = call(mine, logits, tokens)
        p, rows = logits.softmax(-1), torch.arange(T)
        shape = tuple(getattr(found, "shape", ()))
        demand(shape != (T, V), "these are the probabilities of all tokens: pick row i, column tokens[i].")
        demand(shape != (T, T) or T == 1, "p[:, tokens] takes all these columns from every row: pick one from each.")
        compare(found, p[rows, tokens], {
            "these are the probabilities of the likeliest tokens: look up those of `tokens`": p.max(-1).values,
            "these are the logits themselves: exponentiate, and divide by the sum over the vocabulary":
                logits[rows, tokens],
            "these are exponentials: divide them by their sum over the vocabulary": logits.exp()[rows, tokens],
            "these are logarithms of probabilities: take the exponential": p.log()[rows, tokens],
            "the softmax runs over the positions: each row has to sum to 1 over the vocabulary":
                logits.softmax(0)[rows, tokens],
            "all of them come from row 0: the guess for tokens[i] is in row i": p[0, tokens],
            "all of them come from the last row: the guess for tokens[i] is in row i": p[-1, tokens],
            "these are the probabilities of the first token of the vocabulary: look up those of `tokens`": p[:, 0],
        }, "these are not the probabilities of `tokens`: row i, column tokens[i] of the softmax.")
    large = torch.tensor([[500.0, 400.0], [-500.0, -500.0]])
    found = call(mine, large, torch.tensor([0, 1]))
    demand(found.isfinite().all(), "it is right for small logits, but e to the 500 is more than a computer can hold: "
                                   "torch.softmax knows a way around.")
    compare(found, torch.tensor([1.0, 0.5]))
