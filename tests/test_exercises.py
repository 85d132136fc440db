"""The exercises: every solution passes, every stub is told so kindly, and no wrong answer gets through."""

import io
import json
import linecache
import re
import subprocess
import sys
from collections import Counter

import pytest
import torch
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from notebooks_support import NOTEBOOKS, exercises, lessons, read, run, solutions
from wrong_answers import WRONG

from minqwen import QwenError, cli, course
from minqwen.course import Wrong, check
from minqwen.course.judging import near

EXERCISES = [name for names in course.exercises().values() for name in names]
STUB = 'def my_confidence(logits, tokens):\n    """How sure?"""\n    ...\n'
RIGHT = ("def my_confidence(logits, tokens):\n    p = logits.softmax(-1)\n"
         "    return p[torch.arange(len(tokens)), tokens]\n")
LIKELIEST = "def my_confidence(logits, tokens):\n    return logits.softmax(-1).max(-1).values\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A learner's folder of lessons, with nothing kept so far."""
    for path in (*lessons(), NOTEBOOKS / "solutions"):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINQWEN_MINE", "on")
    return tmp_path


def defined(source, name):
    """A function as a notebook's cell defines it, with a source that can be found."""
    filename = f"cell of {name} {hash(source)}"
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    around = course.pieces.tools(source)
    exec(compile(source, filename, "exec"), around)
    place = course.pieces._of_the_course(name)           # what it calls is the course's
    for other in set(re.findall(r"my_\w+", source)) - {name}:
        around[other] = course.pieces._build(other, place, {})
    return around[name]


def code_of(name):
    """The lines of the course's own that give something away, without their comments."""
    _, *lines = course.pieces.source_of(name).splitlines()
    code = [line.split("#")[0].strip().removeprefix("return ") for line in lines]
    return [line for line in code if len(line) > 30 and not line.startswith('"') and " = config." not in line]


def given(source):
    return check.my_confidence(defined(source, "my_confidence"))


# ---- all exercises

@pytest.mark.parametrize("name", EXERCISES)
def test_the_courses_own_passes(name):
    assert course.judge(name, course.piece(name)).startswith(f"{name}: ")


@pytest.mark.parametrize("name", EXERCISES)
def test_hints_come_in_levels_and_none_is_the_answer(name, capsys):
    levels = course.checking._exercise(name).hints
    assert len(levels) >= 3 and len(set(levels)) == len(levels)
    told = " ".join(levels)
    assert not [line for line in code_of(name) if line in told], "a hint is a line of the solution"


@pytest.mark.parametrize("name", EXERCISES)
def test_the_answer_stands_nowhere_on_the_page(name):
    path = next(path for path in lessons() if path.name.startswith(course.pieces.lesson_of(name)))
    page = "\n".join(cell.source for cell in read(path).cells)
    assert not [line for line in code_of(name) if line in page], "a line of the solution stands in the lesson"


@pytest.mark.parametrize("answer", WRONG, ids=lambda answer: f"{answer.exercise}-{answer.mistake}")
def test_no_wrong_answer_passes(answer):
    with pytest.raises(Wrong) as told:
        course.judge(answer.exercise, defined(answer.source, answer.exercise))
    sentence = str(told.value)
    assert answer.says in sentence, sentence
    assert sentence.startswith(f"{answer.exercise}: ") and sentence.endswith(".") and "\n" not in sentence


@pytest.mark.parametrize("name", EXERCISES)
def test_there_are_wrong_answers_to_each(name):
    assert Counter(answer.exercise for answer in WRONG)[name] >= 3


@pytest.mark.parametrize("lesson, names", course.exercises().items())
def test_a_lesson_asks_for_each_in_a_stub_and_checks_it_in_the_next_cell(lesson, names):
    path = next(path for path in lessons() if path.name.startswith(lesson))
    pairs = exercises(read(path))
    assert [re.search(r"^def (\w+)\(", stub.source, re.MULTILINE)[1] for stub, _ in pairs] == names
    for name, (_, checks) in zip(names, pairs):
        assert f"{name} = check.{name}({name})" in checks.source
    codes = solutions((NOTEBOOKS / "solutions" / f"{path.stem}.py").read_text(encoding="utf-8"))
    assert [re.search(r"^def (\w+)\(", code, re.MULTILINE)[1] for code in codes] == names


