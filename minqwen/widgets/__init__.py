"""Explorers: pictures that answer to sliders and keys, in a notebook or as a page of their own."""

from .state import StateExplorer

__all__ = ["StateExplorer"]
