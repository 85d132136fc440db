"""`make gpu` without a GPU: what it says then, and the page that it makes of its figures."""

import json
import re
from pathlib import Path

from minqwen import gpu

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
