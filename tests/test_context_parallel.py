"""A long sequence on several ranks: outputs, states and gradients of one machine."""

import pytest
import torch
from ranks_support import attend
from support import error
from torch.nn import functional as F

from minqwen.context_parallel import delta_rule_across, on_own_part
from minqwen.delta_rule import chunk_gated_delta_rule
from minqwen.ranks import together
from minqwen.verify import rule_inputs


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_sequence_in_parts_is_the_whole_one(ranks):
    inputs, _ = rule_inputs(2, 101, 2, 4, 16, 8, -2.0, torch.Generator().manual_seed(ranks))
    outputs, states, gradients = zip(*together(on_own_part, ranks, *inputs))
    leaves = [x.clone().requires_grad_() for x in inputs]
    o, state = chunk_gated_delta_rule(*leaves, output_final_state=True)
    assert error(torch.cat(outputs, dim=1), o) < 1e-12 and error(states[-1], state) < 1e-12
    for ours, right in zip(zip(*gradients), torch.autograd.grad(o.square().sum(), leaves)):
        assert error(torch.cat(ours, dim=1), right) < 1e-12


def test_alone_it_is_the_rule_itself():
    inputs, _ = rule_inputs(1, 50, 1, 2, 16, 16, -2.0, torch.Generator().manual_seed(0))
    o, state = delta_rule_across(*inputs)
    right = chunk_gated_delta_rule(*inputs, output_final_state=True)
    assert o.equal(right[0]) and state.equal(right[1])


def test_attention_in_parts_is_the_whole_one():
    q, k, v = torch.randn(3, 1, 2, 30, 8, generator=torch.Generator().manual_seed(0))
    ours = torch.cat(together(attend, 3, q, k, v), dim=2)
    assert error(ours, F.scaled_dot_product_attention(q, k, v, is_causal=True)) < 1e-6
