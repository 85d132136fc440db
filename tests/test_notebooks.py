"""The lessons as committed: their form, their exercises and solutions, and the guard beside nbval."""

import ast
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from notebooks_support import (
    INSTALL,
    NOTEBOOKS,
    WHERE,
    WIDGET,
    check_structure,
    clean,
    exercises,
    lessons,
    printed,
    read,
    run,
    solutions,
    source_cells,
    strip,
    tags,
)
from test_lessons_with_checkpoint import make_checkpoint

from minqwen.course.asides import FIRST_LINE
from minqwen.verify import measured

WITH_EXERCISES = [path for path in lessons() if exercises(read(path))]


def each(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: path.stem)


# ---- the lessons themselves

@each(lessons())
def test_structure(path):
    assert check_structure(read(path), path.stat().st_size) == []


@each(lessons())
def test_code_is_narrow(path):
    """The site has room for 92 columns beside its contents, and on a small screen."""
    wide = [line for cell in source_cells(read(path)) for line in cell.source.splitlines() if len(line) > 92]
    assert wide == []


@each(lessons())
def test_cells_hold_what_a_learner_reads(path):
    """Figures say themselves what is to be seen, and what asks the shipped model alone begins with `%%nano`."""
    crowded = re.compile(r"\balt ?=|\b(if|else|assert|not|and|or) checkpoint\b|\bcheckpoint is\b")
    cells = [cell for cell in source_cells(read(path)) if "checkpoint = os.environ" not in cell.source]     # the set-up
    assert [cell.id for cell in cells if crowded.search(cell.source)] == []


@each(lessons())
def test_a_lesson_says_what_its_cells_for_nano_are(path):
    sources = [cell.source for cell in source_cells(read(path))]
    said = [source for source in sources if "(Cells that begin with %%nano are about the shipped model" in source]
    if any(source.startswith(FIRST_LINE) for source in sources):
        assert len(said) == 1 and "checkpoint = os.environ.get(" in said[0]
    else:
        assert not said


@each(lessons())
def test_cells_for_nano_alone_are_linted_too(path, repository, tmp_path):
    """ruff passes over cells whose first line is a magic that it does not know."""
    notebook = read(path)
    for cell in notebook.cells:
        cell.source = cell.source.removeprefix(f"{FIRST_LINE}\n")
    nbformat.write(notebook, tmp_path / path.name)
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(repository / "pyproject.toml")]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@each(lessons())
def test_what_is_live_on_the_site_is_not_said_to_need_a_kernel(path):
    """Explorers live on the site's pages and in what `to_html` writes; the lab and the chat alone need the model."""
    texts = [cell.source for cell in read(path).cells if cell.cell_type == "markdown"]
    assert not [text for text in texts if "explorer needs a running notebook" in text]


@each(lessons())
def test_committed_clean(path):
    """What `make notebooks` would drop is not there: no ids, paths or versions of the machine that ran it."""
    notebook = read(path)
    assert clean(read(path)) == notebook


@each(lessons())
def test_a_lesson_says_where_it_runs_and_installs_what_it_needs(path):
    title, first = read(path).cells[:2]
    assert title.source.endswith(f"\n\n{WHERE}")
    assert first.source == INSTALL and tags(first) == {"remove-cell"} and first.outputs == []


