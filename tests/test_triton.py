"""The Triton kernels against the rule itself, without a GPU: Triton's interpreter runs them line by line in NumPy.

On a GPU `make gpu` makes the same comparisons with the compiled kernels, in larger shapes.
"""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only), so no kernel was run")

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton_support import interpret_as_a_gpu_does  # noqa: E402

from minqwen import gpu  # noqa: E402
from minqwen.delta_rule import l2norm, recurrent_gated_delta_rule  # noqa: E402
from minqwen.delta_rule_triton import decays, decode_step, inverse, pack, triton_gated_delta_rule  # noqa: E402

if not triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is off, so no kernel was run: `make gpu` runs them on a GPU", allow_module_level=True)

FULL, HALF = torch.float32, torch.bfloat16
NORMALISED = {"use_qk_l2norm_in_kernel": True}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """The interpreter on this machine."""
    interpret_as_a_gpu_does(monkeypatch)
    monkeypatch.setattr(gpu, "DEVICE", "cpu")


def assert_right(*arguments, **options):
    """Values, final state and all gradients, with an initial state: see `gpu.right_case` for what is allowed."""
    off, allowed = gpu.right_case(triton_gated_delta_rule, *arguments, **options)
    assert len(off) == 8
    wrong = {name: f"{off[name]:.1e}, allowed {allowed[name]:.1e}" for name in off if not off[name] <= allowed[name]}
    assert not wrong


# ---------------------------------------------------------------------------------- values and gradients, both dtypes


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("T", [1, 63, 64, 65, 130])
def test_lengths(T, dtype):
    assert_right(2, T, 2, 4, 16, 16, dtype)


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("Hk, Hv, Dk, Dv", [(1, 1, 24, 40), (1, 3, 32, 16), (2, 4, 16, 48), (1, 1, 128, 144)])
def test_heads_and_widths(Hk, Hv, Dk, Dv, dtype):
    assert_right(2, 70, Hk, Hv, Dk, Dv, dtype)


def test_widest():
    assert_right(1, 33, 1, 1, 256, 256, FULL)


@pytest.mark.parametrize("dtype", [FULL, HALF])
def test_trap_2_packed_sequences_start_anew(dtype):
    assert_right(1, 150, 1, 2, 16, 32, dtype, packed=[0, 1, 64, 129, 150])


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("strongest", [0.0, 5.0, 50.0])
def test_trap_8_gates_of_any_strength(strongest, dtype):
    assert_right(1, 100, 1, 2, 16, 16, dtype, strongest=strongest)


@pytest.mark.parametrize("dtype", [FULL, HALF])
def test_keys_that_nearly_agree(dtype):
    assert_right(1, 130, 1, 2, 32, 16, dtype, strongest=0.01, apart=1e-3)


@pytest.mark.parametrize("strongest", [-50.0, -torch.inf])
def test_all_gates_shut(strongest):
    """Every decay is exp(-50) or 0: each token begins from nothing, and nothing overflows, forward or backward."""
    (q, k, v, g, beta), state = gpu.inputs(1, 70, 1, 2, 16, 16, FULL), torch.randn(1, 2, 16, 16)
    weights = torch.randn_like(v).double(), torch.randn_like(state).double()
    g = torch.full_like(g, strongest)
    ours = gpu.results(triton_gated_delta_rule, [q, k, v, g, beta], state, weights)
    right = gpu.results(recurrent_gated_delta_rule, [t.double() for t in (q, k, v, g, beta)], state.double(), weights)
    for name in ("o", "state", "dq", "dk", "dv", "dbeta"):
        assert gpu.error(ours[name], right[name]) < 2e-5, name
    assert all(t.isfinite().all() for t in ours.values())


