"""What the checks of the exercises are made of: they tell a mistake by its numbers, in one sentence."""

import pytest
import torch

from minqwen.course.checks import delta_rule
from minqwen.course.checks.delta_rule import judge_delta_rule, judge_gradients
from minqwen.course.judging import Wrong, apart, call, compare, measuring, near, parts
from minqwen.delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule


def test_call_hands_out_copies_and_tells_what_was_changed():
    x, more = torch.zeros(2), {"list": [torch.zeros(1), (1, 2)]}
    assert call(lambda x, more: x + 1, x, more).tolist() == [1, 1]

    def changes(x, more):
        more["list"][0] += 1
        return x

    with pytest.raises(Wrong, match="changes more, which it was given"):
        call(changes, x, more)
    assert more["list"][0] == 0
    with pytest.raises(Wrong, match="changes more"):
        call(changes, x, more=more)
    for nothing in (lambda: None, lambda: ...):
        with pytest.raises(Wrong, match="returns nothing"):
            call(nothing)


@pytest.mark.parametrize("mine, says", [
    ([1.0, 2.0], "should be a tensor, and not a list"),
    (torch.ones(3), r"shape \(2,\), and not \(3,\)"),
    (torch.tensor([1.0, 2.0], dtype=torch.float64), "should be torch.float32, and not torch.float64"),
    (torch.tensor([2.0, 1.0]), r"^the other way round\.$"),
    (torch.tensor([torch.nan, 2.0]), "^nothing of the kind.$"),
    (torch.tensor([1.0, 2.001]), "^nothing of the kind.$"),
])
def test_compare_says_what_is_wrong(mine, says):
    right = torch.tensor([1.0, 2.0])
    compare(right + 1e-4, right)
    with pytest.raises(Wrong, match=says):
        compare(mine, right, {"the other way round": right.flip(0)}, "nothing of the kind.")


def test_compare_has_a_plain_sentence_for_what_it_does_not_know():
    right = torch.tensor([1.0, 2.0])
    with pytest.raises(Wrong, match=r"^in o there are numbers missing \(nan\)\.$"):
        compare(torch.tensor([torch.nan, 2.0]), right, what="o")
    with pytest.raises(Wrong, match=r"^in o the numbers are not the right ones\.$"):
        compare(2 * right, right, what="o")


def test_of_zeros_nothing_but_zeros_is_right():
    compare(torch.zeros(2), torch.zeros(2))
    with pytest.raises(Wrong, match="not the right ones"):
        compare(torch.full((2,), 1e-9), torch.zeros(2))


def test_what_was_near_is_remembered_while_someone_asks():
    assert near(1.0, 2.0)
    with measuring() as seen:
        compare(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.25]), tolerance=0.5)
        compare(torch.tensor([1, 2]), torch.tensor([1, 2]))
        with measuring() as inner:
            assert near(0.0, 0.5) and not near(0.7, 0.5) and not near(torch.nan, 0.5)
        assert near(0.25, 0.5)
    assert seen == [(1 / 9, 0.5), (0.0, 0), (0.25, 0.5)] and inner == [(0.0, 0.5)]


def test_numbers_are_apart_by_a_share_of_the_larger():
    assert apart(3.0, -4.0) == apart(-4.0, 3.0) == 7 / 4 and apart(0, 0) == 0 and not apart(torch.inf, 1) <= 1


@pytest.mark.parametrize("found, says", [(torch.ones(2), "2 things are wanted: return o, S"),
                                         ((1, 2, 3), "2 things are wanted, o, S, and not 3")])
def test_parts_are_counted(found, says):
    assert parts((1, 2), "o", "S") == (1, 2)
    with pytest.raises(Wrong, match=says):
        parts(found, "o", "S")


def test_a_sentence_is_all_that_wrong_renders():
    assert Wrong("so.")._render_traceback_() == ["so."]


# ---- the gated delta rule

@pytest.mark.parametrize("rule", [
    recurrent_gated_delta_rule, chunk_gated_delta_rule,
    lambda q, k, v, g, beta: recurrent_gated_delta_rule(q, k, v, g, beta)[0],
    lambda q, k, v, g, beta, initial_state=None: chunk_gated_delta_rule(q, k, v, g, beta, None, initial_state, True),
], ids=["recurrent", "chunked", "o alone", "o and state"])
def test_the_rule_passes(rule):
    judge_delta_rule(rule)


@pytest.mark.parametrize("mistake", delta_rule.MISTAKES)
def test_which_mistake_it_is(mistake):
    def rule(q, k, v, g, beta, initial_state=None):
        x = [t.double() for t in (q, k, v, g, beta)]
        state = torch.zeros(2, 6, 8, 12) if initial_state is None else initial_state
        return delta_rule.MISTAKES[mistake](*x, state.double()).float()

    with pytest.raises(Wrong) as caught:
        judge_delta_rule(rule)
    assert mistake in str(caught.value)


@pytest.mark.parametrize("rule, says", [
    (lambda q, k, v, g, beta: v, "compare it with"),
    (lambda q, k, v, g, beta: v[:, :1], "shape"),
    (lambda q, k, v, g, beta: None, "NoneType"),
    (lambda *x: recurrent_gated_delta_rule(*x)[0] / (x[3] > -30)[..., None], "not finite"),
    (lambda *x: (recurrent_gated_delta_rule(*x)[0], torch.zeros(2, 6, 8, 12)), "final state is not"),
])
def test_what_is_wrong_with_the_rule(rule, says):
    with pytest.raises(Wrong, match=rf"^[^\n]*{says}[^\n]*\.$"):
        judge_delta_rule(rule)


def test_gradients():
    def without(q, k, v, g, beta, initial_state):
        return recurrent_gated_delta_rule(q, k, v, g, beta, None, initial_state, True)

    def learns_too_fast(q, k, v, g, beta, initial_state):
        return tuple(1.1 * y - 0.1 * y.detach() for y in without(q, k, v, g, beta, initial_state))

    for rule in (recurrent_gated_delta_rule, chunk_gated_delta_rule, without):
        judge_gradients(rule)
    with pytest.raises(Wrong, match="the gradient of q is off"):
        judge_gradients(learns_too_fast)