@pytest.mark.parametrize("there, asked", [
    ({}, None),
    ({"notebooks/minqwen-0.1.0-py3-none-any.whl"}, "notebooks/minqwen-0.1.0-py3-none-any.whl[verify]"),
    ({"minqwen/model.py"}, "[verify]"),
    ({"minqwen/model.py", "notebooks/minqwen-0.1.0.whl", "notebooks/minqwen-0.2.0.whl"},
     "notebooks/minqwen-0.2.0.whl[verify]"),
], ids=["nothing", "a wheel", "a clone", "all"])
def test_what_the_first_cell_installs(there, asked, tmp_path):
    """Where there is no minqwen, a wheel or the clone; where there is one, nothing."""
    (tmp_path / "notebooks").mkdir()
    for name in there:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    instead = "import subprocess\nsubprocess.run = lambda *args, **kwargs: print(args, kwargs)\n"
    (tmp_path / "cell.py").write_text(instead + INSTALL)

    def said(*options):
        return subprocess.run([sys.executable, *options, str(tmp_path / "cell.py")], cwd=tmp_path / "notebooks",
                              capture_output=True, text=True, timeout=60)

    without = said("-I", "-S")                          # no packages
    if asked is None:
        assert without.returncode == 1 and without.stderr.endswith("(`make wheel` builds it) beside this page.\n")
    else:
        command, options = ast.literal_eval(without.stdout.replace(") {", "), {"))
        assert command[0][1:4] == ["-m", "pip", "install"] and options == {"check": True}
        assert command[0][-1] == f"{tmp_path}/{asked}".replace("/[", "[")
    done = said()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_on_paper_an_explorer_is_its_picture():
    """nbconvert, as everybody has it, prints a lesson with the pictures of its explorers."""
    path = NOTEBOOKS / "00_start_here.ipynb"
    widgets = [out for cell in source_cells(read(path)) for out in cell.outputs if WIDGET in out.get("data", {})]
    page, _ = HTMLExporter().from_filename(str(path))
    assert len(widgets) == 2
    assert all(out.data["image/png"].strip() in page for out in widgets)


def test_every_solution_has_its_lesson():
    files = {path.stem for path in (NOTEBOOKS / "solutions").glob("*") if path.is_file()}
    assert files == {path.stem for path in WITH_EXERCISES}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@each(WITH_EXERCISES)
def test_solutions_pass(path, checkpoint):
    """With its solutions pasted in, the lesson runs and every check is content: only the stub was missing.

    Up to the last check, and on a tiny checkpoint: what nano is measured on takes most of a lesson's time, and the
    lessons run on nano with the same functions, the course's own."""
    notebook = strip(read(path))
    codes = solutions((NOTEBOOKS / "solutions" / f"{path.stem}.py").read_text(encoding="utf-8"))
    pairs = exercises(notebook)
    assert len(codes) == len(pairs), f"{path.stem} has {len(pairs)} exercises and {len(codes)} solutions"
    for (exercise, _), code in zip(pairs, codes):
        assert code != exercise.source.strip()
        exercise.source = code
    run(notebook, until=pairs[-1][1], env={**os.environ, "MINQWEN_CHECKPOINT": str(checkpoint)})
    for number, (_, check) in enumerate(pairs, 1):
        said = printed(check)
        assert "✓" in said and "not yet" not in said, f"the check of exercise {number} says: {said}"


# ---- the rules bite: one broken notebook for each

ALT = "a grey square stands for a figure"
PNG = {"image/png": "iVBORw0KGgo=", "text/plain": ALT}


def a_lesson(**changes):
    """A small notebook that keeps every rule, with one cell of each kind."""
    cells = [
        new_markdown_cell("# A lesson"),
        new_code_cell("print(1)", outputs=[new_output("stream", name="stdout", text="1\n")]),
        new_code_cell("show(figure)",
                      outputs=[new_output("display_data", PNG, metadata={"image/png": {"alt": ALT}})]),
        new_code_cell("explorer", metadata={"tags": ["nbval-ignore-output"]},
                      outputs=[new_output("display_data", {WIDGET: {"model_id": "0"}, **PNG},
                                          metadata={"image/png": {"alt": ALT}})]),
        new_code_cell("def f(x):\n    return None", metadata={"tags": ["exercise"]}),
        new_code_cell("check(f)", outputs=[new_output("stream", name="stdout", text="not yet: write f\n")]),
    ]
    notebook = clean(new_notebook(cells=cells))
    for count, cell in enumerate(source_cells(notebook), 1):
        cell.execution_count = count
    return notebook


def put(index, **fields):
    def change(notebook):
        notebook.cells[index].update(nbformat.from_dict(fields))
    return change


def stdout(text):
    return [new_output("stream", name="stdout", text=text)]


