"""Lesson 02: attention with the softmax and without it."""

import torch
from torch.nn import functional as F

from ..judging import call, compare, demand, hints, parts

SIZES = ((1, 5, 4, 2, 8, 6), (3, 7, 6, 2, 4, 8), (1, 1, 2, 2, 4, 4))        # B, T, query heads, key heads, Dk, Dv


def _random_input(B, T, Hq, Hkv, Dk, Dv):
    random = torch.Generator().manual_seed(B * T)
    return [torch.randn(B, T, *shape, generator=random) for shape in ((Hq, Dk), (Hkv, Dk), (Hkv, Dv))]


def _scores(q, k, shared=torch.repeat_interleave):
    return torch.einsum("bihd, bjhd -> bhij", q, shared(k, q.shape[2] // k.shape[2], dim=2))


def _in_turn(x, times, dim):
    return x.repeat(1, 1, times, 1)                     # 0, 1, 0, 1 and not 0, 0, 1, 1


def _causal(scores, past=None):
    past = torch.ones_like(scores, dtype=torch.bool).tril() if past is None else past
    return scores.masked_fill(~past, -torch.inf).softmax(-1)


@hints(
    "What is forbidden has to be gone before the softmax divides by the sum: afterwards it has had its share already.",
    "What must a score be so that its exponential is zero? Put that in the places above the diagonal, then take the "
    "softmax of each row.",
    "torch.ones_like(scores).tril() is a triangle of ones, whatever stands in front of the last two axes; "
    "scores.masked_fill(where, value) makes a new table; -torch.inf is a value.",
)
def my_causal_weights(mine):
    """every token looks at itself and at the past, and never ahead"""
    example = torch.tensor([[2.0, 9.0, 9.0], [0.0, 1.0, 9.0], [3.0, 2.0, 1.0]])         # nobody may see the nines
    random = torch.Generator().manual_seed(0)
    for scores in (example, torch.randn(1, 1, generator=random), torch.randn(2, 3, 5, 5, generator=random)):
        past, whole = torch.ones_like(scores, dtype=torch.bool).tril(), scores.softmax(-1)
        weights = call(mine, scores)
        compare(weights, _causal(scores), {
            "you look ahead: nothing is masked": whole,
            "you mask after the softmax: the future is gone, but it has had its share": whole * past,
            "you multiply scores by zero: e to the 0 is 1, so the future still counts": (scores * past).softmax(-1),
            "you mask the past, and let the future stand": _causal(scores, past.mT),
            "your softmax runs down the columns: each row, a token that asks, has to sum to 1":
                scores.masked_fill(~past, -torch.inf).softmax(-2),
            "your tokens cannot see themselves: the diagonal is allowed": _causal(scores, past.tril(-1)),
            "these are masked scores: the softmax is missing": scores.masked_fill(~past, -torch.inf),
        }, "this is no softmax of the scores up to the diagonal: has something been scaled?", "the table of weights")
    compare(call(mine, 20 * example), _causal(20 * example), otherwise=(
        "with large scores in the future the past is lost: mask before the softmax, and there is nothing to repair."))
    compare(call(mine, 100 * example), _causal(100 * example), otherwise=(
        "e to the 300 is more than a computer can hold: leave the exponential to softmax, which knows a way around."))
    compare(call(mine, example - 100_000), _causal(example - 100_000), otherwise=(
        "with scores of -100 000 the future comes back: what is forbidden has to be lower than any score, -torch.inf."))


def _attended(q, k, v, is_causal=True):
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads_first, is_causal=is_causal, enable_gqa=True).transpose(1, 2)


def _read(states, q):
    return torch.einsum("bthkv, bthk -> bthv", states, q)


@hints(
    "A score is the product of a query and a key, and there is one for each pair of tokens, in each head: "
    "(B, Hq, T, T). Who asks stands before who is asked.",
    "There are fewer key heads than query heads. Repeat each key head as often as it is shared, in blocks: "
    "0, 0, 1, 1 and not 0, 1, 0, 1. And do not forget the scale.",
    "x.repeat_interleave(times, dim=2) repeats in blocks; torch.einsum('bihd, bjhd -> bhij', ...) multiplies each "
    "token i with each j; divide by the root of the width of a key, and hand it to my_causal_weights.",
)
def my_weights(mine):
    """scaled, causal, and with key heads that are shared in blocks"""
    for sizes in SIZES:
        q, k, _ = _random_input(*sizes)
        scores, Dk = _scores(q, k), q.shape[-1]
        compare(call(mine, q, k), _causal(scores * Dk**-0.5), {
            "the scale is missing: divide the scores by the root of Dk": _causal(scores),
            "you have scaled by Dk and not by its root": _causal(scores / Dk),
            "key heads are dealt out in turn, and should be in blocks": _causal(_scores(q, k, _in_turn) * Dk**-0.5),
            "all tokens can be seen, those ahead, too": (scores * Dk**-0.5).softmax(-1),
            "keys ask and queries answer: row i belongs to query i": _causal(scores.mT * Dk**-0.5),
            "these are scores: the softmax is missing": scores * Dk**-0.5,
        }, "these are not the weights: compare the scores of one head with q k^T by hand.", "the table of weights")


@hints(
    "The weights are there, by my_weights. What is left is the mixture of values: o_i is the sum of w_ij v_j over j.",
    "Values are shared by several query heads, as keys are, and must be repeated in the same blocks first.",
    "With weights (B, Hq, T, T) as b h i j and values (B, T, Hq, Dv) as b j h v the sum over j is one einsum. What "
    "comes out is (B, T, Hq, Dv) again, with the token before the head.",
)
def my_attention(mine):
    """the values of the past, mixed by the weights"""
    for sizes in SIZES:
        q, k, v = _random_input(*sizes)
        B, T, Hq, Hkv, Dk, Dv = sizes

        found = call(mine, q, k, v)
        demand(getattr(found, "shape", None) != (B, Hq, T, Dv) or T == Hq,
               "heads stand before tokens in what it returns: (B, T, Hq, Dv) is wanted.")
        each = v.repeat_interleave(Hq // Hkv, dim=2)
        weights = _causal(_scores(q, k) * Dk**-0.5)
        compare(found, _attended(q, k, v), {
            "you look ahead: a token may see itself and what came before": _attended(q, k, v, is_causal=False),
            "value heads are dealt out in turn, and should be in blocks":
                _attended(q, k.repeat_interleave(Hq // Hkv, dim=2), _in_turn(v, Hq // Hkv, 2)),
            "rows and columns of the weights are swapped: sum over j, the tokens that are looked at":
                torch.einsum("bhji, bjhv -> bihv", weights, each),
            "these are the token's own values: mix those of all tokens before it": each,
            "this is the plain mean of the values so far: weigh them by my_weights":
                each.cumsum(1) / torch.arange(1, T + 1)[:, None, None],
        }, "these are not the mixed values: o_i is the sum of w_ij v_j over j.", tolerance=1e-4)
    exact = [x.double() for x in _random_input(*SIZES[0])]
    compare(call(mine, *exact), _attended(*exact), what="of float64 numbers, what it returns", tolerance=1e-10)


@hints(
    "Walk through the tokens with one table S for each text and head, as in the three sentences above: write, then "
    "read. A state that you are given is where S begins; else it is all zeros.",
    "The outer product of k and v for all texts and heads at once is an einsum with no letter summed over: "
    "bhk and bhv make bhkv. Reading sums over k. The query has to be scaled.",
    "for t in range(T): make a new S from the old one plus the outer product of k[:, t] and v[:, t]; then o[:, t] is "
    "S asked with q[:, t] / Dk ** 0.5. Return o and the last S.",
)
def my_linear_attention(mine):
    """it writes, then it reads, and a text can go on later"""
    for B, T, H, _, Dk, Dv in SIZES:
        q, k, v = _random_input(B, T, H, H, Dk, Dv)
        given = torch.randn(B, H, Dk, Dv, generator=torch.Generator().manual_seed(T))
        for state in (None, given):
            before = torch.zeros_like(given) if state is None else state
            written = before[:, None] + torch.einsum("bthk, bthv -> bthkv", k, v).cumsum(1)     # (B, T, H, Dk, Dv)
            unread = torch.cat((before[:, None], written[:, :-1]), dim=1)
            o, last = parts(call(mine, q, k, v) if state is None else call(mine, q, k, v, state), "o", "S")

            demand(getattr(o, "shape", None) != given.shape, "first the answers, then the memory: return o, S.")
            compare(last, written[:, -1], {
                "you write over the memory: what was there has to stay": written[:, -1] - unread[:, -1],
                "the state that you were given is not in the one you return": written[:, -1] - before,
                "nothing is written into the memory that you return": before,
                "the last token is not written": unread[:, -1],
            }, "the memory at the end is not the sum of all k v^T.", "the memory")
            scaled, everything = q * Dk**-0.5, written[:, -1:].expand_as(written)
            compare(o, _read(written, scaled), {
                "you read before you write: a token finds its own value, too": _read(unread, scaled),
                "the query is not scaled: divide it by the root of Dk": _read(written, q),
                "you have scaled by Dk and not by its root": _read(written, q / Dk),
                "you read with the key: ask with the query": _read(written, k * Dk**-0.5),
                "every token reads the last memory, and so looks ahead": _read(everything, scaled),
                "the state that you were given is not read": _read(written - before[:, None], scaled),
                "a token reads only what it has written itself": _read(written - unread, scaled),
            }, "the answers are not S^T q, scaled.", "o")
    q, k, v = (x.double() for x in _random_input(2, 3, 2, 2, 4, 5))
    written = torch.einsum("bthk, bthv -> bthkv", k, v).cumsum(1)
    for what, found, right in zip(("o", "the memory"), parts(call(mine, q, k, v), "o", "S"),
                                  (_read(written, q * q.shape[-1] ** -0.5), written[:, -1])):
        compare(found, right, what=f"of float64 numbers, {what}", tolerance=1e-10)
