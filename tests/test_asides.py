"""`%%nano`: a cell that runs with the shipped model, and is passed over with another one."""

import re

import nbclient
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from notebooks_support import printed, run

SET_UP = "import minqwen.course\ncheckpoint = {}"
ASIDE = """%%nano
text = '''two
lines'''
[len(text)]"""


def ran(*sources, folder, allow_errors=False):
    notebook = new_notebook(cells=[new_code_cell(source) for source in sources])
    notebook.cells[-1].metadata.tags = ["raises-exception"] if allow_errors else []
    return run(notebook, folder=folder).cells


def test_with_the_shipped_model_it_is_a_cell_like_any_other(tmp_path):
    """Its last value is shown, its names stay, a text of several lines is as it was written."""
    cells = ran(SET_UP.format(None), ASIDE, "print(text)", folder=tmp_path)
    assert [printed(cell) for cell in cells] == ["", "[9]", "two\nlines\n"]


def test_with_another_one_it_is_passed_over_and_says_so(tmp_path):
    cells = ran(SET_UP.format("'Qwen/Qwen3.5-0.8B'"), ASIDE, "print('text' in globals())", folder=tmp_path)
    assert [printed(cell) for cell in cells[1:]] == [
        "passed over: it asks what only the shipped model knows\n", "False\n"]


def test_another_magic_may_follow(tmp_path):
    *_, cell = ran(SET_UP.format(None), "%%nano\n%%capture said\nprint('two')", "said.stdout", folder=tmp_path)
    assert printed(cell) == "'two\\n'"


def test_an_error_in_it_has_one_traceback_with_its_own_lines(tmp_path):
    *_, cell = ran(SET_UP.format(None), "%%nano\n\nassert 1 == 2, 'no'", folder=tmp_path, allow_errors=True)
    (error,) = cell.outputs
    assert (error.ename, error.evalue) == ("AssertionError", "no")
    traceback = re.sub(r"\x1b\[[\d;]*m", "", "\n".join(error.traceback))
    assert re.findall(r"^(?:Cell|File) .*", traceback, flags=re.MULTILINE) == ["Cell In[2], line 3"], traceback
    assert "----> 3 assert 1 == 2, 'no'" in traceback


def test_an_error_in_it_ends_run_all(tmp_path):
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="no"):
        ran(SET_UP.format(None), "%%nano\nassert 1 == 2, 'no'", "print('after')", folder=tmp_path)


def test_before_the_first_cells_it_says_what_is_missing(tmp_path):
    *_, cell = ran("import minqwen.course", ASIDE, folder=tmp_path, allow_errors=True)
    (error,) = cell.outputs
    assert error.evalue == "`checkpoint` is not defined yet: run the first cells of this lesson."
