"""What a metric is. One metric is one file in `eval/metrics/`; the file's name is the metric's name."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from koala.types import Images, Scores


@runtime_checkable
class ImageMetric(Protocol):
    """Scores each image on its own; grouping is the report's work."""

    higher_is_better: bool | None  # None: neither; it describes

    def score(self, images: Images, prompts: Sequence[str]) -> Scores:
        """One score per image, in the order of the images."""
        ...
