"""Clocks that know when a device is done."""

import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

Seconds = dict[str, float]


@runtime_checkable
class Clock(Protocol):
    """Times a call, and marks points inside it without waiting for the device."""

    def time(self, call: Callable[[], object]) -> Seconds:
        """Seconds of one call: `total` by the wall, and `device` between two events where the device has them."""
        ...

    def mark(self) -> Any:
        """A point in the device's work; valid to subtract once the timed call has ended."""
        ...

    def between(self, start: Any, end: Any) -> float:
        """Seconds from one mark to another."""
        ...


class CpuClock:
    """`perf_counter`: on a CPU a call has done its work when it returns."""

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        self._now = now

    def time(self, call: Callable[[], object]) -> Seconds:
        start = self._now()
        call()
        return {"total": self._now() - start}

    def mark(self) -> float:
        return self._now()

    def between(self, start: float, end: float) -> float:
        return end - start


class CudaClock:
    """A wall clock synchronised with the GPU before and after the call, beside CUDA events on its stream.

    The wall time is what a user waits; the events leave out the host's way to the first kernel.
    """

    def __init__(self, cuda: Any, device: Any = None, now: Callable[[], float] = time.perf_counter):
        self._cuda, self._device, self._now = cuda, device, now

    def time(self, call: Callable[[], object]) -> Seconds:
        self._cuda.synchronize(self._device)
        start = self._now()
        first = self.mark()
        call()
        last = self.mark()
        self._cuda.synchronize(self._device)
        return {"total": self._now() - start, "device": self.between(first, last)}

    def mark(self) -> Any:
        event = self._cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, start: Any, end: Any) -> float:
        return start.elapsed_time(end) / 1000


def clock_for(device: Any) -> Clock:
    """The clock of a torch device."""
    if device.type == "cuda":
        import torch

        return CudaClock(torch.cuda, device)
    return CpuClock()


def current_device(name: str) -> Any:
    """The torch device of that name, made current: CUDA's events are recorded on the current device's stream."""
    import torch

    device = torch.device(name)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device
