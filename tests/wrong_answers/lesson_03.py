"""Wrong answers to the exercises of lesson 03."""

import math

import torch

from . import slip, wrong

# ---- my_delta_step

slip("my_delta_step", "never erased", "(v - k @ S)", "v")
slip("my_delta_step", "beta is not used", "beta * (v - k @ S)", "v - k @ S")
slip("my_delta_step", "weakens the new value alone", "beta * (v - k @ S)", "beta * v - k @ S")
slip("my_delta_step", "weakens the erasing alone", "beta * (v - k @ S)", "v - beta * (k @ S)")
slip("my_delta_step", "should be taken away", "(v - k @ S)", "(v + k @ S)")
slip("my_delta_step", "should be added", "S + torch.outer(k, u)", "S - torch.outer(k, u)")
slip("my_delta_step", "what the memory knew is lost", "S + torch.outer(k, u)", "torch.outer(k, u)")
slip("my_delta_step", "numbers of one value", "S + torch.outer(k, u)", "u")
slip("my_delta_step", "should have the shape", "S + torch.outer(k, u)", "(S + torch.outer(k, u)).T")
slip("my_delta_step", "the memory is as it was", "S + torch.outer(k, u)", "S")
slip("my_delta_step", "not the memory with the correction", "(v - k @ S)", "(v - S.mean(0))")


@wrong("my_delta_step", "changes S")
def writes_in_place(S, k, v, beta):
    S += torch.outer(k, beta * (v - k @ S))
    return S


@wrong("my_delta_step", "the whole memory fades")
def fades_instead_of_erasing(S, k, v, beta):
    return (1 - beta) * S + torch.outer(k, beta * v)


@wrong("my_delta_step", "stops with TypeError")
def takes_a_key_for_the_number_of_a_row(S, k, v, beta):
    return torch.stack([*S[: k.int()], v, *S[k.int() + 1 :]])


@wrong("my_delta_step", "not the memory with the correction")
def works_for_the_keys_of_the_story_alone(S, k, v, beta):
    S, row = S.clone(), k.argmax()                      # the row whose key is 1, as Ann's
    S[row] += beta * (v - S[row])
    return S


@wrong("my_delta_step", "shape")
def knows_the_sizes_by_heart(S, k, v, beta):
    u = beta * (v - k @ S)
    return (S + torch.outer(k, u)).flatten()[:24].view(-1, 6)


slip("my_delta_step", "keys of length 1 alone", "torch.outer(k, u)", "torch.outer(k, u) / (k @ k)")

# ---- my_knobs

slip("my_knobs", "fade: g is a logarithm", "math.log(0.5)", "-0.5")
slip("my_knobs", "fade: with g above 0", "math.log(0.5)", "0.5")
slip("my_knobs", "fade: the answer to the token's own key", "(math.log(0.5), 0.0)", "(math.log(0.5), 0.5)")
slip("my_knobs", "ignore: the answer to the token's own key", '"ignore": (0.0, 0.0)', '"ignore": (0.0, 1.0)')
slip("my_knobs", "ignore: with g above 0", '"ignore": (0.0, 0.0)', '"ignore": (1.0, 0.0)')
slip("my_knobs", "new story: what stands under another key", "-50.0", "-1.0")
slip("my_knobs", "new story: beta lies between", "(-50.0, 1.0)", "(-50.0, 50.0)")
slip("my_knobs", "new story: the answer to the token's own key", "(-50.0, 1.0)", "(-50.0, 0.0)")


@wrong("my_knobs", "ignore: the answer")
def always_the_same(wish):
    return 0.0, 1.0


@wrong("my_knobs", "return g, beta")
def beta_alone(wish):
    return 0.0 if wish == "ignore" else 1.0


@wrong("my_knobs", "stops with KeyError")
def only_some_wishes(wish):
    return {"ignore": (0.0, 0.0), "replace": (0.0, 1.0), "fade": (math.log(0.5), 0.0)}[wish]


# ---- my_gated_delta_step

slip("my_gated_delta_step", "nothing fades", "g.exp() * S", "S")
slip("my_gated_delta_step", "take its exponential", "g.exp() * S", "g * S")
slip("my_gated_delta_step", "for a small g alone", "g.exp() * S", "(1 + g) * S")
slip("my_gated_delta_step", "beta is not used", "k, v, beta)       #", "k, v, 1)       #")


@wrong("my_gated_delta_step", "before the memory has faded")
def error_before_fading(S, k, v, g, beta):
    return g.exp() * S + torch.outer(k, beta * (v - k @ S))


@wrong("my_gated_delta_step", "the new value fades as well")
def fades_afterwards(S, k, v, g, beta):
    return g.exp() * my_delta_step(S, k, v, beta)


@wrong("my_gated_delta_step", "never erased")
def only_adds(S, k, v, g, beta):
    return g.exp() * S + torch.outer(k, beta * v)


@wrong("my_gated_delta_step", "changes S")
def fades_what_it_was_given(S, k, v, g, beta):
    S *= g.exp()
    return my_delta_step(S, k, v, beta)


@wrong("my_gated_delta_step", "shape")
def returns_an_answer(S, k, v, g, beta):
    return k @ my_delta_step(g.exp() * S, k, v, beta)


# ---- my_gated_delta_rule

slip("my_gated_delta_rule", "nothing decays", "g[:, t, :, None, None].exp() * S", "S")
slip("my_gated_delta_rule", "beta is not used", "beta[:, t, :, None] * (v[:, t] - answer)", "v[:, t] - answer")
slip("my_gated_delta_rule", "q is not scaled", "q * Dk**-0.5", "q")
slip("my_gated_delta_rule", "never erased", "(v[:, t] - answer)", "v[:, t]")
slip("my_gated_delta_rule", "the initial state is not used",
     "v.new_zeros(B, Hv, Dk, Dv) if initial_state is None else initial_state", "v.new_zeros(B, Hv, Dk, Dv)")
