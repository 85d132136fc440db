"""Explorers: pictures that answer to sliders and keys, in a notebook or as a page of their own."""

from .attention import AttentionExplorer
from .chat import ChatPanel
from .cost import ContextCost
from .drafts import DraftExplorer
from .experts import ExpertExplorer
from .gates import GateExplorer
from .lab import MemoryLab
from .quant import QuantExplorer
from .rollouts import RolloutExplorer
from .state import StateExplorer
from .training import TrainingExplorer
from .vision import VisionExplorer, pictures_of

__all__ = [
    "AttentionExplorer", "ChatPanel", "ContextCost", "DraftExplorer", "ExpertExplorer", "GateExplorer", "MemoryLab",
    "QuantExplorer", "RolloutExplorer", "StateExplorer", "TrainingExplorer", "VisionExplorer", "pictures_of",
]