# ---- what a learner is told

def test_a_stub_is_told_not_yet_and_the_lesson_goes_on_with_the_courses(capsys, folder):
    ours = given(STUB)
    said = capsys.readouterr().out
    assert said.startswith("not yet: my_confidence is still to be written.") and 'check.hint("my_confidence")' in said
    assert ours(torch.zeros(1, 4), torch.tensor([2])).item() == 0.25
    assert check.my_confidence(ours) is not None                 # the cell is run again, on what it gave back
    assert capsys.readouterr().out == said
    assert course.kept() == {} and not (folder / "mine").exists(), "the course's code is not the learner's"


def test_a_right_answer_is_kept_and_comes_back(capsys, folder):
    mine = defined(RIGHT, "my_confidence")
    assert check.my_confidence(mine) is mine
    said = capsys.readouterr().out
    assert re.fullmatch(r"✓ my_confidence: that is how sure it is of each token \((exactly|within 1e-\d+); "
                        r"1e-4 is allowed\)\n", said)
    assert course.kept() == {"my_confidence": "00"} and RIGHT in (folder / "mine/00.py").read_text()
    assert given(STUB).__code__.co_filename.endswith("mine/00.py: my_confidence>")       # on another day
    assert capsys.readouterr().out == said.rstrip() + ", as you wrote it before\n"


def test_a_verdict_tells_the_strictest_of_its_comparisons(monkeypatch):
    def my_confidence(mine):
        """so near"""
        for off, bound in ((0.3, 0.5), (3e-12, 1e-9), (2e-13, 1e-9), (0, 0)):
            assert near(off, bound)

    my_confidence.hints = ()
    monkeypatch.setattr(course.checks.lesson_00, "my_confidence", my_confidence)
    assert course.judge("my_confidence", print) == "my_confidence: so near (within 1e-11; 1e-9 is allowed)"


def test_a_wrong_answer_is_not_kept(folder):
    with pytest.raises(Wrong, match="likeliest"):
        given(LIKELIEST)
    assert not (folder / "mine").exists()


def test_what_was_kept_and_broken_since_is_told_apart(folder):
    given(RIGHT)
    path = folder / "mine/00.py"
    path.write_text(path.read_text().replace("softmax(-1)", "softmax(0)"))
    with pytest.raises(Wrong, match=r"over the positions.*as it is in notebooks/mine"):
        given(STUB)


def test_what_leans_on_the_notebook_around_it_is_told(folder):
    softmax = RIGHT.replace("logits.softmax(-1)", "softmax(logits, -1)")
    mine = defined(f"softmax = torch.softmax\n{softmax}", "my_confidence")
    with pytest.raises(Wrong, match="uses 'softmax', which it is not given"):
        check.my_confidence(mine)
    assert not (folder / "mine").exists()


def test_what_takes_the_courses_own_is_told(folder):
    asks = "def my_confidence(logits, tokens):\n    from minqwen import course\n    return course.piece"
    with pytest.raises(Wrong, match="`from minqwen import course`, which has it ready: write my_confidence yourself"):
        given(f"{asks}('my_confidence')(logits, tokens)\n")
    assert not (folder / "mine").exists()


@pytest.mark.parametrize("asks", ["__import__('minqwen.course')", "eval('my_confidence')", "exec('import minqwen')"])
def test_what_takes_it_unseen_is_told(folder, asks):
    with pytest.raises(Wrong, match=f"uses '{asks.split('(')[0]}', which it is not given"):
        given(f"def my_confidence(logits, tokens):\n    {asks}\n"
              "    return logits.softmax(-1)[range(len(tokens)), tokens]\n")
    assert not (folder / "mine").exists()


def test_an_error_is_told_with_the_learners_line():
    with pytest.raises(Wrong, match=r"^my_confidence: it stops with ZeroDivisionError: .*, at `return 1 / 0`\.$"):
        given("def my_confidence(logits, tokens):\n    return 1 / 0\n")
    with pytest.raises(Wrong, match="what it returns cannot be used .TypeError"):
        given("def my_confidence(logits, tokens):\n    return type('Odd', (), {'shape': 3})()\n")
    with pytest.raises(Wrong, match="arguments are not those of the exercise .too many positional"):
        given("def my_confidence(logits):\n    return logits\n")


