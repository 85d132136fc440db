"""For those who give the course to others: docs/teaching.md is of today, and what a class hands in can be looked at."""

import json
import os

import pytest
from notebooks_support import lessons, read

from conftest import REPOSITORY
from minqwen import QwenError, cli
from minqwen.course import outline, pieces
from minqwen.course.checking import exercises


def test_the_tables_are_of_today():
    """`python -m minqwen.course.outline` writes them; a lesson that is new is in them when it has run."""
    page = (REPOSITORY / "docs" / "teaching.md").read_text(encoding="utf-8")
    assert outline.written(page) == page, "python -m minqwen.course.outline"
    for name, table in outline.tables().items():
        assert page.count(table) == 1, name
    for name in [name for names in exercises().values() for name in names]:
        assert page.count(f"| `{name}` | ") == 1


def test_the_readme_has_every_lesson_and_its_minutes():
    rows = [line for line in (REPOSITORY / "README.md").read_text().splitlines() if line.startswith("| [")]
    there = [row for row in rows if "(notebooks/" in row]
    for one, row in zip(outline.outline(), there, strict=True):
        assert f"(notebooks/{one.name}.ipynb) |" in row and row.endswith(f" | {one.minutes} |")


@pytest.mark.parametrize("path", lessons(), ids=lambda path: path.stem)
def test_every_lesson_says_what_it_needs_and_how_long_it_takes(path):
    said = outline.lesson(path.stem, read(path).cells[0].source)
    assert said.number == path.stem[:2] and said.title and said.needs and said.afterwards
    assert 10 <= said.minutes <= 120


def test_what_an_opening_says():
    opening = ("# 03 · The rule\n\nWhy?\n\n**You need** lesson 02. **Afterwards you can** write\nit. "
               "**It takes** about\n20 minutes with the exercises.")
    assert outline.lesson("03_rule", opening) == ("03", "03_rule", "The rule", "lesson 02", "write it", 20)
    assert outline.lesson("03_rule", opening.replace("about\n20 minutes", "about an hour")).minutes == 60
    assert outline.lesson("03_rule", "# Rule") == ("03", "03_rule", "Rule", None, None, None)
    with pytest.raises(QwenError, match="Lesson 03_rule has no title"):
        outline.lesson("03_rule", "Why?")


# ---- grading

RIGHT = pieces.source_of("my_corrections")
WRONG = "def my_decay_matrix(g):\n    return g[..., None] * 0\n"


@pytest.fixture
def graded(tmp_path, monkeypatch, capsys):
    """The exercises of a folder that was handed in, by name, and the exit code."""
    monkeypatch.setenv("MINQWEN_MINE", "off")
    folder = tmp_path / "ann"
    folder.mkdir()

    def grade(**files):
        for name, text in files.items():
            (folder / f"{name.removeprefix('lesson_')}.py").write_text(text)
        code = cli.main(["course", "--check", "--json", "--mine", str(folder)])
        return {exercise["name"]: exercise for exercise in json.loads(capsys.readouterr().out)}, code

    return grade


def test_a_class_is_graded(graded):
    """Right, wrong and not yet; each once more by its check, and nothing of the teacher's own counts."""
    found, code = graded(lesson_04=f"import torch\n\n\n{RIGHT}\n\n{WRONG}")
    assert code == 1 and list(found) == [name for names in exercises().values() for name in names]
    assert (found["my_corrections"]["yours"], found["my_corrections"]["wrong"]) == (True, None)
    assert found["my_decay_matrix"]["yours"] and "my_decay_matrix: " in found["my_decay_matrix"]["wrong"]
    assert (found["my_chunk"]["yours"], found["my_chunk"]["wrong"]) == (False, None)
    assert found["my_chunk"]["lesson"] == "04"


def test_nothing_handed_in_is_no_error(graded):
    found, code = graded()
    assert code == 0 and not any(exercise["yours"] for exercise in found.values())


def test_a_broken_file_is_told_of_its_lesson_alone(graded):
    found, code = graded(lesson_04="def my_chunk(:\n", lesson_05="import torch\n")
    assert code == 1 and {one["lesson"] for one in found.values() if one["wrong"]} == {"04"}


def test_a_folder_that_is_not_there_is_told_and_forgotten(tmp_path, capsys):
    before = dict(os.environ)
    assert cli.main(["course", "--json", "--mine", str(tmp_path / "nobody")]) == 2
    assert "nobody, which is no folder" in capsys.readouterr().err
    assert dict(os.environ) == before
    assert cli.main(["course", "--json", "--mine", ""]) == 2            # it would be the teacher's own
    assert "--mine is empty: name the folder" in capsys.readouterr().err


def test_a_folder_may_be_called_off(graded, tmp_path, monkeypatch, capsys):
    graded(lesson_04=RIGHT)
    (tmp_path / "ann").rename(tmp_path / "off")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["course", "--json", "--mine", "off"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out) if one["yours"]] == ["my_corrections"]
