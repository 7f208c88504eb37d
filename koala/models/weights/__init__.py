"""Weights that were trained: where they lie, what they are, and how they get into a network."""

from koala.models.weights.lora import Adapter, adapt
from koala.models.weights.source import HUB, Source, locate

__all__ = ["HUB", "Adapter", "Source", "adapt", "locate"]
