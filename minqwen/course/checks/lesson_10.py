"""Lesson 10: what a pass costs, what the multi-token head reads, what is taken of its drafts, and by which odds."""

import torch
from torch.nn import functional as F

from ..judging import apart, call, compare, demand, hints, near, parts


@hints(
    "Two things happen in a pass, and they happen at the same time: weights are carried, and weights are multiplied. "
    "How long does each take alone? Which of the two cares how many tokens there are?",
    "Carrying: all bytes of the weights over the bytes that come in a second, and once, for they serve every token. "
    "Multiplying: two operations for each weight and each token over the operations of a second. The pass waits for "
    "the slower of the two.",
    "The bytes are weights times bytes_each; the operations are two for each weight and each token. Divide each by "
    "what the machine does of it in a second. Python has a function that gives back the larger of two numbers.",
)
def my_pass_seconds(mine):
    """a pass waits for bytes or for operations, whichever takes longer"""
    machines = ((4e9, 2, 100e9, 2e12), (7e8, 4, 50e9, 9e11), (3e6, 1, 5e9, 1e11), (1e9, 2, 1e12, 1e11))
    cases = [(tokens, *machine) for machine in machines for tokens in (1, 2, 5, 30, 1000)]
    found, right = [], []
    slips = {sentence: [] for sentence in (
        "it adds the two: they go on at the same time, and the pass waits for the slower one",
        "it waits for the quicker of the two",
        "the weights are carried once for each token: one carrying serves all tokens of a pass",
        "a weight takes two operations for each token, a multiplication and an addition",
        "the operations are those of one token: each token of the pass takes as many",
        "weights are counted where bytes are wanted: each weight has bytes_each",
        "only the bytes are counted: with many tokens the operations take longer",
        "only the operations are counted: with few tokens the bytes take longer")}
    for tokens, weights, bytes_each, bandwidth, speed in cases:
        found.append(call(mine, tokens, weights, bytes_each, bandwidth, speed))
        demand(isinstance(found[-1], (int, float)),
               f"a number of seconds is wanted, and not a {type(found[-1]).__name__}.")
        carrying, multiplying = weights * bytes_each / bandwidth, 2 * weights * tokens / speed
        right.append(max(carrying, multiplying))
        wrong = (carrying + multiplying, min(carrying, multiplying), max(tokens * carrying, multiplying),
                 max(carrying, multiplying / 2), max(carrying, multiplying / tokens),
                 max(carrying / bytes_each, multiplying), carrying, multiplying)
        for seconds, one in zip(slips.values(), wrong, strict=True):
            seconds.append(one)
    for slip, wrong in slips.items():
        demand(not all(apart(*pair) <= 1e-9 for pair in zip(found, wrong)), f"{slip}.")
    for case, seconds, wanted in zip(cases, found, right):
        demand(near(apart(seconds, wanted), 1e-9), (
            "for {} tokens, {:.0e} weights of {} bytes, {:.0e} bytes and {:.0e} operations a second it should be "
            "{:.3g} seconds, and not {:.3g}.".format(*case, wanted, seconds)))


