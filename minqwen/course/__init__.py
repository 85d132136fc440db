"""The course: what learners write and keep, how it is checked, and the figures of single lessons.

pieces.py      keep and piece: what is written in one lesson works in the later ones
"""

from .pieces import PIECES, keep, kept, piece

__all__ = ["PIECES", "keep", "kept", "piece"]
