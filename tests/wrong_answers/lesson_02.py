"""Wrong answers to the exercises of lesson 02."""

import torch

from . import slip, wrong

# ---- my_causal_weights

@wrong("my_causal_weights", "look ahead")
def looks_ahead(scores):
    return scores.softmax(-1)


@wrong("my_causal_weights", "had its share")
def masks_afterwards(scores):
    return scores.softmax(-1).tril()


@wrong("my_causal_weights", "large scores in the future")
def masks_afterwards_and_divides_again(scores):
    weights = scores.softmax(-1).tril()
    return weights / weights.sum(-1, keepdim=True)


@wrong("my_causal_weights", "scores by zero")
def multiplies_by_zero(scores):
    return scores.tril().softmax(-1)


@wrong("my_causal_weights", "down the columns")
def down_the_columns(scores):
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-2)


@wrong("my_causal_weights", "cannot see themselves")
def without_the_diagonal(scores):
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(), -torch.inf).softmax(-1)


@wrong("my_causal_weights", "mask the past")
def the_other_way_round(scores):
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).tril(-1), -torch.inf).softmax(-1)


@wrong("my_causal_weights", "stops with RuntimeError")
def for_a_single_head(scores):
    future = torch.ones(len(scores), len(scores), dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -torch.inf).softmax(-1)


@wrong("my_causal_weights", "changes scores")
def in_place(scores):
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill_(future, -torch.inf).softmax(-1)


@wrong("my_causal_weights", "-100 000")
def fills_with_minus_a_hundred(scores):
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -100).softmax(-1)


@wrong("my_causal_weights", "e to the 300")
def takes_the_exponentials_itself(scores):
    odds = scores.exp().tril()
    return odds / odds.sum(-1, keepdim=True)


# ---- my_weights

@wrong("my_weights", "scale is missing")
def unscaled(q, k):
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bihd, bjhd -> bhij", q, k)
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


@wrong("my_weights", "not by its root")
def scaled_by_the_width(q, k):
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bihd, bjhd -> bhij", q, k) / q.shape[-1]
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


@wrong("my_weights", "dealt out in turn")
def keys_in_turn(q, k):
    k = k.repeat(1, 1, q.shape[2] // k.shape[2], 1)
    scores = torch.einsum("bihd, bjhd -> bhij", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


@wrong("my_weights", "those ahead")
def unmasked(q, k):
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    return (torch.einsum("bihd, bjhd -> bhij", q, k) * q.shape[-1] ** -0.5).softmax(-1)


@wrong("my_weights", "keys ask")
def keys_ask(q, k):
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bihd, bjhd -> bhji", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


@wrong("my_weights", "stops with RuntimeError")
def as_many_key_heads_as_queries(q, k):
    scores = torch.einsum("bihd, bjhd -> bhij", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


@wrong("my_weights", "shape (1, 4, 5, 5), and not (1, 2, 5, 5)")
def only_as_many_heads_as_there_are_keys(q, k):
    q = q[:, :, : k.shape[2]]
    scores = torch.einsum("bihd, bjhd -> bhij", q, k) * q.shape[-1] ** -0.5
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


# ---- my_attention

@wrong("my_attention", "look ahead")
def attention_looks_ahead(q, k, v):
    o = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), enable_gqa=True)
    return o.transpose(1, 2)


@wrong("my_attention", "heads stand before tokens")
def heads_first(q, k, v):
    return torch.nn.functional.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=True)


@wrong("my_attention", "value heads are dealt out in turn")
def values_in_turn(q, k, v):
    return torch.einsum("bhij, bjhv -> bihv", my_weights(q, k), v.repeat(1, 1, q.shape[2] // v.shape[2], 1))


@wrong("my_attention", "swapped")
def sums_over_those_who_look(q, k, v):
    v = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    return torch.einsum("bhji, bjhv -> bihv", my_weights(q, k), v)


@wrong("my_attention", "own values")
def own_values(q, k, v):
    return v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)


@wrong("my_attention", "plain mean")
def never_looks_at_queries_and_keys(q, k, v):
    v = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    return v.cumsum(1) / torch.arange(1, v.shape[1] + 1)[:, None, None]


@wrong("my_attention", "shape (3, 7, 6, 8), and not (1, 7, 6, 8)")
def for_a_single_text(q, k, v):
    heads_first = (x[:1].transpose(1, 2) for x in (q, k, v))
    o = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
    return o.transpose(1, 2)


slip("my_attention", "should be torch.float64", "my_weights(q, k), v)", "my_weights(q, k).float(), v.float())")

# ---- my_linear_attention

slip("my_linear_attention", "write over the memory", "S = S + torch", "S = torch")
slip("my_linear_attention", "state that you were given is not in",
     "v.new_zeros(B, H, Dk, Dv) if state is None else state", "v.new_zeros(B, H, Dk, Dv)")
slip("my_linear_attention", "not scaled", " * Dk**-0.5", "")
slip("my_linear_attention", "not by its root", "Dk**-0.5", "Dk**-1.0")
slip("my_linear_attention", "read with the key", "q[:, t]", "k[:, t]")
slip("my_linear_attention", "changes state", "S = S + torch", "S += torch")
slip("my_linear_attention", "2 things are wanted", "return o, S", "return o")
slip("my_linear_attention", "first the answers", "return o, S", "return S, o")
slip("my_linear_attention", "stops with RuntimeError", "torch.zeros_like(v)", "torch.zeros_like(q)")


@wrong("my_linear_attention", "read before you write")
def reads_first(q, k, v, state=None):
    (B, T, H, Dk), Dv = k.shape, v.shape[-1]
    S = v.new_zeros(B, H, Dk, Dv) if state is None else state
    o = torch.zeros_like(v)
    for t in range(T):
        o[:, t] = torch.einsum("bhkv, bhk -> bhv", S, q[:, t] * Dk**-0.5)
        S = S + torch.einsum("bhk, bhv -> bhkv", k[:, t], v[:, t])
    return o, S


@wrong("my_linear_attention", "every token reads the last memory")
def writes_all_and_then_reads(q, k, v, state=None):
    S = torch.einsum("bthk, bthv -> bhkv", k, v)
    S = S if state is None else S + state
    return torch.einsum("bhkv, bthk -> bthv", S, q * q.shape[-1] ** -0.5), S


@wrong("my_linear_attention", "the state that you were given is not in")
def in_parallel_and_from_nothing(q, k, v, state=None):
    scores = torch.einsum("bihd, bjhd -> bhij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("bhij, bjhv -> bihv", scores.tril(), v), torch.einsum("bthk, bthv -> bhkv", k, v)


slip("my_linear_attention", "of float64 numbers, o", "torch.zeros_like(v)", "torch.zeros(v.shape)")
slip("my_linear_attention", "of float64 numbers, the memory", "return o, S", "return o, S.float()")
