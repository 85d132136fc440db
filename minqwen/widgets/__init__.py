"""Explorers: pictures that answer to sliders and keys, in a notebook or as a page of their own."""

from .state import StateExplorer
from .vision import VisionExplorer, pictures_of

__all__ = ["StateExplorer", "VisionExplorer", "pictures_of"]
