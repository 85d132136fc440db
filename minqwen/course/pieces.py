"""One thread through the course: what you write in one lesson goes on to work in the next ones.

    my_rotate = check.my_rotate(my_rotate)              # the exercise: what is right is kept
    my_rotate = minqwen.course.piece("my_rotate")       # in a later lesson: yours if you wrote it, else the course's

Kept functions lie in notebooks/mine/, one file to a lesson, as plain Python that you may read and edit; git ignores
them. The lesson's own are read from the committed notebook, or from its solutions where the notebook leaves an
exercise: those beside it, else the package's. Nothing of a notebook is ever run for that.

With MINQWEN_MINE=off in the environment nothing is written and what was kept is left aside: so the tests see the same
pieces on every machine.
"""

import __future__

import ast
import builtins
import importlib
import inspect
import io
import linecache
import math
import os
import re
import symtable
import textwrap
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

import einops
import torch

from ..errors import QwenError, read_json, short
from ..files import INSTALLED, SHIPPED, write_whole

__all__ = ["PIECES", "keep", "kept", "piece"]

PIECES = {                                              # lesson: its functions, in order: exercises, and what it shows
    "00": ("my_confidence",),
    "01": ("my_merge", "my_opening", "my_scores", "my_table_bytes"),
    "02": ("my_causal_weights", "my_weights", "my_attention", "my_linear_attention"),
    "03": ("my_delta_step", "my_knobs", "my_gated_delta_step", "my_gated_delta_rule", "my_effective_attention"),
    "04": ("my_corrections", "my_decay_matrix", "my_chunk", "my_chunk_gated_delta_rule"),
    "05": ("my_rms_norm", "my_split", "my_rotate", "my_frequencies", "my_angles", "my_gated_attention"),
    "06": ("my_mlp", "my_convolution", "my_decay", "my_gated_norm", "my_gated_delta_net", "my_layer", "my_model"),
    "07": ("my_convolution_step", "my_generate", "my_cache_numbers", "my_sample"),
    "08": ("my_patches", "my_smart_resize", "my_stretch", "my_positions"),
    "09": ("my_piece_mask", "my_half_life", "my_effective_rank", "my_yarn"),
    "10": ("my_pass_seconds", "my_mtp_input", "my_agreed", "my_accept_odds"),
    "11": ("my_router", "my_experts", "my_mixture", "my_balancing_loss"),
    "12": ("my_codes", "my_best_codes", "my_pack", "my_rule_in"),
    "13": ("my_answer_loss", "my_packing", "my_clip", "my_adamw", "my_orthogonal", "my_jump"),
    "14": ("my_advantages", "my_policy_loss", "my_pass_at", "my_clipped", "my_answer_ratio"),
    "15": ("my_decode_kernel", "my_intensity", "my_block_inverse", "my_chunk_index"),
    "16": ("my_own_rows", "my_shared_gradient", "my_part_as_map", "my_training_days"),
}  # fmt: skip
TOOLS = {"torch": torch, "F": torch.nn.functional, "math": math, "rearrange": einops.rearrange, "repeat": einops.repeat}
LANGUAGE = "tl"                                         # Triton's, for kernels: only where it is asked for
READY = "minqwen", "transformers", "fla"                # who imports these in a piece has not written it
INDIRECT = {"__import__", "eval", "exec"}               # builtins that a piece may not use: they hide what it imports
STRINGS = "from __future__ import annotations\n"        # so that what annotations name need not be there
HEADER = '''\
"""Your own pieces from lesson {}, kept by minqwen.course. Edit them, or delete this file to go back to the lesson's."""

{}
import math

import torch
from einops import rearrange, repeat
from torch.nn import functional as F
'''


class Place(NamedTuple):
    """Where functions were found."""

    label: str                                          # for messages and tracebacks
    functions: dict[str, str]                           # name: source


def piece(name: str) -> FunctionType:
    """A function of the course by its name: your own if you kept it, else the one of the lessons.

    It works by itself: the pieces it calls are found in the same way.

    Args:
        name: one of `PIECES`, such as "my_rotate".

    Raises:
        QwenError: there is no such piece, its lesson is not here, or a file that you kept is broken; says which.
    """
    lesson_of(name)
    return _build(name, None, {})


