"""Lesson 04: the gated delta rule in chunks, from the corrections of one chunk to the function that the model runs."""

import itertools

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ...delta_rule import recurrent_gated_delta_rule
from ...verify import error, rule_inputs
from ..judging import call, compare, demand, hints, near, parts
from .delta_rule import judge_delta_rule, judge_gradients

SIZES = (((), 12, 8, 6), ((), 1, 4, 3), ((3,), 5, 4, 4), ((2, 3), 5, 3, 7))         # in front, C, Dk, Dv
LONG = (), 100, 8, 6


def _chunk(front, C, Dk, Dv, strength=1.0, dtype=torch.float64, lean=0.5):
    """Tokens of a chunk whose keys `lean` one way, and the memory before it: q, k, v, g, beta, S."""
    options = {"generator": torch.Generator().manual_seed(C), "dtype": torch.float64}
    q, k = F.normalize(torch.randn(2, *front, C, Dk, **options) + lean, dim=-1)
    v, S = torch.randn(*front, C, Dv, **options), torch.randn(*front, Dk, Dv, **options)
    g, beta = -strength * torch.rand(*front, C, **options), 0.8 * torch.rand(*front, C, **options) + 0.1
    return [x.to(dtype) for x in (q, k, v, g, beta, S)]


def _decay(g):
    c = g.cumsum(-1)
    difference = c[..., :, None] - c[..., None, :]
    return difference.masked_fill(torch.ones_like(difference, dtype=torch.bool).triu(1), -torch.inf).exp()


def _solve(L, right, diagonal=None):
    """U with L U = right; only what is below the diagonal of L is read."""
    diagonal = torch.ones_like(L[..., 0]) if diagonal is None else diagonal
    return torch.linalg.solve_triangular(L.tril(-1) + torch.diag_embed(diagonal), right, upper=False)


@hints(
    "Two matrices are needed, L and the right side, and one call that solves the system. L needs all products of two "
    "keys; the right side needs what the memory answers to all keys.",
    "Row i of K K^T times beta_i: beta has to stand as a column, beta[..., None]. The answers to all keys are k @ S. "
    "What is on the diagonal or above it need not be taken away, if you tell the solver.",
    "torch.linalg.solve_triangular(L, right, upper=False, unitriangular=True) takes the diagonal for ones and reads "
    "only what is below it. k.mT transposes the last two axes, whatever stands in front.",
)
def my_corrections(mine):
    """one product, one solve: all corrections of the chunk"""
    for sizes in SIZES:
        _, k, v, _, beta, S = _chunk(*sizes)
        likeness, b, lacks = k @ k.mT, beta[..., None], v - k @ S
        compare(call(mine, k, v, beta, S), _solve(b * likeness, b * lacks), {
            "L is without beta: token i takes back only beta_i of what was there": _solve(likeness, b * lacks),
            "in L it is the rows that are multiplied by beta: beta[..., None]":
                _solve(beta[..., None, :] * likeness, b * lacks),
            "the right side lacks beta: only beta_i of the error is written": _solve(b * likeness, lacks),
            "what the memory knew before the chunk is missing: its answers K S": _solve(b * likeness, b * v),
            "the memory's answers K S are taken from V, not added to it": _solve(b * likeness, b * (v + k @ S)),
            "these are the right sides: the tokens of the chunk do not know of each other yet": b * lacks,
            "the diagonal of L is counted twice: tril(..., -1) leaves it out":
                _solve(b * likeness, b * lacks, 1 + beta),
            "the diagonal of L must be ones: add I, or say unitriangular=True": _solve(b * likeness, b * lacks, beta),
            "the tokens look into the future: L is lower triangular, upper=False":
                _solve((b * likeness).flip(-1, -2), (b * lacks).flip(-2)).flip(-2),
            "you multiplied by L: the system has to be solved": b * lacks + (b * likeness).tril(-1) @ (b * lacks),
        }, "these are not the corrections: compare L and the right side with the box above, entry by entry.", "U",
            tolerance=1e-8)
    _, k, v, _, beta, S = _chunk(*LONG, lean=4)
    b = beta[..., None]
    compare(call(mine, k, v, beta, S), _solve(b * (k @ k.mT), b * (v - k @ S)), what="U", tolerance=1e-8, otherwise=(
        "it is right for short chunks, but not for 100 tokens with keys much alike: solve the whole system."))