@pytest.mark.parametrize("dtype", [FULL, HALF])
def test_trap_9_unit_length_is_an_option(dtype):
    q, k, v, g, beta = gpu.inputs(2, 40, 2, 4, 24, 16, dtype)
    q, k = 3 * q, 5 * k
    k[:, 7] = 0                                                                  # a finite gradient here, too
    x, state = [q, k, v, g.float(), beta], torch.randn(2, 4, 24, 16)
    weights = torch.randn(2, 40, 4, 16).double(), torch.randn(state.shape).double()
    ours = gpu.results(triton_gated_delta_rule, x, state, weights, **NORMALISED)
    right = gpu.results(recurrent_gated_delta_rule, [t.double() for t in x], state.double(), weights, **NORMALISED)
    for name in right:
        assert gpu.error(ours[name], right[name]) < (2e-5 if dtype == FULL else 2e-2), name


# ------------------------------------------------------------------------------------------------- what else it takes


def test_scale_and_no_states():
    x = gpu.inputs(1, 40, 1, 2, 16, 16, FULL)
    o, state = triton_gated_delta_rule(*x, scale=0.7)
    assert state is None
    assert gpu.error(o, recurrent_gated_delta_rule(*x, scale=0.7)[0]) < 2e-5


def test_gradients_without_states():
    """The loss reads o alone, and there is no memory before."""
    x = gpu.inputs(1, 70, 1, 2, 16, 16, FULL)
    ours, right = ([t.clone().requires_grad_() for t in x] for _ in range(2))
    triton_gated_delta_rule(*ours)[0].square().sum().backward()
    recurrent_gated_delta_rule(*right)[0].square().sum().backward()
    for a, b in zip(ours, right, strict=True):
        assert gpu.error(a.grad, b.grad) < 2e-5


def test_slices_of_a_projection_are_taken_as_they_are():
    projected = torch.randn(2, 40, 2 * 32 + 64)
    q, k, v = (x.unflatten(-1, (-1, 16)) for x in projected.split([32, 32, 64], dim=-1))
    g, beta = -torch.rand(2, 40, 4), torch.rand(2, 40, 4)
    q, k = l2norm(q), k / 8
    assert not v.is_contiguous()
    right, _ = recurrent_gated_delta_rule(q, k, v, g, beta)
    turned = v.transpose(1, 2).contiguous().transpose(1, 2)                      # heads not side by side: copied
    for values in (v, turned):
        assert gpu.error(triton_gated_delta_rule(q, k, values, g, beta)[0], right) < 2e-5


def test_pieces_are_the_whole():
    x = gpu.inputs(1, 100, 1, 2, 16, 16, FULL)
    whole, last = triton_gated_delta_rule(*x, output_final_state=True)
    state, outputs = None, []
    for start, end in ((0, 1), (1, 40), (40, 100)):
        o, state = triton_gated_delta_rule(*(t[:, start:end] for t in x), initial_state=state, output_final_state=True)
        outputs.append(o)
    assert gpu.error(torch.cat(outputs, 1), whole) < 2e-5 and gpu.error(state, last) < 2e-5


def test_trap_4_the_state_is_float32_and_the_caller_keeps_it():
    x, state = gpu.inputs(1, 70, 1, 2, 16, 16, HALF), torch.randn(1, 2, 16, 16)
    before = state.clone()
    o, last = triton_gated_delta_rule(*x, initial_state=state, output_final_state=True)
    assert o.dtype == HALF and last.dtype == FULL and torch.equal(state, before)


def test_bad_input_is_told():
    x = gpu.inputs(1, 5, 1, 2, 16, 16, torch.float64)
    with pytest.raises(ValueError, match='float32 or bfloat16, but v is float64; take chunk_gated_delta_rule'):
        triton_gated_delta_rule(*x)
    x = gpu.inputs(1, 5, 1, 2, 16, 16, FULL)
    with pytest.raises(ValueError, match="g and beta must be"):
        triton_gated_delta_rule(*x[:3], x[3][:, :4], x[4])
    for state in (torch.zeros(1, 2, 16, 16, dtype=HALF), torch.zeros(1, 2, 16, 16).mT):
        with pytest.raises(ValueError, match="`state` must be float32 and contiguous"):
            decode_step(*x, state)


