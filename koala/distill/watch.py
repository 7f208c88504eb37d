"""A stop watch for parts of a step that neither waits for a GPU nor makes it wait."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Watch:
    """Seconds per name: `with watch("teacher"): ...`.

    On a GPU these are seconds of its stream, by events that are read when `take` is called; elsewhere those of a clock.
    """

    def __init__(self, device: torch.device, mark: Callable[[], Any] | None = None):
        self._device, self._mark = device, mark or (_recorded_event if device.type == "cuda" else time.perf_counter)
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`, also of one that fails."""
        start = self._mark()
        try:
            yield
        finally:
            self._spans.append((name, start, self._mark()))

    def take(self) -> dict[str, float]:
        """Seconds per name since the last call; waits for what the GPU has left to do."""
        if self._device.type == "cuda" and self._spans:
            torch.cuda.synchronize(self._device)
        seconds: dict[str, float] = {}
        for name, start, end in self._spans:
            seconds[name] = seconds.get(name, 0.0) + _between(start, end)
        self._spans.clear()
        return seconds


def _between(start: Any, end: Any) -> float:
    return end - start if isinstance(start, float) else start.elapsed_time(end) / 1000


def _recorded_event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