def test_what_is_no_exercise_is_told():
    for call_it, words in ((lambda: check.my_nothing, "'my_nothing' is no piece"),
                           (lambda: check.my_model, "no exercise: lesson 06 shows"),
                           (lambda: check.hint("my_nothing"), "no piece"),
                           (lambda: check.my_confidence(3), "takes your function my_confidence"),
                           (lambda: check.my_confidence(given), "takes your function my_confidence")):
        with pytest.raises(QwenError, match=words):
            call_it()
    assert "my_confidence" in dir(check) and "hint" in dir(check)
    assert not hasattr(check, "my_nothing") and getattr(check, "my_model", 3) == 3


def test_what_ends_the_program_is_told_but_not_ctrl_c():
    with pytest.raises(Wrong, match=r"^my_confidence: it stops with SystemExit: 3, at `raise SystemExit\(3\)`\.$"):
        given("def my_confidence(logits, tokens):\n    raise SystemExit(3)\n")
    with pytest.raises(KeyboardInterrupt):
        given("def my_confidence(logits, tokens):\n    raise KeyboardInterrupt\n")


def test_async_is_told():
    for body in ("return logits", "yield logits"):
        with pytest.raises(Wrong, match=r"it is `async`.*write `def my_confidence\(\.\.\.\)` without that word\.$"):
            given(f"async def my_confidence(logits, tokens):\n    {body}\n")


@pytest.mark.parametrize("changes, what", [("torch.set_default_dtype(torch.float64)", "torch's default dtype"),
                                           ("torch.set_grad_enabled(False)", "whether torch records gradients"),
                                           ("torch.set_num_threads(7)", "the number of torch's threads")])
def test_what_changes_the_session_is_told_and_undone(changes, what):
    def settings():
        return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()

    before = settings()
    for body in (RIGHT, STUB.replace("...", "raise KeyboardInterrupt")):
        with pytest.raises((Wrong, KeyboardInterrupt)) as told:
            given(body.replace(":\n", f":\n    {changes}\n", 1))
        assert settings() == before
        assert what in str(told.value) or told.type is KeyboardInterrupt


