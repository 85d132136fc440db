"""Running, cleaning and judging the lessons: what `make notebooks` and the notebook tests share.

    python tests/notebooks_support.py                    # run every lesson in place
    python tests/notebooks_support.py 03_delta_rule      # or one
"""

import ast
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import nbformat
from nbclient import NotebookClient

os.environ.setdefault("MINQWEN_MINE", "off")     # lessons are run on their own pieces, not on a learner's
os.environ.setdefault("MINQWEN_SHORT", "1")      # and what takes minutes with a reader is cut short
NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
IMAGES = {"image/png", "image/jpeg", "image/gif", "image/svg+xml"}
TAGS = {"nbval-ignore-output", "exercise", "hide-input", "hide-output", "remove-input", "remove-cell"}
TIMEOUT = 300                                    # seconds for a cell; a lesson takes a minute in all
MAX_BYTES = 1_000_000
MIN_ALT = 20                                     # characters; less does not describe a figure

MACHINE_PATH = re.compile(r"/(home|Users|work|tmp|var/folders)/|/root\b|[A-Z]:\\\\?Users")
TIMING = re.compile(r"\btime\.|\bperf_counter\b|\btimeit\b|%time\b|%%time\b")
FORBIDDEN = {                                    # in code: why
    r"clear_output": "clear_output makes outputs that cannot be compared",
    r"^\s*!": "a shell escape passes even when the command fails",
    r"^\s*%%(bash|sh|script|system|capture)\b": "a shell escape passes even when the command fails",
    r"%matplotlib\s+(widget|ipympl|notebook)": "%matplotlib widget changes every later cell",
    r"\binteract(ive|_manual|ive_output)?\(|\bOutput\(": "outputs captured by a widget are not compared",
    r"plt\.show\(": "figures go through minqwen.plots.show(fig)",
    r"#\s*(PYTEST_VALIDATE|NBVAL)_\w+": "nbval's comments hide a cell from the checks; use a tag",
}


# The first cell of every lesson, and the line above it, which links to the glossary.
INSTALL = '''\
# For Colab, or a kernel that has nothing yet: installs the wheel beside this page,
# or the clone around it.
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

if find_spec("minqwen") is None:
    wheels = sorted(Path().glob("minqwen-*.whl"))
    package = wheels[-1] if wheels else Path("..")
    assert wheels or (package / "minqwen").is_dir(), (
        "Put minqwen's wheel (`make wheel` builds it) beside this page.")
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, f"{package.resolve()}[verify]"], check=True)'''
WHERE = ("*Binder and dev containers are set up already. In VS Code, choose the kernel `.venv`, which `make setup` "
         "makes. On Colab, upload the wheel (`make wheel` builds it) beside this page: the first cell installs it. "
         "All words and symbols are in the [glossary](../docs/glossary.md).*")


# ---- reading

def lessons():
    """The lessons' paths, in the order in which they are read."""
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def read(path):
    return nbformat.read(path, as_version=4)


def source_cells(notebook):
    """The code cells that hold code: those that a run counts."""
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def printed(cell):
    """Everything a person reads under a cell: streams and plain text."""
    return "\n".join(out.get("text", "") or out.get("data", {}).get("text/plain", "") for out in cell.outputs)


def everything_readable(cell):
    """Source and outputs as one string, without the images' bytes."""
    def without_images(data):
        return {kind: value for kind, value in data.items() if kind not in IMAGES}
    outputs = [{**out, "data": without_images(out.get("data", {}))} for out in cell.get("outputs", [])]
    return cell.source + json.dumps(outputs, ensure_ascii=False)


def exercises(notebook):
    """[(exercise, check)]: each cell tagged `exercise` and the code cell after it, which checks it."""
    cells = source_cells(notebook)
    return [(cell, check) for cell, check in zip(cells, [*cells[1:], None]) if "exercise" in tags(cell)]


def solutions(text):
    """The pieces of a solutions file: the code under `# %% exercise 1`, `# %% exercise 2`, ... in order."""
    _, *pieces = re.split(r"^# %% exercise (\d+)[^\n]*\n", text, flags=re.MULTILINE)
    numbers, codes = [int(n) for n in pieces[::2]], [code.strip() for code in pieces[1::2]]
    assert numbers == list(range(1, len(numbers) + 1)), f"exercises must be numbered 1, 2, ..., not {numbers}"
    return codes


# ---- running

def run(notebook, folder=NOTEBOOKS, until=None, **kernel):
    """Run a notebook's cells in place, in a kernel of this environment, and raise at the first error.

    `until` is the last cell to run (a cell of the notebook); keywords go to the kernel (env=...)."""
    client = NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", record_timing=False,
                            coalesce_streams=True, resources={"metadata": {"path": str(folder)}})
    with client.setup_kernel(stderr=subprocess.DEVNULL, **kernel):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
            if cell is until:
                break
    return notebook