def test_tensors_that_are_on_no_gpu_are_told_in_one_sentence(monkeypatch):
    x = gpu.inputs(1, 5, 1, 2, 16, 16, FULL)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    for call in (lambda: triton_gated_delta_rule(*x), lambda: decode_step(*x, torch.zeros(1, 2, 16, 16))):
        with pytest.raises(ValueError, match=r"^The Triton kernels need tensors on a GPU, but v is on 'cpu'; take "):
            call()


# --------------------------------------------------------------------------------------------------------- decoding


@pytest.mark.parametrize("dtype", [FULL, HALF])
@pytest.mark.parametrize("T", [1, 3])
@pytest.mark.parametrize("options", [{}, {"scale": 0.3}, NORMALISED])
def test_decoding_is_the_recurrence(options, T, dtype):
    x, state = gpu.inputs(2, T, 2, 4, 24, 40, dtype), torch.randn(2, 4, 24, 40)
    right, last = recurrent_gated_delta_rule(*(t.double() for t in x), initial_state=state.double(),
                                             output_final_state=True, **options)
    o = decode_step(*x, state, **options)
    assert o.dtype == dtype and gpu.error(o, right) < (2e-6 if dtype == FULL else 2.0 ** -8)
    assert gpu.error(state, last) < 2e-6


def test_decoding_makes_the_gates_of_raw_projections():
    q, k, v, _, _ = gpu.inputs(2, 1, 1, 2, 16, 16, FULL)
    a, b, A_log, dt_bias = 10 * torch.randn(2, 1, 2), torch.randn(2, 1, 2), torch.randn(2), torch.randn(2)
    a[0, 0, 0] = 60.0                                    # softplus of a large number, without overflow
    g, beta = -A_log.exp() * torch.nn.functional.softplus(a + dt_bias), b.sigmoid()
    state = torch.randn(2, 2, 16, 16)
    right, last = recurrent_gated_delta_rule(q, k, v, g, beta, initial_state=state, output_final_state=True)
    o = decode_step(q, k, v, a, b, state, A_log=A_log, dt_bias=dt_bias)
    assert gpu.error(o, right) < 2e-6 and gpu.error(state, last) < 2e-6


# ------------------------------------------------------------------------------------------------------ the pieces


@triton.jit
def invert(L, M, C: tl.constexpr):
    i = tl.arange(0, C)[:, None] * C + tl.arange(0, C)[None, :]
    tl.store(M + i, inverse(tl.load(L + i), C, "ieee"))


@triton.jit
def decay(g, D, E, F, C: tl.constexpr):
    i = tl.arange(0, C)
    between, from_start, to_end = decays(tl.load(g + i), C)
    tl.store(D + i[:, None] * C + i[None, :], between)
    tl.store(E + i, from_start)
    tl.store(F + i, to_end)


@pytest.mark.parametrize("C", [16, 32, 64])
def test_inverse_by_blocks(C):
    for L in (torch.randn(C, C).tril(-1), torch.ones(C, C).tril(-1)):            # the second: keys that all agree
        M = torch.empty(C, C)
        invert[(1,)](L, M, C)
        right = torch.linalg.inv(L.double() + torch.eye(C))
        assert gpu.error(M.double(), right) < 1e-5 and not M.triu(1).any()


def test_decays_keep_their_digits_where_the_gates_sum_to_thousands():
    g = -50 * torch.rand(64) ** 3
    g[10::11] = -50.0
    D, E, F = torch.empty(64, 64), torch.empty(64), torch.empty(64)
    decay[(1,)](g, D, E, F, 64)
    c = g.double().cumsum(0)
    assert c[-1] < -500
    right = (c[:, None] - c[None, :]).tril().exp().tril()
    for ours, exact in ((D, right), (E, c.exp()), (F, (c[-1] - c).exp())):
        assert (ours - exact).abs().max() < 3e-7         # c in one float32 would be 1e-4 off


def test_packing():
    N, ends, before, spans = pack(torch.tensor([0, 3, 11, 12]), 4, "cpu")
    assert N == 3 and ends.tolist() == [0, 3, 11, 12] and before.tolist() == [0, 1, 3, 4]
    assert spans.tolist() == [[0, 3], [3, 11], [7, 11], [11, 12]]
