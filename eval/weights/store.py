"""Where fetched weights are kept."""

from pathlib import Path

from eval.weights.file import WeightFile
from koala.harness.cache import cache_folder


def weights_folder() -> Path:
    """The folder of all fetched weights."""
    return cache_folder() / "weights"


def stored(file: WeightFile) -> Path:
    """Where `file` is kept once it was fetched."""
    return weights_folder() / file.name / file.file
