"""Ring 1 of verification, the kernels: the rule itself, token by token in float64, is the truth for everything else."""

import warnings

import numpy as np
import pytest
import torch
from support import error
from torch.nn import functional as F

from minqwen.delta_rule import (
    UnitTriangularInverse,
    chunk_gated_delta_rule,
    effective_attention,
    l2norm,
    recurrent_gated_delta_rule,
)

HEADS = [(2, 2), (2, 6), (4, 8)]                          # Hk : Hv
LENGTHS = [1, 2, 31, 32, 33, 63, 64, 65, 200]
FORMS = {"recurrent": recurrent_gated_delta_rule, "chunked": chunk_gated_delta_rule}


def inputs(B=2, T=65, Hk=2, Hv=6, Dk=12, Dv=20, strongest=3.0, dtype=torch.float64, seed=0):
    """Random q, k (of unit length), v, g between -strongest and 0, beta in (0, 1); and a memory to begin with."""
    torch.manual_seed(seed)
    q, k = (l2norm(torch.randn(B, T, Hk, Dk, dtype=torch.float64)) for _ in range(2))
    v = torch.randn(B, T, Hv, Dv, dtype=torch.float64)
    g = -strongest * torch.rand(B, T, Hv, dtype=torch.float64) ** 3
    beta = torch.rand(B, T, Hv, dtype=torch.float64)
    state = torch.randn(B, Hv, Dk, Dv, dtype=torch.float64)
    return [x.to(dtype) for x in (q, k, v, g, beta)], state.to(dtype)


def truth(x, state=None, **options):
    """The recurrence in float64."""
    state = None if state is None else state.double()
    return recurrent_gated_delta_rule(*(t.double() for t in x), initial_state=state, output_final_state=True, **options)


def agree(ours, right, tolerance):
    """Outputs and final states are the same, up to `tolerance` of the largest entry."""
    for name, a, b in zip(("o", "state"), ours, right, strict=True):
        assert error(a, b) < tolerance, name


def by_hand(q, k, v, g, beta, state):
    """The rule written once more, from its definition: NumPy, one head and one token at a time."""
    q, k, v, g, beta, state = (x.numpy() for x in (q, k, v, g, beta, state))
    S, o, heads_per_key = state.copy(), np.empty_like(v), v.shape[2] // k.shape[2]
    for b, t, h in np.ndindex(*g.shape):
        query, key = q[b, t, h // heads_per_key], k[b, t, h // heads_per_key]
        S[b, h] *= np.exp(g[b, t, h])
        S[b, h] += np.outer(key, beta[b, t, h] * (v[b, t, h] - S[b, h].T @ key))
        o[b, t, h] = S[b, h].T @ query / np.sqrt(len(key))
    return torch.from_numpy(o), torch.from_numpy(S)


# --------------------------------------------------------------------------------------------------- the rule


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("Hk, Hv", HEADS)
def test_definition(form, Hk, Hv):
    x, state = inputs(T=37, Hk=Hk, Hv=Hv)
    agree(FORMS[form](*x, initial_state=state, output_final_state=True), by_hand(*x, state), 1e-12)


@pytest.mark.parametrize("T", LENGTHS)
@pytest.mark.parametrize("Hk, Hv", HEADS)
@pytest.mark.parametrize("chunk_size", [16, 32, 64])
def test_chunked_is_recurrent(T, Hk, Hv, chunk_size):
    # in float32 a sum of gates near -50 has few digits left for its differences
    for strongest, float32 in ((0.1, 2e-6), (3.0, 5e-6), (50.0, 1e-4)):
        x, state = inputs(T=T, Hk=Hk, Hv=Hv, strongest=strongest, seed=T)
        for start in (None, state):
            right = truth(x, start)
            for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, float32)):
                options = {"initial_state": None if start is None else start.to(dtype), "chunk_size": chunk_size}
                ours = chunk_gated_delta_rule(*(t.to(dtype) for t in x), output_final_state=True, **options)
                assert ours[0].dtype == ours[1].dtype == dtype
                agree(ours, right, tolerance)


