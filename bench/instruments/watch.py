"""What the machine did while a case was measured: memory, clocks, energy and the work of others.

The parent of a sweep looks; the process that measures is not disturbed. Imports no torch.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from koala.harness.nvml import Nvml

PERIOD_S = 0.05
COUNTER = "NVML energy counter"
LEAST_INTEGRATED_S = 2.0  # many drivers give the mean power of the last second, which lags by as much
INTEGRATED = f"NVML power, integrated at {1 / PERIOD_S:.0f} Hz"
_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of Linux: process numbers here are those of the driver
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class Reading:
    """A GPU at one moment in bytes, Hz, degrees Celsius, W and J; null where the driver does not say."""

    at_s: float
    used_bytes: int | None
    process_bytes: dict[int, int | None] | None
    sm_clock_hz: int | None
    throttled: frozenset[str] | None
    temperature_c: int | None
    power_w: float | None
    energy_j: float | None


@dataclass(frozen=True)
class CpuTime:
    """Seconds that all processors of this host have worked, and passed in all, and that the case's process has used."""

    worked_s: float
    passed_s: float
    case_s: float


class Watch:
    """A series of readings while a case runs, and the window in which it took its samples.

    The parent sets `case_pid` once it knows it, calls `look()` every `period_s` seconds (never where that is null: on
    a CPU looking would disturb what is measured) and marks the window as the child tells.
    """

    def __init__(
        self,
        read: Callable[[], Reading] | None,
        now: Callable[[], float],
        cpu_time: Callable[[int | None], CpuTime | None],
        pids_match: bool,
    ):
        self.period_s = PERIOD_S if read else None
        self.case_pid: int | None = None
        self._read, self._now, self._cpu_time, self._pids_match = read, now, cpu_time, pids_match
        self._readings: list[Reading] = []
        self._begin_s: float | None = None
        self._end_s: float | None = None
        self._cpu_before: CpuTime | None = None
        self._busy_elsewhere: float | None = None
        self.look()  # the baseline: the case's process is not there yet

    def look(self) -> None:
        """Take one reading of the GPU, if there is one."""
        if self._read:
            self._readings.append(self._read())

    def begin_sampling(self) -> None:
        """Warm-up is over: readings count from here."""
        self.look()
        self._begin_s, self._end_s, self._busy_elsewhere = self._latest_s(), None, None
        self._cpu_before = self._cpu_time(self.case_pid)

    def end_sampling(self) -> None:
        """The last sample is taken."""
        self.look()
        self._end_s = self._latest_s()
        self._busy_elsewhere = busy_elsewhere(self._cpu_before, self._cpu_time(self.case_pid))

    def memory(self) -> dict[str, int | None]:
        """`device_baseline` and `device_peak` of the whole GPU, `process_peak` of the case alone; bytes.

        Null where the driver does not say; nothing on a CPU.
        """
        if not self._readings:
            return {}
        own = self._own_pid()
        listed = [r.process_bytes for r in self._readings if r.process_bytes]
        return {
            "device_baseline": self._readings[0].used_bytes,
            "device_peak": max(_known(r.used_bytes for r in self._readings), default=None),
            "process_peak": max(_known(used[own] for used in listed if own in used), default=None),
        }

    def conditions(self) -> dict[str, Any]:
        """What else went on while samples were taken: `other_processes` on the GPU, what `throttled` it, the range of
        `sm_clock_hz` and `temperature_c`, and the share of the host's CPU time that went elsewhere.
        """
        inside = self._inside()
        reasons = _known(r.throttled for r in inside)
        # A sample has not begun yet when the first reading is taken, and has ended at the last.
        clocks = _known(r.sm_clock_hz for r in (inside[1:-1] or inside))
        degrees = _known(r.temperature_c for r in inside)
        return {
            "other_processes": self._other_processes(inside),
            "throttled": sorted(frozenset().union(*reasons)) if reasons else None,
            "sm_clock_hz": {"low": min(clocks), "median": median(clocks), "high": max(clocks)} if clocks else None,
            "temperature_c": {"low": min(degrees), "high": max(degrees)} if degrees else None,
            "busy_elsewhere": self._busy_elsewhere,
        }

    def energy(self) -> dict[str, Any] | None:
        """`joules` of the whole board while samples were taken, over `seconds`, and the `method`; null where no
        driver says.

        The window's ends are known within a poll of 50 ms each, so that the joules are right within the power times
        0.1 s (and one step of the counter); that is `within_joules`.
        """
        if self._begin_s is None or self._end_s is None or self._end_s <= self._begin_s:
            return None
        seconds = self._end_s - self._begin_s
        counted = [(r.at_s, r.energy_j) for r in self._readings if r.energy_j is not None]
        drawn = [(r.at_s, r.power_w) for r in self._inside() if r.power_w is not None]
        joules, method = counter_rise(counted, self._begin_s, self._end_s), COUNTER
        if joules is None and seconds >= LEAST_INTEGRATED_S:
            joules, method = integral(drawn, self._begin_s, self._end_s), INTEGRATED
        if joules is None:
            return None
        within = joules / seconds * 2 * PERIOD_S
        return {"joules": joules, "seconds": seconds, "method": method, "within_joules": within}

    def _latest_s(self) -> float:
        return self._readings[-1].at_s if self._readings else self._now()

    def _inside(self) -> list[Reading]:
        """The readings of the window; of one that never ended, all since it began."""
        if self._begin_s is None:
            return []
        end_s = float("inf") if self._end_s is None else self._end_s
        return [r for r in self._readings if self._begin_s <= r.at_s <= end_s]

    def _newcomers(self) -> set[int]:
        """The processes that were not on the GPU before the case."""
        before = self._readings[0].process_bytes if self._readings else None
        if before is None and not self._pids_match:
            return set()
        return set().union(*(r.process_bytes or {} for r in self._readings)) - set(before or {})

    def _own_pid(self) -> int | None:
        """The driver's number of the case's process; null where it is not seen or cannot be told from others.

        In a container, where the driver's numbers are not ours, it is the one newcomer that stays for all samples.
        """
        newcomers = self._newcomers()
        if self.case_pid in newcomers:
            return self.case_pid
        if self._pids_match:
            return None
        inside = self._inside()
        sampling = inside[:-1] or inside  # at the end of the window a case that was killed is gone
        staying = newcomers.intersection(*(r.process_bytes for r in sampling if r.process_bytes is not None))
        return next(iter(staying)) if len(staying) == 1 else None

    def _other_processes(self, inside: Sequence[Reading]) -> int | None:
        """Most processes at once beside the case's own; null where the driver shows none at all, not even that."""
        own, newcomers = self._own_pid(), self._newcomers()
        listed = [set(r.process_bytes) for r in inside if r.process_bytes]
        if own is not None:
            return max((len(pids - {own}) for pids in listed), default=None)
        # Of newcomers that cannot be told apart one is the case.
        hidden = 0 if self._pids_match else 1
        return max((len(pids) - (hidden if pids & newcomers else 0) for pids in listed), default=None)


