"""What a training says of itself: rows of `log.jsonl`, the same numbers for a tracker, and a picture of the losses."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from matplotlib.figure import Figure

from koala.distill.config import Run
from koala.errors import KoalaError
from koala.harness import environment, records
from koala.harness.memory import meter_for
from koala.harness.records import SCHEMA, Row, Store

FILE = "log.jsonl"
KIND = "train"
TOTAL = "total"
_PLAIN = (bool, int, float, str)


class Means:
    """Means of named numbers over the steps that had them; a number that is none spoils only its own mean."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)

    def add(self, values: Mapping[str, float]) -> None:
        """Take the numbers of one step in."""
        for name, value in values.items():
            self._sums[name] += value
            self._counts[name] += 1

    def take(self) -> dict[str, float]:
        """The means since the last call."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self._sums.clear()
        self._counts.clear()
        return means


class TrainingLog:
    """Writes the rows of a training, alone: while it is open, another training of the same folder is refused."""

    def __init__(self, run: Run, store: Store, accelerator: Accelerator):
        self._run, self._store, self._accelerator = run, store, accelerator
        self._losses, self._norms = Means(), Means()
        self._steps, self._seconds = 0, 0.0
        device = accelerator.device  # of several processes on a CPU, accelerate numbers that
        self._environment = environment.collect("cpu" if device.type == "cpu" else str(device))
        self._memory = meter_for(accelerator.device)

    def start(self, step: int) -> None:
        """Begin to measure after `step` steps; the tracker forgets what it was told of later ones."""
        self._store.append(self._environment)
        settings = {name: value for name, value in asdict(self._run).items() if isinstance(value, _PLAIN)}
        purge = {"tensorboard": {"purge_step": step + 1}} if step else {}
        self._accelerator.init_trackers("koala", settings, purge)
        self._memory.start()

    def add(self, losses: Mapping[str, float], norms: Mapping[str, float], seconds: float) -> None:
        """Take in one step: its losses as NETWORK/PART, the norm of each network's gradient, how long it took."""
        self._losses.add(losses)
        self._norms.add(norms)
        self._steps, self._seconds = self._steps + 1, self._seconds + seconds

    def write(self, step: int, images_per_step: int, spans: Mapping[str, float], facts: Mapping[str, Any]) -> None:
        """Write the row of the steps since the one before; `spans` are the seconds of parts of them."""
        if not self._steps:
            return
        row: Row = {
            "schema": SCHEMA,
            "kind": KIND,
            "step": step,
            "interval": self._steps,
            "losses": nested(self._losses.take()),
            "gradient_norm": {name: _number(value) for name, value in self._norms.take().items()},
            "step_s": self._seconds / self._steps,
            "images_per_s": images_per_step * self._steps / self._seconds,
            "shares": {name: seconds / self._seconds for name, seconds in spans.items()},
            "memory_bytes": self._memory.read(),
            **facts,
            "environment": self._environment["id"],
        }
        self._steps, self._seconds = 0, 0.0
        self._store.append(row)
        self._accelerator.log(dict(flat(row)), step=step)

    def close(self) -> None:
        """Let the trackers write what they hold."""
        for tracker in self._accelerator.trackers:
            tracker.finish()
        self._accelerator.trackers.clear()


@contextmanager
def opened(run: Run, out: Path, accelerator: Accelerator) -> Iterator[TrainingLog]:
    """The log of the run in `out`; a `KoalaError` where another training is writing it."""
    with Store(out / FILE) as store:
        log = TrainingLog(run, store, accelerator)
        try:
            yield log
        finally:
            log.close()


def nested(means: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
    """Means named NETWORK/PART as one dictionary per network; what is no finite number is None, as JSON has it."""
    networks: dict[str, dict[str, float | None]] = {}
    for name, value in means.items():
        network, part = name.split("/", 1)
        networks.setdefault(network, {})[part] = _number(value)
    return networks


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def flat(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a row by names such as "losses/unet/task", for a tracker."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and name not in ("schema", "step", "interval"):
            yield f"{prefix}{name}", value


def read(path: Path) -> list[Row]:
    """The rows of a training in the order of its steps; of steps that were made again after a kill the last rows."""
    rows: list[Row] = []
    for row in records.read([path]).of_kind(KIND).rows:
        while rows and rows[-1]["step"] > row["step"] - row["interval"]:  # training went back to before that row
            rows.pop()
        rows.append(row)
    return rows


def latest(rows: list[Row], network: str) -> dict[str, float]:
    """What the newest row with losses of `network` says of them, without what is no number."""
    known: Row = next((row["losses"][network] for row in reversed(rows) if network in row["losses"]), {})
    return {name: value for name, value in known.items() if value is not None}


def plot(rows: list[Row], path: Path) -> None:
    """Write a picture of all losses over the steps, one panel a network, to a PNG (or what `path` ends in)."""
    drawn = curves(rows)
    if not drawn:
        raise KoalaError("there is no loss to plot")
    figure = Figure(figsize=(9, 4.5 * len(drawn)), layout="constrained")
    for axes, (network, parts) in zip(figure.subplots(len(drawn), squeeze=False).flat, drawn.items(), strict=True):
        for name, points in parts.items():
            whole = "/" not in name  # parts of parts, as of each stage, are drawn thinner
            label, width = (name, 1.8) if whole else (name, 0.8)
            axes.plot(*zip(*points, strict=True), label=label, linewidth=width, alpha=1.0 if whole else 0.7)
        values = [value for points in parts.values() for _, value in points]
        if any(value > 0 for value in values):
            axes.set_yscale("log" if min(values) >= 0 else "symlog")
        axes.set(title=network, xlabel="optimisation step", ylabel="mean since the row before")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except OSError as error:
        raise KoalaError(f"cannot write {path}: {error.strerror}") from error


def curves(rows: list[Row]) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """network -> part -> (step, loss), without what is no number."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in rows:
        for network, parts in row["losses"].items():
            for name, value in parts.items():
                if value is not None:
                    found.setdefault(network, {}).setdefault(name, []).append((row["step"], value))
    return found
