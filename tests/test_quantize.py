"""Weights in few bits: what rounding loses, the products, whole models, and what is refused."""

import copy
import io
import pickle
import re
import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import error, prompt, random_qwen, seeing_config, small_config, tokens
from torch.nn import functional as F

import minqwen
from minqwen import QwenError, load_model, quantized, save_model
from minqwen.graph import Decoder
from minqwen.model import Qwen, by_groups
from minqwen.quantize import plan, rounded, rounded_parts, rounded_to_floats
from minqwen.quantized import QuantizedTensor, for_cpu, quantized_bits, unpack_for_cpu

KEPT = {"in_proj_a", "in_proj_b", "conv1d", "A_log", "dt_bias", "norm", "gate", "shared_expert_gate", "patch_embed",
        "pos_embed"}
MOE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 128, "shared_expert_intermediate_size": 32}


def weight(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@cache
def model(**changes) -> Qwen:
    return random_qwen(seeing_config(**changes))


def made_plain(qwen) -> Qwen:
    """The same model with the numbers that its codes stand for."""
    plain = Qwen(qwen.config)
    plain.load_state_dict({name: x.dequantize() if isinstance(x, QuantizedTensor) else x
                           for name, x in qwen.state_dict().items()})
    return plain.eval().requires_grad_(False)


def numbers(quantized) -> torch.Tensor:
    """What a tensor of codes means, in another way: one number after the other."""
    codes, scale = quantized.integers(), quantized.plain_scale()
    rows, columns = quantized.block
    w = torch.empty(codes.shape, dtype=torch.float64)
    for n in range(w.shape[0]):
        for k in range(w.shape[1]):
            zero = 0 if quantized.zero is None else quantized.zero[n, k // columns].item()
            w[n, k] = (codes[n, k].float().item() - zero) * scale[n // rows, k // columns].item()
    return w


# ------------------------------------------------------------------------------------------------------------ rounding


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_a_code_is_the_nearest_whole_number_of_scales(bits):
    w, most = weight(6, 32), 2 ** (bits - 1)
    q = rounded(w, bits, 16, search=False)
    scale = w.unflatten(-1, (2, 16)).abs().amax(-1) / (most - 0.5)
    torch.testing.assert_close(q.scale, scale)
    codes = (w / scale.repeat_interleave(16, -1)).round().clamp(-most, most - 1)
    assert torch.equal(q.integers(), codes.to(torch.int8))
    assert error(q.dequantize(), numbers(q)) < 1e-7
    assert ((q.dequantize() - w).abs() <= 0.5001 * scale.repeat_interleave(16, -1)).all()
    assert q.codes.nbytes == 6 * 32 * {8: 8, 4: 4, 3: 4, 2: 2}[bits] // 8


@pytest.mark.parametrize("bits", [4, 3, 2])
def test_a_search_for_the_scale_comes_nearer(bits):
    w = weight(64, 128)
    lost = [(rounded(w, bits, 128, search).dequantize() - w).square().sum(-1) for search in (True, False)]
    assert (lost[0] <= lost[1]).all() and lost[0].sum() < 0.95 * lost[1].sum()


def test_one_large_number_makes_its_own_group_coarse_and_no_other():
    w = weight(1, 64)
    w[0, 3] = 50
    off = (rounded(w, 4, 32, search=False).dequantize() - w).abs()[0]
    assert off[32:].max() < 0.3 and off[:32].max() > 1


def test_rows_that_come_in_parts_are_the_same():
    w = weight(70, 64, dtype=torch.bfloat16)
    whole, parts = rounded(w, 4, 32), rounded_parts(w.split(11), w.shape, w.dtype, 4, 32)
    assert torch.equal(whole.codes, parts.codes) and torch.equal(whole.scale, parts.scale)


def test_a_row_of_zeros_stays_one():
    for bits in (8, 4, 2):
        assert not rounded(torch.zeros(2, 32), bits, 16).dequantize().any()
    assert not rounded_to_floats(torch.zeros(2, 32)).dequantize().any()


@pytest.mark.parametrize("shape", [(130, 300), (3, 130, 20)])
def test_floats_of_8_bits_have_a_scale_for_each_block(shape):
    w = weight(*shape)
    w[..., 5, 7] = 3e5                                                   # only its own block gets coarser for it
    q = rounded_to_floats(w)
    assert q.scale.shape == (*shape[:-2], 2, -(-shape[-1] // 128)) and q.codes.dtype == torch.float8_e4m3fn
    assert q.dequantize()[..., 5, 7].sub(3e5).abs().max() < 0.1         # the largest number there is, exactly
    off = (q.dequantize() - w).abs() / w.abs().clamp(min=0.05)
    assert off[..., 128:, :].max() < 0.07 and off[..., :128, :128].max() > 0.3
    if len(shape) == 2:
        assert error(q.dequantize(), numbers(q)) < 1e-6


# ---------------------------------------------------------------------------------------------------------- the tensor


@pytest.mark.parametrize("bits, group", [(8, 64), (8, 32), (4, 32), (3, 16), (2, 64)])
@pytest.mark.parametrize("T", [1, 3, 100])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_with_the_numbers(bits, group, T, dtype):
    q, x, bias = for_cpu(rounded(weight(128, 64, dtype=dtype), bits, group)), weight(2, T, 64, seed=1).to(dtype), \
        weight(128, seed=2).to(dtype)
    right = F.linear(x.double(), q.dequantize().double(), bias.double())
    for found in (F.linear(x, q, bias), F.linear(x, q) + bias, torch.nn.Linear.forward(_linear(q, bias), x)):
        assert found.dtype == dtype and error(found, right) < (1e-5 if dtype == torch.float32 else 2e-2)
    ids = torch.tensor([[0, 127, 33], [64, 63, 95]])
    assert torch.equal(F.embedding(ids, q), q.dequantize()[ids])


def _linear(q, bias):
    module = torch.nn.Linear(64, 128)
    module.weight, module.bias = quantized.as_parameter(q), torch.nn.Parameter(bias)
    return module


@pytest.mark.skipif(not quantized.packs_as_we_know(), reason="this processor has no packed product of 4 bits")
def test_4_bits_in_bfloat16_lie_as_the_packed_product_wants_them(monkeypatch):
    plain = rounded(weight(128, 256, dtype=torch.bfloat16), 4, 128)
    packed = for_cpu(plain.map(torch.clone))
    assert packed.packed and packed.codes.nbytes == plain.codes.nbytes
    assert torch.equal(packed.dequantize(), plain.dequantize()) and torch.equal(packed.plain().codes, plain.codes)
    assert torch.equal(unpack_for_cpu(packed.codes).view(torch.int8) - 8, plain.integers())
    for rows, whole in (packed.split(64), True), (packed.split(48), False):                 # blocks of 64 stay packed
        assert torch.equal(torch.cat([part.dequantize() for part in rows]), plain.dequantize())
        assert all(part.packed == whole for part in rows)
        assert torch.equal(packed.dequantize(), plain.dequantize()), "who reads a block changes it"
    used = []
    monkeypatch.setattr(quantized, "F", None)                            # no numbers are made of the codes
    for tokens_ in (1, 64):
        used.append(F.linear(weight(tokens_, 256, dtype=torch.bfloat16), packed))
    with pytest.raises(AttributeError):                                  # of 65 tokens that is the slower way
        F.linear(weight(65, 256, dtype=torch.bfloat16), packed)
    monkeypatch.undo()
    assert all(y.isfinite().all() for y in used)
    for odd in (rounded(weight(128, 256), 4, 128), rounded(weight(100, 256, dtype=torch.bfloat16), 4, 128),
                rounded(weight(128, 48, dtype=torch.bfloat16), 4, 16), rounded(weight(64, 64).bfloat16(), 3, 32)):
        assert for_cpu(odd) is odd


def test_another_order_of_packing_is_noticed(monkeypatch):
    quantized.packs_as_we_know.cache_clear()
    monkeypatch.setattr(quantized, "unpack_for_cpu", lambda codes: codes.flip(0))
    try:
        assert not quantized.packs_as_we_know()
    finally:
        quantized.packs_as_we_know.cache_clear()


def test_wide_matrices_are_multiplied_piece_by_piece(monkeypatch):
    monkeypatch.setattr(quantized, "PIECE", 1)
    for dtype in (torch.float32, torch.bfloat16):
        for q in (for_cpu(rounded(weight(448, 64, dtype=dtype), 4, 32)), rounded_to_floats(weight(300, 64).to(dtype))):
            x = weight(50, 64, seed=1).to(dtype)
            assert len(list(q.pieces())) > 2
            right = x.double() @ q.dequantize().double().mT
            assert error(F.linear(x, q), right) < (1e-5 if dtype.itemsize == 4 else 2e-2)


def test_gradients_go_through_to_what_is_read():
    for dtype in (torch.float32, torch.bfloat16):
        q, x = for_cpu(rounded(weight(64, 64).to(dtype), 4, 32)), weight(2, 64, seed=1).to(dtype).requires_grad_()
        F.linear(x, q).sum().backward()
        assert error(x.grad, q.dequantize().sum(0).expand(2, 64)) < 1e-2


def test_experts_read_their_own_tokens():
    for dtype in (torch.float32, torch.bfloat16):
        q = for_cpu(rounded(weight(4, 64, 32).to(dtype), 4, 32))
        x, ends = weight(9, 32, seed=1).to(dtype), torch.tensor([2, 2, 8, 9], dtype=torch.int32)
        right = torch.cat([F.linear(rows, q.dequantize()[e]) for e, rows in enumerate(x.tensor_split([2, 2, 8]))])
        assert error(by_groups(x, q, ends), right) < (1e-5 if dtype.itemsize == 4 else 2e-2)
        assert isinstance(q[2], QuantizedTensor) and torch.equal(q[2].dequantize(), q.dequantize()[2])
        with torch.inference_mode():
            assert by_groups(x, q, ends).equal(by_groups(x.clone(), q, ends))


def test_anything_else_sees_numbers_and_nothing_is_written():
    q = rounded(weight(64, 64), 4, 32)
    w = q.dequantize()
    assert q.shape == (64, 64) and q.dtype == torch.float32 and q.device.type == "cpu" and q.numel() == 4096
    assert torch.equal(q @ q.mT, w @ w.mT) and torch.equal(q[3:5], w[3:5]) and torch.equal(q + 1, 1 + w)
    assert q.norm() == w.norm() and torch.equal(w.new_zeros(64, 64).copy_(q), w)
    assert q.tolist() == w.tolist() and (np.asarray(q) == w.numpy()).all() and (q.numpy() == w.numpy()).all()
    gate, up = q.chunk(2)
    assert isinstance(gate, QuantizedTensor) and torch.equal(up.dequantize(), w[32:])
    for change in (lambda: q.mul_(2), lambda: q.copy_(w), lambda: q.__setitem__(0, 1.0), lambda: q.requires_grad_(),
                   lambda: torch.nn.init.zeros_(q), lambda: setattr(q, "data", w),
                   lambda: setattr(q, "requires_grad", True)):
        with pytest.raises(QwenError, match="trained"):
            change()
    q.requires_grad = False


def test_a_weight_has_no_storage_of_its_own_and_its_parts_can_be_shared(tmp_path):
    q = quantized.as_parameter(rounded(weight(64, 64), 4, 32))
    with pytest.raises(QwenError, match="minqwen.save_model and torch.save can write it"):
        save_file({"q": q}, tmp_path / "q.safetensors")
    assert q.share_memory_() is q and q.codes.is_shared() and q.scale.is_shared()


# -------------------------------------------------------------------------------------------------------- whole models


@pytest.mark.parametrize("changes", [{}, MOE, {"tie_word_embeddings": False}], ids=["dense", "experts", "untied"])
@pytest.mark.parametrize("bits", [8, 4, "fp8"])
def test_a_quantized_model_is_the_one_of_its_numbers(changes, bits):
    qwen = model(**changes)
    small = minqwen.quantize(qwen, bits, *([16] if bits == 4 else []))
    inputs = prompt([3, (4, 6), 5], [9])
    assert error(small(**inputs), made_plain(small)(**inputs)) < 2e-5
    assert error(small.mtp_logits(**inputs), made_plain(small).mtp_logits(**inputs)) < 2e-5
    assert 1e-3 < error(small(**inputs), qwen(**inputs)) and not quantized_bits(qwen)


def test_what_stays_as_it_is():
    for changes in ({}, MOE):
        qwen = model(**changes)
        small = minqwen.quantize(qwen, 4, 16)
        for (name, before), (_, after) in zip(qwen.named_parameters(), small.named_parameters(), strict=True):
            kept = before.dim() < 2 or not KEPT.isdisjoint(name.removesuffix(".weight").split(".")[-2:])
            assert isinstance(after, QuantizedTensor) != kept, name
            if kept:
                assert after.data_ptr() == before.data_ptr() and after is not before
            else:
                outer = name.startswith(("model.visual", "lm_head", "model.language_model.embed"))
                assert (after.bits, after.block) == ((8, (1, before.shape[-1])) if outer else (4, (1, 16)))
        assert quantized_bits(small) == "4 and 8 bits"


def test_bits_of_embedding_and_head_are_said_apart():
    small = minqwen.quantize(model(tie_word_embeddings=False), 8, embeddings=4, group_size=16)
    assert small.lm_head.weight.bits == small.model.language_model.embed_tokens.weight.bits == 4
    assert small.mtp.fc.weight.bits == 8 and small.mtp.fc.weight.block == (1, 16)


def test_the_first_model_stays_as_it_was():
    qwen = random_qwen(small_config())
    before = {name: x.clone() for name, x in qwen.state_dict().items()}
    small = minqwen.quantize(qwen, 4, 16).to(torch.bfloat16)
    assert {x.dtype for x in small.parameters()} == {torch.bfloat16}
    assert all(torch.equal(x, before[name]) for name, x in qwen.state_dict().items())


@pytest.mark.parametrize("group", [16, 32])                  # 32: packed, and heads of one block of 64 rows among them
def test_copies_pickles_and_other_dtypes(group):
    config = seeing_config(linear_value_head_dim=32)
    small, ids = minqwen.quantize(random_qwen(config).to(torch.bfloat16), 4, group), tokens(1, 9)
    assert packed(small) == (group == 32 and quantized.packs_as_we_know())
    saved = io.BytesIO()
    torch.save(small, saved)
    saved.seek(0)
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small)), torch.load(saved, weights_only=False)):
        assert torch.equal(again(ids), small(ids)) and quantized_bits(again) == "4 and 8 bits"
        assert all(isinstance(p, torch.nn.Parameter) and not p.requires_grad for p in again.parameters())
    saved = io.BytesIO()
    torch.save(small.state_dict(), saved)
    saved.seek(0)
    again = Qwen(config).eval().requires_grad_(False)
    again.load_state_dict(torch.load(saved), assign=True)     # as it is called without thinking: weights only
    assert torch.equal(again(ids), small(ids))
    full = copy.deepcopy(small).float()
    assert full.head_weight.dtype == torch.float32 and quantized_bits(full) == "4 and 8 bits"
    assert error(full(ids), made_plain(full)(ids)) < 2e-5
    assert small.head_weight.dtype == torch.bfloat16
    assert not packed(full) and packed(full.bfloat16()) == packed(small)
    assert torch.equal(full(ids), small(ids))


def packed(qwen) -> bool:
    return any(p.packed for p in qwen.parameters() if isinstance(p, QuantizedTensor))


def test_prefill_and_decoding_are_the_same_in_float32():
    small = minqwen.quantize(model(), 4, 16)
    ids, cache = tokens(2, 40), small.new_cache(2, 40)
    steps = torch.cat([small(part, cache=cache) for part in ids.split([20, 1, 1, 18], dim=1)], dim=1)
    assert error(steps, small(ids)) < 2e-5


def test_a_decoder_reads_codes_as_a_forward_does():
    small = minqwen.quantize(random_qwen(small_config()), 4, 16)
    caches, ids = [small.new_cache(2, 40) for _ in range(2)], tokens(2, 20)
    for one in caches:
        small(ids, cache=one)
    for step in tokens(4, 2, seed=3):
        assert error(Decoder.of(small, caches[0])(step), small(step[:, None], cache=caches[1])[:, 0]) < 2e-5


def test_drafts_of_a_quantized_model_change_nothing():
    qwen = minqwen.load(bits=4)
    ids = [qwen.inputs("ann has a red cup. bob has a blue hat. what does ann have?").ids]
    plain, drafted = (minqwen.generate(qwen.model, ids, max_new_tokens=12, **options)
                      for options in ({}, {"draft_tokens": 3}))
    assert plain == drafted and len(plain[0]) > 3


def test_a_model_of_transformers_can_be_quantized_here():
    from minqwen.verify import official_twin

    theirs = official_twin(random_qwen(seeing_config(mtp_num_hidden_layers=0)), pictures=True)
    adopted = minqwen.from_transformers(theirs)
    small = minqwen.quantize(adopted, 4, 16)
    assert small.source is None and adopted.source is theirs and quantized_bits(small.model) == "4 and 8 bits"
    twin = official_twin(small.model, pictures=True)                     # their code, on our codes
    assert error(twin(tokens(1, 12)).logits, small.model(tokens(1, 12))) < 2e-5
    with pytest.raises(QwenError, match="are quantized"):
        minqwen.from_transformers(twin)


def test_the_assistant_of_a_quantized_model_talks():
    qwen = minqwen.load()
    for bits in (8, 4):
        small = minqwen.quantize(qwen, bits)
        assert small.chat("ann has a red cup. what does ann have?") == "a red cup"
        assert f"{'4 and 8' if bits == 4 else 8} bits beside float32" in repr(small)
    assert "bits" not in repr(qwen)
    adopted = copy.copy(qwen)
    adopted.source = qwen.model                              # whose weights these are no more
    assert minqwen.quantize(adopted, 8).source is None and adopted.source is qwen.model


# ------------------------------------------------------------------------------------------------ loading and saving


@pytest.fixture(params=[{}, MOE, {"tie_word_embeddings": False}], ids=["dense", "experts", "untied"])
def folder(request, tmp_path):
    save_model(model(**request.param), tmp_path, max_shard_size=50_000)
    return tmp_path


def assert_same(one, other):
    for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        assert type(a) is type(b) and a.dtype == b.dtype, name
        if isinstance(a, QuantizedTensor):
            assert torch.equal(a.codes.view(torch.uint8), b.codes.view(torch.uint8)) and torch.equal(a.scale, b.scale)
            assert (a.bits, a.block, a.packed) == (b.bits, b.block, b.packed), name
        else:
            assert torch.equal(a, b), name


@pytest.mark.parametrize("bits, group", [(8, None), (4, 16), ("fp8", None)])
def test_quantized_while_it_is_loaded(folder, bits, group):
    whole = load_model(folder)
    assert_same(load_model(folder, bits=bits, group_size=group), minqwen.quantize(whole, bits, group))
    assert load_model(folder, "bfloat16", bits=bits, group_size=group).head_weight.dtype == torch.bfloat16


@pytest.mark.parametrize("bits, group", [(8, None), (8, 16), (4, 16), ("fp8", None)])
def test_saved_and_loaded_without_the_first_one(folder, bits, group, tmp_path):
    small = load_model(folder, bits=bits, group_size=group)
    save_model(small, tmp_path / "small", max_shard_size=20_000)
    again = load_model(tmp_path / "small")
    assert_same(again, small)
    save_model(again, tmp_path / "small", overwrite=True)
    assert_same(load_model(tmp_path / "small"), small)


def test_load_takes_bits_and_says_so():
    qwen = minqwen.load(bits=4)
    assert_same(qwen.model, minqwen.quantize(load_model(qwen.folder), 4))
    assert "4 and 8 bits" in repr(qwen)


PEAK = """
import re, sys, torch
from minqwen.checkpoint import load_model

def kilobytes(what):
    return int(re.search(what + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

load_model(sys.argv[1], bits=4, group_size=16)     # whatever is needed once
before = kilobytes("VmRSS")
model = load_model(sys.argv[2], bits=4)
held = sum(p.bytes() if hasattr(p, "codes") else p.nbytes for p in model.parameters())
print((kilobytes("VmHWM") - before) * 1024 / held, held)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux")
def test_memory_holds_the_small_model_and_little_beside_it(tmp_path):
    """300 MB in bfloat16, in several files, become a fourth; in a process of its own, for its peak to be its own."""
    with torch.device("meta"):
        big = Qwen(small_config(hidden_size=1024, intermediate_size=4096, num_hidden_layers=12, vocab_size=20_000,
                                linear_num_value_heads=8, linear_value_head_dim=64, linear_num_key_heads=8,
                                dtype="bfloat16")).to(torch.bfloat16)
    assert (bytes_ := sum(p.nbytes for p in big.parameters())) > 250e6
    save_model(big.to_empty(device="cpu"), tmp_path / "big", max_shard_size=60 * 10**6)
    save_model(model(), tmp_path / "one")
    process = [sys.executable, "-c", PEAK, tmp_path / "one", tmp_path / "big"]
    peak, held = map(float, subprocess.run(process, capture_output=True, text=True, check=True).stdout.split())
    assert held < 0.32 * bytes_ and 0.9 < peak < 1.3


# --------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("options, says", [
    ({"bits": 5}, "bits must be 8 or 4 .*, not 5"), ({"bits": 16}, "not 16"), ({"bits": "4"}, "not '4'"),
    ({"bits": True}, "not True"), ({"bits": 4.5}, "not 4.5"), ({"bits": 4.0}, "not 4.0"), ({"bits": [4]}, r"not \[4\]"),
    ({"embeddings": 5}, "embeddings must be 8 or 4"), ({"embeddings": "fp8"}, "embeddings must be"),
    ({"group_size": 48}, "have 64 numbers, which groups of 48 do not divide: pass group_size=16"),
    ({"group_size": 128}, "groups of 128 do not divide: pass group_size=16"), ({}, "pass group_size=16"),
    ({"group_size": 7}, "group_size must be a multiple of 8"), ({"group_size": 0}, "multiple of 8"),
    ({"group_size": True}, "multiple of 8"), ({"group_size": 16.0}, "multiple of 8"),
    ({"bits": "fp8", "group_size": 128}, "leave out group_size=128"),
])
def test_bits_and_groups_that_cannot_be(options, says, tmp_path):
    save_model(model(), tmp_path)
    for refuse in (lambda: minqwen.quantize(model(), **options), lambda: load_model(tmp_path, **{"bits": 4, **options}),
                   lambda: minqwen.load(tmp_path, **{"bits": 4, **options})):
        assert re.search(says, sentence(refuse))


def sentence(action) -> str:
    with pytest.raises(QwenError) as caught:
        action()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_quantizing_twice_and_other_things_that_cannot_be(tmp_path):
    small = minqwen.quantize(model(), 4, 16)
    assert "quantized already (4 and 8 bits)" in sentence(lambda: minqwen.quantize(small, 8))
    save_model(small, tmp_path)
    assert "is quantized already: load it without bits=8" in sentence(lambda: load_model(tmp_path, bits=8))
    assert "is quantized already" in sentence(lambda: load_model(tmp_path, bits=4))         # and not which groups fit
    assert "a str" in sentence(lambda: minqwen.quantize("data/nano"))
    with torch.device("meta"):
        shapes = Qwen(small_config())
    assert "no weights" in sentence(lambda: minqwen.quantize(shapes, 8))
    assert "cannot be trained" in sentence(lambda: small.requires_grad_(True))
    assert "cannot be trained" in sentence(lambda: minqwen.quantize(model(), 4, 16).train().requires_grad_())
    assert "quantize first" in sentence(lambda: save_model(model(), tmp_path / "x", layout="gptq"))


def test_a_plan_counts_what_the_published_sizes_have():
    for config in (small_config(), seeing_config(), seeing_config(**MOE)):
        with torch.device("meta"):
            shapes = {name: p.shape for name, p in Qwen(config).named_parameters()}
        chosen = plan(shapes, 4, 16)
        assert chosen and all(shapes[name][-1] % group == 0 for name, (_, group) in chosen.items())
