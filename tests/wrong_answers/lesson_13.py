"""Wrong answers to the exercises of lesson 13."""

import torch
from torch.nn import functional as F

from . import slip, wrong

# ---- my_answer_loss

LOSS = "F.cross_entropy(logits[:, :-1][learnt], ids[:, 1:][learnt])"
slip("my_answer_loss", "it is not shifted", LOSS, "F.cross_entropy(logits[says], ids[says])")
slip("my_answer_loss", "the questions are learnt, too", "says[:, 1:]", "torch.ones_like(says[:, 1:])")
slip("my_answer_loss", "the other way round", "says[:, 1:]", "~says[:, 1:]")
slip("my_answer_loss", "the loss is a sum", "[learnt])", "[learnt], reduction='sum')")
slip("my_answer_loss", "not with the one before it", "says[:, 1:]", "says[:, :-1]")
slip("my_answer_loss", "one number is wanted", "[learnt])", "[learnt], reduction='none')")
slip("my_answer_loss", "number of all tokens", LOSS,
     "F.cross_entropy(logits[:, :-1][learnt], ids[:, 1:][learnt], reduction='sum') / learnt.numel()")
slip("my_answer_loss", "gradient is cut off", "[:, 1:][learnt])", "[:, 1:][learnt]).detach()")
slip("my_answer_loss", "changes says", "    learnt = says[:, 1:]", "    says[:, 0] = False\n    learnt = says[:, 1:]")


@wrong("my_answer_loss", "each row has a mean of its own")
def averages_row_by_row(logits, ids, says):
    rows = [F.cross_entropy(a[:-1][yes[1:]], b[1:][yes[1:]]) for a, b, yes in zip(logits, ids, says)]
    return torch.stack(rows).mean()


@wrong("my_answer_loss", "it should be the mean cross entropy")
def knows_that_there_is_one_row(logits, ids, says):
    learnt = says[0, 1:]
    return F.cross_entropy(logits[0, :-1][learnt], ids[0, 1:][learnt])


# ---- my_packing

OUT = "torch.tensor([ids]), torch.tensor([says]), torch.tensor(ends)"
slip("my_packing", "the first token of a story is learnt", "[False, *its_own[1:]]", "its_own")
slip("my_packing", "the last token of a story is not learnt", "[False, *its_own[1:]]", "[*its_own[:-1], False]")
slip("my_packing", "int32 or int64", "torch.tensor(ends)", "torch.tensor(ends).bool()")
slip("my_packing", "one number more than stories", "torch.tensor(ends)", "torch.tensor(ends[1:])")
slip("my_packing", "these are the lengths", "ends.append(len(ids))", "ends.append(len(row))")
slip("my_packing", "these are the places of the last tokens", "torch.tensor(ends)",
     "torch.tensor([0, *(end - 1 for end in ends[1:])])")
slip("my_packing", "ids is one row", "torch.tensor([ids])", "torch.tensor(ids)")
slip("my_packing", "whole numbers are wanted", "torch.tensor(ends)", "torch.tensor(ends).float()")
slip("my_packing", "says should be torch.bool", "torch.tensor([says])", "torch.tensor([says]).float()")
slip("my_packing", "3 things are wanted", OUT, "torch.tensor([ids]), torch.tensor([says])")
slip("my_packing", "changes rows", "        ids += row", "        its_own[0] = False\n        ids += row")


@wrong("my_packing", "ids should be all tokens, story after story")
def longest_first(rows):
    ids, says, ends = [], [], [0]
    for row, its_own in sorted(rows, key=lambda row: -len(row[0])):
        ids += row
        says += [False, *its_own[1:]]
        ends.append(len(ids))
    return torch.tensor([ids]), torch.tensor([says]), torch.tensor(ends)


# ---- my_clip

slip("my_clip", "length is squared", ".sqrt()", "")
slip("my_clip", "sum of the tensors' lengths", "sum(x.square().sum() for x in gradients).sqrt()",
     "sum(x.norm() for x in gradients)")
slip("my_clip", "that after clipping", "in gradients], length", "in gradients], length.clamp(max=most)")
slip("my_clip", "they stay as they are", ".clamp(max=1)", "")
slip("my_clip", "nothing is clipped", "[factor * x for x in gradients]", "list(gradients)")
slip("my_clip", "nan", "[factor * x for x in gradients]", "[x / length * length.clamp(max=most) for x in gradients]")
slip("my_clip", "changes gradients", "[factor * x for x in gradients]", "[x.mul_(factor) for x in gradients]")
slip("my_clip", "2 things are wanted", "], length", "]")