@pytest.mark.parametrize("T", [1, 65, 200])
def test_recurrent_in_float32(T):
    x, state = inputs(T=T)
    ours = recurrent_gated_delta_rule(*(t.float() for t in x), initial_state=state.float(), output_final_state=True)
    agree(ours, truth(x, state), 2e-6)


@pytest.mark.parametrize("form", FORMS)
def test_pieces_are_the_whole(form):
    x, _ = inputs(T=100)
    whole, last = FORMS[form](*x, output_final_state=True)
    state, outputs = None, []
    for start, end in ((0, 1), (1, 40), (40, 41), (41, 100)):
        o, state = FORMS[form](*(t[:, start:end] for t in x), initial_state=state, output_final_state=True)
        outputs.append(o)
    assert error(torch.cat(outputs, 1), whole) < 1e-12 and error(state, last) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_scale_and_normalisation_are_options(form):
    (q, k, v, g, beta), _ = inputs(T=20)
    o, state = FORMS[form](q, k, v, g, beta)
    assert state is None
    assert error(FORMS[form](q, k, v, g, beta, scale=1.0)[0], o * q.shape[-1] ** 0.5) < 1e-12
    assert error(FORMS[form](3 * q, 5 * k, v, g, beta, use_qk_l2norm_in_kernel=True)[0], o) < 1e-6


# ------------------------------------------------------------------------------------- traps, by their number


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("start", [False, True])
def test_trap_2_packed_sequences_start_anew(form, start):
    x, _ = inputs(B=1, T=105)
    state = inputs(B=4)[1] if start else None
    cu_seqlens = torch.tensor([0, 1, 41, 41 + 32, 105])
    o, final = FORMS[form](*x, initial_state=state, output_final_state=True, cu_seqlens=cu_seqlens)
    assert final.shape[0] == 4
    for n in range(4):
        here = slice(cu_seqlens[n], cu_seqlens[n + 1])
        right, last = truth([t[:, here] for t in x], None if state is None else state[n : n + 1])
        assert error(o[:, here], right) < 1e-12 and error(final[n : n + 1], last) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_trap_3_pads_with_no_gate_and_no_decay_are_exact_no_ops(form):
    (q, k, v, g, beta), state = inputs(T=40, dtype=torch.float32)
    right = FORMS[form](q, k, v, g, beta, initial_state=state, output_final_state=True)[1]
    g, beta = (torch.nn.functional.pad(t, (0, 0, 0, 9)) for t in (g, beta))
    q, k, v = (torch.cat((t, torch.randn_like(t[:, :9])), 1) for t in (q, k, v))
    padded = FORMS[form](q, k, v, g, beta, initial_state=state, output_final_state=True)[1]
    assert error(padded, right) < 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_trap_4_the_state_is_float32_whatever_comes_in(form):
    x, _ = inputs(T=300, strongest=0.01, dtype=torch.bfloat16)
    o, state = FORMS[form](*x, output_final_state=True)
    assert o.dtype == torch.bfloat16 and state.dtype == torch.float32
    right, last = truth(x)
    assert error(state, last) < 1e-5                     # a state in bfloat16 would be 1e-2 off
    assert error(o, right) < 2**-8                       # the output is rounded once, at the end


def test_trap_4_a_state_carried_from_token_to_token_stays_exact():
    x, _ = inputs(T=300, strongest=0.01, dtype=torch.bfloat16)
    state = torch.zeros(2, 6, 12, 20)
    for t in range(300):
        now = [s[:, t : t + 1] for s in x]
        _, state = recurrent_gated_delta_rule(*now, None, state, output_final_state=True, inplace_final_state=True)
    assert error(state, truth(x)[1]) < 1e-5


