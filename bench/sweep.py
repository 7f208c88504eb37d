"""The parent of a sweep: skip what is measured, one process a case, one synced row as each ends.

It imports no torch: a GPU context or an out-of-memory kill belongs to one case alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol, runtime_checkable

from bench.case import MEASUREMENT, Case, case_key, resume_key
from bench.instruments.watch import Watch, watch_for
from bench.isolate import ForkServer, Message, Outcome
from bench.rule import Rule
from koala.harness import environment, records
from koala.harness.records import Records, Row, Store

MEASURE = "bench.worker:measure_case"
DEFAULT_STORE = Path("runs/bench/rows.jsonl")
FINISHED = ("ok", "oom", "unsupported")  # answers; "failed" and "timeout" are none
SETTLED = ("ok", "oom")  # not asked again; what a profile misses, a package or a compiler, may be there now

Peaks = Callable[[Case], Message | None]


@dataclass(frozen=True)
class Job:
    """One fresh process of a case: `process` counts those of one case from 0."""

    case: Case
    process: int = 0


@runtime_checkable
class Observer(Protocol):
    """Hears how a sweep goes on."""

    def begin(self, job: Job) -> None: ...

    def message(self, message: Message) -> None: ...

    def end(self, row: Row) -> None: ...


def jobs_of(cases: Sequence[Case], processes: int) -> list[Job]:
    """Each case once, then each once more: what drifts in a machine then lies between the processes of every case."""
    return [Job(case, process) for process in range(processes) for case in cases]


def row_key(row: Row, known: Records) -> str:
    """The resume key of a row, with the environment it names."""
    return resume_key(row, known.environment(row))


def finished_rows(known: Records, jobs: Sequence[Job], here: Row) -> dict[Job, Row]:
    """The row of each job that needs no further measuring in the environment `here`."""
    latest = _about(known, jobs).latest(lambda row: row_key(row, known))
    rows = {job: latest.get(case_key(job.case, here, job.process)) for job in jobs}
    return {job: row for job, row in rows.items() if row is not None and row["status"] in SETTLED}


def _about(known: Records, jobs: Sequence[Job]) -> Records:
    """The bench rows that may be of these jobs, told cheaply: keys of a hundred thousand others take seconds."""
    asked = {(job.case.model, job.case.target, job.case.resolution) for job in jobs}
    rows = [row for row in known.of_kind("bench").rows if _subject(row["case"]) in asked]
    return replace(known, rows=rows)


def _subject(case: Row) -> tuple:
    return case["model"], case["target"], case["resolution"]


@dataclass(frozen=True)
class Plan:
    """How the jobs of a sweep are measured; `costs` were counted beforehand, `peaks` are the device's limits."""

    rule: Rule
    timeout_s: float
    costs: dict[Case, Message | None] = field(default_factory=dict)
    peaks: Peaks = lambda case: None
    measure: str = MEASURE


def run(jobs: Sequence[Job], plan: Plan, path: Path, server: ForkServer, observer: Observer) -> list[Row]:
    """Measure `jobs` one after the other and append a row of each to `path`; the rows in order."""
    rows = []
    with Store(path) as store:
        known = records.read([path])
        written = known.environments
        for job in jobs:
            here = environment.collect(job.case.device)
            if finished_rows(known, [job], here):  # by another run that had the file until now
                continue
            if here["id"] not in written:
                store.append(here)
                written[here["id"]] = here
            peak = plan.peaks(job.case)  # before the case: once it is measured, nothing stands between it and the disk
            observer.begin(job)
            row = _measured_row(job, plan, server, observer)
            row |= {"environment": here["id"], **_counted(plan.costs.get(job.case), job.case, row)}
            row["peak"] = peak if row["status"] == "ok" else None
            store.append(row)
            rows.append(row)
            observer.end(row)
    return rows


