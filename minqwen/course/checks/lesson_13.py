"""Lesson 13: what is learnt of a text, texts packed into one row, Muon's direction, AdamW's step, clipped gradients."""


import torch
from torch.nn import functional as F

from ..judging import call, compare, demand, hints, parts


@hints(
    "Row t of the logits is a guess. Of which token? And which of the guesses count?",
    "The guess at t is of token t + 1. So the logits lose their last row, the tokens their first one; of what is left "
    "those count whose token is the model's to say. The loss is the mean over these.",
    "Cut logits[:, :-1], ids[:, 1:] and says[:, 1:]. With `says` as an index each of the first two gives a flat list; "
    "F.cross_entropy takes both and makes their mean.",
)
def my_answer_loss(mine):
    """the mean surprise at the tokens that are its own to say"""
    for B, T, V in ((1, 6, 5), (3, 9, 11), (2, 4, 7)):
        random = torch.Generator().manual_seed(T)
        logits = torch.randn(B, T, V, generator=random)
        ids = torch.randint(V, (B, T), generator=random)
        says = torch.rand(B, T, generator=random) < 0.5
        says[:, 0], says[0, 1:3], says[-1, 3] = True, True, False
        each = F.cross_entropy(logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")    # (B, T - 1)
        learnt = says[:, 1:]
        found = call(mine, logits, ids, says)
        demand(isinstance(found, torch.Tensor) and found.shape == (),
               "one number is wanted, a tensor without axes: the mean over all that is learnt.")
        compare(found, each[learnt].mean(), {
            "it is not shifted: the logits of a token guess the next one":
                F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")[says].mean(),
            "the questions are learnt, too: only what the model has to say counts": each.mean(),
            "it learns what it need not say, and nothing else: `says` is the other way round":
                each[~learnt].mean(),
            "the loss is a sum: longer answers would weigh more": each[learnt].sum(),
            "it is divided by the number of all tokens, and not by that of those that count":
                each[learnt].sum() / learnt.numel(),
            "`says` goes with the token that is guessed, and not with the one before it": each[says[:, :-1]].mean(),
            "each row has a mean of its own, and these are averaged: a token would count more in a row with few":
                torch.stack([row[yes].mean() for row, yes in zip(each, learnt) if yes.any()]).mean(),
        }, "it should be the mean cross entropy of the tokens with `says`, each guessed from the one before it.")
        with torch.enable_grad():
            demand(mine(logits.clone().requires_grad_(), ids, says).requires_grad,
                   "nothing can be learnt from it: the logits' gradient is cut off.")


@hints(
    "Stories of different lengths lie in one row, end to end. What has to be known of them besides the tokens?",
    "Where each ends: the sums of the lengths so far, with a zero in front. And the first token of a story must not be "
    "guessed from the last one of the story before it: it is not to be learnt, whatever `says` says.",
    "Join the ids of all rows to one list, and the says likewise, with False in place of each row's first one. "
    "For the ends: [0], and then for each row the last end plus its length. torch.tensor of each; the first two with "
    "an axis of length 1 in front.",
)
def my_packing(mine):
    """texts end to end in one row, and no answer to another text's question"""
    cases = [[5, 3, 4], [2], [1, 6], [7, 7, 1, 2]]
    for lengths in cases:
        random = torch.Generator().manual_seed(sum(lengths))
        rows = [(torch.randint(1, 90, (n,), generator=random).tolist(),
                 (torch.rand(n, generator=random) < 0.6).tolist()) for n in lengths]
        for _, says in rows:
            says[0] = True                               # so that it shows who looks across the border
        ids, says, ends = parts(call(mine, rows), "ids", "says", "cu_seqlens")
        right_ids = torch.tensor([[id for row, _ in rows for id in row]])
        plain = torch.tensor([[yes for _, row in rows for yes in row]])
        right_ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()])
        starts = right_ends[:-1]
        right_says = plain.clone()
        right_says[0, starts] = False
        last = plain.clone()
        last[0, right_ends[1:] - 1] = False
        if isinstance(ids, torch.Tensor):
            demand(ids.shape != right_ids.shape[1:], "ids is one row: give it an axis of length 1 in front.")
        compare(ids, right_ids, {}, "ids should be all tokens, story after story.", what="ids")
        if isinstance(ends, torch.Tensor):
            demand(tuple(ends.shape) != (len(lengths),),
                   "cu_seqlens begins with 0 and ends with the number of all tokens: one number more than stories.")
        compare(ends, right_ends.to(getattr(ends, "dtype", torch.int64)), {
            "these are the lengths: cu_seqlens has their sums so far": torch.tensor([0, *lengths]),
            "these are the places of the last tokens: a story ends before the next one begins":
                torch.tensor([0, *(right_ends[1:] - 1).tolist()]),
        }, "cu_seqlens should be 0, and after each story the number of tokens so far.", what="cu_seqlens")
        demand(ends.dtype in (torch.int32, torch.int64),
               "cu_seqlens counts tokens: whole numbers are wanted, int32 or int64.")
        compare(says, right_says, {
            "the first token of a story is learnt, from the last one of the story before it, which knows nothing of it":
                plain,
            "the last token of a story is not learnt: it is the first one that must not be": last,
        }, "says should be each story's own, but False at each first token.", what="says")