def keep(function: FunctionType) -> None:
    """Keep a learner's function for the later lessons, in notebooks/mine/. It is called once its check has passed.

    It may use its arguments, `torch`, `F`, `math`, `rearrange`, `repeat`, and other `my_` functions; those of them that
    are no pieces themselves are kept along with it.

    Raises:
        QwenError: it is a stub or the course's own, uses something of the notebook around it, or has no source that can
            be found; or the file it should go into is broken. Nothing is written then.
    """
    name, lesson = function.__name__, lesson_of(function.__name__)
    if not is_written(function):
        raise QwenError(f"{name} is a stub or the course's own, and only what you wrote is kept.")
    function = inspect.unwrap(function)                 # of decorators such as torch.no_grad()
    new = _with_helpers(name, _own_source(function), function.__globals__)
    if _mine_counts():
        path = _mine(_notebooks(), lesson)
        write_whole(path, "\n\n".join([HEADER.format(lesson, STRINGS), *(_read_mine(path) | new).values()]).encode())


def is_written(function: FunctionType) -> bool:
    """Is it the learner's own, and more than a stub?"""
    source = _own_source(inspect.unwrap(function))
    return source is not None and not _is_stub(source)


def source_of(name: str) -> str:
    """How the course itself writes a piece."""
    return _of_the_course(name).functions[name]


def kept() -> dict[str, str]:
    """Which pieces are your own: their names, and the lessons they are from; none with MINQWEN_MINE=off.

    Raises:
        QwenError: a file that you kept is broken.
    """
    mine, broken = survey()
    for sentence in broken.values():
        raise QwenError(sentence)
    return mine


def survey() -> tuple[dict[str, str], dict[str, str]]:
    """{name: lesson} of the pieces that are your own, and {lesson: what is wrong with the file that was kept}."""
    mine, broken = {}, {}
    if not _mine_counts():
        return mine, broken
    folder = _notebooks()
    for lesson, names in PIECES.items():
        try:
            functions = _read_mine(_mine(folder, lesson))
        except QwenError as error:
            broken[lesson] = str(error)
        else:
            mine |= {name: lesson for name in names if name in functions}
    return mine, broken


def tools(source: str) -> dict[str, object]:
    """{name: thing} of what a piece may use without being given it.

    Raises:
        ImportError: it is a kernel, and Triton is not installed.
    """
    if not re.search(rf"(?<![\w.]){LANGUAGE}\.", source):
        return dict(TOOLS)
    interpret_kernels()
    return {**TOOLS, LANGUAGE: importlib.import_module("triton.language")}


def interpret_kernels() -> None:
    """Let Triton run kernels without a GPU. It is to be said before anything imports Triton, and torch does so, too."""
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")


# ---------------------------------------------------------------------------------------------------- finding pieces


def _build(name, beside, built):
    """A function with all that it calls. `beside` is the place of its caller, `built` what is there already."""
    place = _find(name) if _is_piece(name) else beside
    key = name if _is_piece(name) else (place.label, name)
    if key not in built:
        source = place.functions[name]
        filename = f"<{place.label}: {name}>"           # tracebacks and inspect look the source up under this
        linecache.cache[filename] = len(source), None, _lines(source), filename
        try:
            namespace = tools(source)
            # annotations are not looked up, but for a kernel's, by which Triton knows its constants
            flags = 0 if LANGUAGE in namespace else __future__.annotations.compiler_flag
            exec(compile(source, filename, "exec", flags), namespace)
        except (Exception, SystemExit) as error:        # a decorator or a default may fail, or call exit()
            said = f"{type(error).__name__}: {error}".rstrip(": ")
            raise QwenError(f"{name} in {place.label} cannot be defined ({short(said)}).") from None
        if not isinstance(namespace[name], FunctionType):
            raise QwenError(f"{name} in {place.label} cannot be used: its decorator makes a "
                            f"{type(namespace[name]).__name__} of it, and no function.")
        built[key] = namespace[name]                    # before the others, so that two may call each other
        for other in _asked_for(name, source, place.label, place.functions):
            namespace[other] = _build(other, place, built)
    return built[key]


def _find(name) -> Place:
    """The place where a piece is defined: what the learner kept, the notebook, its solutions."""
    path = _mine(_notebooks(), lesson_of(name))
    if _mine_counts() and name in (functions := _read_mine(path)):
        return Place(_short(path), functions)
    return _of_the_course(name)


