"""Warm up, repeat until the stopping rule, keep every sample."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from bench.instruments.clock import Clock, Seconds
from bench.instruments.phases import CALL, NETWORK, STEP, Phases, Span
from bench.rule import MOST_WARMUP, Rule, still_warming

# The parts of a call as a row names them, and the spans whose seconds add up to each.
STAGES = {"encode": "encode", "denoise": STEP, "decode": "decode", "rest": "rest"}
OF_STEPS = {"unet": NETWORK, "scheduler": "scheduler"}


@runtime_checkable
class Workload(Protocol):
    """Something to time: `prepare()` is not timed, `run()` is; `phases` has the parts of the last run."""

    @property
    def phases(self) -> Phases: ...

    def prepare(self) -> None: ...

    def run(self) -> object: ...


@runtime_checkable
class Listener(Protocol):
    """Hears how the measuring of a case goes on."""

    def warmed_up(self) -> None:
        """The least number of warm-up calls is made; samples begin."""
        ...

    def timed(self, stage: str, timing: dict) -> None:
        """A call was timed: "warm-up", "sample", or "again" for a sample that makes warm-up of the ones before it."""
        ...


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

    def still_warming(self, seconds: Seconds) -> bool:
        """Whether a new timing shows that the only sample so far belongs to warming up."""
        few = len(self.warmup) < MOST_WARMUP
        return few and len(self.total) == 1 and still_warming(self.total[0], seconds["total"])

    def begin_again(self) -> None:
        """Count the samples so far as warm-up."""
        self.warmup += self.total
        self.seconds.clear()
        self.steps.clear()


def repeat(workload: Workload, clock: Clock, rule: Rule, listener: Listener | None = None) -> Samples:
    """Time `workload` until `rule` is content.

    A first sample that the next call undercuts by more than a tenth was still warming up, and counts as that.
    """
    samples = Samples()
    for _ in range(rule.warmup):
        samples.warmup.append(_timed(workload, clock)["total"])
        if listener:
            listener.timed("warm-up", {"total": samples.warmup[-1]})
    if listener:
        listener.warmed_up()
    while not rule.enough(samples.total):
        seconds = _timed(workload, clock)
        spans = workload.phases.spans()
        seconds |= part_seconds(spans)
        steps = [span.seconds for span in spans if span.name == STEP and "denoise" in seconds]
        again = samples.still_warming(seconds)
        if again:
            samples.begin_again()
        samples.add(seconds, steps)
        if listener:
            listener.timed("again" if again else "sample", {**seconds, "step": steps})
    return samples


def part_seconds(spans: list[Span]) -> Seconds:
    """Seconds of each part of one call; a call that is one step has only the parts of that."""
    present = {span.name for span in spans}
    parts = (STAGES | OF_STEPS) if CALL in present else OF_STEPS
    return {name: sum(span.seconds for span in spans if span.name == of) for name, of in parts.items() if of in present}


def _timed(workload: Workload, clock: Clock) -> Seconds:
    workload.prepare()
    workload.phases.clear()
    return clock.time(workload.run)
