"""For those who give the course to others: docs/teaching.md is of today, and what a class hands in can be looked at."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from notebooks_support import lessons, read

from conftest import REPOSITORY
from minqwen import QwenError, cli
from minqwen.course import grading, outline, pieces
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


def test_the_first_lesson_leads_to_all_others():
    last = read(lessons()[0]).cells[-1].source
    assert [path.name for path in lessons()[1:] if f"({path.name})" not in last] == []


def test_what_an_opening_says():
    opening = ("# 03 · The rule\n\nWhy?\n\n**You need** lesson 02. **Afterwards you can** write\nit. "
               "**It takes** about\n20 minutes with the exercises.")
    assert outline.lesson("03_rule", opening) == ("03", "03_rule", "The rule", "lesson 02", "write it", 20)
    assert outline.lesson("03_rule", opening.replace("about\n20 minutes", "about an hour")).minutes == 60
    assert outline.lesson("03_rule", "# Rule") == ("03", "03_rule", "Rule", None, None, None)
    with pytest.raises(QwenError, match="Lesson 03_rule has no title"):
        outline.lesson("03_rule", "Why?")


def teaching(heading):
    """A chapter of the page."""
    page = (REPOSITORY / "docs" / "teaching.md").read_text(encoding="utf-8")
    return page.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_the_ways_through_the_course_leave_out_nothing_that_they_need():
    """Nor are their minutes others than those of their lessons. What a lesson needs stands before a semicolon."""
    course = {one.number: one for one in outline.outline()}
    ways = re.findall(r"(?m)^- \*\*.+\*\* \((\d+) minutes\): (\d\d(?:, \d\d)*)\.", teaching("Order and time"))
    assert len(ways) == teaching("Order and time").count("\n- ") > 3
    for minutes, way in ways:
        numbers = way.split(", ")
        assert int(minutes) == sum(course[number].minutes for number in numbers), way
        for i, number in enumerate(numbers):
            needs = set(re.findall(r"\b\d\d\b", course[number].needs.split(";")[0]))
            assert needs <= set(numbers[:i]), f"{way}: lesson {number} needs {needs}"


def test_the_first_sessions_have_each_exercise_of_their_lessons_once():
    planned = re.findall(r"`(my_\w+)`", teaching("The first three sessions"))
    assert planned == [name for lesson in ("00", "02", "03") for name in exercises()[lesson]]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/teaching.md", "docs/gpu.md"])
def test_every_command_of_a_page_is_one(page):
    """What stands there as `minqwen ...` or as `make ...` can be said so."""
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    plain = re.sub(r"(?ms)^ *```\w+\n.*?^ *```$", "", text)             # without code in a language
    said = [line for block in re.findall(r"(?ms)^ *```\n(.*?)^ *```$", plain) for line in block.splitlines()]
    said += re.findall(r"`([^`\n]+)`", plain.replace("```", ""))
    targets = re.findall(r"(?m)^([a-z_-]+):", (REPOSITORY / "Makefile").read_text())
    said = [shlex.split(line, comments=True) for line in said if re.match(r" *(?:\S+/)?(?:minqwen|make) ", line)]
    assert said
    for program, *words in said:
        if program == "make":
            assert words[0] in targets, words
        elif words[1:]:
            cli.parser().parse_args(words)
        else:                                           # its name alone
            assert callable(getattr(cli, words[0]))


# ---- grading one learner

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


@pytest.mark.parametrize("way", ["mine", "notebooks/mine"])
def test_the_folder_may_lie_in_what_was_handed_in(graded, tmp_path, way):
    """As an archive of it, or a whole clone, unpacks."""
    (tmp_path / "ann" / way).mkdir(parents=True)
    (tmp_path / "ann" / way / "04.py").write_text(RIGHT)
    assert [name for name, one in graded()[0].items() if one["yours"]] == ["my_corrections"]


def test_what_is_not_looked_at_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MINQWEN_MINE", "off")
    for name in ("04.py", "04 (1).py", "04_chunked_delta_rule.ipynb", "note.txt"):
        (tmp_path / name).write_text("")
    assert cli.main(["course", "--json", "--mine", str(tmp_path)]) == 0
    said = capsys.readouterr().err
    assert said.startswith("minqwen: not looked at: 04 (1).py, 04_chunked_delta_rule.ipynb (what is kept is called ")
    assert cli.main(["course", "--json"]) == 0 and not capsys.readouterr().err


def test_a_right_kernel_is_right_where_there_is_no_gpu(tmp_path):
    """torch imports Triton on its own, before a check has asked for the kernel; then it is too late to say how."""
    pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")
    (tmp_path / "15.py").write_text(pieces.source_of("my_decode_kernel"))
    plain = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run([sys.executable, "-m", "minqwen", "course", "--check", "--json", "--mine", str(tmp_path)],
                          capture_output=True, text=True, timeout=300, cwd=REPOSITORY, env=plain)
    (kernel,) = [one for one in json.loads(done.stdout) if one["name"] == "my_decode_kernel"]
    assert kernel["yours"] and kernel["wrong"] is None


# ---- grading a class

def handed_in(folder, **learners):
    """A folder for each learner, with one file in it."""
    for name, (file, text) in learners.items():
        path = folder / name / file
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return str(folder)


def test_a_line_for_each_of_a_class(tmp_path, monkeypatch, capsys):
    """Whatever one of them does, the others have theirs."""
    ends = "def my_corrections(*given):\n    import os\n    os._exit(0)\n"
    folder = handed_in(tmp_path, ann=("notebooks/mine/04.py", f"{RIGHT}\n\n{WRONG}"), bob=("04.py", ends),
                       cid=("4.py", RIGHT))
    monkeypatch.chdir(REPOSITORY)
    assert cli.main(["course", "--class", folder]) == 1
    ann, bob, cid = capsys.readouterr().out.splitlines()
    assert ann.split(maxsplit=1) == ["ann", "1 of 71 right; wrong: my_decay_matrix"]
    assert bob.startswith("bob ") and "no answer: " in bob and "exit code 0" in bob
    assert cid.split(maxsplit=1)[1].startswith("0 of 71 right; not looked at: 4.py (")


def test_nobody_of_a_class_is_left_out(tmp_path, monkeypatch, capsys):
    """An archive has a line, too; a name that is no text, as some archives make them, is told as it can be."""
    monkeypatch.setattr(grading.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess("", 0, "[]"))
    folder = handed_in(tmp_path, ann=("04.py", RIGHT))
    os.mkdir(os.path.join(os.fsencode(folder), b"M\xfcller"))
    for name in ("bob.ZIP", "cid.tar.gz", "dan_04.py", "marks.csv", ".ann.zip"):
        Path(folder, name).touch()
    cli.main(["course", "--class", folder])
    lines = dict(line.split(maxsplit=1) if " " in line.strip() else (line.strip(), "")
                 for line in capsys.readouterr().out.splitlines())
    assert set(lines) == {"M\N{REPLACEMENT CHARACTER}ller", "ann", "bob.ZIP", "cid.tar.gz", "dan_04.py"}
    assert lines["bob.ZIP"] == lines["dan_04.py"] == (
        "no answer: it is a file; make it a folder, in which are the files of mine")


@pytest.mark.parametrize("answer, right", [("[1]", 0), ("7", 0), ("", 0), (json.dumps(
    [{"lesson": "00", "name": "my_confidence", "yours": True, "wrong": None}]), 1)])
def test_a_class_for_a_program(tmp_path, monkeypatch, capsys, answer, right):
    """Each learner's list, or why there is none: also where a learner has written into the answer."""
    monkeypatch.setattr(grading.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess("", 0, answer))
    assert cli.main(["course", "--json", "--class", handed_in(tmp_path, ann=("04.py", RIGHT))]) == int(not right)
    (ann,) = json.loads(capsys.readouterr().out)
    assert ann["name"] == "ann" and sum(one["yours"] for one in ann["exercises"]) == right
    assert right or ann["remark"].startswith("no answer: ")


def test_a_learner_that_takes_for_ever_is_called_off(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grading, "LIMIT", 0.01)
    assert cli.main(["course", "--class", handed_in(tmp_path, ann=("04.py", RIGHT))]) == 1
    assert "ann                  no answer: it had not ended after 0.01 seconds" in capsys.readouterr().out


@pytest.mark.parametrize("folder, says", [("", "--class is empty"), ("nobody", "which is no folder"),
                                          (".", "no folder is in it: each learner has one there")])
def test_a_class_that_is_not_there_is_told(tmp_path, monkeypatch, capsys, folder, says):
    monkeypatch.chdir(tmp_path)
    Path("ann.zip").touch()
    Path(".git").mkdir()
    assert cli.main(["course", "--class", folder]) == 2
    assert says in capsys.readouterr().err
