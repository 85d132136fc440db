"""The exercises of the lessons: `check` tells a learner what is right and what is wrong with a function.

    from minqwen.course import check

    my_attention = check.my_attention(my_attention)     # yours if it is right, the course's as long as it is a stub
    check.hint("my_attention")                          # the next hint: where to look, the idea, nearly the code
    check.solution("my_attention")                      # the course's own

What is right is kept for the later lessons, in notebooks/mine/. The checks themselves are in checks/, a file a lesson.
"""

import importlib
import inspect
import signal
import textwrap
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import NamedTuple

from ..errors import QwenError
from ..verify import measured
from . import checks
from .judging import Wrong, measuring, torch_as_found
from .pieces import PIECES, interpret_kernels, is_written, keep, kept, lesson_of, piece, source_of, survey

__all__ = ["Exercise", "check", "exercises", "judge", "progress"]

LIMIT = 120                                             # seconds: what is kept may take so long to be checked
WIDTH = 92                                              # of a line that is printed in a lesson
NOT_YET = """\
not yet: {name} is still to be written. Until then the lesson goes on with the course's.
         check.hint("{name}") says where to begin."""


def exercises() -> dict[str, list[str]]:
    """{lesson: the names of its exercises, in order}."""
    found = {lesson: [name for name in names if _check_of(name)] for lesson, names in PIECES.items()}
    return {lesson: names for lesson, names in found.items() if names}


class Exercise(NamedTuple):
    """Where a learner stands with an exercise."""

    lesson: str                                         # as "02"
    name: str
    yours: bool                                         # written and kept; else the lessons run on the course's own
    wrong: str | None                                   # what its check says, if it was asked, or of a broken file


def progress(run_checks: bool = False) -> list[Exercise]:
    """Where a learner stands, exercise by exercise, in the order of the lessons.

    Args:
        run_checks: run the checks of what is kept, too; it may have been edited since. What takes longer than `LIMIT`
            is wrong.

    A file that was kept and is broken is what is wrong with all exercises of its lesson.
    """
    interpret_kernels()                                 # checks and what they import may load Triton
    mine, broken = survey()
    return [Exercise(lesson, name, name in mine,
                     broken.get(lesson) or (_what_is_wrong(name) if run_checks and name in mine else None))
            for lesson, names in exercises().items() for name in names]


def judge(name: str, function: FunctionType) -> str:
    """Run an exercise's check on a function: what has been shown by it, as "my_attention: it looks back only", and how
    near its numbers were: where bounds differ, by the strictest.

    Raises:
        Wrong: one sentence that says what is wrong; nothing of the check is in its traceback.
        QwenError: there is no such exercise.
    """
    check, sentence = _exercise(name), None
    with torch_as_found() as changed, measuring() as seen:
        try:
            check(function)
        except (Wrong, QwenError) as error:
            sentence = str(error)
        except (Exception, SystemExit) as error:        # exit() is an error here; Ctrl-C goes through
            sentence = _stumble(function, error)
    if changed:
        sentence = f"it changes {' and '.join(changed)} for all that runs after it: leave that as it is."
    if sentence:
        raise Wrong(f"{name}: {sentence}")
    shown = f"{name}: {inspect.getdoc(check).splitlines()[0]}"
    if not seen:
        return shown
    strictest = min((bound for _, bound in seen if bound), default=0)
    return f"{shown} {measured(max(off for off, bound in seen if bound == strictest), strictest)}"


class NoExercise(QwenError, AttributeError):
    """`check` has none of this name. `hasattr` and `getattr` with a default want an AttributeError."""


class Checks:
    """`check.NAME(function)` for every exercise, and `check.hint("NAME")`, `check.solution("NAME")`."""

    def __init__(self):
        self._hints_told = Counter()

    def hint(self, name: str) -> None:
        """Print the next hint to an exercise: where to look, then the idea, then nearly the code."""
        levels = _exercise(name).hints
        number = min(self._hints_told[name] + 1, len(levels))
        self._hints_told[name] = number
        print(textwrap.fill(f"{name}, hint {number} of {len(levels)}: {levels[number - 1]}", WIDTH))
        if number == len(levels):
            print(f'That was the last one; check.solution("{name}") shows how the course writes it.')

    def solution(self, name: str) -> None:
        """Print the course's own function."""
        _exercise(name)
        print(source_of(name))

    def __getattr__(self, name: str) -> Callable[[FunctionType], FunctionType]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            _exercise(name)
        except QwenError as error:
            raise NoExercise(str(error)) from None

        def check(function: FunctionType) -> FunctionType:
            return _checked(name, function)

        check.__name__, check.__doc__ = name, f"Check your {name}, and keep it if it is right; else say what is wrong."
        return check

    def __dir__(self):
        return ["hint", "solution", *(name for names in exercises().values() for name in names)]


check = Checks()


def _checked(name, function):
    """The function that the lesson goes on with: the learner's own if it is right, the course's for a stub."""
    if not isinstance(function, FunctionType) or function.__name__ != name:
        raise QwenError(f"check.{name} takes your function {name}, as in {name} = check.{name}({name}).")
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        raise Wrong(f"{name}: it is `async`, and nobody waits for it: write `def {name}(...)` without that word.")
    if is_written(function):
        shown = judge(name, function)
        try:
            keep(function)
        except QwenError as error:
            failed = str(error)
        else:
            print(f"✓ {shown}")
            return function
        raise Wrong(failed)
    ours, place = piece(name), kept().get(name)
    try:
        shown = judge(name, ours)
    except Wrong as wrong:
        failed = f"{wrong} (It was run as it is in {'notebooks/mine' if place else 'the course'}.)"
    else:
        print(f"✓ {shown}, as you wrote it before" if place else NOT_YET.format(name=name))
        return ours
    raise Wrong(failed)


def _what_is_wrong(name):
    try:
        with _at_most(LIMIT):
            judge(name, piece(name))
    except (Wrong, QwenError) as error:
        return str(error)
    except TooLong:
        return f"{name}: it had not ended after {LIMIT} seconds: look for a loop that goes on for ever."
    return None


class TooLong(BaseException):                           # no `except Exception` of a learner's holds it up
    pass


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raises TooLong in what takes longer; not on Windows, which has no such signal, nor in a thread."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_):
        raise TooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _stumble(function, error):
    """What to say of an error that is not the check's: where in the learner's function it happened."""
    said = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".: ")
    mine = inspect.unwrap(function).__code__.co_filename
    lines = [frame.line for frame in traceback.extract_tb(error.__traceback__) if frame.filename == mine]
    if lines:
        return f"it stops with {said}, at `{lines[-1]}`."
    return f"what it returns cannot be used ({said})."


def _exercise(name):
    lesson_of(name)                                     # says so if there is no such piece
    if found := _check_of(name):
        return found
    raise QwenError(f"{name} is no exercise: lesson {lesson_of(name)} shows how it is written.")


def _check_of(name):
    try:
        module = importlib.import_module(f"{checks.__name__}.lesson_{lesson_of(name)}")
    except ModuleNotFoundError:
        return None
    found = getattr(module, name, None)
    return found if hasattr(found, "hints") else None