@hints(
    "The length that counts is that of all gradients together, as if they were one long vector.",
    "Sum the squares of all numbers in all tensors, and take the root of that. If it is above `most`, multiply every "
    "tensor by most over it; else leave them.",
    "length = sum of x.square().sum() over all of them, .sqrt(). The factor is (most / length).clamp(max=1). "
    "Give back a list of new tensors, and the length before.",
)
def my_clip(mine):
    """never a longer step than that, and in the same direction"""
    random = torch.Generator().manual_seed(0)
    for shapes, size, most in ((((3, 4), (5,), (2, 2, 3)), 10.0, 1.0), (((6,),), 0.01, 1.0), (((4, 4), (3,)), 2.0, 0.5),
                               (((2, 3), (7,)), 0.5, 4.0)):
        gradients = [size * torch.randn(*shape, generator=random) for shape in shapes]
        found, length = parts(call(mine, gradients, most), "gradients", "length")
        demand(isinstance(found, (list, tuple)) and len(found) == len(gradients),
               "as many gradients are wanted as there were, in a list.")
        right = torch.stack([x.norm() for x in gradients]).norm()
        demand(isinstance(length, torch.Tensor) and length.shape == (), "length should be a tensor of one number.")
        compare(length, right, {
            "length is squared: take the root": right ** 2,
            "length is the sum of the tensors' lengths: squares are summed, and then comes the root":
                torch.stack([x.norm() for x in gradients]).sum(),
            "length is that after clipping: the one before it is wanted": right.clamp(max=most),
        }, "length should be the root of the sum of all squares.", what="length")
        factor = (most / right).clamp(max=1)
        for ours, x in zip(found, gradients):
            compare(ours, factor * x, {
                "each tensor is clipped by itself: their lengths to each other would change, and the direction":
                    x * (most / x.norm()).clamp(max=1),
                "gradients that are short enough are stretched: they stay as they are": x * most / right,
                "each number is clamped: the direction changes": x.clamp(-most, most),
                "nothing is clipped": x,
            }, "each gradient should be multiplied by most / length where that is below 1.", what="a gradient")
    found, _ = parts(call(mine, [torch.zeros(3)], 1.0), "gradients", "length")
    demand(found[0].isfinite().all(), "gradients of zeros become nan: nothing is to be divided by 0.")