@pytest.mark.parametrize("strongest", [0.0, 1.0, 10.0, 50.0])
@pytest.mark.parametrize("form", FORMS)
def test_trap_8_finite_forward_and_backward_down_to_minus_50(form, strongest):
    x, state = inputs(T=70, strongest=strongest, dtype=torch.float32)
    x[3][:, 5:9], x[3][:, 20:60] = -strongest, -strongest                     # and whole stretches at the strongest
    leaves = [t.requires_grad_() for t in (*x, state)]
    o, final = FORMS[form](*x, initial_state=state, output_final_state=True)
    (o.square().sum() + final.square().sum()).backward()
    exact = [t.detach().double().requires_grad_() for t in leaves]
    right, last = truth(exact[:5], exact[5])
    (right.square().sum() + last.square().sum()).backward()
    for name, ours, theirs in zip("q k v g beta state o final".split(), [t.grad for t in leaves] + [o, final],
                                  [t.grad for t in exact] + [right, last], strict=True):
        assert ours.isfinite().all(), name
        assert error(ours, theirs) < (1e-4 if strongest == 50 else 1e-5), name


@pytest.mark.parametrize("form", FORMS)
def test_trap_8_a_gate_of_minus_infinity_forgets_all(form):
    x, state = inputs(T=70)
    x[3][:, [0, 20, 21, 40]], x[3][:, :, 1] = -torch.inf, -torch.inf
    leaves = [t.requires_grad_() for t in (*x, state)]
    o, final = FORMS[form](*x, initial_state=state, output_final_state=True)
    gradients = torch.autograd.grad(o.square().sum() + final.square().sum(), leaves)
    assert all(t.isfinite().all() for t in gradients)
    with torch.no_grad():
        alone, last = FORMS[form](*(t[:, 40:] for t in x), output_final_state=True)      # as if nothing had been before
        assert error(o[:, 40:], alone) < 1e-12 and error(final, last) < 1e-12
        agree((o, final), truth(x, state), 1e-12)
        if form == "chunked":
            A = effective_attention(x[0], x[1], x[3], x[4])
            assert error(torch.einsum("bhts,bshd->bthd", A, x[2]), truth(x)[0]) < 1e-12


def test_gates_of_minus_infinity_cost_no_digits_of_the_others():
    """Every second one, at random: what they are counted as is added up, and the others have to be read off the sum."""
    x, state = inputs(T=200, strongest=1)
    x[3][torch.rand(x[3].shape, generator=torch.Generator().manual_seed(0)) > 0.5] = -torch.inf
    o, _ = chunk_gated_delta_rule(*(t.float() for t in x), initial_state=state.float())
    assert error(o.double(), truth(x, state)[0]) < 2e-5


@pytest.mark.parametrize("Hk, Hv", HEADS)
@pytest.mark.parametrize("chunk_size", [16, 64])
def test_gradients_of_chunked_are_those_of_the_recurrence(Hk, Hv, chunk_size):
    gradients = []
    for form, options in ((recurrent_gated_delta_rule, {}), (chunk_gated_delta_rule, {"chunk_size": chunk_size})):
        x, state = inputs(T=50, Hk=Hk, Hv=Hv)
        leaves = [t.requires_grad_() for t in (*x, state)]
        o, final = form(*x, initial_state=state, output_final_state=True, use_qk_l2norm_in_kernel=True, **options)
        weight = torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view_as(o)
        gradients.append(torch.autograd.grad((weight * o).sum() + final.square().sum(), leaves))
    for ours, right in zip(*gradients, strict=True):
        assert error(ours, right) < 1e-11


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_the_slopes(form):
    x, state = inputs(B=1, T=5, Hk=1, Hv=2, Dk=2, Dv=3)
    leaves = [t.requires_grad_() for t in (*x, state)]
    options = {"chunk_size": 2} if form == "chunked" else {}
    assert torch.autograd.gradcheck(
        lambda *x: FORMS[form](*x[:5], initial_state=x[5], output_final_state=True, **options), leaves,
        check_forward_ad=True)


