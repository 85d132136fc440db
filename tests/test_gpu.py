"""`make gpu` without a GPU: what it says, the page that it makes of its figures, and those that lesson 15 shows."""

import json
import re
from datetime import date
from pathlib import Path

import torch
from support import random_qwen, small_config, tokens

from minqwen import gpu
from minqwen.generate import prefill

MACHINE = {"GPU": "NVIDIA X1", "date": "2026-11-27", "torch": "2.13.0", "triton": "3.7.1", "CUDA": "13.0",
           "flash-linear-attention": "none"}


def test_without_a_gpu_nothing_is_measured(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--out", str(tmp_path / "out")]) == 1
    assert "nothing was measured" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_the_page_says_where_its_figures_come_from(tmp_path):
    report = gpu.Report(tmp_path)
    report.add("machine", **MACHINE)
    report.add("forward", case="1 x 32,768, 16:32", **{"ours (ms)": 1.23456})
    report.add("forward", case="8 x 4,096, 16:32", **{"ours (ms)": 2.0, "fla (ms)": 3.0})
    with report.survive("decode"):
        raise ValueError("no\nroom")
    report.save()
    page = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert page == gpu.page(json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8")))
    for part in ("`make gpu`", "on one NVIDIA X1, 2026-11-27: torch 2.13.0, triton 3.7.1, CUDA 13.0", "## Forward\n",
                 "| case | ours (ms) | fla (ms) |", "| 1 x 32,768, 16:32 | 1.23 |  |", "| 8 x 4,096, 16:32 | 2 | 3 |",
                 "- failed: decode: ValueError: no room"):
        assert part in page


def test_every_table_is_explained():
    written = set(re.findall(r'report\.add\("([^"]+)"', Path(gpu.__file__).read_text(encoding="utf-8")))
    assert len(written) > 5 and written <= {"machine", *gpu.ABOUT}


def test_make_gpu_times_a_whole_model(monkeypatch):
    """Here on a CPU, and small; a case that fails does not stop the others."""
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu, "random_model", lambda dtype, layers=24: random_qwen(small_config()))
    monkeypatch.setattr(gpu, "elapsed", lambda run, times: run() is None or 2.0)
    monkeypatch.setattr(gpu, "generate", lambda *_, **options: 1 / 0 if options.get("temperature") else [[1]])
    report = gpu.Report(None)
    gpu.model(report, {"GB/s": 1.0}, quick=True)
    assert [row["ok"] for row in report.tables["right"]] == ["yes", "yes"]
    rows = {row["case"]: row for row in report.tables["model"]}
    assert list(rows) == ["a prompt of 512 tokens", "a token after 32, in one graph",
                          "a token after 32, layer by layer", "generate: 256 tokens after 32, the likeliest"]
    assert rows["generate: 256 tokens after 32, the likeliest"]["tokens/s"] == 128_000
    assert report.failures == ["model, generate, drawn: ZeroDivisionError: division by zero"]


def test_bytes_of_a_step():
    """Weights, keys and values are read, memories read and written, all in float32; empty slots are not read."""
    qwen = random_qwen(small_config())
    cache = qwen.new_cache(2, 50)
    prefill(qwen, tokens(2, 20), cache)
    config = qwen.config.text_config
    past = 2 * 2 * 20 * config.num_key_value_heads * config.head_dim * config.layer_types.count("full_attention")
    memories = sum(2 * layer.recurrent_state.numel() for layer in cache.layers if hasattr(layer, "recurrent_state"))
    weights = sum(x.numel() for x in qwen.model.language_model.parameters())
    assert gpu.bytes_of_a_step(qwen, cache) == 4 * (weights + past + memories)


# ---- the figures that are shipped

def test_the_record_says_where_and_when():
    [machine] = gpu.recorded()["machine"]
    assert machine["GPU"] and machine["torch"] and machine["triton"]
    assert date(2026, 1, 1) < date.fromisoformat(machine["date"]) <= date.today()


def test_the_record_has_what_the_lesson_shows():
    tables = gpu.recorded()
    [ceiling] = tables["ceilings, measured"]
    assert ceiling["GB/s"] > 100 and ceiling["TFLOP/s"] > 10
    long = [row for row in tables["forward"] if row["case"] == "1 x 32,768, 16:32"]
    assert len(long) == 1 and long[0]["fla (ms)"] > 0
    for row in tables["forward"]:
        B, T, Hk, Hv = (int(n.replace(",", "")) for n in re.findall(r"\d[\d,]*\d|\d", row["case"]))
        assert row["ours (ms)"] > max(gpu.floors(B, T, Hk, Hv, ceiling)), "nothing is above the roof"
    assert tables["decode"][0]["in a graph (us)"] < tables["decode"][0]["launched alone (us)"]
    tokens = [row for row in tables["model"] if row["case"].startswith("a token after 32,")]
    assert {"a token after 32, layer by layer", "a token after 32, in one graph"} <= {row["case"] for row in tokens}
    assert all(0 < row["of the measured bandwidth (%)"] < 100 for row in tokens)


def test_a_quick_look_has_the_same_tables(monkeypatch):
    """On a GPU the lesson measures; here every clock shows one millisecond."""
    monkeypatch.setattr(gpu, "machine", lambda: {"GPU": "none"})
    monkeypatch.setattr(gpu, "ceilings", lambda: {"GB/s": 1000, "TFLOP/s": 100})
    monkeypatch.setattr(gpu, "rule_inputs", lambda *sizes: [])
    monkeypatch.setattr(gpu, "timed", lambda *arguments: 1.0)
    monkeypatch.setattr(gpu, "peer", lambda: None)
    monkeypatch.setattr(gpu, "decode_case", lambda report, ceiling, B, Hk, Hv: report.add(
        "decode", case=f"{B} x 1, {Hk}:{Hv}", **{"in a graph (us)": 1000.0}))
    monkeypatch.setattr(gpu, "model", lambda report, ceiling, quick: report.add("model", case="a token", ms=1.0))
    tables = gpu.quick_look()
    assert tables.keys() == gpu.recorded().keys() - {"right", "forward + backward"}
    assert tables["forward"][0]["ours (ms)"] == 1.0


def test_the_page_in_docs_is_of_the_figures_that_are_shipped(repository):
    content = json.loads((repository / "data/gpu.json").read_text(encoding="utf-8"))
    assert (repository / "docs/gpu.md").read_text(encoding="utf-8") == gpu.page(content)
    assert not content["failures"] and {row["ok"] for row in content["tables"]["right"]} == {"yes"}


def test_readme_says_what_was_measured(repository):
    text, tables = (repository / "README.md").read_text(encoding="utf-8"), gpu.recorded()
    rows = {row["case"]: row for name in ("forward", "model") for row in tables[name]}
    long, many = rows["1 x 32,768, 16:32"], rows["8 x 4,096, 16:32"]
    token = rows["a token after 32, in one graph"]
    for said in (f"in {long['ours (ms)']:.2f} ms", f"takes {long['fla (ms)']:.2f} ms",
                 f"in {many['ours (ms)']:.2f} ms ({many['fla (ms)']:.2f} ms)", f"{token['ms']:.3f} ms",
                 f"{token['tokens/s']:,.0f} a second", tables["machine"][0]["GPU"]):
        assert said in " ".join(text.split())
    assert 49 < token["of the measured bandwidth (%)"] < 53             # "at half the speed at which that GPU copies"
