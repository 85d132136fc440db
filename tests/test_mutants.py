"""Lessons and tests bite: break one line of the library, and whoever teaches or tests that line goes red.

`make test` breaks one line for each lesson; `make mutants` breaks them all, one after the other.
"""

from pathlib import Path

import nbformat
import pytest
from mutants import MUTANTS, Mutant, lesson_notices, suite_notices, workspace
from nbformat.v4 import new_code_cell, new_notebook
from notebooks_support import lessons

HERE = {path.stem for path in lessons()}
PAIRS = [(lesson, mutant) for lesson in sorted(HERE) for mutant in MUTANTS if lesson in mutant.lessons]
FIRST = {lesson: mutant for lesson, mutant in reversed(PAIRS)}


def named(pairs):
    return [pytest.param(lesson, mutant, id=f"{lesson}-{mutant.name}") for lesson, mutant in pairs]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_a_mistake_somebody_notices(mutant, repository, tmp_path):
    """It still fits the code, it is still Python, and it names tests that exist."""
    (tmp_path / mutant.file).parent.mkdir(parents=True)
    before = (repository / mutant.file).read_text(encoding="utf-8")
    (tmp_path / mutant.file).write_text(before, encoding="utf-8")
    mutant.apply(tmp_path)
    after = (tmp_path / mutant.file).read_text(encoding="utf-8")
    compile(after, mutant.file, "exec")
    assert after != before
    assert mutant.tests
    for test in mutant.tests:
        file, _, name = test.partition("::")
        function = f"def {name.partition('[')[0]}("
        assert not name or function in (repository / file).read_text(encoding="utf-8"), test


def test_every_lesson_has_mutants():
    assert HERE <= {lesson for mutant in MUTANTS for lesson in mutant.lessons}


@pytest.mark.parametrize("lesson, mutant", named(FIRST.items()))
def test_lesson_bites(lesson, mutant, tmp_path):
    noticed, said = lesson_notices(workspace(tmp_path, mutant), lesson)
    assert noticed, f"'{mutant.name}' was put into {mutant.file}, and {lesson} did not notice: {said}"


@pytest.mark.mutants
@pytest.mark.parametrize("lesson, mutant", named(pair for pair in PAIRS if FIRST[pair[0]] is not pair[1]))
def test_lesson_bites_on_all(lesson, mutant, tmp_path):
    test_lesson_bites(lesson, mutant, tmp_path)


@pytest.mark.mutants
@pytest.mark.parametrize("tests", sorted({mutant.tests for mutant in MUTANTS}), ids=" ".join)
def test_nobody_cries_without_a_mutant(tests, tmp_path):
    noticed, said = suite_notices(workspace(tmp_path), tests)
    assert not noticed, said


@pytest.mark.mutants
@pytest.mark.parametrize("lesson", sorted(HERE))
def test_no_lesson_cries_without_a_mutant(lesson, tmp_path):
    noticed, said = lesson_notices(workspace(tmp_path), lesson)
    assert not noticed, said


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_tests_bite(mutant, tmp_path):
    noticed, said = suite_notices(workspace(tmp_path, mutant), mutant.tests)
    assert noticed, f"'{mutant.name}' was put into {mutant.file}, and {' '.join(mutant.tests)} stayed green:\n{said}"


# ---- the runner itself, on a package of one line

@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A repository in small: one function, one test and one lesson that check it."""
    root = tmp_path_factory.mktemp("toy")
    for folder in ("minqwen", "tests", "notebooks"):
        (root / folder).mkdir()
    (root / "minqwen/__init__.py").touch()
    (root / "minqwen/sums.py").write_text(
        "def once(a):\n    return a + 1\n\n\ndef twice(a):\n    x = a + 1\n    return x + 1\n")
    (root / "tests/test_sums.py").write_text(
        "from minqwen.sums import once\n\n\ndef test_once():\n    assert once(1) == 2\n")
    check = new_code_cell("from minqwen.sums import once\nassert once(1) == 2, 'once is wrong'")
    nbformat.write(new_notebook(cells=[check, new_code_cell("print('✓')")]), root / "notebooks/lesson.ipynb")
    return root


TOY = {"old": "a + 1", "file": "minqwen/sums.py", "within": "def once"}


def test_the_runner_tells_bite_from_stumble(toy, tmp_path):
    broken = workspace(tmp_path / "broken", Mutant("minus", new="a - 1", **TOY), root=toy)
    assert "a + 1" in (toy / "minqwen/sums.py").read_text().split("def twice")[0], "the original was touched"
    assert suite_notices(broken, ["tests/test_sums.py"])[0]
    noticed, said = lesson_notices(broken, "lesson")
    assert noticed and "once is wrong" in said

    harmless = workspace(tmp_path / "harmless", Mutant("the same", new="1 + a", **TOY), root=toy)
    assert not suite_notices(harmless, ["tests/test_sums.py"])[0]
    assert not lesson_notices(harmless, "lesson")[0]

    falling = workspace(tmp_path / "falling", Mutant("a name that is not", new="a + one", **TOY), root=toy)
    with pytest.raises(RuntimeError, match="could not judge"):
        suite_notices(falling, ["tests/test_sums.py"])
    with pytest.raises(RuntimeError, match="fell over its own code"):
        lesson_notices(falling, "lesson")


def test_a_mutant_that_fits_no_more_is_an_error(toy, tmp_path):
    folder = workspace(tmp_path / "copy", root=toy)
    with pytest.raises(LookupError, match="is 0 times"):
        Mutant("gone", "minqwen/sums.py", "a * 2", "a").apply(folder)
    with pytest.raises(LookupError, match="is 2 times"):
        Mutant("twice", "minqwen/sums.py", "a + 1", "a").apply(folder)
    Mutant("placed", "minqwen/sums.py", "a + 1", "a", within="def twice").apply(folder)
    assert Path(folder / "minqwen/sums.py").read_text().count("a + 1") == 1