@hints(
    "c is a running sum, and the decay needs the difference of any two of its numbers: one c as a column, one as a row."
    " The future has to go. When?",
    "What is infinite cannot be mended afterwards, neither by a product with zero nor, on the way back, by tril. So "
    "put something into the places above the diagonal while they are still differences, and let exp make zeros of it.",
    "c[..., :, None] - c[..., None, :] has all differences; torch.ones_like(...).triu(1) marks the future, and "
    "x.masked_fill(where, value) fills it in. Which value has an exponential of zero?",
)
def my_decay_matrix(mine):
    """right with any gates, forwards and backwards"""
    for front, C, *_ in SIZES:
        g = _chunk(front, C, 1, 1)[3]
        decay, past = call(mine, g), torch.ones(C, C, dtype=g.dtype).tril()
        c = g.cumsum(-1)
        before = c - g                                  # without the token's own gate
        sums, alone = (x[..., :, None] - x[..., None, :] for x in (c, g))
        compare(decay, _decay(g), {
            "the future is still in it: the decay is 0 above the diagonal": sums.exp(),
            "rows and columns are swapped: row i is the token that reads": _decay(g).mT,
            "its sign is turned round: what was written fades, it does not grow": (-past * sums).exp() * past,
            "g has to be summed up first": (past * alone).exp() * past,
            "what is masked should be 0, and exp(0) is 1": (past * sums).exp(),
            "a token's own gate does not touch what it writes: the memory fades first":
                (past * (c[..., :, None] - before[..., None, :])).exp() * past,
            "the reader's own gate is missing: the memory fades before it is read":
                (past * (before[..., :, None] - c[..., None, :])).exp() * past,
            "this is the difference itself: take the exponential": past * sums,
        }, "this is not exp(c_i - c_j) for j up to i, and 0 above.", "decay", tolerance=1e-8)
    with torch.enable_grad():
        g = torch.full((2, 64), -50.0, requires_grad=True)
        decay = mine(g)
        demand(decay.dtype == g.dtype, f"decay should be {g.dtype}, as g is, and not {decay.dtype}.")
        demand(decay.isfinite().all(), "with gates of -50 it is not finite: look for an exp(-c), or for a mask that "
                                   "multiplies infinity by 0.")
        demand(decay.requires_grad, "nothing can be learned through it: use g itself, no .detach(), .data or .item().")
        wrong, = torch.autograd.grad(decay.sum(), g)
        demand(wrong.isfinite().all(), "forwards it is right, but with gates of -50 its gradient is not a number: "
                                       "mask before the exponential.")
        g = torch.linspace(-1, 0, 5, dtype=torch.float64).requires_grad_()
        weights = torch.linspace(-1, 1, 25, dtype=torch.float64).view(5, 5)
        found, right = (torch.autograd.grad((weights * make(g)).sum(), g)[0] for make in (mine, _decay))
        demand(near(error(found, right), 1e-8), "the decay is right, but its gradient is not: it has to come from g, "
                                                "and all of it.")


@hints(
    "The box has four lines. You have the pieces of two: my_decay_matrix, and the solve of exercise 1, now with the "
    "decay in L and with e^c before K S.",
    "c = g.cumsum(-1), as a column c[..., None], says how much of the start each token finds. The answers have two "
    "parts, of the start and of the chunk; the memory at the end has two parts, too.",
    "(q @ k.mT) * decay needs no mask more, decay has one. In the last line the start fades by the last entry of c, "
    "and each correction by the last row of the decay, taken as a column: decay[..., -1, :, None].",
)
def my_chunk(mine):
    """the answers of a whole chunk and the memory after it, with any gates"""
    for sizes, strength in itertools.product(SIZES, (1.0, 50.0, 0.0)):
        _judge_chunk(mine, _chunk(*sizes, strength))
    _judge_chunk(mine, _chunk(*LONG, strength=0.01, lean=4), (
        "it is right for short chunks, but not for 100 tokens with keys much alike: solve the whole system."))
    x = _chunk((), 64, 16, 16, 50.0, torch.float32)
    for found, right in zip(call(mine, *x), call(mine, *(y.double() for y in x))):
        demand(found.isfinite().all() and near(error(found, right), 1e-3),
               "it is right in float64, and breaks in float32 with gates of -50: look for an exp(-c).")
    with torch.enable_grad():
        leaves = [y.requires_grad_() for y in x]
        loss = sum(y.square().sum() for y in mine(*leaves))
        demand(loss.requires_grad, "nothing can be learned through it: no .detach(), .data or .item().")
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        demand(all(y is not None and y.isfinite().all() for y in found),
               "forwards it is right, but with gates of -50 a gradient is not a number, or missing.")


