"""Lesson 03: the delta rule, from a single step to the function that the model runs."""

import torch
from torch.nn import functional as F

from ...delta_rule import effective_attention, recurrent_gated_delta_rule
from ...verify import error, rule_inputs
from ..judging import call, compare, demand, hints, near, parts
from .delta_rule import judge_delta_rule

SIZES = ((4, 6), (8, 3), (5, 5), (1, 2))                # Dk, Dv


def _one_token(Dk, Dv):
    """A memory, and a token that comes: S (Dk, Dv), k (Dk,) of length 1, v (Dv,), g, beta."""
    random = torch.Generator().manual_seed(Dk)
    S, k, v = (torch.randn(*shape, generator=random) for shape in ((Dk, Dv), (Dk,), (Dv,)))
    g, beta = -2 * torch.rand((), generator=random) - 0.1, 0.8 * torch.rand((), generator=random) + 0.1
    return S, F.normalize(k, dim=0), v, g, beta


def _mend(S, k, v, beta):
    return S + torch.outer(k, beta * (v - k @ S))


@hints(
    "Before you write, ask: what does the memory answer to this key now? Section 1 has a function for that.",
    "What the answer lacks is v minus the answer. Take the share beta of it; then write it under the key as section 1 "
    "writes a value.",
    "k @ S is the old answer, a row of Dv numbers. With u for beta times what it lacks, torch.outer(k, u) is what has "
    "to be added to S.",
)
def my_delta_step(mine):
    """it asks before it writes, and mends only what is wrong"""
    for sizes in SIZES:
        S, k, v, _, beta = _one_token(*sizes)
        answer = k @ S
        found = call(mine, S, k, v, beta)
        demand(getattr(found, "shape", None) != v.shape,
               "these are numbers of one value, such as u: write it under the key, and return the whole memory.")
        compare(found, _mend(S, k, v, beta), {
            "values are added and old ones never erased: write what the answer lacks, not v":
                S + torch.outer(k, beta * v),
            "beta is not used: it says how much of the error is mended": _mend(S, k, v, 1),
            "beta weakens the new value alone: the old answer goes by the same share":
                S + torch.outer(k, beta * v - answer),
            "beta weakens the erasing alone: the new value comes by the same share":
                S + torch.outer(k, v - beta * answer),
            "the whole memory fades by beta: only what stands under this key may go":
                (1 - beta) * S + torch.outer(k, beta * v),
            "what the memory knew is lost: add the correction to S": torch.outer(k, beta * (v - answer)),
            "the old answer is added, and should be taken away": S + torch.outer(k, beta * (v + answer)),
            "the correction is taken away, and should be added": S - torch.outer(k, beta * (v - answer)),
            "the memory is as it was: nothing is written": S,
        }, "this is not the memory with the correction in it: compare it with the two formulas above, row by row.",
            "the memory")
        compare(call(mine, S, 1.5 * k, v, beta), _mend(S, 1.5 * k, v, beta), what="the memory", otherwise=(
            "it is right for keys of length 1 alone: take the key as it is, and divide by nothing."))


@hints(
    "Two knobs: g says what happens to everything, beta what happens under the token's own key. Which of them is the "
    "wish about?",
    "g is a logarithm. To keep all is alpha = 1, and the logarithm of 1 is 0. To wipe out all is alpha = 0, and a g "
    "far below zero comes near enough. To halve is the logarithm of one half.",
    "beta is 0 where nothing may be written, and 1 where the answer has to be exactly the value. For g take 0, "
    "math.log(1 / 2), or -50.",
)
def my_knobs(mine):
    """a token can be ignored, replace a fact, let all fade, and begin a new story"""
    S, v = torch.tensor([[3.0, -1.0], [2.0, 4.0]]), torch.tensor([7.0, 5.0])        # the token's key is row 0
    wanted = {                                          # wish: row 0 and row 1 afterwards
        "ignore": (S[0], S[1]),
        "replace": (v, S[1]),
        "fade": (S[0] / 2, S[1] / 2),
        "new story": (v, 0 * S[1]),
    }
    for wish, (own, other) in wanted.items():
        g, beta = (float(knob) for knob in parts(call(mine, wish), "g", "beta"))
        demand(g <= 0, f"{wish}: with g above 0 the memory would grow; g is the logarithm of alpha.")
        demand(0 <= beta <= 1, f"{wish}: beta lies between 0, write nothing, and 1, mend all.")
        demand(not (wish == "fade" and g == -0.5), "fade: g is a logarithm, so ask which power of e is one half.")
        after = _mend(torch.tensor(g).exp() * S, torch.tensor([1.0, 0.0]), v, beta)
        demand(torch.allclose(after[1], other, atol=1e-4),
               f"{wish}: what stands under another key is not as it was wished; look at g.")
        demand(torch.allclose(after[0], own, atol=1e-4),
               f"{wish}: the answer to the token's own key is not as it was wished; look at beta.")