@hints(
    "Two averages go along with each number: of its gradient, and of the gradient's square. What are they divided by "
    "at first?",
    "m = b1 m + (1 - b1) g and s = b2 s + (1 - b2) g^2. Both begin at 0, so they are too small at first: divide m by "
    "1 - b1^step and s by 1 - b2^step. The step is lr times m over (root of s, plus eps). Before it, and apart from "
    "it, the weight is multiplied by 1 - lr decay.",
    "m and s as above, as new tensors; w * (1 - lr * decay) - lr * (m / (1 - b1 ** step)) / ((s / (1 - b2 ** "
    "step)).sqrt() + eps). Return w, m, s.",
)
def my_adamw(mine):
    """a step of its own for each number, as long as its gradients are steady"""
    random, eps = torch.Generator().manual_seed(0), 1e-3
    for shape, step, lr, betas, decay in (((3, 4), 1, 0.1, (0.9, 0.95), 0.0), ((5,), 7, 0.02, (0.8, 0.99), 0.3),
                                          ((2, 2, 2), 3, 0.05, (0.9, 0.95), 0.1)):
        w, g, m = torch.randn(3, *shape, generator=random)
        s = torch.rand(shape, generator=random) + 0.1
        if step == 1:
            m, s = torch.zeros_like(m), torch.zeros_like(s)
        b1, b2 = betas
        new = parts(call(mine, w, g, m, s, step, lr, betas, eps, decay), "w", "m", "s")

        def moments(b1=b1, b2=b2, g=g, m=m, s=s):
            return b1 * m + (1 - b1) * g, b2 * s + (1 - b2) * g * g

        def stepped(m, s, w=w, lr=lr, decay=decay, outside=True, root=True, fair=(1 - b1 ** step, 1 - b2 ** step)):
            m, s = m / fair[0], s / fair[1]
            down = m / (s.sqrt() + eps if outside else (s + eps).sqrt()) if root else m / (s + eps)
            return w * (1 - lr * decay) - lr * down

        right = moments()
        with_decay = moments(g=g + decay * w)[0] if decay else new[1] + 1
        compare(new[1], right[0], {
            "the decay goes with the gradient, and so through the averages: that is Adam with L2, not AdamW":
                with_decay,
            "m has the new gradient as it is: only a share of 1 - beta is new": b1 * m + g,
            "m has the wrong beta: the first one is its": moments(b1=b2)[0],
            "m forgets too much: beta is the share that stays": (1 - b1) * m + b1 * g,
        }, "m should be b1 times itself and 1 - b1 times the gradient.", what="m")
        compare(new[2], right[1], {
            "s averages the gradient, and not its square": b2 * s + (1 - b2) * g,
            "s has the wrong beta: the second one is its": moments(b2=b1)[1],
            "s averages the gradient's size, and not its square": b2 * s + (1 - b2) * g.abs(),
        }, "s should be b2 times itself and 1 - b2 times the square of the gradient.", what="s")
        compare(new[0], stepped(*right), {
            "the averages are too small at first: divide them by 1 - beta ** step": stepped(*right, fair=(1, 1)),
            "nothing decays": stepped(*right, decay=0.0) if decay else stepped(*right) + 1,
            "the decay has no learning rate": (1 - decay) * w + stepped(*right) - (1 - lr * decay) * w
                if decay else stepped(*right) + 1,
            "eps is under the root: it is added to the root": stepped(*right, outside=False),
            "the root is missing": stepped(*right, root=False),
            "it goes up the gradient, and not down": 2 * (1 - lr * decay) * w - stepped(*right),
        }, "w should shrink by lr decay, and then go lr m / (root of s + eps), both averages made fair.", what="w")


NEWTON_SCHULZ = 3.4445, -4.7750, 2.0315


def _orthogonal(x, steps, factors=NEWTON_SCHULZ, flip=True, first=True):
    a, b, c = factors
    tall = flip and len(x) > x.shape[1]
    x = x.mT if tall else x
    x = x / x.norm().clamp(min=1e-7) if first else x
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


