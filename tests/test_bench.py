"""The benchmark compares what is equal, by turns; its figures are not judged here, for no test knows how busy it is."""

import pytest
import torch
from support import error, random_qwen

from minqwen import bench


def test_by_turns_takes_turns():
    calls = []
    row = bench.by_turns("x", lambda: calls.append("a"), lambda: calls.append("b"), rounds=3, aim=0.0)
    assert calls == list("baabbaab") and row.ratio > 0 and "✓" in str(row)
    assert "✗" in str(bench.Row("x", 1.0, 1.5, 1.5, aim=2.0)) and "aim" not in str(bench.Row("x", 1, 1, 1))


@pytest.mark.parametrize("strong", [False, True])
def test_gates_are_what_they_are_called(strong):
    x, gates = bench.rule_inputs(500, 2, 4, strong)
    assert gates["g"].max() < 0 and (gates["g"].min() < -40) == strong
    assert 0.05 < -gates["g"].median() < 1 or strong


def test_both_sides_compute_the_same(monkeypatch):
    """What is timed for one side gives what is timed for the other: chunks, decoding, and the whole model."""
    pytest.importorskip("transformers", minversion="5.23")
    compared = []

    def results(what, ours, theirs, rounds, aim=None):
        compared.append((what, ours(), theirs()))
        return bench.Row(what, 1, 1, 1)

    monkeypatch.setattr(bench, "by_turns", results)
    with torch.no_grad():
        bench.chunked(70, 2, 4, False, 1, None)
        bench.whole_model(random_qwen(), (20, 50), 1, None)
    (_, ours, theirs), *whole = compared
    assert error(ours[0], theirs[0]) < 1e-5 and error(ours[1], theirs[1]) < 1e-5
    assert [what.split(", ")[-1] for what, *_ in whole] == \
        ["prefill of 256 tokens", "decoding after 20 tokens", "decoding after 50 tokens"]
    for what, logits, official in whole:
        assert error(logits, official.logits) < 2e-5, what


def test_decoding_leaves_both_with_the_same_states(monkeypatch):
    pytest.importorskip("transformers", minversion="5.23")
    monkeypatch.setattr(bench, "LAYERS", 2)
    sides = []
    monkeypatch.setattr(bench, "by_turns", lambda what, ours, theirs, rounds, aim: sides.extend((ours, theirs)))
    with torch.no_grad():
        bench.decoding(2, 4, 1, None)
        for side in sides:
            side(), side()
    states = [next(c.cell_contents for c in side.__closure__ if isinstance(c.cell_contents, list)
                   and c.cell_contents[0].dim() == 4 and c.cell_contents[0].shape[-1] == c.cell_contents[0].shape[-2])
              for side in sides]
    for a, b in zip(*states, strict=True):
        assert a.any() and error(a, b) < 1e-5


def test_bfloat16_is_as_published():
    dtypes = {name: p.dtype for name, p in bench.in_bfloat16(random_qwen()).named_parameters()}
    for name, dtype in dtypes.items():
        assert (dtype == torch.float32) == name.endswith(("A_log", "linear_attn.norm.weight")), name
