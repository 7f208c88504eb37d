"""What an extractor is: a network that turns prepared images, or texts, into features; a file in `eval/extractors`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch

from koala.types import Features, FloatImages


@runtime_checkable
class Extractor(Protocol):
    """A network whose weights come from named files of `eval/weights`."""

    weights: tuple[str, ...]
    dim: int  # width of its features

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network from its weight files, by name; a file that does not fit is a `KoalaError`."""
        ...

    def features(self, images: FloatImages) -> Features:
        """fp32 features of prepared images, on the network's device."""
        ...


@runtime_checkable
class TextExtractor(Protocol):
    """A network that embeds texts."""

    weights: tuple[str, ...]
    dim: int

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network from its weight files, by name."""
        ...

    def texts(self, texts: Sequence[str]) -> Features:
        """fp32 features of texts, not normalised unless the network does it."""
        ...
