"""A learner's pieces go from lesson to lesson: what is kept, what is found, what is said when something is wrong."""

import importlib.util
import linecache
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from notebooks_support import NOTEBOOKS, lessons, read, source_cells

from minqwen import QwenError, course
from minqwen.course.pieces import is_written, keep

TURN = '''\
def my_rotate(x, cos, sin):
    """The lesson's own."""
    return my_half(x) * cos


def my_half(x):
    return 0.5 * x
'''
MINE = '''\
def my_rotate(x, cos, sin):
    """Mine."""
    return 3 * x
'''
NORM = "def my_rms_norm(x, weight, eps=1e-6):\n    return x / math.sqrt(eps) + my_rotate(x, 1, 0)\n"
STUB = 'def my_split(q, head_dim):\n    """Two of them."""\n    ...\n'
SPLIT = "def my_split(q, head_dim):\n    return rearrange(q, '(two d) -> two d', d=head_dim)\n"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A course of one lesson; the learner's pieces count."""
    monkeypatch.setenv("MINQWEN_MINE", "on")
    cells = [new_markdown_cell("def my_rms_norm(x): prose"), new_code_cell("%matplotlib inline\ndef my_rotate(x): 1"),
             new_code_cell("raise RuntimeError('a notebook is never run')\n\n\n" + TURN), new_code_cell(NORM),
             new_code_cell(STUB, metadata={"tags": ["exercise"]})]
    (tmp_path / "notebooks/solutions").mkdir(parents=True)
    nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks/05_gated_attention.ipynb")
    (tmp_path / "notebooks/solutions/05_gated_attention.py").write_text("# %% exercise 1\n" + SPLIT)
    monkeypatch.chdir(tmp_path / "notebooks")
    return tmp_path / "notebooks"


def defined(source, name, **around):
    """A function as a notebook's cell defines it, with a source that can be found."""
    filename = f"cell of {name}"
    linecache.cache[filename] = len(source), None, source.splitlines(keepends=True), filename
    exec(compile(source, filename, "exec"), around)
    return around[name]


def complains(*words):
    """One sentence, with these words in it."""
    return pytest.raises(QwenError, match=".*".join(words) + r"[^\n]*\.$")


# ---- finding the lesson's own

@pytest.mark.parametrize("where", ["", "notebooks"])
def test_the_lessons_pieces_are_found_here_and_below(folder, monkeypatch, where):
    monkeypatch.chdir(folder if where else folder.parent)
    assert course.piece("my_rotate")(8, 2, 0) == 8                      # with its helper
    assert course.piece("my_rms_norm")(1, None, eps=4) == 1.0 / 2 + 0.5        # with another piece, and math
    assert course.piece("my_split")(torch.arange(4), 2).tolist() == [[0, 1], [2, 3]]     # from the solutions
    assert course.kept() == {}


def test_the_notebook_counts_more_than_its_solutions(folder):
    solutions = folder / "solutions/05_gated_attention.py"
    solutions.write_text(solutions.read_text() + MINE)
    assert course.piece("my_rotate")(8, 2, 0) == 8


def test_notebooks_without_their_solutions_take_those_of_the_package(folder):
    """What the notebook itself shows still counts first."""
    (folder / "solutions/05_gated_attention.py").unlink()
    (folder / "solutions").rmdir()
    assert course.pieces.source_of("my_split") in (NOTEBOOKS / "solutions/05_gated_attention.py").read_text("utf-8")
    assert callable(course.piece("my_split")) and course.piece("my_rotate")(8, 2, 0) == 8


def test_beside_the_package_where_nothing_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    assert course.piece("my_gated_delta_rule").__doc__.startswith("The gated delta rule")


def test_a_package_without_its_lessons(tmp_path, monkeypatch):
    (tmp_path / "site/minqwen").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "site")
    monkeypatch.setattr(course.pieces, "SHIPPED", tmp_path / "site/minqwen/shipped")
    with complains("The lessons are not here", "notebooks"):
        course.piece("my_rotate")


def test_what_is_not_there_is_named():
    with complains("'my_rotation' is no piece", "my_rotate"):
        course.piece("my_rotation")
    with complains("my_model is from lesson 06", "not in the folder notebooks"):
        course.piece("my_model")
    with complains("my_angles is defined neither in 05_gated_attention.ipynb nor in its solutions"):
        course.piece("my_angles")


def test_a_source_is_found_in_a_traceback():
    with pytest.raises(TypeError) as error:
        course.piece("my_rotate")(None, 1, 0)
    assert "return 0.5 * x" in str(error.getrepr())


