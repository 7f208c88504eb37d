"""Compressed text-to-image diffusion models: what they are, what makes them and what runs them."""

__version__ = "0.1.0"