@wrong("my_clip", "each tensor is clipped by itself")
def each_by_itself(gradients, most):
    length = torch.stack([x.norm() for x in gradients]).norm()
    return [x * (most / x.norm().clamp(min=1e-12)).clamp(max=1) for x in gradients], length


@wrong("my_clip", "each number is clamped")
def number_by_number(gradients, most):
    return [x.clamp(-most, most) for x in gradients], torch.stack([x.norm() for x in gradients]).norm()


@wrong("my_clip", "multiplied by most / length")
def knows_that_one_is_the_most(gradients, most):
    length = torch.stack([x.norm() for x in gradients]).norm()
    return [x * (1 / length.clamp(min=1e-12)).clamp(max=1) for x in gradients], length


# ---- my_adamw

STEP = "w * (1 - lr * decay) - lr * fair_m / (fair_s.sqrt() + eps)"
slip("my_adamw", "m has the new gradient as it is", "+ (1 - betas[0]) * g", "+ g")
slip("my_adamw", "m forgets too much", "betas[0] * m + (1 - betas[0]) * g", "(1 - betas[0]) * m + betas[0] * g")
slip("my_adamw", "m has the wrong beta", "betas[0] * m + (1 - betas[0])", "betas[1] * m + (1 - betas[1])")
slip("my_adamw", "s has the wrong beta", "betas[1] * s + (1 - betas[1])", "betas[0] * s + (1 - betas[0])")
slip("my_adamw", "s averages the gradient, and not its square", "g.square()", "g")
slip("my_adamw", "s averages the gradient's size", "g.square()", "g.abs()")
slip("my_adamw", "too small at first", "m / (1 - betas[0] ** step), s / (1 - betas[1] ** step)", "m, s")
slip("my_adamw", "that is Adam with L2", "    m = betas[0] * m",
     "    g, decay = g + decay * w, 0\n    m = betas[0] * m")
slip("my_adamw", "nothing decays", "w * (1 - lr * decay)", "w")
slip("my_adamw", "the decay has no learning rate", "1 - lr * decay", "1 - decay")
slip("my_adamw", "eps is under the root", "(fair_s.sqrt() + eps)", "(fair_s + eps).sqrt()")
slip("my_adamw", "the root is missing", "(fair_s.sqrt() + eps)", "(fair_s + eps)")
slip("my_adamw", "it goes up the gradient", "- lr * fair_m", "+ lr * fair_m")
slip("my_adamw", "3 things are wanted", "+ eps), m, s", "+ eps)")
slip("my_adamw", "w should shrink", "** step), s / (1 - betas[1] ** step)", "), s / (1 - betas[1])")


# ---- my_orthogonal

slip("my_orthogonal", "not divided by its length first", "x / x.norm().clamp(min=1e-7)", "x")
slip("my_orthogonal", "one step less", "range(steps)", "range(steps - 1)")
slip("my_orthogonal", "only divided by its length", "range(steps)", "range(0)")
slip("my_orthogonal", "a and c are swapped", "a, b, c =", "c, b, a =")
slip("my_orthogonal", "the sign of b is lost", "-4.7750", "4.7750")
slip("my_orthogonal", "the last term is missing", " + c * gram @ gram", "")
slip("my_orthogonal", "known by heart", "range(steps)", "range(5)")
slip("my_orthogonal", "nan", ".clamp(min=1e-7)", "")
slip("my_orthogonal", "should have the shape", "return x.mT if tall else x", "return x")


@wrong("my_orthogonal", "a decomposition costs much more")
def takes_it_apart(G, steps):
    U, _, V = torch.linalg.svd(G, full_matrices=False)
    return U @ V


# ---- my_jump

slip("my_jump", "a place is wanted", "return min(", "return 1.0 * min(")
slip("my_jump", "square them", "((part - part.mean()) ** 2)", "(part - part.mean()).abs()")
slip("my_jump", "sum them", ".sum().item()", ".mean().item()")
slip("my_jump", "one too far to the left", "return min(", "return -1 + min(")
slip("my_jump", "the most is left", "return min(", "return max(")
slip("my_jump", "begins at", "part.mean()", "part.median()")
slip("my_jump", "begins at", "((part - part.mean()) ** 2).sum().item()", "part.std(correction=0).item() * len(part)")
slip("my_jump", "begins at", "range(1, len(values))", "range(1, min(4, len(values)))")


@wrong("my_jump", "the largest step from one number to the next")
def steepest(values):
    return int((values[1:] - values[:-1]).argmax()) + 1


@wrong("my_jump", "above the middle")
def half_way_up(values):
    middle = (values.min() + values.max()) / 2
    return int((values > middle).float().argmax())
