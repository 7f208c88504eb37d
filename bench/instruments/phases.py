"""Where the time of a call goes: spans with marks of their own, and the gaps between them timed as spans too."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

from bench.instruments.clock import Clock

CALL = "call"  # the whole of what is timed
STEP, NETWORK = "step", "unet"  # a denoising step, and the denoising network inside it
# What the time inside a span belongs to where no other span is open: of a call the rest (preparation, noise, host
# work), of a step the scheduler (with scaling and guidance).
GAPS = {CALL: "rest", STEP: "scheduler"}


@dataclass(frozen=True)
class Span:
    """A stretch of one call; `start_s` counts from the beginning of the call."""

    name: str
    start_s: float
    seconds: float


class Phases:
    """Records the spans of a call. Gaps have begin and end marks of their own, so that the sum of all parts can be
    held against a total that another clock took.
    """

    def __init__(self, clock: Clock, gaps: Mapping[str, str] = GAPS):
        self._clock, self._gaps = clock, gaps
        self._marks: list[tuple[str, Any, Any]] = []
        self._open: list[tuple[str, Any]] = []
        self.marks_taken = 0

    def clear(self) -> None:
        """Forget the last call."""
        self._marks.clear()
        self._open.clear()
        self.marks_taken = 0

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Time a block as `name`; the gap around it ends before it and begins again after it."""
        self.begin(name)
        try:
            yield
        finally:
            self.end(name)

    def begin(self, name: str) -> None:
        """Open a span that `end(name)` closes, for one that begins in one place and ends in another."""
        self._end_gap()
        self._begin(name)
        if name in self._gaps:
            self._begin(self._gaps[name])

    def end(self, name: str) -> None:
        """Close the span, and before it whatever an error left open inside it."""
        assert any(name == opened for opened, _ in self._open), f"no span {name} is open"
        while self._open[-1][0] != name:
            self._end()
        self._end()
        self._begin_gap()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, each call of it a span."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.span(name):
                return function(*args, **kwargs)

        return timed

    def spans(self) -> list[Span]:
        """The spans of the last call in the order in which they ended; to be read once the call was timed."""
        if not self._marks:
            return []
        first = self._marks[-1][1]  # of the span that all others are inside of, and that ended last
        between = self._clock.between
        return [Span(name, between(first, begin), between(begin, end)) for name, begin, end in self._marks]

    def _begin(self, name: str) -> None:
        self.marks_taken += 1
        self._open.append((name, self._clock.mark()))

    def _end(self) -> None:
        name, begin = self._open.pop()
        self.marks_taken += 1
        self._marks.append((name, begin, self._clock.mark()))

    def _end_gap(self) -> None:
        if len(self._open) > 1 and self._open[-1][0] == self._gaps.get(self._open[-2][0]):
            self._end()

    def _begin_gap(self) -> None:
        if self._open and self._open[-1][0] in self._gaps:
            self._begin(self._gaps[self._open[-1][0]])
