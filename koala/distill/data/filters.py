"""Which examples are let into training, and why the others are not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image

from koala.distill.data.captions import Captions, num_words
from koala.distill.data.example import Example
from koala.distill.data.images import Broken, TooSmall, decode
from koala.errors import KoalaError

BROKEN = "broken"
TOO_SMALL = "too small"
NO_CAPTION = "no caption"
CAPTION_LENGTH = "caption too short or long"
LOW_SCORE = "low score"
NO_SCORE = "no score"


@dataclass(frozen=True)
class Admitted:
    """An example that training may see, decoded."""

    key: str
    image: Image.Image  # upright RGB
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """An example that training may not see: the reason it is counted under, and what is special about this one."""

    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Filters:
    """Bounds on what is let in; zero and none let everything in."""

    min_side: int = 0
    """Pixels of the shorter side of the image as it is stored."""
    score_column: str = ""
    """Column of a score, such as an aesthetic one."""
    min_score: float | None = None
    """Least value in that column."""
    min_words: int = 0
    """Of a caption; an example keeps the captions that are within the bounds."""
    max_words: int = 0
    """Of a caption; 0: any number."""

    def __post_init__(self) -> None:
        if bool(self.score_column) != (self.min_score is not None):
            raise KoalaError("--score-column and --min-score go together")
        if min(self.min_side, self.min_words, self.max_words) < 0:
            raise KoalaError("--min-side, --min-words and --max-words are not negative")
        if self.max_words and self.max_words < self.min_words:
            raise KoalaError(f"--max-words {self.max_words} is less than --min-words {self.min_words}")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that examples must have."""
        return (self.score_column,) if self.score_column else ()

    def admit(self, example: Example, captions: Captions) -> Admitted | Refused:
        """The decoded example or why it stays out; safe in threads and processes. What is cheap is asked first."""
        texts = captions(example.columns)
        kept = [text for text in texts if self.min_words <= num_words(text) <= (self.max_words or math.inf)]
        reason = (BROKEN if example.problem else "") or self._score(example.columns)
        if not kept:
            reason = reason or (CAPTION_LENGTH if texts else NO_CAPTION)
        if reason:
            return Refused(example.key, reason, example.problem)
        try:
            return Admitted(example.key, decode(example.image, self.min_side), tuple(kept))
        except TooSmall as error:
            return Refused(example.key, TOO_SMALL, str(error))
        except Broken as error:
            return Refused(example.key, BROKEN, str(error))

    def _score(self, columns: Mapping[str, Any]) -> str:
        """The reason that the score gives against an example; none: an empty text."""
        if self.min_score is None:
            return ""
        try:
            score = float(columns[self.score_column])
        except (KeyError, TypeError, ValueError):
            return NO_SCORE
        if math.isnan(score):
            return NO_SCORE
        return LOW_SCORE if score < self.min_score else ""
