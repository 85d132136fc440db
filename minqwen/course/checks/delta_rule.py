"""What several lessons ask of a delta rule: is it the gated one, what mistake is it, are its gradients right?"""

import inspect
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ...delta_rule import recurrent_gated_delta_rule
from ...verify import GRADIENTS, error, gradient_errors, rule_gradients, rule_inputs, with_state
from ..judging import Wrong, demand, near


def judge_delta_rule(rule: Callable) -> None:
    """Raise `Wrong` unless `rule` is the gated delta rule, with the mistake that it looks like.

    Args:
        rule: called as `recurrent_gated_delta_rule` is. Less will do: `rule(q, k, v, g, beta)` must be possible,
            `initial_state` and `output_final_state` are given if it takes them, and it returns o, or o and the state.
    """
    takes, options = inspect.signature(rule).parameters, with_state(rule)
    random = torch.Generator().manual_seed(0)
    for sizes in ((2, 40, 2, 6, 8, 12), (1, 1, 1, 1, 4, 3), (3, 7, 3, 3, 5, 5)):
        for gates, from_state in itertools.product((-1.0, -50.0), (False, True)[: 1 + ("initial_state" in takes)]):
            x, state = rule_inputs(*sizes, gates, random)
            state = state if from_state else torch.zeros_like(state)
            given = {"initial_state": state.float()} if from_state else {}
            result = rule(*(t.float() for t in x), **given, **options)
            o, last = result if isinstance(result, tuple) else (result, None)
            right, right_last = _walk(*x, state)
            _shape_of("o", o, right)
            demand(o.isfinite().all(), f"o is not finite for gates down to {gates:.0f}, as if from exp(-g).")
            off = error(o.double(), right)
            if not near(off, 1e-3):
                alike = [sentence for sentence, wrong in MISTAKES.items() if error(o.double(), wrong(*x, state)) < 1e-3]
                because = f"it looks as if {alike[0]}" if alike else "compare it with the four lines of the rule"
                raise Wrong(f"o is wrong (error {off:.1e}); {because}.")
            if last is not None:
                _shape_of("the final state", last, right_last)
                demand(near(error(last.double(), right_last), 1e-3), "o is right, but the final state is not.")


def judge_gradients(rule: Callable) -> None:
    """Raise `Wrong` unless autograd through `rule`, in float32, is autograd through the recurrence.

    Args:
        rule: called as `rule(q, k, v, g, beta, initial_state=...)`, with `output_final_state=True` if it takes that; it
            returns o and the state.
    """
    random = torch.Generator().manual_seed(0)
    for gates, tolerance in GRADIENTS.items():
        x, state = rule_inputs(1, 130, 2, 6, 8, 12, gates, random)
        right = rule_gradients(recurrent_gated_delta_rule, [*x, state])
        for what, off in gradient_errors(rule_gradients(rule, [t.float() for t in (*x, state)]), right).items():
            demand(near(off, tolerance), f"with log decays down to {gates:.0f} the gradient of {what} is off by "
                                         f"{off:.1e}, and {tolerance:.0e} is allowed.")


def _shape_of(what, ours, right):
    shape = tuple(ours.shape) if isinstance(ours, Tensor) else type(ours).__name__
    demand(shape == tuple(right.shape), f"{what} should have the shape {tuple(right.shape)} but is {shape}.")


def _walk(q, k, v, g, beta, state, decay_late=False, erase=True, read_late=True):
    """The rule, token by token, with a switch for each mistake."""
    per_key = v.shape[2] // k.shape[2]
    q, k = (x.repeat_interleave(per_key, dim=2) for x in (q * k.shape[-1] ** -0.5, k))
    outputs = []
    for q_t, k_t, v_t, alpha, beta_t in zip(*(x.unbind(1) for x in (q, k, v, g.exp(), beta)), strict=True):
        alpha = alpha[..., None, None]
        decayed = state if decay_late else alpha * state
        answer = torch.einsum("b h k v, b h k -> b h v", decayed, k_t) * erase
        written = torch.einsum("b h k, b h v -> b h k v", k_t, beta_t[..., None] * (v_t - answer))
        before, state = decayed, (alpha * state if decay_late else decayed) + written
        outputs.append(torch.einsum("b h k v, b h k -> b h v", state if read_late else before, q_t))
    return torch.stack(outputs, dim=1), state


def _heads_in_turn(q, k, v, g, beta, state):
    """What comes out if value head h takes key head h % Hk."""
    turn = torch.arange(v.shape[2]).view(-1, k.shape[2]).T.flatten()
    o = _walk(q, k, v[:, :, turn], g[:, :, turn], beta[:, :, turn], state[:, turn])[0]
    return o[:, :, turn.argsort()]


MISTAKES = {
    "nothing decays: multiply the state by exp(g) at each token":
        lambda q, k, v, g, beta, s: _walk(q, k, v, 0 * g, beta, s)[0],
    "beta is not used: it says how much of the error is written":
        lambda q, k, v, g, beta, s: _walk(q, k, v, g, torch.ones_like(beta), s)[0],
    "q is not scaled by Dk ** -0.5":
        lambda q, k, v, g, beta, s: _walk(q, k, v, g, beta, s)[0] * k.shape[-1] ** 0.5,
    "values are added and old ones never erased: write v - S^T k, not v":
        lambda *x: _walk(*x, erase=False)[0],
    "the error is read before the state has decayed: decay comes first":
        lambda *x: _walk(*x, decay_late=True)[0],
    "the state is read before this token is written into it":
        lambda *x: _walk(*x, read_late=False)[0],
    "value heads take key heads in turn: in blocks, heads 0 ... R-1 share key head 0 (repeat_interleave, not tile)":
        _heads_in_turn,
    "the initial state is not used":
        lambda q, k, v, g, beta, s: _walk(q, k, v, g, beta, 0 * s)[0],
}