@hints(
    "It is the delta step with one thing before it. What is the first of the four lines?",
    "First the whole memory fades by the exponential of g. From then on there is only the faded memory: the answer, "
    "and what is written, belong to it.",
    "g.exp() * S is what is left. Hand that to my_delta_step, or write its two lines again with it in place of S.",
)
def my_gated_delta_step(mine):
    """the memory fades, then it is asked, then it is mended"""
    for sizes in SIZES:
        S, k, v, gentle, beta = _one_token(*sizes)
        for g in (gentle, 0 * gentle, -50 + gentle):
            alpha = g.exp()
            compare(call(mine, S, k, v, g, beta), _mend(alpha * S, k, v, beta), {
                "nothing fades: multiply the memory by the exponential of g": _mend(S, k, v, beta),
                "the error is taken before the memory has faded: fading comes first":
                    alpha * S + torch.outer(k, beta * (v - k @ S)),
                "the new value fades as well: fading comes first, then writing": alpha * _mend(S, k, v, beta),
                "g is the logarithm of what stays: take its exponential": _mend(g * S, k, v, beta),
                "1 + g is near the exponential for a small g alone": _mend((1 + g) * S, k, v, beta),
                "beta is not used: it says how much of the error is mended": _mend(alpha * S, k, v, 1),
                "values are added and old ones never erased: write what the answer lacks, not v":
                    alpha * S + torch.outer(k, beta * v),
            }, "this is not the memory after the token: fade, ask, mend, in this order.", "the memory")


@hints(
    "Walk through the tokens as my_gated_delta_memory does. What is new: every token reads, and every product has "
    "the axes of texts and heads in front.",
    "Repeat q and k, so that each value head has its own: in blocks, 0 0 0 1 1 1. Scale q. Then, at each token, fade, "
    "ask, mend, read; einsum does each for all texts and heads at once.",
    "With S (B, Hv, Dk, Dv): g[:, t, :, None, None].exp() fades it; 'bhkv, bhk -> bhv' asks it with k[:, t] or "
    "q[:, t], and 'bhk, bhv -> bhkv' is the outer product. x.repeat_interleave(R, dim=2) repeats heads; "
    "v.new_zeros(...) is an empty memory of v's dtype.",
)
def my_gated_delta_rule(mine):
    """many texts and heads at once, from any memory, with any gates"""

    def rule(q, k, v, g, beta, initial_state=None):
        begin = () if initial_state is None else (initial_state,)
        return parts(call(mine, q, k, v, g, beta, *begin), "o", "the state after the last token")

    judge_delta_rule(rule)
    x, state = rule_inputs(1, 5, 1, 2, 3, 4, -2.0, torch.Generator().manual_seed(0))
    right = recurrent_gated_delta_rule(*x, initial_state=state, output_final_state=True)
    for what, found, exact in zip(("o", "the state"), rule(*x, state), right):
        demand(found.dtype == exact.dtype and near(error(found, exact), 1e-12),
               f"given float64, {what} has fewer digits than that: make new tensors like v, by v.new_zeros(...) or "
               f"torch.zeros_like(v).")
    x, state = rule_inputs(1, 5, 1, 2, 3, 4, -50.0, torch.Generator().manual_seed(0))
    right = recurrent_gated_delta_rule(*x, initial_state=state)[0]
    demand(near(error(rule(*x, state)[0], right), 1e-12), "with gates of -50 it is nearly right: use each g as it is.")


@hints(
    "The rule is linear in v: whatever keys and gates do, each answer is a sum of values, each times a number. You "
    "are looking for these numbers, and you may choose the values.",
    "Give token j a value that is one in place j and zero elsewhere. Then place j of an answer can only come from "
    "token j: the answer of token i is row i of A. The values are as wide as the text is long.",
    "The identity torch.eye(T, dtype=k.dtype) has these values as its rows; .view(1, T, 1, T) and .expand(B, T, Hv, T) "
    "give them to all texts and heads. my_gated_delta_rule answers (B, T, Hv, T); heads go before tokens.",
)
def my_effective_attention(mine):
    """how much of each token's value is in each answer"""
    for sizes in ((1, 7, 2, 4, 5, 1), (3, 4, 1, 3, 4, 1)):
        (q, k, _, g, beta), _ = rule_inputs(*sizes, -2.0, torch.Generator().manual_seed(sizes[1]))
        A, (B, T, Hv) = effective_attention(q, k, g, beta), g.shape
        found = call(mine, q, k, g, beta)
        demand(getattr(found, "shape", None) != (B, T, Hv, T) or T == Hv,
               "heads stand behind the token that reads: (B, Hv, T, T) is wanted.")
        per_key = Hv // k.shape[2]
        shared = [x.repeat_interleave(per_key, dim=2) for x in (q, k)]
        likeness = torch.einsum("bihk, bjhk -> bhij", *shared) * k.shape[-1] ** -0.5
        c = g.cumsum(1).transpose(1, 2)
        left = (c[..., :, None] - c[..., None, :]).exp().tril() * beta.transpose(1, 2)[:, :, None]
        compare(found, A, {
            "rows and columns are swapped: row i is the token that reads": A.mT,
            "nothing is erased in it: let the rule itself make the table": likeness * left,
            "beta is missing": A / beta.transpose(1, 2)[:, :, None],
            "the query is not scaled": A * k.shape[-1] ** 0.5,
            "nothing fades in it": effective_attention(q, k, 0 * g, beta),
            "this is attention with a softmax: there is none here":
                likeness.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf).softmax(-1),
        }, "these are not the numbers A_ij: feed the rule values that give themselves away.", "A", tolerance=1e-8)