@pytest.mark.parametrize("C", [1, 2, 16, 17, 32, 35, 64])
def test_the_inverse_of_a_chunks_system_reads_only_what_is_below_the_diagonal(C):
    L = torch.randn(2, 3, C, C, dtype=torch.float64, generator=torch.Generator().manual_seed(C)) / C ** 0.5
    M = UnitTriangularInverse.apply(L)
    assert error(M @ (torch.eye(C) + L.tril(-1)), torch.eye(C).double().expand_as(L)) < 1e-12
    assert M.triu(1).count_nonzero() == 0


def test_the_inverses_gradient_and_its_gradient_are_the_slopes():
    L = torch.randn(18, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).div(4).requires_grad_()
    assert torch.autograd.gradcheck(UnitTriangularInverse.apply, L, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(UnitTriangularInverse.apply, L)


def test_trap_9_l2norm_is_x_times_rsqrt_of_the_sum_of_squares_plus_eps():
    x = torch.tensor([3e-3, 4e-3], dtype=torch.float64, requires_grad=True)
    assert error(l2norm(x), x / (25e-6 + 1e-6) ** 0.5) < 1e-12                # eps weighs on short vectors
    zero = torch.zeros(4, requires_grad=True)
    l2norm(zero).sum().backward()
    torch.testing.assert_close(zero.grad, torch.full((4,), 1e3))             # finite at nothing: 1 / sqrt(eps)
    half = torch.randn(300, 128, generator=torch.Generator().manual_seed(0)).bfloat16()
    exact = half.double() / (half.double().square().sum(-1, keepdim=True) + 1e-6).sqrt()
    assert l2norm(half).dtype == torch.bfloat16
    as_float32 = (l2norm(half) == exact.bfloat16()).double().mean()          # computed in float32, rounded once:
    assert as_float32 > 0.999                                                # in bfloat16 two entries in five differ


@pytest.mark.parametrize("form", FORMS)
def test_trap_10_decay_comes_before_the_error_is_read(form):
    """One number, one token: S = 2 decays to 1; writing 3 with beta = 1/2 then gives 2. The other order gives 1.5."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    g, beta = torch.full((1, 1, 1), 0.5).double().log(), torch.full((1, 1, 1), 0.5).double()
    o, state = FORMS[form](one, one, 3 * one, g, beta, initial_state=2 * one, output_final_state=True)
    torch.testing.assert_close(state, 2 * one)
    torch.testing.assert_close(o, 2 * one)


@pytest.mark.parametrize("form", FORMS)
def test_trap_11_value_heads_are_grouped_in_blocks(form):
    (q, k, v, g, beta), _ = inputs(T=40, Hk=2, Hv=6)
    o, state = FORMS[form](q, k, v, g, beta, output_final_state=True)
    for head in range(6):
        just, key = slice(head, head + 1), slice(head // 3, head // 3 + 1)
        right, last = truth([q[:, :, key], k[:, :, key], v[:, :, just], g[:, :, just], beta[:, :, just]])
        assert error(o[:, :, just], right) < 1e-12 and error(state[:, just], last) < 1e-12


@pytest.mark.parametrize("chunk_size", [32, 64])
def test_keys_that_are_nearly_the_same(chunk_size):
    """The system to be solved is then as bad as it gets: a doubled Neumann series of its inverse blows up here."""
    x, _ = inputs(B=1, T=128, Dk=16, Dv=16, strongest=1e-3)
    x[1] = l2norm(x[1][:, :1] + 1e-3 * torch.randn_like(x[1]))
    x[4] = 1 - 1e-3 * x[4]
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        ours = chunk_gated_delta_rule(*(t.to(dtype) for t in x), output_final_state=True, chunk_size=chunk_size)
        agree(ours, truth(x), tolerance)


# ------------------------------------------------------------------------------- how other people's code calls it


@pytest.mark.parametrize("form", FORMS)
def test_vmap_is_a_call_for_each(form):
    x, state = inputs(T=40)
    several = [torch.stack((t, 0.5 * t, 0.9 * t)) for t in (*x, state)]
    rule = FORMS[form]

    def loss(*x):
        o, final = rule(*x[:5], initial_state=x[5], output_final_state=True)
        return o.square().sum() + final.square().sum()

    with warnings.catch_warnings():                      # torch says of some operations that vmap takes a slow way
        warnings.simplefilter("ignore")
        o = torch.func.vmap(lambda *x: rule(*x)[0])(*several[:5])
        gradients = torch.func.vmap(torch.func.grad(loss, argnums=tuple(range(6))))(*several)
    for n in range(3):
        leaves = [t[n].clone().requires_grad_() for t in several]
        assert error(o[n], rule(*(t[n] for t in several[:5]))[0]) < 1e-12
        for ours, right in zip(gradients, torch.autograd.grad(loss(*leaves), leaves), strict=True):
            assert error(ours[n], right) < 1e-11


def test_a_compiled_and_an_exported_graph_compute_the_same():
    x, state = inputs(B=1, T=70, dtype=torch.float32)

    class Rule(torch.nn.Module):
        def forward(self, *x):
            return chunk_gated_delta_rule(*x[:5], initial_state=x[5], output_final_state=True)

    right = Rule()(*x, state)
    agree(torch.export.export(Rule(), (*x, state)).module()(*x, state), right, 1e-6)
    torch.compiler.reset()
    agree(torch.compile(Rule(), backend="eager", fullgraph=True)(*x, state), right, 1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_strides_do_not_matter(form):
    x, state = inputs(T=40)
    right = FORMS[form](*x, initial_state=state, output_final_state=True)
    apart = [torch.empty(*t.shape, 2, dtype=t.dtype)[..., 0].copy_(t) for t in (*x, state)]
    by_heads = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in (*x, state)]
    for *y, start in (apart, by_heads):
        agree(FORMS[form](*y, initial_state=start, output_final_state=True), right, 1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_no_rows_are_no_answers(form):
    x, state = inputs()
    o, final = FORMS[form](*(t[:0] for t in x), initial_state=state[:0], output_final_state=True)
    assert o.shape == (0, 65, 6, 20) and final.shape == (0, 6, 12, 20)


# ----------------------------------------------------------------------------------------- who owns the state


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("Hk, Hv, Dk", [(2, 2, 12), (2, 6, 12), (1, 3, 1)])
@pytest.mark.parametrize("grad", [False, True])
def test_the_initial_state_is_never_changed(form, Hk, Hv, Dk, grad):
    x, state = inputs(T=40, Hk=Hk, Hv=Hv, Dk=Dk)
    before = state.clone()
    x[0].requires_grad_(grad)
    _, final = FORMS[form](*x, initial_state=state, output_final_state=True)
    assert torch.equal(state, before)
    with torch.no_grad():
        final.zero_()
    assert torch.equal(state, before), "the final state lies in the initial state's memory"


def test_decoding_in_place_writes_where_the_state_was():
    x, state = inputs(T=1, dtype=torch.float32)
    right, last = recurrent_gated_delta_rule(*x, initial_state=state, output_final_state=True)
    o, final = recurrent_gated_delta_rule(*x, initial_state=state, output_final_state=True, inplace_final_state=True)
    assert final.data_ptr() == state.data_ptr()
    torch.testing.assert_close(state, last, rtol=0, atol=0)
    torch.testing.assert_close(o, right, rtol=0, atol=0)


@pytest.mark.parametrize("hinders", ["there is none", "half precision", "strides", "a gradient", "packed"])
def test_a_state_that_cannot_be_written_into_is_told_in_one_sentence(hinders):
    x, state = inputs(B=1, T=3, dtype=torch.float32)
    options = {"initial_state": {"there is none": None, "half precision": state.bfloat16(),
                                 "strides": state.mT.contiguous().mT}.get(hinders, state)}
    if hinders == "packed":
        options["cu_seqlens"] = torch.tensor([0, 3])
    x[0].requires_grad_(hinders == "a gradient")
    with pytest.raises(ValueError, match=r"^inplace_final_state writes [^\n]+float32[^\n]+ else leave it out\.$"):
        recurrent_gated_delta_rule(*x, inplace_final_state=True, **options)


@pytest.mark.parametrize("form", FORMS)
def test_a_float32_state_serves_float64_tokens(form):
    x, state = inputs(T=40)
    ours = FORMS[form](*x, initial_state=state.float(), output_final_state=True)
    assert ours[0].dtype == ours[1].dtype == torch.float64
    agree(ours, truth(x, state.float()), 1e-12)


# ---------------------------------------------------------------------------------------- effective attention


@pytest.mark.parametrize("Hk, Hv", HEADS)
@pytest.mark.parametrize("T", [1, 2, 65])
def test_effective_attention_is_the_map_from_v_to_o(T, Hk, Hv):
    (q, k, v, g, beta), _ = inputs(T=T, Hk=Hk, Hv=Hv)
    A = effective_attention(q, k, g, beta)
    assert A.shape == (2, Hv, T, T) and A.triu(1).count_nonzero() == 0
    assert error(torch.einsum("bhts,bshd->bthd", A, v), truth((q, k, v, g, beta))[0]) < 1e-12


def test_effective_attention_in_half_precision_and_with_options():
    (q, k, v, g, beta), _ = inputs(T=33, strongest=50.0)
    A = effective_attention(3 * q, 5 * k, g, beta, scale=1.0, use_qk_l2norm_in_kernel=True)
    assert error(torch.einsum("bhts,bshd->bthd", A, v), truth((q, k, v, g, beta), scale=1.0)[0]) < 1e-6
    assert effective_attention(*(t.bfloat16() for t in (q, k, g, beta))).dtype == torch.float32


# ------------------------------------------------------------------------------------------ the official code


@pytest.mark.parametrize("T", [1, 63, 65, 200])
@pytest.mark.parametrize("Hk, Hv", HEADS)
@pytest.mark.parametrize("form", FORMS)
def test_transformers_computes_the_same(form, Hk, Hv, T):
    official = pytest.importorskip("transformers.models.qwen3_5.modeling_qwen3_5")
    theirs = {"recurrent": official.torch_recurrent_gated_delta_rule,
              "chunked": official.torch_chunk_gated_delta_rule}[form]
    (q, k, v, g, beta), state = inputs(T=T, Hk=Hk, Hv=Hv, dtype=torch.float32)
    options = {"initial_state": state, "output_final_state": True, "use_qk_l2norm_in_kernel": True}
    right = theirs(2 * q, 3 * k, v, g=g, beta=beta, **options)
    agree(FORMS[form](2 * q, 3 * k, v, g, beta, **options), right, 5e-6)


# ------------------------------------------------------------------------------------------------- bad shapes


def without_last(x, dim):
    return x.narrow(dim, 0, x.shape[dim] - 1)


WRONG = {
    "q shorter than k": lambda x, s: ([without_last(x[0], 1), *x[1:]], {}),
    "v shorter than k": lambda x, s: ([*x[:2], without_last(x[2], 1), *x[3:]], {}),
    "no tokens": lambda x, s: ([t[:, :0] for t in x], {}),
    "5 value heads for 2 key heads": lambda x, s: ([*x[:2], *(without_last(t, 2) for t in x[2:])], {}),
    "g for fewer heads": lambda x, s: ([*x[:3], without_last(x[3], 2), x[4]], {}),
    "beta per key head": lambda x, s: ([*x[:4], x[4][:, :, :2]], {}),
    "state of another batch": lambda x, s: (x, {"initial_state": without_last(s, 0)}),
    "state transposed": lambda x, s: (x, {"initial_state": s.mT}),
    "packed with two rows": lambda x, s: (x, {"cu_seqlens": torch.tensor([0, 65])}),
    "ends beyond T": lambda x, s: ([t[:1] for t in x], {"cu_seqlens": torch.tensor([0, 3, 66])}),
    "ends that fall": lambda x, s: ([t[:1] for t in x], {"cu_seqlens": torch.tensor([0, 30, 20, 65])}),
    "a head alone": lambda x, s: ([t[:, :, 0] for t in x], {}),
    "whole numbers": lambda x, s: ([*x[:2], x[2].long(), *x[3:]], {}),
    "ends as a list": lambda x, s: ([t[:1] for t in x], {"cu_seqlens": [0, 3, 65]}),
    "ends as fractions": lambda x, s: ([t[:1] for t in x], {"cu_seqlens": torch.tensor([0.0, 65.0])}),
    "no ends": lambda x, s: ([t[:1] for t in x], {"cu_seqlens": torch.tensor([], dtype=torch.long)}),
    "a state too few": lambda x, s: ([t[:1] for t in x],
                                     {"cu_seqlens": torch.tensor([0, 3, 9, 65]), "initial_state": s}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_shapes_are_told_in_one_sentence(form, wrong):
    x, options = WRONG[wrong](*inputs())
    with pytest.raises(ValueError, match=r"^[A-Za-z_]+ [^\n]+\.$"):
        FORMS[form](*x, **options)


@pytest.mark.parametrize("chunk_size", [0, -1, 32.0, "32", None])
def test_a_wrong_chunk_size_is_told_in_one_sentence(chunk_size):
    with pytest.raises(ValueError, match=r"^chunk_size must be a whole number of tokens, 1 or more, but is [^\n]+\.$"):
        chunk_gated_delta_rule(*inputs()[0], chunk_size=chunk_size)


def test_what_has_faded_below_all_digits_is_nothing_at_all():
    """Two tokens with gates of -45: neither the memory before nor the first token's writing leaves a trace of e-20."""
    k = torch.eye(2).view(1, 2, 1, 2)
    q, v = k.flip(1), torch.ones(1, 2, 1, 3)                                  # each reads what the other one wrote
    g, beta = torch.full((1, 2, 1), -45.0), torch.ones(1, 2, 1)
    o, state = chunk_gated_delta_rule(q, k, v, g, beta, initial_state=torch.ones(1, 1, 2, 3), output_final_state=True)
    assert o.count_nonzero() == 0 and state[0, 0, 0].count_nonzero() == 0 and (state[0, 0, 1] == 1).all()


@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_for_the_initial_state_alone(form):
    torch.manual_seed(0)
    k = F.normalize(torch.randn(1, 40, 2, 4, dtype=torch.float64), dim=-1)
    v, g, beta = torch.randn(1, 40, 2, 3).double(), -torch.rand(1, 40, 2).double(), torch.rand(1, 40, 2).double()
    state, gradients = torch.randn(1, 2, 4, 3).double(), []
    for rule in (FORMS[form], recurrent_gated_delta_rule):
        leaves = [state.clone().requires_grad_(), v.clone().requires_grad_(rule is not FORMS[form])]
        before = leaves[0].detach().clone()
        o, final = rule(k, k, leaves[1], g, beta, initial_state=leaves[0], output_final_state=True)
        gradients.append(torch.autograd.grad(o.sum() + final.square().sum(), leaves[0])[0])
        assert torch.equal(leaves[0], before)
    assert error(*gradients) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_autocast_leaves_the_rule_alone(form):
    torch.manual_seed(0)
    k = F.normalize(torch.randn(1, 40, 2, 4), dim=-1)
    v, g, beta, state = torch.randn(1, 40, 2, 3), -torch.rand(1, 40, 2), torch.rand(1, 40, 2), torch.randn(1, 2, 4, 3)
    right = FORMS[form](k, k, v, g, beta, initial_state=state, output_final_state=True)
    with torch.autocast("cpu", torch.bfloat16):
        ours = FORMS[form](k, k, v, g, beta, initial_state=state, output_final_state=True)
        A = effective_attention(k, k, g, beta)
    assert all(torch.equal(*pair) for pair in zip(ours, right, strict=True))
    assert torch.equal(A, effective_attention(k, k, g, beta))
