"""Networks that judge an image as people would."""

from eval.weights.file import WeightFile

FILES: tuple[WeightFile, ...] = ()
