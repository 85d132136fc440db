"""Quantized checkpoints in the layouts of others, against readers and writers of their own, one number at a time."""

import json
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import error, random_qwen, seeing_config, tokens
from test_quantize import MOE, assert_same, made_plain, model, sentence

import minqwen
from minqwen import load_model, save_model
from minqwen.layouts import LAYOUTS
from minqwen.quantized import QuantizedTensor, quantized_bits

UP = "model.language_model.layers.0.mlp.up_proj"


def nibble(word: int, i: int, bits: int = 4) -> int:
    return (int(word) & 0xFFFFFFFF) >> bits * i & 2**bits - 1


# ------------------------------------------------------------------------- what others would read: numbers from a file


def gptq(x, settings):
    """AutoGPTQ: 8 codes of one column below each other in a word; a zero point is one more than is stored."""
    bits, slots = settings["bits"], 32 // settings["bits"]
    K, N = x["qweight"].shape[0] * slots, x["qweight"].shape[1]
    w = np.empty((N, K), np.float64)
    for k in range(K):
        group = int(x["g_idx"][k])
        for n in range(N):
            code = nibble(x["qweight"][k // slots, n], k % slots, bits)
            zero = nibble(x["qzeros"][group, n // slots], n % slots, bits) + 1 & 2**bits - 1
            w[n, k] = (code - zero) * float(x["scales"][group, n])
    return w


def awq(x, settings):
    """AutoAWQ: 8 codes of one row side by side in a word, of which the columns are 0, 2, 4, 6, 1, 3, 5, 7."""
    K, N = x["qweight"].shape[0], x["qweight"].shape[1] * 8
    w, lies = np.empty((N, K), np.float64), [0, 2, 4, 6, 1, 3, 5, 7]
    for k in range(K):
        group = k // (K // x["scales"].shape[0])
        for n in range(N):
            place = lies.index(n % 8)
            code, zero = (nibble(x[part][row, n // 8], place) for part, row in (("qweight", k), ("qzeros", group)))
            w[n, k] = (code - zero) * float(x["scales"][group, n])
    return w


def compressed(x, settings):
    """compressed-tensors: codes of a row side by side, from the middle up."""
    (N, K), G = x["weight_shape"].tolist(), x["weight_scale"].shape[1]
    slots = -(-K // x["weight_packed"].shape[1])
    bits = 32 // slots
    w = np.empty((N, K), np.float64)
    for n in range(N):
        for k in range(K):
            code, zero = nibble(x["weight_packed"][n, k // slots], k % slots, bits), 2 ** (bits - 1)
            if "weight_zero_point" in x:
                zero = nibble(x["weight_zero_point"][n // slots, k // (K // G)], n % slots, bits)
            w[n, k] = (code - zero) * float(x["weight_scale"][n, k // (K // G)])
    return w


def fp8(x, settings):
    """DeepSeek's blocks: 8 bits are a sign, four of exponent, three of mantissa."""
    raw = x["weight"].view(torch.uint8).numpy()
    w = np.empty(raw.shape, np.float64)
    for n in range(raw.shape[0]):
        for k in range(raw.shape[1]):
            byte = int(raw[n, k])
            exponent, mantissa = byte >> 3 & 15, byte & 7
            size = 2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0 ** -6 * mantissa / 8
            w[n, k] = (-size if byte >> 7 else size) * float(x["weight_scale_inv"][n // 128, k // 128])
    return w


READERS = {"gptq": gptq, "awq": awq, "compressed-tensors": compressed, "fp8": fp8}


def parts_of(folder, module):
    """{the end of a name: tensor} of one module's tensors in a file."""
    tensors = load_file(folder / "model.safetensors")
    return {name.removeprefix(f"{module}."): x for name, x in tensors.items() if name.startswith(f"{module}.")}


def settings_of(folder):
    return json.loads((folder / "config.json").read_text())["quantization_config"]


@pytest.mark.parametrize("layout, bits", [("gptq", 4), ("gptq", 8), ("awq", 4), ("compressed-tensors", 4),
                                          ("compressed-tensors", 8), ("fp8", "fp8")])
@pytest.mark.parametrize("changes", [{}, MOE], ids=["dense", "experts"])
def test_what_is_written_means_the_same_to_others_and_to_us(layout, bits, changes, tmp_path):
    small = minqwen.quantize(model(**changes), bits, 16 if bits == 4 else None)
    save_model(small, tmp_path, layout=layout)
    names = ["mtp.fc"] if layout == "compressed-tensors" else ["mtp.layers.0.self_attn.o_proj"]
    names += ["model.language_model.layers.1.linear_attn.in_proj_z",
              "model.language_model.layers.2.mlp.experts.4.down_proj" if changes else UP]
    for name in names:
        held = small.get_submodule(re.sub(r"\.4\.down_proj", "", name))
        held = held.down_proj[4] if "experts" in name else held.weight
        right = READERS[layout](parts_of(tmp_path, name), settings_of(tmp_path))
        assert error(held.dequantize(), torch.from_numpy(right)) < 1e-6, name
    again = load_model(tmp_path)
    ids = tokens(2, 9)
    assert error(again(ids), small(ids)) < 1e-6 and error(again.mtp_logits(ids), small.mtp_logits(ids)) < 1e-6
    assert type(again.head_weight) is torch.nn.Parameter                 # they have no codes for an embedding


def test_settings_are_those_that_others_expect(tmp_path):
    small = minqwen.quantize(model(tie_word_embeddings=False), 4, 16)
    for layout, expected in {
        "gptq": {"bits": 4, "group_size": 16, "sym": True, "desc_act": False, "lm_head": False},
        "awq": {"bits": 4, "group_size": 16, "zero_point": True, "version": "gemm"},
        "compressed-tensors": {"format": "pack-quantized", "quantization_status": "compressed"},
    }.items():
        save_model(small, tmp_path / layout, layout=layout)
        settings = settings_of(tmp_path / layout)
        assert settings["quant_method"] == layout and expected.items() <= settings.items()
    groups = settings["config_groups"]
    assert groups["group_0"]["targets"] == ["Linear"]
    assert groups["group_0"]["weights"] == {"num_bits": 4, "type": "int", "symmetric": True, "dynamic": False,
                                            "strategy": "group", "group_size": 16}
    assert groups["group_1"]["weights"]["strategy"] == "channel" and "lm_head" in groups["group_1"]["targets"]
    assert "model.language_model.layers.0.linear_attn.in_proj_a" in settings["ignore"]
    named = {"lm_head", *groups["group_1"]["targets"], *settings["ignore"]}
    linear = {name for name, module in small.named_modules() if isinstance(module, torch.nn.Linear)}
    of_4_bits = {name for name in linear if getattr(small.get_submodule(name).weight, "bits", None) == 4}
    assert named | of_4_bits == linear and not named & of_4_bits
    save_model(minqwen.quantize(model(), "fp8"), tmp_path / "fp8")
    settings = settings_of(tmp_path / "fp8")
    assert "lm_head" in settings.pop("modules_to_not_convert")
    assert settings == {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
                        "weight_block_size": [128, 128]}


# --------------------------------------------------------------------------- what others write: a file made by hand


def words(codes, bits):
    """(n, m) numbers -> (n, m * bits / 32), word by word."""
    slots = 32 // bits
    made = [[sum(int(row[i + j]) << bits * j for j in range(slots)) for i in range(0, len(row), slots)]
            for row in codes]
    return torch.from_numpy(np.array(made, np.uint32).view(np.int32))


def by_hand(layout, N, K, bits=4, group=16, seed=0):
    """(the tensors of a weight with zero points all over, the settings, the numbers meant)."""
    random = np.random.default_rng(seed)
    codes, zero = random.integers(0, 2**bits, (N, K)), random.integers(1, 2**bits, (N, K // group))
    scale = torch.from_numpy(random.uniform(0.01, 0.1, (N, K // group))).half()
    meant = (codes - zero.repeat(group, 1)) * scale.numpy().repeat(group, 1)
    if layout == "gptq":
        return {"qweight": words(codes, bits).T, "scales": scale.T, "qzeros": words(zero.T - 1, bits)}, {
            "bits": bits, "group_size": group, "sym": False}, meant
    if layout == "gptq_v2":
        return {"qweight": words(codes, bits).T, "scales": scale.T, "qzeros": words(zero.T, bits),
                "g_idx": torch.arange(K).int() // group}, {"bits": bits, "checkpoint_format": "gptq_v2"}, meant
    if layout == "awq":
        order = np.concatenate([np.array([0, 2, 4, 6, 1, 3, 5, 7]) + 8 * i for i in range(N // 8)])
        return {"qweight": words(codes.T[:, order], 4), "qzeros": words(zero.T[:, order], 4), "scales": scale.T}, {
            "w_bit": 4, "q_group_size": group, "version": "GEMM"}, meant
    return {"weight_packed": words(codes, bits), "weight_scale": scale, "weight_shape": torch.tensor([N, K]),
            "weight_zero_point": words(zero.T, bits).T}, {"format": "pack-quantized"}, meant


@pytest.fixture
def folder(tmp_path):
    save_model(model(), tmp_path)
    return tmp_path


def put(folder, settings, parts, module=UP):
    tensors = load_file(folder / "model.safetensors")
    weight = tensors.pop(f"{module}.weight", None)
    tensors |= {f"{module}.{part}": x.contiguous() for part, x in parts.items()}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
    return weight


@pytest.mark.parametrize("layout, bits", [("gptq", 4), ("gptq", 8), ("gptq_v2", 4), ("awq", 4),
                                          ("compressed-tensors", 4), ("compressed-tensors", 8)])
def test_zero_points_are_read_and_written(folder, layout, bits, tmp_path):
    parts, settings, meant = by_hand(layout, 96, 64, bits)
    method = layout.removesuffix("_v2")
    put(folder, {"quant_method": method} | settings, parts)
    loaded = load_model(folder)
    weight = loaded.get_submodule(UP).weight
    assert isinstance(weight, QuantizedTensor) and weight.zero is not None and weight.dtype == torch.float32
    assert error(weight.dequantize(), torch.from_numpy(meant)) < 1e-6
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    assert error(torch.nn.functional.linear(x, weight), x.double() @ torch.from_numpy(meant).mT) < 1e-5
    assert error(loaded(tokens(1, 9)), made_plain(loaded)(tokens(1, 9))) < 2e-5
    save_model(loaded, tmp_path / "again", layout=method)
    right = READERS[method](parts_of(tmp_path / "again", UP), settings_of(tmp_path / "again"))
    assert error(torch.from_numpy(right), torch.from_numpy(meant)) < 1e-6
    assert_same(load_model(tmp_path / "again"), loaded)


def test_official_fp8_with_blocks_that_are_cut(folder):
    w = torch.randn(96, 64).to(torch.float8_e4m3fn)
    parts = {"weight": w, "weight_scale_inv": torch.tensor([[0.25]], dtype=torch.bfloat16)}
    put(folder, {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128],
                 "modules_to_not_convert": ["lm_head"]}, parts)
    loaded = load_model(folder)
    assert torch.equal(loaded.get_submodule(UP).weight.dequantize(), w.float() / 4)
    assert quantized_bits(loaded) == "8 bits (fp8)" and loaded(tokens(1, 5)).isfinite().all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_official_scales_are_in_half_precision_and_become_the_dtype_of_the_rest(folder, dtype):
    parts, settings, meant = by_hand("gptq", 96, 64)
    put(folder, {"quant_method": "gptq"} | settings, parts)
    weight = load_model(folder, dtype).get_submodule(UP).weight
    assert weight.dtype == weight.scale.dtype == getattr(torch, dtype)
    assert error(weight.dequantize(), torch.from_numpy(meant)) < (1e-6 if dtype == "float32" else 1e-2)


@pytest.mark.parametrize("change, says", [
    (lambda parts: parts.pop("qzeros"), f"lacks the tensor {UP}.qzeros, a part of a quantized weight; fetch it again"),
    (lambda parts: parts.update(g_idx=torch.arange(64).flip(0).int() // 16), "grouped out of order"),
    (lambda parts: parts.update(qweight=parts["qweight"][:, :64]), r"has the shape \(64, 64\), but config.json asks"),
    (lambda parts: parts.update(scales=parts["scales"][:, :64]), r"scales of .*up_proj.weight .* the shape \(64, 4\)"),
    (lambda parts: parts.update(qweight=parts["qweight"][0]), r"qweight .* the shape \(96,\), which is none of a"),
    (lambda parts: parts.update(scales=parts["scales"][0]), "parts of .*up_proj.weight .* do not fit each other"),
    (lambda parts: parts.update(scales=parts["scales"][:0]), "parts of .*up_proj.weight .* do not fit each other"),
    (lambda parts: parts.update(qweight=parts["qweight"].float()), "parts of .*up_proj.weight .* do not fit"),
    (lambda parts: parts.update(scales=parts["scales"].int()), "stored as torch.int32, which is no dtype of scales"),
    (lambda parts: parts.update(qzeros=parts["qzeros"][:1] + 1), r"zero points of .*up_proj.weight .* shape \(96, 1\)"),
], ids=["a part", "order", "shape", "scales", "a row", "scales in a row", "no scales", "floats", "whole scales",
        "zeros"])
def test_a_quantized_weight_that_is_damaged_is_named(folder, change, says):
    parts, settings, _ = by_hand("gptq", 96, 64)
    change(parts)
    put(folder, {"quant_method": "gptq"} | settings, parts)
    assert re.search(says, sentence(lambda: load_model(folder)))


def test_null_in_the_settings_says_nothing(folder):
    parts, settings, _ = by_hand("gptq", 96, 64)
    put(folder, {"quant_method": "gptq"} | settings | {"bits": None, "checkpoint_format": None}, parts)
    assert load_model(folder).get_submodule(UP).weight.bits == 4


def test_scales_of_floats_must_fit(folder):
    put(folder, {"quant_method": "fp8"}, {"weight": torch.zeros(96, 64).to(torch.float8_e4m3fn),
                                          "weight_scale_inv": torch.ones(2, 1)})
    assert r"have the shape (2, 1), but its codes ask for (1, 1)" in sentence(lambda: load_model(folder))


def test_a_layout_that_cannot_hold_a_model_says_so(tmp_path):
    four, mixed = minqwen.quantize(model(), 4, 16), minqwen.quantize(model(), 4, 16)
    three, floats, eight = (minqwen.quantize(model(), bits, *group) for bits, *group in ((3, 16), ("fp8",), (8,)))
    mixed.get_submodule(UP).weight = eight.get_submodule(UP).weight
    for qwen, layout, says in (
        (three, None, "'compressed-tensors' cannot hold .* codes of 3 bits"), (three, "gptq", "codes of 3 bits"),
        (eight, "awq", "'awq' cannot hold .* codes of 8 bits"), (four, "fp8", "'fp8' cannot hold .* codes of 4 bits"),
        (floats, "gptq", "'gptq' cannot hold"), (mixed, "gptq", "and others of other kinds"),
        (four, "gguf", "no layout 'gguf'; there are compressed-tensors, gptq, awq, fp8"),
    ):
        told = sentence(lambda qwen=qwen, layout=layout: save_model(qwen, tmp_path / "x", layout=layout))
        assert re.search(says, told)
    assert not (tmp_path / "x").exists()
    save_model(mixed, tmp_path / "x")
    assert_same(load_model(tmp_path / "x"), mixed)


def test_transformers_reads_what_is_written_for_others(tmp_path):
    """By compressed-tensors, on which transformers relies for this layout."""
    pytest.importorskip("compressed_tensors", reason="compressed-tensors is not installed")
    from transformers import AutoModelForImageTextToText

    small = minqwen.quantize(random_qwen(seeing_config(mtp_num_hidden_layers=0)), 4, 16)
    save_model(small, tmp_path, layout="compressed-tensors")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert error(theirs(tokens(1, 20)).logits, small(tokens(1, 20))) < 2e-5


def test_every_layout_is_tested():
    assert LAYOUTS.keys() == READERS.keys()
