"""The fused step, run line by line by Triton's interpreter, against the step of the model itself."""

from copy import deepcopy

import pytest
import torch
from support import random_qwen, small_config, tokens

pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only), so no kernel was run")

import triton  # noqa: E402
from triton_support import interpret_as_a_gpu_does  # noqa: E402

import minqwen  # noqa: E402
from minqwen import decode_triton, graph  # noqa: E402
from minqwen.decode_triton import FusedStep  # noqa: E402
from minqwen.generate import decode_one_token, prefill  # noqa: E402
from minqwen.graph import Decoder  # noqa: E402
from minqwen.verify import error  # noqa: E402

if not triton.knobs.runtime.interpret:
    pytest.skip("TRITON_INTERPRET is off, so no kernel was run", allow_module_level=True)

TWO = {"num_hidden_layers": 2, "full_attention_interval": 2}
WIDE = {"head_dim": 64, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.25,
                                            "mrope_interleaved": True, "mrope_section": [3, 3, 2]}}


@pytest.fixture(autouse=True)
def interpreted(monkeypatch):
    """Decoders take the fused step although there is no GPU."""
    interpret_as_a_gpu_does(monkeypatch)
    monkeypatch.setattr(graph, "fused_step", lambda model, cache: FusedStep(model, cache.valid))


@pytest.fixture(scope="module")
def qwen():
    return random_qwen(small_config(**TWO, tie_word_embeddings=False))


def caches_after(qwen, *rows, length=100, models=None):
    """Two caches that have read the same: rows of so many tokens, padded on the left."""
    ids, mask = tokens(len(rows), max(rows)), torch.ones(len(rows), max(rows), dtype=torch.long)
    for row, n in enumerate(rows):
        mask[row, : max(rows) - n] = 0
    models = models or (qwen, qwen)
    caches = [model.new_cache(len(rows), length) for model in models]
    for model, cache in zip(models, caches, strict=True):
        prefill(model, ids, cache, mask)
    return caches


def same_tokens(qwen, plain, cache, steps=1):
    """The model's own step and the fused one read the same tokens: what they say and leave agrees."""
    ids, decoder = torch.tensor([7, 8, 9])[: cache.batch_size], Decoder.of(qwen, cache)
    assert isinstance(decoder.fused, FusedStep)
    for _ in range(steps):
        right, logits = decode_one_token(qwen, ids, plain), decoder(ids)
        assert error(logits, right) < 1e-5
        ids = right.argmax(-1)
    for ours, theirs in zip(cache.layers, plain.layers, strict=True):
        for name in vars(ours).keys() - {"length"}:
            assert error(getattr(ours, name), getattr(theirs, name)) < 1e-5, name


@pytest.mark.parametrize("rows", [(20,), (20, 13, 5)])
@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, TWO | WIDE])
def test_what_it_says_and_leaves_is_the_models(changes, rows):
    qwen = random_qwen(small_config(**changes))
    same_tokens(qwen, *caches_after(qwen, *rows), steps=2)


@pytest.mark.parametrize("heads", [(4, 1), (6, 6), (40, 2)])
def test_query_heads_to_a_key_head(heads):
    Hq, Hkv = heads
    qwen = random_qwen(small_config(**TWO, num_attention_heads=Hq, num_key_value_heads=Hkv))
    same_tokens(qwen, *caches_after(qwen, 5))


