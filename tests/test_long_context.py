"""What a long text costs: it is measured, explained byte for byte, and what `minqwen info` says."""

import json

import pytest
import torch
from torch.nn import functional as F

from minqwen import cli
from minqwen import long_context as long
from minqwen.checkpoint import without_memory
from minqwen.info import readable
from minqwen.model import attend_from_the_end

CHANCE = 5e6                                             # bytes by which one process differs from the next


@pytest.fixture(scope="module")
def model():
    return long.narrow_model()


@pytest.fixture(scope="module")
def recorded():
    return json.loads(long.RECORD.read_text(encoding="utf-8"))


def piece_bytes(model, tokens):
    return long.tensor_bytes(lambda: long.last_piece(model, tokens))


def explained(tokens):
    return sum(long.explained(long.CONFIG, tokens).values())


def cache_bytes(tokens):
    """{kind of layer: bytes} of the model's own cache, made without taking any memory."""
    kept = {}
    cache = without_memory(long.CONFIG.with_context(tokens)).new_cache(1, tokens)
    for kind, layer in zip(long.CONFIG.text_config.layer_types, cache.layers):
        tensors = [x for x in vars(layer).values() if torch.is_tensor(x)]
        kept[kind] = kept.get(kind, 0) + sum(x.numel() * x.element_size() for x in tensors)
    return kept


@pytest.mark.parametrize("B, Hq, Hkv, T, S, dtype", [
    (1, 4, 2, 2, 3, torch.float32), (3, 6, 2, 37, 101, torch.float32), (2, 4, 1, 64, 640, torch.bfloat16),
])
def test_attention_from_the_end_is_attention_under_a_mask(B, Hq, Hkv, T, S, dtype):
    random = torch.Generator().manual_seed(S)
    q = torch.randn(B, Hq, T, 32, generator=random).to(dtype)
    k, v = torch.randn(2, B, Hkv, S, 32, generator=random).to(dtype)
    mask = torch.ones(T, S, dtype=torch.bool).tril(S - T)
    wanted = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    torch.testing.assert_close(attend_from_the_end(q, k, v), wanted)


def test_what_a_piece_takes_is_the_cache_and_a_work_that_knows_no_length(model):
    work = {tokens: piece_bytes(model, tokens) - explained(tokens) for tokens in (4_096, 32_768, 131_072)}
    assert len(set(work.values())) == 1, work


def test_a_process_grows_by_what_is_explained():
    short, long_one = (long.alone("weigh", tokens) for tokens in long.LENGTHS[:2])
    ids = 8 * (long_one["tokens"] - short["tokens"])
    grown = explained(long_one["tokens"]) - explained(short["tokens"]) + ids
    assert long_one["process"] - short["process"] == pytest.approx(grown, abs=CHANCE)


def test_what_failed_in_its_process_is_told():
    with pytest.raises(long.QwenError, match="failed: .*no attribute 'weight'"):
        long.alone("weight", 3)


def test_info_agrees_with_what_is_there_at_a_million_tokens(model, tmp_path, capsys):
    million = 1_000_000
    (tmp_path / "config.json").write_text(json.dumps(long.CONFIG.to_dict()))
    assert cli.main(["info", str(tmp_path), "--context", f"{million}"]) == 0
    said, there = capsys.readouterr().out, cache_bytes(million)
    assert "by YaRN" in said
    assert f"attention   {readable(there['full_attention'])} in float32, " in said
    assert f"DeltaNet    {readable(there['linear_attention'])}, always" in said

    # and with what is measured, carried on to a million
    few, more = (piece_bytes(model, tokens) for tokens in (32_768, 131_072))
    each = (more - few) / (131_072 - 32_768) - 1         # less the byte that says whether a slot is real
    assert each * million == there["full_attention"]
    assert f"{readable(each)} more with each token" in said
    assert sum(there.values()) + million == explained(million)


def test_work_is_found_for_both_kinds_of_layers(model):
    found = long.work(model, (1024, 2048))
    assert found["contexts"] == [1024, 2048]
    for phase in ("prefill", "decode"):
        assert found[phase].keys() == {"linear_attention", "full_attention"}
        assert all(len(some) == 2 and min(some) > 0 for some in found[phase].values())


# ------------------------------------------------------------------------------------------------- what was recorded


def test_recorded_memory_is_explained(recorded):
    weighed = recorded["memory"]
    assert tuple(one["tokens"] for one in weighed) == long.LENGTHS and recorded["piece"] == long.PIECE
    short, *longer = weighed
    work = {one["tensors"] - explained(one["tokens"]) for one in longer}
    assert len(work) == 1
    for one in longer:
        more = one["tokens"] - short["tokens"]
        grown = explained(one["tokens"]) - explained(short["tokens"]) + 8 * more            # the ids
        assert one["process"] - short["process"] == pytest.approx(grown, abs=CHANCE)


def test_recorded_work_of_delta_layers_is_flat_and_that_of_attention_grows(recorded):
    work = recorded["work"]
    assert tuple(work["contexts"]) == long.CONTEXTS
    for phase in ("prefill", "decode"):
        delta, attention = work[phase]["linear_attention"], work[phase]["full_attention"]
        assert max(delta) < 2 * min(delta), phase
        assert attention[-1] > 10 * attention[0], phase


def test_a_place_where_nothing_can_be_written_is_told_before_anything_is_measured(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(long, "measured", None)
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        long.main(["--out", str(tmp_path / "file" / "x.json")])
    assert "(Not a directory): name another folder (--out)" in " ".join(capsys.readouterr().err.split())
