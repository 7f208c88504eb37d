"""Warm up, repeat until the stopping rule, keep every sample."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from bench.instruments.clock import Clock, Seconds
from koala.harness.stats import relative_reach

QUICK_CALL_S = 2.0  # below this a call is repeated at least six times, so that the median has a 95% interval
TARGET_REACH = 0.02


@runtime_checkable
class Workload(Protocol):
    """Something to time: `prepare()` is not timed, `run()` is.

    `step_seconds()` and `stage_seconds()` split the last run into its steps and into its named stages.
    """

    def prepare(self) -> None: ...

    def run(self) -> object: ...

    def step_seconds(self, clock: Clock) -> list[float]: ...

    def stage_seconds(self, clock: Clock) -> dict[str, float]: ...


@dataclass(frozen=True)
class Rule:
    """When to stop: after at least `repeats` samples, once the median is known within 2% or `budget_s` is spent.

    `repeats=None` takes 6 samples of a call under 2 s and 3 of a longer one.
    """

    warmup: int = 1
    repeats: int | None = None
    budget_s: float = 20.0
    most: int = 1000

    def minimum(self, call_s: float) -> int:
        """The least number of samples of a call that takes `call_s` seconds."""
        return self.repeats or (6 if call_s < QUICK_CALL_S else 3)

    def enough(self, samples: list[float]) -> bool:
        """Whether these samples need no further one."""
        if len(samples) >= self.most:
            return True
        if not samples or len(samples) < self.minimum(min(samples)):
            return False
        if sum(samples) >= self.budget_s:
            return True
        return relative_reach(samples) <= TARGET_REACH


@dataclass
class Samples:
    """Every timing of a case, in seconds and in order; `warmup` never counts."""

    warmup: list[float] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    steps: list[list[float]] = field(default_factory=list)

    def add(self, seconds: Seconds, steps: list[float]) -> None:
        """Keep one sample."""
        for name, value in seconds.items():
            self.seconds.setdefault(name, []).append(value)
        if steps:
            self.steps.append(steps)

    @property
    def total(self) -> list[float]:
        """The wall time of each sample."""
        return self.seconds.get("total", [])


def repeat(
    workload: Workload,
    clock: Clock,
    rule: Rule,
    on_sample: Callable[[str, dict], None] = lambda stage, timing: None,
) -> Samples:
    """Time `workload` until `rule` is content; `on_sample` hears of each timing as it is made."""
    samples = Samples()
    for _ in range(rule.warmup):
        workload.prepare()
        samples.warmup.append(clock.time(workload.run)["total"])
        on_sample("warm-up", {"total": samples.warmup[-1]})
    while not rule.enough(samples.total):
        workload.prepare()
        seconds = clock.time(workload.run)
        seconds, steps = seconds | workload.stage_seconds(clock), workload.step_seconds(clock)
        samples.add(seconds, steps)
        on_sample("sample", {**seconds, "step": steps})
    return samples
