"""Networks that find objects in an image."""

from eval.weights.file import WeightFile

FILES: tuple[WeightFile, ...] = ()
