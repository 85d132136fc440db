"""Lesson 15 where there is no Triton, as on macOS and Windows: what can run runs, and the rest says why it does not."""

import os
import sys

import pytest
from notebooks_support import NOTEBOOKS, printed, read, run, source_cells, strip

from minqwen import course

SKIPPED = "skipped: it runs a kernel, and Triton is not installed\n"


def test_without_triton_the_lesson_goes_on(tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['triton'] = None\n")
    path = os.pathsep.join([str(NOTEBOOKS.parent), str(tmp_path)])
    lesson = run(strip(read(NOTEBOOKS / "15_gpu_kernel.ipynb")), env={**os.environ, "PYTHONPATH": path})
    said = {cell.id: printed(cell) for cell in source_cells(lesson)}
    assert said["setup"].startswith("Triton is not installed (it exists for Linux only)")
    assert [name for name, text in said.items() if text == SKIPPED] == [
        "fade", "check-1", "decode-run-code", "inverse-run", "walk-run"]
    assert said["real"].startswith(SKIPPED) and said["real"].count("✓ chunks in PyTorch") == 3
    for name in ("check-2", "check-3", "check-4"):
        assert said[name].startswith("not yet: ")
    assert "✓" in said["intensity"] + said["series-figure"]


def test_without_triton_a_kernel_is_not_judged(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(course.Wrong, match="my_decode_kernel: a kernel needs Triton, which exists for Linux only"):
        course.judge("my_decode_kernel", lambda: None)