def strip(notebook):
    """Forget all outputs and counts, so that what stands there afterwards is of this run."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def clean(notebook):
    """Keep what a reader sees and drop what differs from machine to machine and from run to run."""
    notebook.metadata = nbformat.from_dict({
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"}})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for cell in notebook.cells:
        folded = {"jupyter": {"source_hidden": True}} if "remove-cell" in tags(cell) else {}
        cell.metadata = nbformat.from_dict(folded | ({"tags": sorted(tags(cell))} if tags(cell) else {}))
        for number, out in enumerate(cell.get("outputs", [])):
            if WIDGET in out.get("data", {}):      # a random id; a steady one keeps diffs small
                out.data[WIDGET]["model_id"] = hashlib.sha256(f"{cell.id} {number}".encode()).hexdigest()[:32]
    return notebook


def write(notebook, path):
    nbformat.validate(notebook)
    nbformat.write(notebook, path)


# ---- judging

def check_structure(notebook, size=0):
    """Every rule a committed notebook breaks, one sentence each; an empty list is a good notebook."""
    wrong = []
    cells = source_cells(notebook)
    counts = [cell.execution_count for cell in cells]
    if counts != list(range(1, len(cells) + 1)):
        wrong.append(f"execution counts are {counts}, not 1 to {len(cells)}: run `make notebooks`")
    if cells and not any(cell.outputs for cell in cells):
        wrong.append("no cell has an output: run `make notebooks`")
    if "widgets" in notebook.metadata:
        wrong.append("metadata.widgets is there: GitHub refuses such notebooks")
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        wrong.append("the kernel is not python3")
    if size > MAX_BYTES:
        wrong.append(f"the file has {size} bytes, more than {MAX_BYTES}: draw smaller figures")
    headings = [line for cell in notebook.cells if cell.cell_type == "markdown"
                for line in re.sub(r"(?s)```.*?```", "", cell.source).splitlines() if line.startswith("#")]
    wrong += [f"two parts are called {line.strip('# ')!r}" for line, n in Counter(headings).items() if n > 1]
    for index, cell in enumerate(notebook.cells):
        wrong += [f"cell {index}: {problem}" for problem in check_cell(cell)]
    for number, (_, check) in enumerate(exercises(notebook), 1):
        if check is None or tags(check):
            wrong.append(f"exercise {number} is not followed by an untagged code cell that checks it")
        elif "not yet" not in printed(check) or "✓" in printed(check):
            wrong.append(f"the check of exercise {number} does not say 'not yet' to the stub")
    return wrong


def check_cell(cell):
    """The rules a single cell breaks, as a generator of sentences."""
    if unknown := tags(cell) - TAGS:
        yield f"unknown tags {sorted(unknown)}"
    if MACHINE_PATH.search(everything_readable(cell)):
        yield "a path of the machine it was written on"
    if cell.cell_type != "code":
        if re.search(r"!\[\s*\]\(|<img(?![^>]*\balt=.)", cell.source):
            yield "an image without alt text"
        return
    if not cell.source.strip():
        yield "an empty code cell"
    for pattern, why in FORBIDDEN.items():
        if re.search(pattern, cell.source, flags=re.MULTILINE):
            yield why
    if ends_in_semicolon(cell.source):
        yield "a trailing semicolon changes the outputs with the way of running it"
    for before, after in zip(cell.outputs, cell.outputs[1:]):
        if before.output_type == after.output_type == "stream" and before.name == after.name:
            yield f"{after.name} in two boxes, one behind the other: run `make notebooks`, which joins them"
    kinds = {kind for out in cell.outputs for kind in out.get("data", {})}
    varies = WIDGET in kinds or kinds & IMAGES or TIMING.search(cell.source)
    if "nbval-ignore-output" in tags(cell) and not varies:
        yield "nbval-ignore-output, but neither a widget nor an image nor a timing"
    if WIDGET in kinds and "nbval-ignore-output" not in tags(cell):
        yield "a widget's text holds what no two runs share: tag the cell nbval-ignore-output"
    for out in cell.outputs:
        if WIDGET in out.get("data", {}) and not IMAGES & set(out.data):
            yield "a widget without a picture beside it, for where no kernel runs: show it as an Explorer does"
        if out.output_type == "error":
            yield f"an error in the outputs: {out.ename}: {out.evalue}"
        if out.get("name") == "stderr":
            yield f"something on stderr: {out.text.strip()[:80]!r}"
        for kind in IMAGES & set(out.get("data", {})):
            alt = out.metadata.get(kind, {}).get("alt", "")
            if len(alt.strip()) < MIN_ALT:
                yield "an image without alt text: show it by minqwen.plots.show(fig)"
            if out.data.get("text/plain", "<").startswith("<"):
                yield "an image with an object's name for text: show it by minqwen.plots.show(fig)"


def ends_in_semicolon(source):
    """Does the cell's last statement end in a semicolon, the notebook's way of silencing a value?"""
    code = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!")))
    try:
        last = ast.parse(code).body[-1:]
    except SyntaxError:
        return False                                 # magics in the middle: running it is nbval's business
    if not last:
        return False
    end = code.splitlines()[last[0].end_lineno - 1].encode()[last[0].end_col_offset:]   # counted in bytes
    return end.strip().startswith(b";")


def main(names):
    """Run lessons in place, by name or all of them; say which one failed and why."""
    paths = [NOTEBOOKS / f"{Path(name).stem}.ipynb" for name in names] or lessons()
    for path in paths:
        print(f"{path.stem} ...", end=" ", flush=True)
        notebook = read(path)
        try:
            run(strip(notebook))
        except Exception as error:
            sys.exit(f"failed, and stays as it was:\n{error}")
        write(clean(notebook), path)
        problems = check_structure(notebook, path.stat().st_size)
        print("done" if not problems else "ran, but " + "\n  ".join(["", *problems]))


if __name__ == "__main__":
    main(sys.argv[1:])