def _of_the_course(name) -> Place:
    lesson, folder = lesson_of(name), _notebooks()
    notebooks = sorted(folder.glob(f"{lesson}_*.ipynb"))
    if not notebooks:
        raise QwenError(f"{name} is from lesson {lesson}, and that lesson is not in the folder {folder.name}: work "
                        f"where the lessons lie together, which `minqwen lab` opens.")
    functions = _of_notebook(notebooks[0])
    if name not in functions:
        raise QwenError(f"{name} is defined neither in {notebooks[0].name} nor in its solutions.")
    return Place(f"lesson {lesson}", functions)


def _of_notebook(path) -> dict[str, str]:
    """The functions of a lesson and of its solutions. What the notebook defines counts more, but not its stubs."""
    functions = {}
    for folder in (path.parent, SHIPPED / "notebooks"): # a learner may have taken the notebooks alone
        if (solutions := folder / "solutions" / f"{path.stem}.py").exists():
            functions |= _functions(solutions.read_text(encoding="utf-8"))
            break
    for cell in read_json(path)["cells"]:
        if cell["cell_type"] != "code" or "exercise" in cell["metadata"].get("tags", []):
            continue
        try:
            functions |= _functions("".join(cell["source"]))
        except SyntaxError:                             # a magic, which is not Python
            continue
    return functions


def _notebooks() -> Path:
    """The folder of the lessons: here, below, or beside the package."""
    here = Path.cwd()
    for folder in (here, here / "notebooks", SHIPPED / "notebooks"):
        if any(folder.glob("[0-9][0-9]_*.ipynb")):
            return folder
    raise QwenError("The lessons are not here: run this in the folder notebooks of the repository.")


def _read_mine(path) -> dict[str, str]:
    """The functions in a file that the learner kept; none where there is no file."""
    if not path.exists():
        return {}
    try:
        return _functions(path.read_text(encoding="utf-8-sig"))
    except SyntaxError as error:
        where = f"line {error.lineno}: {error.msg}"
    except (RecursionError, MemoryError):
        where = "it is nested too deeply"
    except (OSError, ValueError) as error:              # a folder; bytes that are no text
        where = str(error)
    raise QwenError(f"{_short(path)}, which holds your own pieces, is broken ({where}): mend it, or delete it and keep "
                    f"them again.")


def _mine(folder, lesson) -> Path:
    """Where a learner's pieces are: where MINQWEN_MINE says, or beside the lessons, never in an installed package."""
    if named := _named():
        return named / f"{lesson}.py"
    folder = Path.cwd() if INSTALLED and folder.is_relative_to(SHIPPED) else folder
    return folder / "mine" / f"{lesson}.py"


def _short(path) -> str:
    return "/".join(path.parts[-3:])                    # notebooks/mine/05.py


def _mine_counts() -> bool:
    """Do a learner's own pieces count?

    Raises:
        QwenError: MINQWEN_MINE names a folder that is not there.
    """
    if (named := _named()) and not named.is_dir():
        raise QwenError(f"MINQWEN_MINE, or --mine, names {named}, which is no folder: name the folder mine that a "
                        "learner has handed in.")
    return os.environ.get("MINQWEN_MINE") != "off"


def _named() -> Path | None:
    """The folder that MINQWEN_MINE names, if it says more than on or off: the folder mine, or one that it lies in."""
    said = os.environ.get("MINQWEN_MINE", "")
    return None if said in ("", "on", "off") else mine_in(Path(said))


def mine_in(folder: Path) -> Path:
    """The folder mine in what was handed in: a folder of lessons, a whole clone, or that folder itself."""
    return next((place for way in ("notebooks/mine", "mine") if (place := folder / way).is_dir()), folder)


def lesson_of(name: str) -> str:
    """The lesson that a piece is from, such as "05".

    Raises:
        QwenError: there is no such piece.
    """
    for lesson, names in PIECES.items():
        if name in names:
            return lesson
    raise QwenError(f"{name!r} is no piece of the course; the pieces are "
                    f"{', '.join(name for names in PIECES.values() for name in names)}.")


def _is_piece(name) -> bool:
    return any(name in names for names in PIECES.values())