@hints(
    "A matrix turns, stretches along some directions, and turns again. Only the stretching is to go: all singular "
    "values are to become about 1. How can products alone do that?",
    "Divide the matrix by its length first (the root of the sum of its squares), so that no singular value is above 1. "
    "Then, again and again, X becomes a X + b (X X^T) X + c (X X^T)^2 X: each singular value s becomes a s + b s^3 + "
    "c s^5, which leads to the neighbourhood of 1.",
    "x = G / G.norm(); then, for each of the steps, gram = x @ x.mT: with it the new x is a times x, and what b gram "
    "and c gram @ gram make together of x. For a tall matrix take the transpose first, and transpose the result back: "
    "the products are smaller.",
)
def my_orthogonal(mine):
    """all directions alike: the singular values are about 1, the turns as they were"""
    random = torch.Generator().manual_seed(0)
    for shape, size in (((4, 6), 1.0), ((7, 3), 30.0), ((5, 5), 1e-3)):
        G = size * torch.randn(*shape, generator=random)
        found = call(mine, G, 5)
        right = _orthogonal(G, 5)
        U, _, V = torch.linalg.svd(G, full_matrices=False)
        compare(found, right, {
            "the matrix is not divided by its length first: its singular values must be below 1":
                _orthogonal(G, 5, first=False),
            "one step less than there should be": _orthogonal(G, 4),
            "it is only divided by its length": G / G.norm(),
            "the singular values are exactly 1: that is what the products come close to, and a decomposition costs "
            "much more": U @ V,
            "a and c are swapped": _orthogonal(G, 5, NEWTON_SCHULZ[::-1]),
            "the sign of b is lost: it is negative": _orthogonal(G, 5, (3.4445, 4.7750, 2.0315)),
            "the last term is missing, c (X X^T)^2 X": _orthogonal(G, 5, (3.4445, -4.7750, 0.0)),
        }, "it should be the matrix over its length, and then `steps` times a X + b (X X^T) X + c (X X^T)^2 X.",
            tolerance=1e-3)
        values = torch.linalg.svdvals(found)
        demand(values.min() > 0.3 and values.max() < 1.4, "its singular values should be about 1.")
    for steps in (1, 3):
        G = torch.randn(6, 4, generator=random)
        compare(call(mine, G, steps), _orthogonal(G, steps), {
            "the number of steps is known by heart: it comes as an argument": _orthogonal(G, 5)},
            "another number of steps should be done when it is asked for.", tolerance=1e-3)
    demand(call(mine, torch.zeros(3, 5), 5).isfinite().all(), "a matrix of zeros becomes nan: keep its length away "
                                                              "from 0.")


@hints(
    "Cut the curve in two at some place. How well does one number say the first part, and another one the second?",
    "The best number for a part is its mean, and what it gets wrong is the sum of the squares of the differences. Try "
    "every place for the cut, and take the one where both parts together get the least wrong.",
    "For each i from 1 to len(values) - 1: ((a - a.mean()) ** 2).sum() of a = values[:i], and the same of values[i:], "
    "added. Return the i where that is smallest, as an int.",
)
def my_jump(mine):
    """the cut that leaves the least unexplained"""
    curves = [[0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1], [0.1, 0, 0.2, 0.1, 0.8, 0.9, 0.95, 1], [5, 5, 5, 1],
              [-0.2, -0.2, 0.3, 0.5, 0, 0.4, 1, 0.4, 1.1, 1.1], [0.1, 0.4, 0.7, 0.7, 1.3, 1, 0.7],
              [-0.3, 0, 0.3, 0.4, 0.9], [1, 0.7, 0.1, 0.3, 0.8]]

    def cut(x, wrong=lambda part: ((part - part.mean()) ** 2).sum(), best=min):
        return best(range(1, len(x)), key=lambda i: (wrong(x[:i]) + wrong(x[i:])).item())

    found = [call(mine, torch.tensor(curve).float()) for curve in curves]
    for place in found:
        demand(type(place) is int, f"a place is wanted, an int, and not a {type(place).__name__}.")
    slips = {
        "it is the largest step from one number to the next, which noise has, too":
            lambda x: int((x[1:] - x[:-1]).argmax()) + 1,
        "it is the first place above the middle between the lowest and the highest, which one odd number decides":
            lambda x: int((x > (x.min() + x.max()) / 2).float().argmax()),
        "the place is one too far to the left: it is where the second part begins": lambda x: cut(x) - 1,
        "the differences are summed as they are: square them": lambda x: cut(x, lambda p: (p - p.mean()).abs().sum()),
        "each part has a mean of its squares, so that a long part counts no more than a short one: sum them":
            lambda x: cut(x, lambda p: ((p - p.mean()) ** 2).mean()),
        "it is where the most is left unexplained": lambda x: cut(x, best=max),
    }
    for slip, wrong in slips.items():
        demand(found != [wrong(torch.tensor(curve).float()) for curve in curves], f"{slip}.")
    for curve, place in zip(curves, found):
        right = cut(torch.tensor(curve).double())
        demand(place == right, f"in {curve} the parts lie closest about their means if the second one begins at "
                               f"{right}, and not at {place}.")