@pytest.mark.parametrize("heads", [(3, 3, 20), (1, 4, 16)])
def test_value_heads_to_a_key_head(heads):
    Hk, Hv, Dv = heads
    qwen = random_qwen(small_config(**TWO, linear_num_key_heads=Hk, linear_num_value_heads=Hv,
                                    linear_value_head_dim=Dv, linear_conv_kernel_dim=3))
    same_tokens(qwen, *caches_after(qwen, 5), steps=2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_the_truth_as_the_models_step(dtype):
    truth = random_qwen(small_config(**TWO)).to(dtype).float()
    half = deepcopy(truth).to(dtype)
    exact, ours = caches_after(None, 40, 33, models=(truth, half))
    _, plain = caches_after(None, 40, 33, models=(truth, half))
    decoder, off, allowed = Decoder.of(half, ours), 0, 0
    for seed in range(3):
        ids = tokens(1, 2, seed=seed)[0]
        right = decode_one_token(truth, ids, exact)
        off += error(decoder(ids), right)
        allowed += error(decode_one_token(half, ids, plain), right)
    assert off < 1.3 * allowed


# ------------------------------------------------------------------------------------------------------- the past


def test_the_past_in_parts_of_which_some_are_pads_alone(qwen):
    same_tokens(qwen, *caches_after(qwen, 90, 6), steps=2)


def test_a_long_past_in_few_parts(qwen, monkeypatch):
    monkeypatch.setattr(decode_triton, "PROGRAMS", 4)
    same_tokens(qwen, *caches_after(qwen, 190, 70, length=200), steps=2)


def test_the_first_token_of_all(qwen):
    same_tokens(qwen, qwen.new_cache(1, 40), qwen.new_cache(1, 40), steps=2)


def test_slots_that_are_not_filled_are_not_seen(qwen):
    plain, cache = caches_after(qwen, 20)
    attention = cache.layers[1]
    attention.keys[:, :, 20:], attention.values[:, :, 20:] = torch.inf, torch.nan
    assert error(Decoder.of(qwen, cache)(torch.tensor([7])), decode_one_token(qwen, torch.tensor([7]), plain)) < 1e-5


def test_the_cache_may_be_used_without_it_in_between(qwen):
    """A prefill gives the layers other tensors for their memories; so does going back to a snapshot."""
    caches = caches_after(qwen, 20)
    same_tokens(qwen, *caches)
    for cache in caches:
        here = cache.snapshot()
        qwen(tokens(1, 6, seed=5), cache=cache)
        cache.restore(here)
        qwen(tokens(1, 3, seed=6), cache=cache)
    same_tokens(qwen, *caches)


def test_after_a_picture_positions_lie_behind_the_slots(qwen):
    caches = caches_after(qwen, 20)
    for cache in caches:
        cache.positions -= 7
    same_tokens(qwen, *caches)


# ------------------------------------------------------------------------------------------------ where it is taken


def test_it_is_for_plain_dense_models_and_small_batches(qwen):
    assert FusedStep.fits(qwen, 8) and not FusedStep.fits(qwen, 9)
    assert not FusedStep.fits(random_qwen(small_config(**TWO, attention_bias=True)), 1)
    assert not FusedStep.fits(deepcopy(qwen).double(), 1)
    assert not FusedStep.fits(minqwen.quantize(qwen, 8), 1)                             # its kernels read numbers
    assert not FusedStep.fits(random_qwen(qwen.config.with_context(10**6)), 1)
    other = deepcopy(qwen)
    other.model.language_model.layers[1].mlp = torch.nn.Identity()
    assert not FusedStep.fits(other, 1)
    other = deepcopy(qwen)
    other.model.language_model.layers[0].mlp.up_proj.weight.data = other.lm_head.weight.data.half()
    assert not FusedStep.fits(other, 1)


@pytest.mark.parametrize("kernel, fused", [("auto", True), ("triton", True), ("recurrent", False), ("chunk", False)])
def test_a_rule_that_was_asked_for_is_the_one_that_runs(kernel, fused, monkeypatch):
    """On a GPU: the plain step computes by the model's layers, and so by that kernel."""
    monkeypatch.undo()
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assistant = minqwen.load()
    for layer in assistant.model.model.language_model.layers:
        if layer.layer_type == "linear_attention":
            layer.linear_attn.kernel = kernel
    step = graph.fused_step(assistant.model, assistant.model.new_cache(1, 8))
    assert isinstance(step, FusedStep) if fused else step is None


def test_a_gpu_without_triton_does_without(qwen, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(graph, "no_triton", lambda device: "It is too old.")
    assert graph.fused_step(qwen, qwen.new_cache(1, 8)) is None


def test_a_cpu_does_without(qwen, monkeypatch):
    monkeypatch.undo()
    assert graph.fused_step(qwen, qwen.new_cache(1, 8)) is None


def test_rows_of_a_program_fill_the_gpu_and_the_registers():
    from minqwen.decode_triton import rows_of_a_program

    for rows, width, R in ((248_320, 1024, 16), (8224, 1024, 16), (1024, 2048, 8), (512, 2048, 4), (1024, 3584, 4),
                           (64, 64, 64)):
        assert rows_of_a_program(rows, width, 2) == {"R": R, "num_warps": 4}
    assert rows_of_a_program(5120, 17_408, 2) == {"R": 1, "num_warps": 8}


@torch.no_grad()
@pytest.mark.parametrize("fault", ["wrong", "cannot run"])
def test_kernels_that_fail_on_a_machine_are_not_taken(qwen, fault, monkeypatch):
    """They are tried beside the model's own layers before they count, and nothing of the trial is left."""
    def broken(self, caches, ids, slot, positions):
        caches[0].recurrent_state.fill_(1)
        if fault == "wrong":
            return torch.ones(len(ids), qwen.config.text_config.vocab_size)
        raise RuntimeError("out of resource: shared memory")

    other = deepcopy(qwen)                               # one that nobody has tried
    monkeypatch.setattr(FusedStep, "__call__", broken)
    plain, cache = caches_after(other, 9)
    decoder = Decoder.of(other, cache)
    with pytest.warns(UserWarning, match="are off by|RuntimeError: out of resource.*layer by layer"):
        logits = decoder(torch.tensor([7]))
    assert error(logits, decode_one_token(other, torch.tensor([7]), plain)) < 1e-5
    assert decoder.fused is None and graph.Decoder.of(other, other.new_cache(1, 8)).fused is None
