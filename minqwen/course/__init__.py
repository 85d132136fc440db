"""The course: what learners write and keep, how it is checked, and the figures of single lessons.

checking.py    check: what is right and what is wrong with a learner's function, hints, solutions
checks/        the checks of the exercises, a file a lesson; judging.py is what they are made of
pieces.py      piece: what is written in one lesson works in the later ones
figures/       figures of single lessons, a file a lesson
grading.py     what a whole class has handed in
evidence.py    what lessons hold their own functions against: what layers put out, samples, prompts
asides.py      `%%nano`: cells that only the shipped model can answer
"""

from . import asides
from .checking import check, exercises, judge, progress
from .judging import Wrong
from .pieces import PIECES, kept, piece

__all__ = ["PIECES", "Wrong", "check", "exercises", "judge", "kept", "piece", "progress"]

asides.understand()
