"""How a sweep goes, on stderr: case n of m, elapsed, an estimate to go, the last result."""

import time
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from bench.isolate import Message
from bench.sweep import Job
from bench.trust import unstable_because
from koala.harness.records import Row


class SweepProgress:
    """Follows a sweep; `expected_s` are rough seconds per case, corrected by the cases that have ended."""

    def __init__(self, expected_s: list[float], console: Console):
        self.console, self._expected = console, expected_s
        self.done, self._sampled, self._finished_s = 0, 0, 0.0
        self._start = self._case_start = time.monotonic()
        self._bar = Progress(
            SpinnerColumn(),
            MofNCompleteColumn(),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[to_go]}"),
            TextColumn("{task.description}"),
            console=self.console,
            refresh_per_second=2,  # a bar that spins fast takes time from a CPU that is being measured
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("", total=len(expected_s), to_go="")

    def __enter__(self) -> "SweepProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, job: Job) -> None:
        again = f", process {job.process + 1}" if job.process else ""
        self._label, self._sampled, self._case_start = job.case.label + again, 0, time.monotonic()
        self._show("starting")

    def message(self, message: Message) -> None:
        self._sampled = 1 if message["stage"] == "again" else self._sampled + (message["stage"] == "sample")
        self._show(f"sample {self._sampled}" if self._sampled else message["stage"])

    def end(self, row: Row) -> None:
        self.done += 1
        self._finished_s = time.monotonic() - self._start
        count = f"[{self.done}/{len(self._expected)}]"
        self.console.print(escape(f"{count} {self._label}: {outcome_text(row)}"))
        if doubt := unstable_because(row):
            self.console.print(escape(f"  {doubt}"))
        self._bar.update(self._task, completed=self.done)

    def _show(self, stage: str) -> None:
        self._bar.update(self._task, description=escape(f"{self._label}: {stage}"), to_go=self._to_go())

    def _to_go(self) -> str:
        """Remaining seconds as expected, scaled by how the finished cases compared with what was expected."""
        if not any(self._expected):
            return ""
        expected_so_far = sum(self._expected[: self.done])
        scale = self._finished_s / expected_so_far if expected_so_far else 1.0
        left = sum(self._expected[self.done :]) * scale - (time.monotonic() - self._case_start)
        return f"about {max(left, 1):.0f} s to go" if left < 120 else f"about {left / 60:.0f} min to go"


def outcome_text(row: Row) -> str:
    """One result in a line: "3.02 s (6 samples)", "out of memory", "failed: ..."."""
    if row["status"] == "ok":
        total = row["samples_s"]["total"]
        return f"{median(total):.4g} s ({len(total)} samples, {row['wall_s']:.0f} s in all)"
    words = {"oom": "out of memory", "unsupported": "not possible"}.get(row["status"], row["status"])
    return f"{words}: {row['reason']}"
