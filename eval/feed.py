"""What a metric reads: the features that one network gives for images prepared in one way. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

VERSION = 1  # raised by whoever makes a step or an extractor give other numbers: what was kept of them counts no more


@runtime_checkable
class Step(Protocol):
    """One step of a preparation: a frozen dataclass, so that equal steps compare equal; its `str` says what it does."""

    def __call__(self, images: Any) -> Any:
        """Images (n 3 h w; uint8 or float, 0 to 255 until normalised) after the step, on the same device."""
        ...


@dataclass(frozen=True)
class Preparation:
    """Steps from decoded images (uint8, n 3 h w) to what a network takes (float, n 3 side side)."""

    steps: tuple[Step, ...]

    def __call__(self, images: Any) -> Any:
        """The images after all steps."""
        for step in self.steps:
            images = step(images)
        return images

    def __str__(self) -> str:
        return "; ".join(map(str, self.steps))


@dataclass(frozen=True)
class Feed:
    """Features of `extractor` (a name in `eval/extractors`) of images prepared so, computed in `dtype`.

    Metrics of equal feeds share one pass.
    """

    preparation: Preparation
    extractor: str
    dtype: str = "fp32"
