"""What a class has handed in: a folder for each learner, each looked at in a process of its own.

    for learner in graded(Path("handed_in")): ...

So nobody's endless loop, `exit()` or endless printing is the end of all that come after.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..errors import QwenError
from .checking import Exercise
from .pieces import PIECES, mine_in

__all__ = ["Learner", "graded", "not_looked_at"]

LIMIT = 900                                             # seconds for a learner
HANDED_IN = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".py", ".ipynb")    # and is no folder yet


class Learner(NamedTuple):
    """One of a class, by the name of the folder."""

    name: str
    exercises: list[Exercise]                           # empty if there is no answer
    remark: str | None                                  # why there is none, or what was not looked at


def graded(folder: Path) -> Iterator[Learner]:
    """The learners of a folder that has a folder for each, one by one.

    In each there is what was kept in `mine`: its files, the folder itself, or all the lessons around it.

    Raises:
        QwenError: there is no such folder, or no folder in it.
    """
    if not folder.is_dir():
        raise QwenError(f"--class names {folder}, which is no folder: name one that has a folder for each learner.")
    there = sorted(place for place in folder.iterdir() if not place.name.startswith("."))
    learners = [place for place in there if place.is_dir() or place.name.lower().endswith(HANDED_IN)]
    if not any(place.is_dir() for place in learners):
        raise QwenError(f"--class names {folder}, and no folder is in it: each learner has one there, with the files "
                        "of mine; unpack what came as an archive.")
    return map(_graded, learners)


def not_looked_at(folder: Path) -> str | None:
    """What lies beside a learner's pieces and looks like work, but is no lesson's, in words; None without any."""
    found = sorted(path.name for path in mine_in(folder).glob("*")
                   if path.suffix == ".ipynb" or path.suffix == ".py" and path.stem not in PIECES) or None
    return found and f"not looked at: {', '.join(found)} (what is kept is called {min(PIECES)}.py to {max(PIECES)}.py)"


def _graded(place):
    name = os.fsencode(place.name).decode(errors="replace")      # of an archive from elsewhere it may be no text
    if not place.is_dir():
        return Learner(name, [], "no answer: it is a file; make it a folder, in which are the files of mine")
    command = [sys.executable, "-m", "minqwen", "course", "--check", "--json", "--mine", str(place)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=LIMIT)
        exercises = [Exercise(**row) for row in json.loads(done.stdout)]
    except subprocess.TimeoutExpired:
        return Learner(name, [], f"no answer: it had not ended after {LIMIT} seconds")
    except (ValueError, TypeError):
        return Learner(name, [], f"no answer: something that was handed in has ended the program (exit code "
                                       f"{done.returncode}), or written over what it says")
    return Learner(name, exercises, not_looked_at(place))