def _measured_row(job: Job, plan: Plan, server: ForkServer, observer: Observer) -> Row:
    started, start = datetime.now(UTC), time.monotonic()
    watch = watch_for(job.case.device)
    ear = _Ear(watch, observer)
    outcome = server.call(
        plan.measure,
        asdict(job.case),
        asdict(plan.rule),
        timeout_s=plan.timeout_s,
        on_message=ear.hear,
        watch=watch.look if watch.period_s else None,
        watch_every_s=watch.period_s or 1.0,
    )
    ear.close()
    row = {
        "schema": records.SCHEMA,
        "kind": "bench",
        "measurement": MEASUREMENT,
        "case": asdict(job.case),
        "process": job.process,
        "rule": asdict(plan.rule),
        "started_at": started.isoformat(timespec="seconds"),
        "wall_s": time.monotonic() - start,
        **ear.as_far_as_it_got(),
        **_verdict(outcome, plan.timeout_s),
        "conditions": watch.conditions(),
        **_energy(watch, ear.calls_in_window * job.case.batch_size),
    }
    return row | {"memory_bytes": row.get("memory_bytes", {}) | watch.memory()}


def _energy(watch: Watch, images: int) -> Message:
    """Joules per image over the sampling window, how far off they may be, and how they were found; null where the
    device does not say.
    """
    energy = watch.energy() if images else None
    if energy is None:
        return {"energy_j": None, "energy_within_j": None, "energy_method": None}
    return {
        "energy_j": energy["joules"] / images,
        "energy_within_j": energy["within_joules"] / images,
        "energy_method": energy["method"],
    }


class _Ear:
    """Hears a case's process: keeps its timings, and tells the watch when samples begin and end."""

    def __init__(self, watch: Watch, observer: Observer):
        self._watch, self._observer = watch, observer
        self._warmup: list[float] = []
        self._timings: list[Message] = []
        self._sampling = False
        self.calls_in_window = 0

    def hear(self, message: Message) -> None:
        """Take one message in."""
        stage = message["stage"]
        if "pid" in message:
            self._watch.case_pid = message["pid"]
        if stage == "sampling":
            self._begin()
        if stage == "sampled":
            self.close()
        if "timing" in message:
            self._keep(stage, message["timing"])
        self._observer.message(message)

    def close(self) -> None:
        """End the window of samples, if it is open."""
        if self._sampling:
            self._watch.end_sampling()
        self._sampling = False

    def as_far_as_it_got(self) -> Message:
        """The samples of a case that did not come to its end, as a row holds them."""
        if not (self._warmup or self._timings):
            return {}
        names = [name for name in (self._timings[0] if self._timings else {}) if any(t[name] for t in self._timings)]
        return {"samples_s": {name: [t[name] for t in self._timings] for name in names}, "warmup_s": self._warmup}

    def _begin(self) -> None:
        self._watch.begin_sampling()
        self._sampling, self.calls_in_window = True, 0

    def _keep(self, stage: str, timing: Message) -> None:
        if stage == "warm-up":
            self._warmup.append(timing["total"])
            return
        if stage == "again":  # what was sampled so far was warm-up, and the window begins with the next call
            self._warmup += [t["total"] for t in self._timings]
            self._timings.clear()
            self._begin()
        else:
            self.calls_in_window += 1
        self._timings.append(timing)


def earlier_peaks(known: Records, here: Row) -> dict[str, Message]:
    """What earlier rows of this device and number of threads had probed that it could do at most, by dtype.

    A figure of the table of GPUs is looked up anew, for it may have been corrected; a probe that failed is repeated.
    """
    same = ("device_name", "omp_num_threads")
    found = {}
    for row in known.of_kind("bench").rows:
        there = known.environment(row)
        peak = row.get("peak") or {}
        probed = peak.get("flops_per_s") and str(peak.get("source")).startswith("probed")
        if probed and all(there.get(name) == here.get(name) for name in same):
            found[row["case"]["dtype"]] = peak
    return found


def _verdict(outcome: Outcome, timeout_s: float) -> Message:
    """The child's own account, or the status that its end stands for."""
    if outcome.result is not None:
        return outcome.result
    if outcome.timed_out:
        reason = f"{outcome.reason} of {timeout_s:g} s (--timeout)"
        return {"status": "timeout", "reason": reason, "detail": outcome.errors or None}
    starved = outcome.killed_for_memory or outcome.reason.startswith("MemoryError")
    status = "oom" if starved else "failed"
    return {"status": status, "reason": outcome.reason, "detail": outcome.errors or None}


def _counted(cost: Message | None, case: Case, row: Row) -> Message:
    """Operations of one timed call, and the bytes that a step moves."""
    if cost is None:
        return {"flops": row.get("flops"), "moved_bytes": None}
    return {"flops": cost["call_flops"], "moved_bytes": cost["moved_bytes"] if case.target == "unet" else None}
