"""`kernel=`: the same model by each form of the rule; and Triton's kernels only where they are there, and right.

Here Triton's interpreter stands for a GPU.
"""

import re
import subprocess
import sys
import warnings

import pytest
import torch
from support import random_qwen, tokens

import minqwen
from minqwen import kernels
from minqwen.delta_rule import recurrent_gated_delta_rule
from minqwen.errors import QwenError
from minqwen.graph import untouched
from minqwen.kernels import KERNELS, check_kernel, delta_rule_by, fault, no_triton
from minqwen.verify import error

CPU, FULL, HALF = torch.device("cpu"), torch.float32, torch.bfloat16
HEADS = (1, 16, 2, 16)                                   # Hk, Dk, Hv, Dv


@pytest.fixture(autouse=True)
def forget():
    """What was found out about a machine in one test is no news for the next."""
    for found in (no_triton, fault):
        found.cache_clear()


@pytest.fixture
def interpreter():
    triton = pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")
    if not triton.knobs.runtime.interpret:
        pytest.skip("TRITON_INTERPRET is off: `make gpu` runs the kernels on a GPU")
    return triton


@pytest.fixture
def right(monkeypatch):
    """The machine has been tried, and nothing was wrong."""
    monkeypatch.setattr(kernels, "errors", lambda *_: {"o": 0.0})


@pytest.fixture
def as_on_a_gpu(monkeypatch, interpreter):
    """Every tensor says that it lies on a GPU. Which rules are called is counted."""
    calls = []

    def counted(module, name):
        rule = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *x, **options: calls.append(name) or rule(*x, **options))

    from minqwen import delta_rule_triton

    for module, name in ((kernels, "chunk_gated_delta_rule"), (kernels, "recurrent_gated_delta_rule"),
                         (delta_rule_triton, "triton_gated_delta_rule"), (delta_rule_triton, "decode_step")):
        counted(module, name)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    return calls


def inputs(T, dtype=FULL, B=1, Hk=1, Dk=16, Hv=2, Dv=16):
    random = torch.Generator().manual_seed(T)
    q, k = (torch.nn.functional.normalize(torch.randn(B, T, Hk, Dk, generator=random), dim=-1) for _ in range(2))
    gates = torch.randn(B, T, Hv, generator=random).sigmoid().log(), torch.rand(B, T, Hv, generator=random)
    return [q, k, torch.randn(B, T, Hv, Dv, generator=random).to(dtype), *gates]


def chosen(kernel):
    """A small model, fresh and with gradients, by this kernel."""
    qwen = random_qwen().requires_grad_(True)
    for layer in qwen.model.language_model.layers[:3]:
        layer.linear_attn.kernel = kernel
    return qwen


# ------------------------------------------------------------------------------------------------ all are one function


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_is_the_same_model(kernel, interpreter, right):
    """A padded prompt, pieces and decoding from a cache; then packed texts; then gradients of all that is learnt."""
    ids, mask = tokens(2, 40), torch.ones(2, 40, dtype=torch.long)
    mask[1, :25] = 0
    ends, packed = torch.tensor([0, 1, 18, 40]), tokens(1, 40, seed=3)

    def run(qwen):
        cache = qwen.new_cache(2, 60)
        with torch.no_grad():
            logits = [qwen(ids, attention_mask=mask, cache=cache)[:, -1], qwen(tokens(2, 5, seed=2), cache=cache)]
            logits += [qwen(tokens(2, 1, seed=seed), cache=cache) for seed in (4, 5)]
        logits += [cache.layers[0].recurrent_state, qwen(packed, cu_seqlens=ends)]
        qwen(ids, attention_mask=mask)[mask.bool()].square().mean().backward()
        return logits, {name: p.grad for name, p in qwen.named_parameters() if p.grad is not None}

    (ours, our_gradients), (theirs, gradients) = run(chosen(kernel)), run(chosen("recurrent"))
    for a, b in zip(ours, theirs, strict=True):
        assert error(a, b) < 2e-5
    assert our_gradients.keys() == gradients.keys() and len(gradients) > 50
    for name in gradients:
        assert error(our_gradients[name], gradients[name]) < 1e-3, name