slip("my_gated_delta_rule", "in turn", "x.repeat_interleave(Hv // Hk, dim=2)", "x.repeat(1, 1, Hv // Hk, 1)")
slip("my_gated_delta_rule", "stops with RuntimeError", "x.repeat_interleave(Hv // Hk, dim=2)", "x")
slip("my_gated_delta_rule", "stops with", "v.new_zeros(B, Hv, Dk, Dv)", "v.new_zeros(1, Hv, Dk, Dk)")
slip("my_gated_delta_rule", "shape", "torch.zeros_like(v)", "v.new_zeros(B, 40, Hv, Dv)")
slip("my_gated_delta_rule", "things are wanted", "return o, S", "return o")
slip("my_gated_delta_rule", "the final state is not", "return o, S", "return o, 0 * S")
slip("my_gated_delta_rule", "given float64", "torch.zeros_like(v)", "torch.zeros(v.shape)")


@wrong("my_gated_delta_rule", "before this token is written")
def reads_too_early(q, k, v, g, beta, initial_state=None):
    (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    q, k = (x.repeat_interleave(Hv // Hk, dim=2) for x in (q * Dk**-0.5, k))
    S = v.new_zeros(B, Hv, Dk, Dv) if initial_state is None else initial_state
    o = torch.zeros_like(v)
    for t in range(T):
        S = g[:, t, :, None, None].exp() * S
        o[:, t] = torch.einsum("bhkv, bhk -> bhv", S, q[:, t])
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv, bhk -> bhv", S, k[:, t]))
        S = S + torch.einsum("bhk, bhv -> bhkv", k[:, t], u)
    return o, S


@wrong("my_gated_delta_rule", "before the state has decayed")
def decays_too_late(q, k, v, g, beta, initial_state=None):
    (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    q, k = (x.repeat_interleave(Hv // Hk, dim=2) for x in (q * Dk**-0.5, k))
    S = v.new_zeros(B, Hv, Dk, Dv) if initial_state is None else initial_state
    o = torch.zeros_like(v)
    for t in range(T):
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv, bhk -> bhv", S, k[:, t]))
        S = g[:, t, :, None, None].exp() * S + torch.einsum("bhk, bhv -> bhkv", k[:, t], u)
        o[:, t] = torch.einsum("bhkv, bhk -> bhv", S, q[:, t])
    return o, S


@wrong("my_gated_delta_rule", "changes initial_state")
def goes_on_in_place(q, k, v, g, beta, initial_state=None):
    (B, T, Hk, Dk), (Hv, Dv) = k.shape, v.shape[2:]
    q, k = (x.repeat_interleave(Hv // Hk, dim=2) for x in (q * Dk**-0.5, k))
    S = v.new_zeros(B, Hv, Dk, Dv) if initial_state is None else initial_state
    o = torch.zeros_like(v)
    for t in range(T):
        S *= g[:, t, :, None, None].exp()
        u = beta[:, t, :, None] * (v[:, t] - torch.einsum("bhkv, bhk -> bhv", S, k[:, t]))
        S += torch.einsum("bhk, bhv -> bhkv", k[:, t], u)
        o[:, t] = torch.einsum("bhkv, bhk -> bhv", S, q[:, t])
    return o, S


slip("my_gated_delta_rule", "with gates of -50", "g[:, t, :, None, None].exp()",
     "g[:, t, :, None, None].clamp(min=-8).exp()")

# ---- my_effective_attention

slip("my_effective_attention", "heads stand behind", "o.transpose(1, 2)", "o")
slip("my_effective_attention", "row i is the token that reads", "o.transpose(1, 2)", "o.permute(0, 2, 3, 1)")
slip("my_effective_attention", "beta is missing", "o.transpose(1, 2)", "o.transpose(1, 2) / beta.mT[:, :, None]")
slip("my_effective_attention", "not scaled", "o.transpose(1, 2)", "o.transpose(1, 2) * q.shape[-1] ** 0.5")
slip("my_effective_attention", "nothing fades in it", "values, g, beta)", "values, 0 * g, beta)")
slip("my_effective_attention", "stops with", "torch.eye(T, dtype=k.dtype)", "torch.eye(7, dtype=k.dtype)")
slip("my_effective_attention", "should be torch.float64", "o.transpose(1, 2)", "o.transpose(1, 2).float()")
slip("my_effective_attention", "not the numbers", "torch.eye(T, dtype=k.dtype)", "torch.ones(T, T, dtype=k.dtype)")


@wrong("my_effective_attention", "nothing is erased in it")
def linear_attention_with_a_gate(q, k, g, beta):
    times = g.shape[2] // k.shape[2]
    q, k = (x.repeat_interleave(times, dim=2) for x in (q, k))
    c = g.cumsum(1).mT
    left = (c[..., :, None] - c[..., None, :]).exp().tril() * beta.mT[:, :, None]
    return torch.einsum("bihk, bjhk -> bhij", q, k) * k.shape[-1] ** -0.5 * left


@wrong("my_effective_attention", "softmax")
def softmax_of_likeness(q, k, g, beta):
    times = g.shape[2] // k.shape[2]
    q, k = (x.repeat_interleave(times, dim=2) for x in (q, k))
    scores = torch.einsum("bihk, bjhk -> bhij", q, k) * k.shape[-1] ** -0.5
    return scores.masked_fill(torch.ones_like(scores).triu(1) > 0, -torch.inf).softmax(-1)
