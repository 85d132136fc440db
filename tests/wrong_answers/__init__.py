"""Wrong answers to the exercises, a file a lesson: none may pass, and each must be told what is wrong with it.

    @wrong("my_double", "these are the squares")        # the exercise, and words of the sentence that is told
    def squares(x):
        return x * x

    slip("my_double", "nothing is added", "x + x", "x") # or the course's own, with one place changed

At least three for each exercise, and among them what is right for the wrong reason: it never looks at one of its
arguments, it knows the sizes by heart, it works for a single text, it changes what it was given.
"""

import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from minqwen.course.pieces import source_of

WRONG = []


class WrongAnswer(NamedTuple):
    """A function that is not the exercise's, as the learner would have written it in a cell."""

    exercise: str
    says: str                                           # words of the sentence that is told
    mistake: str                                        # the name it has here
    source: str


def wrong(exercise, says):
    def collect(function):
        source = textwrap.dedent(inspect.getsource(function))
        source = source[source.index("def ") :].replace(f"def {function.__name__}(", f"def {exercise}(", 1)
        source = re.sub(rf"\b{function.__name__}\(", f"{exercise}(", source)
        WRONG.append(WrongAnswer(exercise, says, function.__name__, source))
        return function
    return collect


def slip(exercise, says, old, new):
    source = source_of(exercise)
    assert source.count(old) == 1, f"{old!r} is {source.count(old)} times in the course's {exercise}"
    WRONG.append(WrongAnswer(exercise, says, f"{old} -> {new}", source.replace(old, new)))


for _path in sorted(Path(__file__).parent.glob("lesson_*.py")):
    importlib.import_module(f"{__name__}.{_path.stem}")