@pytest.mark.parametrize("kernel, rules", [
    ("chunk", ["chunk_gated_delta_rule"] * 2), ("recurrent", ["recurrent_gated_delta_rule"] * 2),
    ("triton", ["triton_gated_delta_rule", "decode_step"]), ("auto", ["triton_gated_delta_rule", "decode_step"]),
])
def test_the_one_that_was_asked_for_is_taken(kernel, rules, as_on_a_gpu, right):
    with torch.no_grad():
        o, state = delta_rule_by(kernel, *inputs(20))
        assert as_on_a_gpu.pop() == rules[0]
        before = state.clone()
        _, after = delta_rule_by(kernel, *inputs(1), state)
    assert as_on_a_gpu == rules[1:] and o.shape == (1, 20, 2, 16)
    if kernel != "chunk":                                # a decoding step leaves the memory where it is
        assert after.data_ptr() == state.data_ptr() and not torch.equal(before, state)


def test_a_decoding_step_that_is_learnt_from_writes_into_no_state(interpreter, right):
    for kernel in KERNELS:
        state = torch.randn(1, 2, 16, 16).requires_grad_()
        before = state.detach().clone()
        o, _ = delta_rule_by(kernel, *inputs(1), state)
        o.sum().backward()
        assert torch.equal(state, before) and state.grad.any()


def test_a_choice_is_no_edit():
    """A model by another kernel is as it was made: it decodes by a graph, and a trace and an edit go on top of it."""
    qwen = chosen("recurrent").requires_grad_(False)
    assert untouched(qwen)
    ids = tokens(1, 12)
    with minqwen.trace(qwen) as t, minqwen.edited(qwen, minqwen.Edit("beta", token=3)):
        qwen(ids)
    assert not t.layers[0].beta[:, 3:].any() and untouched(qwen)


def test_load_gives_every_layer_its_kernel():
    qwen = minqwen.load(kernel="recurrent")
    mixers = [layer.linear_attn for layer in qwen.model.model.language_model.layers if hasattr(layer, "linear_attn")]
    assert {mixer.kernel for mixer in mixers} == {"recurrent"} and len(mixers) > 2
    assert minqwen.load().model.model.language_model.layers[0].linear_attn.kernel == "auto"


# ------------------------------------------------------------------------------------------------- where Triton is not


def test_a_machine_without_a_gpu_imports_no_triton():
    code = ("import sys, torch, minqwen; qwen = minqwen.load(); x = torch.arange(9)[None]; "
            "qwen.model(x, cache=qwen.model.new_cache()); print('triton' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_is_not_there_is_told(monkeypatch, interpreter):
    check_kernel("triton")                               # the interpreter counts
    with pytest.raises(QwenError, match=r"^There is no kernel 'cuda'; there are auto, chunk, recurrent, triton\.$"):
        minqwen.load(kernel="cuda")
    no_triton.cache_clear()
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(QwenError, match="^kernel=.triton. needs an NVIDIA GPU and device=.cuda., not 'cpu': [^.]*\\.$"):
        minqwen.load(kernel="triton")
    with pytest.raises(QwenError, match='needs an NVIDIA GPU and device="cuda"'):             # it was moved meanwhile
        chosen("triton")(tokens(1, 5))

    no_triton.cache_clear()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    with pytest.raises(QwenError, match=r"^kernel=\"triton\" needs a newer GPU than Tesla V100: [^.]*\.$"):
        check_kernel("triton", "cuda:0")
    no_triton.cache_clear()
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(QwenError, match="needs the package triton, which is not installed: pip install triton"):
        check_kernel("triton", "cuda:0")


@pytest.mark.parametrize("dtype, name", [(torch.float16, "float16"), (torch.float64, "float64")])
def test_other_dtypes_go_by_the_other_forms(dtype, name, as_on_a_gpu, right):
    x = [t.to(dtype) for t in inputs(20)]
    with torch.no_grad():
        o, state = delta_rule_by("auto", *x)
        assert o.dtype == dtype and as_on_a_gpu == ["chunk_gated_delta_rule"]
        delta_rule_by("auto", *(t[:, :1] for t in x), state)
    assert as_on_a_gpu[1:] == ["recurrent_gated_delta_rule"]
    with pytest.raises(QwenError, match=rf'^kernel="triton" computes in float32 or bfloat16, not {name}: load with'):
        delta_rule_by("triton", *x)


def test_a_compiler_gets_what_it_can_fuse(monkeypatch, as_on_a_gpu, right):
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with torch.no_grad():
        delta_rule_by("auto", *inputs(1), torch.zeros(1, 2, 16, 16))
    assert as_on_a_gpu == ["recurrent_gated_delta_rule"]


# ----------------------------------------------------------------------------------- trap 28: tried, and then trusted


@pytest.mark.parametrize("dtype", [FULL, HALF])
def test_trap_28_the_kernels_are_tried_on_this_very_machine(dtype, interpreter):
    """Over a border between chunks, with gates and grouped heads: eight results, all near the recurrence's."""
    off = kernels.errors(CPU, dtype, *HEADS, True, T=72)
    assert len(off) == 8 and all(0 <= x < (2e-5 if dtype == FULL else 0.02) for x in off.values())
    assert len(kernels.errors(CPU, dtype, *HEADS, False, T=72)) == 2


@pytest.mark.parametrize("wrong", range(8))
def test_trap_28_anything_wrong_is_found(wrong, interpreter, monkeypatch):
    """In the last head alone, too: values, and every gradient."""
    from minqwen import delta_rule_triton

    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, dx):
            dx = dx.clone()
            dx[..., -1, :] *= 1.5
            return dx

    def rule(*x, initial_state, output_final_state):
        x = [*x, initial_state]
        if wrong > 1:
            x[wrong - 2] = Spoilt.apply(x[wrong - 2].transpose(-1, -2)).transpose(-1, -2)
        values = list(recurrent_gated_delta_rule(*x[:5], initial_state=x[5], output_final_state=True))
        if wrong < 2:
            values[wrong] = 1.5 * values[wrong]
        return values

    monkeypatch.setattr(delta_rule_triton, "triton_gated_delta_rule", rule)
    off = list(kernels.errors(CPU, FULL, 2, 16, 4, 16, True, T=10).values())
    assert off[wrong] > 0.05 and max(off[2:], default=0) == (off[wrong] if wrong > 1 else max(off[2:]))