@hints(
    "Two vectors come in for each token, and one goes out. Which of the two has which norm, and which comes first?",
    "Norm each of the two by its own weights; put them side by side along the last axis, the next token's embedding "
    "first; multiply by the matrix.",
    "my_rms_norm(following, following_weight) and my_rms_norm(hidden, hidden_weight), in this order, in a "
    "torch.cat(..., dim=-1). Then F.linear with fc_weight, which turns 2d numbers into d.",
)
def my_mtp_input(mine):
    """one vector of two: what was made of a token, and which token comes next"""
    for B, T, d in ((1, 5, 8), (3, 2, 12), (2, 1, 6)):
        random = torch.Generator().manual_seed(d)
        hidden, following = 3 * torch.randn(B, T, d, generator=random), torch.randn(B, T, d, generator=random)
        ours, theirs = 0.5 * torch.randn(2, d, generator=random)
        fc = torch.randn(d, 2 * d, generator=random)

        def norm(x, weight):
            return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + weight)

        def one(*two, fc=fc):
            return F.linear(torch.cat(two, dim=-1), fc)

        found = call(mine, hidden, following, ours, theirs, fc)
        shape = tuple(getattr(found, "shape", ()))
        demand(shape != (B, T, 2 * d), "the two vectors stand side by side: the matrix makes one of them.")
        demand(shape != (B, 2 * T, d), "the two stand one behind the other, as if they were tokens: put them side by "
                                       "side, along the last axis.")
        normed = norm(following, theirs), norm(hidden, ours)
        compare(found, one(*normed), {
            "the halves are swapped: the embedding of the next token comes first": one(*normed[::-1]),
            "the norms are missing": one(following, hidden),
            "the hidden state is not normed": one(normed[0], hidden),
            "the next token's embedding is not normed": one(following, normed[1]),
            "each half has the other's norm": one(norm(following, ours), norm(hidden, theirs)),
            "both halves have the norm of the hidden state": one(norm(following, ours), normed[1]),
            "both halves have the norm of the embedding": one(normed[0], norm(hidden, theirs)),
            "both are normed as one long vector: each has a norm of its own":
                F.linear(norm(torch.cat((following, hidden), -1), torch.cat((theirs, ours))), fc),
            "both halves are the hidden state: one is the next token's embedding": one(norm(hidden, theirs), normed[1]),
            "both halves are the next token's embedding: one is the hidden state":
                one(normed[0], norm(following, ours)),
            "the first half alone is used": F.linear(normed[0], fc[:, :d]),
        }, "it should be fc times the two normed vectors, side by side, the next token's first.")


@hints(
    "The model has said what it would put in each place, as if all drafts before were right. Up to where may that be "
    "trusted?",
    "Walk along the drafts while they are what the model says. At the first that is not, the model's own token stands "
    "in its place, and the rest is worth nothing. If all are right, the model has said one more, and it is a gift.",
    "Count how many drafts agree from the first on (stop at the first that does not). What is given is that many "
    "tokens and one more, and all of them stand in `likeliest` already.",
)
def my_agreed(mine):
    """the longest stretch on which both agree, and the model's own token"""
    cases = [([4, 7, 2], [4, 7, 2, 9]), ([4, 7, 2], [4, 8, 2, 9]), ([4, 7, 2], [5, 7, 2, 9]), ([4, 7, 2], [4, 7, 3, 9]),
             ([6], [6, 1]), ([6], [1, 6]), ([], [3]), ([1, 1, 1, 1, 1], [1, 1, 2, 1, 1, 2]), ([0, 5], [0, 0, 5]),
             ([3, 3, 8], [3, 8, 8, 3])]
    found = [call(mine, drafted, likeliest) for drafted, likeliest in cases]
    for given in found:
        demand(isinstance(given, list), f"a list of tokens is wanted, and not a {type(given).__name__}.")

    def agreed(drafted, likeliest):                      # how many
        return next((i for i, (a, b) in enumerate(zip(drafted, likeliest)) if a != b), len(drafted))

    slips = {
        "the model's own token is missing: it is known, and it is right": lambda d, own: d[: agreed(d, own)],
        "nothing is taken behind the first draft that is wrong, whatever the others are":
            lambda d, own: own[: sum(a == b for a, b in zip(d, own)) + 1],
        "it goes on behind a wrong draft: what the model says there stands on a text that will not be":
            lambda d, own: own,
        "these are the drafts: where the model says another token, that one is to be written": lambda d, own: d,
        "the wrong draft is taken, too: the model's own token stands in its place":
            lambda d, own: [*d, own[-1]][: agreed(d, own) + 1],
        "where all agree the model has said one token more": lambda d, own: own[: min(agreed(d, own) + 1, len(d))],
    }
    for slip, wrong in slips.items():
        demand(found != [wrong(*case) for case in cases], f"{slip}.")
    for (drafted, likeliest), given in zip(cases, found):
        right = likeliest[: agreed(drafted, likeliest) + 1]
        demand(given == right, f"of the drafts {drafted}, where the model says {likeliest}, it should give {right}, "
                               f"and not {given}.")