def _judge_chunk(mine, x, otherwise="these are not the answers: compare each line with the box."):
    q, k, v, g, beta, S = x
    o, after = parts(call(mine, *x), "o", "the memory after the chunk")
    c, decay, b, likeness = g.cumsum(-1)[..., None], _decay(g), beta[..., None], k @ k.mT
    last, ones = c[..., -1:, :], torch.ones_like(c)
    fade, left = c.exp(), (last - c).exp()              # until a token finds it; until the chunk is over
    lacks = b * (v - fade * (k @ S))
    U = _solve(b * likeness * decay, lacks)

    def read(start, decay, U):
        return start * (q @ S) + ((q @ k.mT) * decay) @ U

    def hand_on(start, written):
        return start * S + k.mT @ (written * U)

    compare(o, read(fade, decay, U), {
        "what was there before the chunk is not read": read(0, decay, U),
        "what was there before has faded by e^c when token i reads it": read(1, decay, U),
        "what the chunk has written fades, too: Q K^T is weighed by the decay":
            read(fade, torch.ones_like(decay).tril(), U),
        "a token reads right after it has written: the diagonal belongs to Q K^T": read(fade, decay.tril(-1), U),
        "tokens read what later ones write: nothing may be left above the diagonal":
            read(fade, torch.ones_like(decay), U),
        "what the chunk has written is not read": read(fade, 0 * decay, U),
        "in L each likeness is weighed by the decay": read(fade, decay, _solve(b * likeness, lacks)),
        "when the memory before the chunk is asked it has faded by e^c: the right side needs that":
            read(fade, decay, _solve(b * likeness * decay, b * (v - k @ S))),
        "these are the right sides and not the corrections: the system has to be solved": read(fade, decay, lacks),
        "the system has no gates in it, neither in L nor on the right side":
            read(fade, decay, _solve(b * likeness, b * (v - k @ S))),
        "the query is scaled later: leave that out here": read(fade, decay, U) * q.shape[-1] ** -0.5,
    }, otherwise, "o", tolerance=1e-8)
    compare(after, hand_on(last.exp(), left), {
        "what was there before the chunk is lost: the memory has to be handed on": hand_on(0, left),
        "what was there before fades by all gates of the chunk, exp(c_last)": hand_on(1, left),
        "what was there before fades by all gates, not by the last one alone": hand_on(g[..., -1:, None].exp(), left),
        "what was written fades as well, by the gates that came after it": hand_on(last.exp(), ones),
        "nothing fades in the memory that is handed on": hand_on(1, ones),
        "what token j wrote fades by the gates after it, exp(c_last - c_j), not by exp(c_j)":
            hand_on(last.exp(), fade),
        "what a token writes does not fade by its own gate": hand_on(last.exp(), left * g[..., None].exp()),
        "what was written fades by the gates that came after it, not by all of them": hand_on(last.exp(), last.exp()),
        "what was written is lost: add K^T U": hand_on(last.exp(), 0 * ones),
        "the memory is as it was before the chunk": S,
    }, "o is right, but this is not what the chunk leaves behind: compare with the last line of the box.",
        "the memory after the chunk", tolerance=1e-8)


@hints(
    "It is bookkeeping around my_chunk: heads repeated in blocks, the query scaled, heads before tokens, and a loop "
    "that hands the memory from chunk to chunk.",
    "With q, k, v as (B, Hv, T, D) and g, beta as (B, Hv, T), my_chunk takes a slice of tokens of all texts and heads "
    "at once. The last slice may be shorter. Collect the answers, and put them one after the other at the end.",
    "x.repeat_interleave(R, dim=2) and x.transpose(1, 2) bring the inputs into shape; for start in range(0, T, "
    "chunk_size) gives slices start : start + chunk_size; torch.cat(outputs, dim=2).transpose(1, 2) is o.",
)
def my_chunk_gated_delta_rule(mine):
    """chunks of any length give the numbers of the walk, and its gradients"""

    def rule(q, k, v, g, beta, initial_state=None, **options):
        begin = () if initial_state is None and not options else (initial_state,)
        return parts(call(mine, q, k, v, g, beta, *begin, **options), "o", "the state after the last token")

    judge_delta_rule(rule)
    random = torch.Generator().manual_seed(0)
    x, state = rule_inputs(2, 100, 2, 6, 8, 12, -1.0, random)
    right = recurrent_gated_delta_rule(*x, initial_state=state, output_final_state=True)
    for chunk_size in (64, 1, 7, 100, 128):
        for what, found, exact in zip(("o", "the state"), rule(*x, state, chunk_size=chunk_size), right):
            demand(found.shape == exact.shape,
                   f"100 tokens in chunks of {chunk_size}: {what} should have the shape {tuple(exact.shape)}, and not "
                   f"{tuple(found.shape)}.")
            demand(found.dtype == exact.dtype, f"{what} should be {exact.dtype}, as v is, and not {found.dtype}.")
            demand(near(error(found, exact), 1e-10),
                   f"100 tokens in chunks of {chunk_size}: {what} is not that of the walk.")
    steps = {chunk_size: _asked(mine, *x, chunk_size=chunk_size) for chunk_size in (5, 64)}
    demand(steps[64] < 500, "it is right, but walks from token to token: take a whole chunk at once, by my_chunk.")
    demand(steps[5] > 2 * steps[64], "chunk_size makes no difference: cut the text into chunks of so many tokens, or a "
                                     "long one costs as much as attention.")
    judge_gradients(rule)


def _asked(function, *given, **named) -> int:
    """How many operations it asks of PyTorch."""
    asked = []

    class Counter(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, arguments=(), options=None):
            asked.append(operation)
            return operation(*arguments, **(options or {}))

    with Counter():
        function(*given, **named)
    return len(asked)