def test_random_numbers_go_on_as_if_nothing_had_been_checked():
    before = torch.get_rng_state()
    given(RIGHT.replace(":\n", ":\n    torch.manual_seed(5)\n", 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_hints_one_after_the_other(capsys):
    fresh = course.checking.Checks()
    told = []
    for _ in range(4):
        fresh.hint("my_confidence")
        told.append(capsys.readouterr().out)
    assert [text.split(":")[0] for text in told] == [f"my_confidence, hint {n} of 3" for n in (1, 2, 3, 3)]
    assert "check.solution" in told[2] == told[3] and "check.solution" not in told[0] + told[1]
    assert max(len(line) for text in told for line in text.splitlines()) <= 92
    fresh.solution("my_confidence")
    assert "def my_confidence(logits, tokens):" in capsys.readouterr().out


# ---- minqwen course

def test_the_command_line_says_where_a_learner_stands(capsys, folder):
    given(RIGHT)
    capsys.readouterr()
    assert cli.main(["course"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"✓ my_confidence +yours\n", said) and re.search(r"· my_attention +not yet\n", said)
    assert f"1 of {len(EXERCISES)} are yours" in said and said.count("\nlesson ") == len(course.exercises())
    assert cli.main(["course", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == EXERCISES
    assert rows[0] == {"lesson": "00", "name": "my_confidence", "yours": True, "wrong": None}
    assert not any(row["yours"] for row in rows[1:])


def test_the_command_line_checks_what_was_kept(capsys, folder):
    given(RIGHT)
    assert cli.main(["course", "--check"]) == 0
    path = folder / "mine/00.py"
    path.write_text(path.read_text().replace("softmax(-1)", "softmax(0)"))
    assert cli.main(["course"]) == 0, "unasked, nothing is run"
    capsys.readouterr()
    assert cli.main(["course", "--check"]) == 1
    assert re.search(r"✗ my_confidence +yours\n +my_confidence: the softmax runs over the positions",
                     capsys.readouterr().out)
    assert cli.main(["course", "--check", "--json"]) == 1
    assert "over the positions" in json.loads(capsys.readouterr().out)[0]["wrong"]


def test_the_command_line_keeps_what_a_function_prints_out_of_its_answer(capsys, folder):
    given(RIGHT.replace(":\n", ":\n    print('by the way')\n", 1))
    capsys.readouterr()
    assert cli.main(["course", "--check", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["wrong"] is None and "by the way" in said.err


@pytest.mark.parametrize("where, source", [("body", RIGHT.replace(":\n", ":\n    exit()\n", 1)),
                                           ("default", RIGHT.replace("tokens)", "tokens, end=exit())", 1))])
def test_the_command_line_outlives_a_function_that_ends_the_program(capsys, folder, monkeypatch, where, source):
    monkeypatch.setattr("sys.stdin", io.StringIO())      # which exit() closes
    (folder / "mine").mkdir()
    (folder / "mine/00.py").write_text(source)
    assert cli.main(["course", "--check"]) == 1
    said = capsys.readouterr().out
    assert re.search(r"✗ my_confidence +yours\n.*SystemExit.*\.\n", said) and f"1 of {len(EXERCISES)} are yours" in said


def test_the_command_line_outlives_a_function_that_never_ends(capsys, folder, monkeypatch):
    """Nor does an `except` of its own hold the rest up."""
    monkeypatch.setattr(course.checking, "LIMIT", 1)
    endless = "    while True:\n        try:\n            1 / 0\n        except Exception:\n            pass\n"
    (folder / "mine").mkdir()
    (folder / "mine/00.py").write_text(RIGHT.split("\n")[0] + f"\n{endless}")
    (folder / "mine/16.py").write_text(course.pieces.source_of("my_training_days"))
    assert cli.main(["course", "--check", "--json"]) == 1
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["my_confidence"]["wrong"] == ("my_confidence: it had not ended after 1 seconds: look for a loop that "
                                              "goes on for ever.")
    assert rows["my_training_days"] == {"lesson": "16", "name": "my_training_days", "yours": True, "wrong": None}


def test_the_command_line_names_a_broken_file_once_and_goes_on(capsys, folder):
    given(RIGHT)
    (folder / "mine/02.py").mkdir()
    capsys.readouterr()
    for options in ([], ["--check"]):
        assert cli.main(["course", *options]) == 1
        said = capsys.readouterr().out
        assert said.count("mine/02.py, which holds your own pieces, is broken") == 1
        assert re.search(r"✓ my_confidence +yours\n", said) and re.search(r"✗ my_attention +broken\n", said)
    assert cli.main(["course", "--json"]) == 1
    wrong = {row["lesson"] for row in json.loads(capsys.readouterr().out) if row["wrong"]}
    assert wrong == {"02"}


# ---- nothing of the check is shown

def test_in_a_notebook_only_the_sentence_is_shown(folder):
    cells = ["import torch\nfrom minqwen.course import check", LIKELIEST, "check.my_confidence(my_confidence)"]
    notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
    with pytest.raises(CellExecutionError):
        run(notebook, folder=folder)
    error = notebook.cells[-1].outputs[-1]
    assert error.ename == "Wrong"
    assert error.traceback == [error.evalue] and "likeliest" in error.evalue


def test_what_is_right_in_one_notebook_is_there_in_the_next(folder):
    """What is defined in a cell is found by `inspect`, and by a later kernel."""
    begin = "import torch\nfrom minqwen import course"
    for cells in ([begin, RIGHT, "course.check.my_confidence(my_confidence)"],
                  [begin, "assert course.kept() == {'my_confidence': '00'}\nmine = course.piece('my_confidence')\n"
                          "assert 'mine/00.py' in mine.__code__.co_filename"]):
        run(new_notebook(cells=[new_code_cell(source) for source in cells]), folder=folder)


def test_under_plain_python_nothing_of_the_check_is_shown(folder):
    program = folder / "mine.py"
    program.write_text(LIKELIEST + "\n\nfrom minqwen.course import check\ncheck.my_confidence(my_confidence)\n")
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 1 and "likeliest" in done.stderr
    assert "lesson_00" not in done.stderr and "softmax" not in done.stderr.replace("likeliest", "")
