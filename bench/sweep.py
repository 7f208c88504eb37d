"""The parent of a sweep: skip what is measured, one process a case, one synced row as each ends.

It imports no torch: a GPU context or an out-of-memory kill belongs to one case alone.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from bench.case import MEASUREMENT, Case, case_key, resume_key
from bench.isolate import ForkServer, Message, Outcome
from bench.measure import Rule
from koala.harness import environment, records
from koala.harness.nvml import Nvml
from koala.harness.records import Records, Row, Store

MEASURE = "bench.worker:measure_case"
DEFAULT_STORE = Path("runs/bench/rows.jsonl")
FINISHED = ("ok", "oom", "unsupported")  # answers; "failed" and "timeout" are none
SETTLED = ("ok", "oom")  # not asked again; what a profile misses, a package or a compiler, may be there now


@runtime_checkable
class Observer(Protocol):
    """Hears how a sweep goes on."""

    def begin(self, case: Case) -> None: ...

    def message(self, message: Message) -> None: ...

    def end(self, row: Row) -> None: ...


def row_key(row: Row, known: Records) -> str:
    """The resume key of a row, with the environment it names."""
    return resume_key(row, known.environment(row))


def finished_rows(known: Records, cases: Sequence[Case], here: Row) -> dict[Case, Row]:
    """The row of each case that needs no further measuring in the environment `here`."""
    latest = known.of_kind("bench").latest(lambda row: row_key(row, known))
    rows = {case: latest.get(case_key(case, here)) for case in cases}
    return {case: row for case, row in rows.items() if row is not None and row["status"] in SETTLED}


def run(
    cases: Sequence[Case],
    rule: Rule,
    timeout_s: float,
    path: Path,
    server: ForkServer,
    observer: Observer,
    costs: dict[Case, Message] | None = None,
    measure: str = MEASURE,
) -> list[Row]:
    """Measure `cases` one after the other and append a row of each to `path`; the rows in order."""
    rows = []
    with Store(path) as store:
        written = records.read([path]).environments
        for case in cases:
            here = environment.collect(case.device)
            if here["id"] not in written:
                store.append(here)
                written[here["id"]] = here
            observer.begin(case)
            row = _measured_row(case, rule, timeout_s, server, observer, measure)
            row |= {"environment": here["id"], "flops": _flops(case, (costs or {}).get(case))}
            store.append(row)
            rows.append(row)
            observer.end(row)
    return rows


def _measured_row(
    case: Case, rule: Rule, timeout_s: float, server: ForkServer, observer: Observer, measure: str
) -> Row:
    started, start = datetime.now(UTC), time.monotonic()
    device = _DeviceMemory(case.device)
    heard: dict[str, list] = {"warm-up": [], "sample": []}

    def hear(message: Message) -> None:
        if "timing" in message:
            heard[message["stage"]].append(message["timing"])
        observer.message(message)

    outcome = server.call(
        measure,
        asdict(case),
        asdict(rule),
        timeout_s=timeout_s,
        on_message=hear,
        watch=device.look if device.present else None,
    )
    row = {
        "schema": records.SCHEMA,
        "kind": "bench",
        "measurement": MEASUREMENT,
        "case": asdict(case),
        "rule": asdict(rule),
        "started_at": started.isoformat(timespec="seconds"),
        "wall_s": time.monotonic() - start,
        "energy_j": None,
        **_as_far_as_it_got(heard["warm-up"], heard["sample"]),
        **_verdict(outcome),
    }
    return row | {"memory_bytes": row.get("memory_bytes", {}) | device.seen()}


def _as_far_as_it_got(warmup: list[Message], timings: list[Message]) -> Message:
    """The samples of a case that did not come to its end, as a row holds them."""
    if not (warmup or timings):
        return {}
    names = [name for name in (timings[0] if timings else {}) if any(t[name] for t in timings)]
    samples = {name: [timing[name] for timing in timings] for name in names}
    return {"samples_s": samples, "warmup_s": [timing["total"] for timing in warmup]}


def _verdict(outcome: Outcome) -> Message:
    """The child's own account, or the status that its end stands for."""
    if outcome.result is not None:
        return outcome.result
    if outcome.timed_out:
        return {"status": "timeout", "reason": outcome.reason, "detail": outcome.errors or None}
    status = "oom" if outcome.killed_for_memory else "failed"
    return {"status": status, "reason": outcome.reason, "detail": outcome.errors or None}


def _flops(case: Case, cost: Message | None) -> int | None:
    """Operations of one `unet` step; those of a whole pipeline are not counted yet."""
    return cost["flops"] if cost and case.target == "unet" else None


class _DeviceMemory:
    """Bytes in use on the whole GPU, before a case and at most during it, as the driver reports them."""

    def __init__(self, device: str, nvml: Any = None):
        self.present = device.startswith("cuda")
        self._index = int(device.partition(":")[2] or 0)
        self._nvml = nvml or (Nvml() if self.present else None)
        self._baseline = self._peak = self._used()

    def _used(self) -> int | None:
        return self._nvml.used_bytes(self._index) if self._nvml else None

    def look(self) -> None:
        """Take one reading."""
        used = self._used()
        if used is not None:
            self._peak = max(used, self._peak or 0)

    def seen(self) -> dict[str, int | None]:
        """`device_baseline` and `device_peak`; nothing where there is no GPU."""
        return {"device_baseline": self._baseline, "device_peak": self._peak} if self.present else {}