# ---- keeping the learner's own

def test_a_kept_piece_goes_before_the_lessons(folder):
    before = course.piece("my_rms_norm")
    keep(defined(MINE, "my_rotate"))
    assert course.kept() == {"my_rotate": "05"}
    assert course.piece("my_rotate")(2, 0, 0) == 6
    assert course.piece("my_rms_norm")(1, None, eps=4) == 1 / 2 + 3          # the lesson's piece calls the learner's
    assert before(1, None, eps=4) == 1                                       # and what was there before is left alone


def test_only_the_function_is_written_and_the_file_is_a_module(folder):
    secret = "cell = 'of the notebook'\n\n\n" + MINE + "\n\nprint(cell)\n"
    keep(defined(secret, "my_rotate"))
    text = (folder / "mine/05.py").read_text()
    assert MINE in text and "of the notebook" not in text
    assert [path.name for path in (folder / "mine").iterdir()] == ["05.py"]
    spec = importlib.util.spec_from_file_location("kept", folder / "mine/05.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.my_rotate(2, 0, 0) == 6


def test_keeping_again_replaces_and_leaves_the_others(folder):
    keep(defined(MINE, "my_rotate"))
    keep(defined(SPLIT, "my_split"))
    keep(defined(MINE.replace("3 * x", "4 * x"), "my_rotate"))
    assert course.piece("my_rotate")(2, 0, 0) == 8
    assert set(course.kept()) == {"my_rotate", "my_split"}
    assert (folder / "mine/05.py").read_text().count("def my_rotate") == 1


def test_helpers_come_along_and_decorators_too(folder):
    source = ("@torch.no_grad()\ndef my_rotate(x, cos, sin):\n    return my_twice(x)\n\n\n"
              "def my_twice(x):\n    return my_once(x) + my_once(x)\n\n\ndef my_once(x):\n    return x.clone()\n")
    keep(defined(source, "my_rotate", torch=torch))
    shutil.rmtree(folder / "solutions")
    x = torch.ones(1, requires_grad=True)
    y = course.piece("my_rotate")(x, 1, 0)
    assert y.item() == 2 and not y.requires_grad


def test_helpers_that_call_each_other_come_along_once(folder, monkeypatch):
    asked, original = [], course.pieces._asked_for

    def once(name, *rest):
        assert name not in asked, f"{name} is read for ever"
        return asked.append(name) or original(name, *rest)

    monkeypatch.setattr(course.pieces, "_asked_for", once)
    ping = "def my_ping(n):\n    return n and my_pong(n - 1)\n"
    keep(defined(MINE.replace("3 * x", "my_ping(x)") + ping + ping.replace("ping", "PONG").replace("pong", "ping")
                 .replace("PONG", "pong"), "my_rotate"))
    monkeypatch.undo()
    monkeypatch.setenv("MINQWEN_MINE", "on")
    monkeypatch.chdir(folder)
    assert course.piece("my_rotate")(5, 0, 0) == 0


def test_pieces_of_two_lessons_go_into_two_files(folder):
    keep(defined(MINE, "my_rotate"))
    keep(defined("def my_mlp(x, weights):\n    return x\n", "my_mlp"))
    assert {path.name for path in (folder / "mine").iterdir()} == {"05.py", "06.py"}
    assert course.kept() == {"my_rotate": "05", "my_mlp": "06"}


def test_stubs_and_the_courses_own_are_not_kept(folder):
    assert is_written(defined(SPLIT, "my_split"))
    stub, ours = defined(STUB, "my_split"), course.piece("my_rms_norm")
    assert not is_written(stub) and not is_written(ours)
    for function in (stub, ours):
        with complains("only what you wrote is kept"):
            keep(function)
    assert course.kept() == {} and not (folder / "mine").exists()


def test_a_piece_that_was_kept_can_be_kept_again(folder):
    keep(defined(MINE, "my_rotate"))
    keep(course.piece("my_rotate"))
    assert course.piece("my_rotate")(2, 0, 0) == 6


def test_off_writes_nothing_and_sees_nothing(folder, monkeypatch):
    keep(defined(MINE, "my_rotate"))
    monkeypatch.setenv("MINQWEN_MINE", "off")
    assert course.piece("my_rotate")(8, 2, 0) == 8 and course.kept() == {}
    before = (folder / "mine/05.py").read_text()
    keep(defined(MINE.replace("3", "5"), "my_rotate"))
    assert (folder / "mine/05.py").read_text() == before


# ---- what is said when something is wrong

def test_a_function_must_stand_by_itself(folder):
    for source, name in ((MINE.replace("3 * x", "config * x"), "config"),
                         (MINE.replace("3 * x", "[scale * y for y in x]"), "scale"),
                         (MINE.replace("sin)", "sin=turn)"), "turn"),
                         (MINE.replace("3 * x", "my_lost(x)"), "my_lost")):
        with complains(f"my_rotate in the notebook uses '{name}'", "may use"):
            keep(defined(source, "my_rotate", turn=1, config=2, scale=3))
    assert not (folder / "mine").exists()


@pytest.mark.parametrize("asks", ["import minqwen\n    return minqwen.course.piece('my_rotate')(x, cos, sin)",
                                  "from minqwen.course import piece\n    return piece('my_rotate')(x, cos, sin)",
                                  "import math, transformers.models\n    return x"])
def test_a_piece_may_not_import_what_has_it_ready(folder, asks):
    """The model's own function is no answer; and by `piece` it would get the course's until it is kept, then itself."""
    with complains(f"my_rotate in the notebook says `{asks.splitlines()[0]}`", "write my_rotate yourself"):
        keep(defined(MINE.replace("return 3 * x", asks), "my_rotate"))
    helped = defined(MINE.replace("3 * x", "my_turn(x, cos, sin)") + "\n\n" +
                     TURN.replace("my_rotate", "my_turn").replace("return my_half(x) * cos", asks), "my_rotate")
    with complains("my_turn in the notebook says `"):
        keep(helped)
    assert not (folder / "mine").exists()


def test_a_piece_may_import_other_things(folder):
    """What is kept works wherever it is called."""
    keep(defined(MINE.replace("return 3 * x", "from operator import mul\n    return mul(3, x)"), "my_rotate"))
    assert course.piece("my_rotate")(2, 0, 0) == 6


def test_annotations_do_not_count(folder):
    source = ("def my_rotate(x: Tensor, cos: 'Odd', *sin: Optional[Tensor]) -> list[Tensor]:\n"
              "    y: Tensor = 3 * x\n    return y\n")
    keep(defined(source, "my_rotate", Tensor=torch.Tensor, Optional=list))
    assert course.piece("my_rotate")(2, 0, 0) == 6
    read = {}
    exec((folder / "mine/05.py").read_text(), read)
    assert read["my_rotate"](2, 0, 0) == 6


@pytest.mark.parametrize("helper", ["my_half = lambda x: x / 2",
                                    "def my_part(x):\n    return x\n\n\nmy_half = my_part"])
def test_a_helper_without_a_def_of_its_own(folder, helper):
    with complains("my_rotate calls my_half, which is a lambda or a second name", r"`def my_half\(\.\.\.\)`"):
        keep(defined(MINE.replace("3 * x", "my_half(x)") + f"\n\n{helper}\n", "my_rotate"))


@pytest.mark.parametrize("odd", "\u2028 \x0c \x0b \x85 \x1c".split(" "), ids=ascii)
def test_a_character_that_ends_a_line_for_some(folder, odd):
    """Python ends none at it. IPython does, so that it loses the rest of the function."""
    source = f"def my_rotate(x, cos, sin):\n    y = 3 * x\n    # one{odd}two\n    return y\n"
    path = folder / "cell.py"
    path.write_text(source, encoding="utf-8")
    around = {}
    exec(compile(source, str(path), "exec"), around)
    keep(around["my_rotate"])
    assert course.piece("my_rotate")(2, 0, 0) == 6
    keep(course.piece("my_rotate"))
    assert source in (folder / "mine/05.py").read_text(encoding="utf-8")
    short = defined(source, "my_rotate")
    lines = [line + "\n" for line in source.splitlines()]              # as IPython has it
    linecache.cache[short.__code__.co_filename] = len(source), None, lines, short.__code__.co_filename
    with complains("source of my_rotate is not what was run", "odd character"):
        keep(short)


def test_a_cell_may_import_what_a_piece_uses(folder):
    """Python 3.11 compiles a call of what was imported beside it in another way."""
    source = "import math\nfrom math import pi\n\n\ndef my_rotate(x, cos, sin):\n    return math.floor(x * math.pi)\n"
    keep(defined(source, "my_rotate"))
    assert course.piece("my_rotate")(1, 0, 0) == 3


def test_a_kernel_may_use_tritons_language(folder):
    """It is imported where it is asked for, and only there; and a kernel is kept as any other piece."""
    assert "tl" not in course.pieces.tools("def my_split(q):\n    return q.tl.x\n")
    pytest.importorskip("triton", reason="Triton is not installed (it exists for Linux only)")
    source = "def my_split(q, B: tl.constexpr):\n    tl.store(q + tl.arange(0, B), 1.0)\n"
    keep(defined(source, "my_split", **course.pieces.tools(source)))
    assert source in (folder / "mine/05.py").read_text()
    kept = course.piece("my_split")
    assert kept.__globals__["tl"].__name__ == "triton.language" and "tl" not in course.piece("my_rotate").__globals__


def test_what_can_not_be_kept(folder):
    nameless = {}
    exec(MINE, nameless)
    with complains("source of my_rotate cannot be found"):
        keep(nameless["my_rotate"])
    with complains("'my_lost' is no piece of the course"):
        keep(defined("def my_lost(x):\n    return x\n", "my_lost"))
    assert not (folder / "mine").exists()


@pytest.mark.parametrize("broken, word", [(b"def my_rotate(:\n", "line 1"), (b"\xff\xfe\x00", "broken"),
                                          (b"x = '\x00'\n", "broken")])
def test_a_broken_file_is_named_and_never_overwritten(folder, broken, word):
    (folder / "mine").mkdir()
    path = folder / "mine/05.py"
    path.write_bytes(broken)
    for call in (lambda: course.piece("my_rotate"), course.kept, lambda: keep(defined(MINE, "my_rotate"))):
        with complains("notebooks/mine/05.py", "broken"):
            call()
    assert word in str(pytest.raises(QwenError, course.kept).value)
    assert path.read_bytes() == broken


def test_a_kept_function_that_can_not_be_defined(folder):
    (folder / "mine").mkdir()
    (folder / "mine/05.py").write_text("@nowhere\n" + MINE)
    with complains("my_rotate in notebooks/mine/05.py", "nowhere"):
        course.piece("my_rotate")


@pytest.mark.parametrize("decorator, words", [
    ("@print", "decorator makes a NoneType of it"),
    ("@(lambda f: exit('at once'))", r"cannot be defined \(SystemExit: at once"),
])
def test_a_decorator_that_gives_no_function(folder, decorator, words):
    (folder / "mine").mkdir()
    (folder / "mine/05.py").write_text(f"{decorator}\n{MINE}")
    with complains("my_rotate in notebooks/mine/05.py", words):
        course.piece("my_rotate")


@pytest.mark.parametrize("text", [None, "x = " + "-" * 9999 + "1"], ids=["a folder", "nested too deeply"])
def test_a_file_that_is_none(folder, text):
    path = folder / "mine/05.py"
    path.mkdir(parents=True)
    if text:
        path.rmdir()
        path.write_text(text)
    with complains("notebooks/mine/05.py", "broken", "nested" if text else "directory"):
        course.kept()


def test_a_mark_at_the_beginning_of_a_file_is_none_of_its_text(folder):
    (folder / "mine").mkdir()
    (folder / "mine/05.py").write_text(MINE, encoding="utf-8-sig")         # as some editors on Windows write it
    assert course.piece("my_rotate")(2, 0, 0) == 6


def test_an_interrupted_write_leaves_the_old_file(folder, monkeypatch):
    keep(defined(MINE, "my_rotate"))
    monkeypatch.setattr(course.pieces.os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        keep(defined(MINE.replace("3", "5"), "my_rotate"))
    assert course.piece("my_rotate")(2, 0, 0) == 6
    assert [path.name for path in (folder / "mine").iterdir()] == ["05.py"]


# ---- the real thing

@pytest.mark.parametrize("lesson, name", [(lesson, name) for lesson, names in course.PIECES.items() for name in names
                                          if any(path.name.startswith(lesson) for path in lessons())])
def test_every_piece_of_the_lessons_stands_by_itself(lesson, name, monkeypatch):
    """Found without running anything, and everything that it calls is found, too."""
    monkeypatch.setenv("MINQWEN_MINE", "off")
    monkeypatch.chdir(NOTEBOOKS)
    assert callable(course.piece(name))


def test_the_lessons_take_only_pieces_that_there_are():
    asked = {name for path in lessons() for cell in source_cells(read(path))
             for name in re.findall(r"\bpiece\(\"(\w+)\"\)", cell.source)}
    assert asked and asked <= {name for names in course.PIECES.values() for name in names}


def test_git_and_make_know_of_it(repository):
    assert "notebooks/mine/" in (repository / ".gitignore").read_text().split()
    makefile = (repository / "Makefile").read_text()
    steady = next(line for line in makefile.splitlines() if line.startswith("STEADY"))
    assert "MINQWEN_MINE=off" in steady.split()
    assert Path(course.__file__).parents[2] == repository