def named(monkeypatch, interpreter, version, off):
    monkeypatch.setattr(interpreter, "__version__", version)
    tried = []
    monkeypatch.setattr(kernels, "errors", lambda *what: tried.append(what) or off(what[-1]))
    return tried


def wrong_backward(learning):
    return {"o": 1e-3, **({"dk": 0.31, "dv": 2e-3} if learning else {})}


def test_trap_28_a_wrong_triton_is_refused_by_name(monkeypatch, interpreter):
    tried = named(monkeypatch, interpreter, "3.6.0", wrong_backward)
    x = inputs(20, HALF)
    x[2].requires_grad_()
    said = ("Triton 3.6.0 on this machine makes wrong gradients (dk is off by 31%): take Triton 3.7.1 or newer "
            '(PyTorch 2.13 brings it), or take kernel="chunk".')
    for _ in range(2):
        with pytest.raises(QwenError, match=f"^{re.escape(said)}$"):
            delta_rule_by("triton", *x)
    assert tried == [(CPU, HALF, *HEADS, True)]          # once in a process
    with torch.no_grad():
        delta_rule_by("triton", *x)                      # without gradients it may be used
    assert len(tried) == 2 and tried[1][-1] is False


def test_trap_28_auto_goes_by_chunks_then_and_says_so(monkeypatch, interpreter, as_on_a_gpu):
    named(monkeypatch, interpreter, "3.4.0", wrong_backward)
    x = inputs(20, HALF)
    x[2].requires_grad_()
    with pytest.warns(UserWarning, match=r"^Triton 3\.4\.0 on this .* makes wrong gradients \(dk"):
        delta_rule_by("auto", *x)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        delta_rule_by("auto", *x)
    assert as_on_a_gpu == ["chunk_gated_delta_rule", "triton_gated_delta_rule"]


@pytest.mark.parametrize("off, said", [
    (lambda learning: {"o": float("nan")}, r"makes wrong values \(o is off by nan%\): take another Triton, or take"),
    (lambda learning: 1 / 0, r"cannot run the delta rule \(ZeroDivisionError: division by zero\): update it, or take"),
])
def test_values_are_tried_too(off, said, monkeypatch, interpreter):
    named(monkeypatch, interpreter, "3.7.1", off)
    with torch.no_grad(), pytest.raises(QwenError, match=said):
        delta_rule_by("triton", *inputs(20))