# ---------------------------------------------------------------------------------------------------- reading source


def _functions(text) -> dict[str, str]:
    """{name: source} of the functions at the top of a Python text, decorators included; the last of a name counts."""
    lines = _lines(text)
    return {node.name: "".join(lines[min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
                                     : node.end_lineno]).rstrip("\n") + "\n"
            for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


def _lines(text) -> list[str]:
    """The lines as Python counts them; `str.splitlines` would end one at a form feed, too, or at U+2028."""
    return io.StringIO(text, newline=None).readlines()


def _own_source(function) -> str | None:
    """The function's own source and nothing around it; None if it is the lessons' and not the learner's."""
    if function.__code__.co_filename.startswith("<lesson "):
        return None
    name, code = function.__name__, function.__code__
    try:
        source = _functions(textwrap.dedent(inspect.getsource(function)))[name]
    except (OSError, TypeError, SyntaxError, KeyError):
        raise QwenError(f"The source of {name} cannot be found: define it by `def {name}(...)` in a cell, run it "
                        f"and keep it again.") from None
    texts = source, _imports("".join(inspect.findsource(function)[0])) + source
    found = [(c.co_code, c.co_names) for text in texts for c in compile(text, name, "exec").co_consts
             if isinstance(c, CodeType) and c.co_name == name]
    if not code.co_freevars and (code.co_code, code.co_names) not in found:
        raise QwenError(f"The source of {name} is not what was run: run its cell again; if that does not help, there "
                        f"is an odd character in it, such as a form feed, to be taken out.")
    return source


def _imports(text) -> str:
    """What a cell imports. Python 3.11 calls `math.sqrt` otherwise where it has seen that `math` is a module."""
    try:
        return "".join(f"{ast.unparse(node)}\n" for node in ast.parse(text).body
                       if isinstance(node, ast.Import | ast.ImportFrom))
    except (SyntaxError, ValueError):                    # of an `await`, for instance, which only a notebook takes
        return ""


def _is_stub(source) -> bool:
    """Is there nothing in the function yet but its description?"""
    *_, function = ast.parse(source).body
    return all(isinstance(node, ast.Pass) or isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
               for node in function.body)


def _with_helpers(name, source, around) -> dict[str, str]:
    """{name: source} of a function and of the `my_` functions it calls that are no pieces themselves."""
    found, waiting = {}, [(name, source)]
    while waiting:
        name, source = waiting.pop()
        found[name] = source
        own = {other: helper for other, helper in around.items() if isinstance(helper, FunctionType)}
        for other in _asked_for(name, source, "the notebook", own):
            if not _is_piece(other) and other not in found:
                helper = inspect.unwrap(own[other])
                if helper.__name__ != other:
                    raise QwenError(f"{name} calls {other}, which is a lambda or a second name of a function: define "
                                    f"it by `def {other}(...)`.")
                waiting.append((other, _own_source(helper)))
    return found


def _asked_for(name, source, where, functions) -> list[str]:
    """The other `my_` functions that a function calls, in alphabetical order.

    Raises:
        QwenError: it looks up anything else outside of itself, or imports what has it ready.
    """
    for node in ast.walk(ast.parse(source)):            # who asks the course for a piece would get this one, for ever
        ready = ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                 [node.module or ""] if isinstance(node, ast.ImportFrom) else [])
        if any(module.split(".")[0] in READY for module in ready):
            raise QwenError(f"{name} in {where} says `{ast.unparse(node)}`, which has it ready: write {name} yourself, "
                            f"and call the other pieces by their names.")
    names = set()
    tables = [symtable.symtable(STRINGS + source, name, "exec")]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        outside = table.get_type() != "module"          # there, what is assigned is the function itself
        names |= {symbol.get_name() for symbol in table.get_symbols()
                  if symbol.is_referenced() and (symbol.is_global() if outside else not symbol.is_assigned())}
    names -= {name, *TOOLS, LANGUAGE, *vars(builtins)} - INDIRECT
    for other in sorted(names):
        if not (other.startswith("my_") and (_is_piece(other) or other in functions)):
            raise QwenError(f"{name} in {where} uses {other!r}, which it is not given: a piece may use its arguments, "
                            f"{', '.join(TOOLS)}, and other my_ functions.")
    return sorted(names)