BROKEN = {
    "execution counts": put(1, execution_count=7),
    "execution counts are": put(3, execution_count=None),
    "metadata.widgets": lambda notebook: notebook.metadata.update(widgets={}),
    "kernel is not python3": lambda notebook: notebook.metadata.kernelspec.update(name="my-env"),
    "unknown tags": put(1, metadata={"tags": ["nbval-skip"]}),
    "['raises-exception']": put(1, metadata={"tags": ["raises-exception"]}),
    "neither a widget nor": put(1, metadata={"tags": ["nbval-ignore-output"]}),
    "tag the cell nbval-ignore-output": put(3, metadata={}),
    "a widget without a picture": put(3, outputs=[new_output("display_data", {WIDGET: {"model_id": "0"}})]),
    "hide a cell from the checks": put(1, source="# NBVAL_IGNORE_OUTPUT\nprint(1)"),
    "comments hide a cell from the checks": put(1, source="# NBVAL_SKIP\nprint(1)"),
    "trailing semicolon": put(1, source="print('✓');  # quiet"),
    "clear_output": put(1, source="clear_output(wait=True)"),
    "shell escape": put(1, source="x = 1\n!ls"),
    "%matplotlib widget": put(1, source="%matplotlib widget"),
    "plots.show(fig": put(1, source="plt.show()"),
    "captured by a widget": put(1, source="interact(f, x=(0, 9))"),
    "path of the machine": put(1, outputs=stdout("saved in /home/ann/minqwen")),
    "a path of the machine": put(0, source="Open C:\\Users\\ann\\minqwen."),
    "error in the outputs": put(1, outputs=[new_output("error", ename="E", evalue="e", traceback=[])]),
    "on stderr": put(1, outputs=[new_output("stream", name="stderr", text="UserWarning")]),
    "two parts are called 'One'": put(0, source="## One\n\n```\n# code\n# code\n```\n\n## One"),
    "stdout in two boxes": put(1, outputs=[*stdout("a"), *stdout("b")]),
    "image without alt text": put(2, outputs=[new_output("display_data", PNG)]),
    "an image without alt": put(0, source="![](state.png)"),
    "an object's name": put(2, outputs=[
        new_output("display_data", {**PNG, "text/plain": "<Figure>"}, metadata={"image/png": {"alt": ALT}})]),
    "an empty code cell": lambda notebook: notebook.cells.append(new_code_cell("")),
    "does not say 'not yet'": put(5, outputs=stdout("✓ f")),
    "not followed by an untagged": lambda notebook: notebook.cells.pop(),
}


def test_a_good_notebook_is_good():
    assert check_structure(a_lesson()) == []


@pytest.mark.parametrize("sentence, change", [pytest.param(*item, id=item[0]) for item in BROKEN.items()])
def test_each_rule_bites(sentence, change):
    notebook = a_lesson()
    change(notebook)
    wrong = check_structure(notebook)
    assert any(sentence in problem for problem in wrong), wrong


def test_the_rest_of_the_rules_bites():
    assert "draw smaller figures" in check_structure(a_lesson(), size=1_000_001)[0]
    empty = strip(a_lesson())
    assert any("no cell has an output" in problem for problem in check_structure(empty))
    # what the rules allow: a timing may be ignored, a semicolon may stand inside a line or a string
    timing, inside = a_lesson(), a_lesson()
    put(1, source="start = time.perf_counter()", metadata={"tags": ["nbval-ignore-output"]})(timing)
    put(1, source="a = 1; b = 2\nprint(';')")(inside)
    assert check_structure(timing) == check_structure(inside) == []


def test_solutions_are_numbered():
    text = '"""Solutions."""\n# %% exercise 1: erase\na = 1\n\n# %% exercise 2\nb = 2\n'
    assert solutions(text) == ["a = 1", "b = 2"]
    with pytest.raises(AssertionError, match="numbered"):
        solutions("# %% exercise 2\nb = 2\n")


# ---- the guard: what nbval lets pass is red with the conftest of this repository, and only with it

SLIPS = {                                           # cell -> (source, a word of the guard's sentence)
    "unknown magic": ("%no_such_magic\nraise ValueError('never reached')", "refused the cell"),
    "stripped": ("2 + 2", "never run"),
    "thread": ("import threading\nt = threading.Thread(target=lambda: 1 / 0)\nt.start()\nt.join()",
               "printed a traceback"),
    "fine": ("print('✓ fine')", None),
    "timeout": ("import time\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    pass",
                "did not finish in time"),
}


