"""Weights that were trained: where they lie, what they are, and how they get into a network."""