@hints(
    "Where the head drafts a token more often than the model would draw it, some of these drafts must go. Where it "
    "drafts it too seldom, something has to come in addition. How much is each?",
    "A draft is taken with probability p / q, and always where p is the larger. What is missing then is how much p "
    "has more than q, token by token: these, as odds that sum to 1, are those of the token that comes instead.",
    "(p / q).clamp(max=1), with q kept away from 0 by a clamp(min=...) of its own; (p - q).clamp(min=0), over its sum "
    "along the last axis (keepdim=True), and that sum is kept away from 0, too.",
)
def my_accept_odds(mine):
    """a draft that is taken by these odds, or replaced, is a draw of the model's own"""
    random = torch.Generator().manual_seed(0)
    made = [(torch.randn(*shape, generator=random).softmax(-1), torch.randn(*shape, generator=random).softmax(-1))
            for shape in ((2,), (7,), (3, 5), (2, 4, 6))]
    made.append((torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.2, 0.0, 0.8, 0.0])))      # p or q, or both, are 0
    made.append((torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])))
    for p, q in made:
        taken, instead = parts(call(mine, p, q), "taken", "instead")
        never = q == 0                                   # what is never drafted may be taken as often as one likes
        for name, x in (("taken", taken), ("instead", instead)):
            demand(isinstance(x, torch.Tensor) and x.shape == p.shape,
                   f"{name} should be a tensor of the shape of p, {tuple(p.shape)}.")
            demand(not x.isnan().any(), f"there are numbers missing (nan) in {name} where p or q is 0: keep what you "
                                        f"divide by away from 0.")
        ratio, more = p / q.clamp(min=1e-30), (p - q).clamp(min=0)
        right = ratio.clamp(max=1)
        slips = {
            "taken is above 1 where the model finds the token likelier than the head does": ratio,
            "taken is the model's probability: a draft comes with probability q already, so it is p / q": p,
            "taken is the other way round: p / q, and not q / p": (q / p.clamp(min=1e-30)).clamp(max=1),
            "a draft that is too frequent is never taken: it should be, with probability p / q": (p >= q).float(),
            "every draft is taken: then the head writes the text": torch.ones_like(p),
        }
        compare(taken.masked_fill(never, 0), right.masked_fill(never, 0),
                {name: x.masked_fill(never, 0) for name, x in slips.items()},
                "taken should be p / q, and at most 1.", what="taken")
        total = more.sum(-1, keepdim=True)
        compare(instead, more / total, {
            "instead is p: so what the head drafts would come too often, once as a draft and once instead": p,
            "instead is what q has more than p: it is the other way round":
                (q - p).clamp(min=0) / (q - p).clamp(min=0).sum(-1, keepdim=True),
            "instead does not sum to 1: divide by the sum": more,
            "instead has what q has more, too: below 0 there is nothing": (p - q).abs() / (p - q).abs().sum(-1, True),
            "instead is below 0 where q has more": p - q,
            "instead is divided by the sum over all rows: each row has its own": more / more.sum(),
        }, "instead should be what p has more than q, over its sum.", what="instead")
        refused = 1 - (q * taken).sum(-1, keepdim=True)
        demand(torch.allclose(q * taken + refused * instead, p, atol=1e-5), "all in all these are not the odds p.")
    same = torch.tensor([0.25, 0.75])
    taken, instead = parts(call(mine, same, same.clone()), "taken", "instead")
    demand(torch.allclose(taken, torch.ones(2)), "where p and q are the same every draft is taken.")
    demand(instead.isfinite().all(), "where p and q are the same nothing is ever put instead, and the sum to divide by "
                                     "is 0: keep it away from 0.")