@pytest.fixture(scope="module")
def slips(tmp_path_factory):
    """A folder with a notebook of cells that are wrong although nbval is content."""
    folder = tmp_path_factory.mktemp("slips")
    cells = [new_code_cell(source, execution_count=None if name == "stripped" else count)
             for count, (name, (source, _)) in enumerate(SLIPS.items(), 1)]
    cells[3].outputs = stdout("✓ fine\n")
    nbformat.write(clean(new_notebook(cells=cells)), folder / "slips.ipynb")
    (folder / "pytest.ini").write_text("[pytest]\n")
    return folder


def judged(folder, mode="--nbval-lax"):
    """Run pytest on the folder's notebooks as `make test` does; the process, with its output as text."""
    command = [sys.executable, "-m", "pytest", "-v", "--color=no", "-p", "no:cacheprovider", mode,
               "--nbval-current-env", "--nbval-cell-timeout=3", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_without_the_guard_nbval_is_content(slips):
    """If this fails, nbval has learned to see them, and the guard can shrink."""
    done = judged(slips)
    assert done.returncode == 0, done.stdout
    assert f"{len(SLIPS)} passed" in done.stdout


def test_the_guard_turns_them_red(slips, repository):
    (slips / "conftest.py").write_text((repository / "conftest.py").read_text())
    done = judged(slips)
    (slips / "conftest.py").unlink()
    assert done.returncode == 1, done.stdout
    for number, (name, (_, sentence)) in enumerate(SLIPS.items()):
        verdict = "FAILED" if sentence else "PASSED"
        assert f"slips::ipynb::Cell {number} {verdict}" in done.stdout, name
        assert sentence is None or sentence in done.stdout, name


def test_what_another_machine_measures_is_not_compared(tmp_path, repository):
    before, now = "✓ a (within 1e-7; 2e-5 is allowed)\n✓ b (within 2e-5; 2e-5 is allowed)\n", {
        "✓ a (exactly; 2e-5 is allowed)\n✓ b (exactly)": "PASSED",
        "✓ a (within 1e-5; 2e-5 is allowed)\n✓ c (exactly)": "FAILED",
        "✓ a (within 1e-5; 2e-5 is allowed)\n✓ b (nearly)": "FAILED",
        "✓ a (within 1e-5; 2e-5 is allowed), or so\n✓ b (exactly)": "FAILED"}
    cells = [new_code_cell(f"print({said!r})", execution_count=count, outputs=stdout(before))
             for count, said in enumerate(now, 1)]
    nbformat.write(clean(new_notebook(cells=cells)), tmp_path / "measured.ipynb")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "conftest.py").write_text((repository / "conftest.py").read_text())
    done = judged(tmp_path, "--nbval")
    assert re.findall(r"Cell \d (PASSED|FAILED)", done.stdout) == [*now.values()], done.stdout


@pytest.mark.parametrize("off, bound", [(0, 2e-5), (0, 0), (3e-16, 1e-12), (0.3, 1.0), (1.4, 25)])
def test_nbval_knows_how_a_measured_number_is_written(repository, off, bound):
    guard = runpy.run_path(str(repository / "conftest.py"))
    assert re.sub(guard["MEASURED"], "", f"✓ a {measured(off, bound)}\n✓ b {measured(off, bound)}\n") == "✓ a\n✓ b\n"


def test_the_guard_stands_where_the_lessons_run(repository):
    """pytest reads a conftest.py from each folder above a notebook; the guard's is the repository's root."""
    assert (repository / "conftest.py").is_file()
    assert NOTEBOOKS == repository / "notebooks"
    makefile = (repository / "Makefile").read_text()
    assert "--noconftest" not in makefile and "--confcutdir" not in makefile


def test_running_is_faithful(tmp_path):
    """`make notebooks` counts from 1, keeps the outputs and leaves nothing of the machine."""
    notebook = new_notebook(cells=[
        new_code_cell("print('✓ one')\nprint('two')"), new_markdown_cell("-"), new_code_cell("1 + 1")])
    clean(run(strip(notebook), folder=tmp_path))
    assert [cell.execution_count for cell in source_cells(notebook)] == [1, 2]
    assert printed(notebook.cells[0]) == "✓ one\ntwo\n" and len(notebook.cells[0].outputs) == 1
    assert check_structure(notebook) == []
    assert str(Path.home()) not in json.dumps(notebook)