def watch_for(device: str, nvml: Any = None, now: Callable[[], float] = time.monotonic) -> Watch:
    """The watch of "cpu", "cuda" or "cuda:N", with its baseline taken: to be made before the case's process is."""
    if not device.startswith("cuda"):
        return Watch(None, now, cpu_time, _pids_match())
    index = int(device.partition(":")[2] or 0)
    return Watch(partial(gpu_reading, nvml or Nvml(), index, now), now, cpu_time, _pids_match())


def gpu_reading(nvml: Any, index: int, now: Callable[[], float]) -> Reading:
    """What the driver says at this moment."""
    return Reading(
        at_s=now(),
        energy_j=nvml.energy_j(index),  # beside the time: it is what the time matters for
        power_w=nvml.power_w(index),
        used_bytes=nvml.used_bytes(index),
        process_bytes=nvml.process_bytes(index),
        sm_clock_hz=nvml.sm_clock_hz(index),
        throttled=nvml.throttle_reasons(index),
        temperature_c=nvml.temperature_c(index),
    )


def counter_rise(points: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> float | None:
    """How far a counter, known at some moments, rose between two others: its neighbours are joined by lines.

    Null where it is known on one side only, or did not rise: it stood still, or began again.
    """
    if len(points) < 2 or points[0][0] > begin_s or points[-1][0] < end_s:
        return None
    if any(later < earlier for (_, earlier), (_, later) in pairwise(points)):
        return None
    rise = _between(points, end_s) - _between(points, begin_s)
    return rise if rise > 0 else None


def _between(points: Sequence[tuple[float, float]], at_s: float) -> float:
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= at_s <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (at_s - x0) / (x1 - x0)
    raise AssertionError("the points enclose the moment")


def integral(points: Sequence[tuple[float, float]], begin_s: float, end_s: float) -> float | None:
    """The trapezoids below points of a window, the first and the last carried to its ends; null below 2 points."""
    if len(points) < 2:
        return None
    held = [(begin_s, points[0][1]), *points, (end_s, points[-1][1])]
    return sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(held))


def busy_elsewhere(before: CpuTime | None, after: CpuTime | None) -> float | None:
    """Share (0 to 1) of the host's CPU time between two moments that others than the case used."""
    if before is None or after is None or after.passed_s <= before.passed_s:
        return None
    others = (after.worked_s - before.worked_s) - (after.case_s - before.case_s)
    return min(1.0, max(0.0, others / (after.passed_s - before.passed_s)))


def cpu_time(case_pid: int | None, stat: Path = _STAT) -> CpuTime | None:
    """The host's CPU time since it started, time stolen by other guests counted as work, and that of the case with
    its ended children; null off Linux or where the process is gone.
    """
    try:
        fields = stat.read_text().split("\n", 1)[0].split()[1:9]
        case = psutil.Process(case_pid).cpu_times() if case_pid is not None else None
    except (OSError, psutil.Error):
        return None
    if case is None or len(fields) < 8:
        return None
    user, nice, system, idle, iowait, irq, softirq, steal = (int(f) / os.sysconf("SC_CLK_TCK") for f in fields)
    worked_s = user + nice + system + irq + softirq + steal
    return CpuTime(
        worked_s=worked_s,
        passed_s=worked_s + idle + iowait,
        case_s=case.user + case.system + case.children_user + case.children_system,
    )


def _pids_match() -> bool:
    """Whether process numbers here are the driver's: not in a container with numbers of its own."""
    with suppress(OSError):
        return Path("/proc/self/ns/pid").stat().st_ino == _INITIAL_PID_NAMESPACE
    return False


def _known(values: Any) -> list[Any]:
    return [value for value in values if value is not None]
