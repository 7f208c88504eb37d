"""Networks that answer questions about an image, and what reads text in it."""

from eval.weights.file import WeightFile

FILES: tuple[WeightFile, ...] = ()
