"""What all sets of a run of scoring share: networks, feature files, the store that rows go to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from eval.features import Spool
from eval.feed import Feed
from eval.metric import Metric
from eval.networks import Networks
from eval.plan import Planned
from eval.progress import ScoreProgress
from eval.sources import ImageSet
from koala.harness.records import SCHEMA, Records, Row, Store


@dataclass
class Run:
    """One run of scoring."""

    networks: Networks
    store: Store
    done: Records  # what the store held before
    spools: Mapping[Feed, Spool]
    batch_size: int
    workers: int
    environment: str
    progress: ScoreProgress
    _loaded: dict[str, Metric] = field(default_factory=dict)
    _sets: dict[str, Row] = field(init=False)  # the last row of each set

    def __post_init__(self) -> None:
        self._sets = {row["id"]: row for row in self.done.of_kind("set").rows}

    def row(self, kind: str, **facts: Any) -> Row:
        """A row of this run; of two rows of a run the later one counts."""
        started = datetime.now(UTC).isoformat()
        return {"schema": SCHEMA, "kind": kind, **facts, "environment": self.environment, "started_at": started}

    def note_set(self, facts: Row) -> None:
        """Write what is known of a set now, unless its last row says just that."""
        last = self._sets.get(facts["id"], {})
        if any(name not in last or last[name] != fact for name, fact in facts.items()):
            self._sets[facts["id"]] = self.row("set", **facts)
            self.store.append(self._sets[facts["id"]])

    def append(self, images: ImageSet, *rows: Row) -> None:
        """Write scores of images of a set, which counts as unfinished from then on until `note_set` says otherwise."""
        if rows:
            self.note_set(begun(images))
            self.store.append(*rows)

    def note_unavailable(
        self, images: str, metric: str, reason: str, files: Sequence[str] = (), reference: Row | None = None
    ) -> None:
        """Write that a metric could not be computed for the set with the id `images`, against `reference`, once."""
        facts = {"set": images, "metric": metric, "reason": reason, "files": list(files), "reference": reference}
        known = self.done.of_kind("unavailable").rows
        if not any(facts.items() <= row.items() for row in known if row["metric"] == metric):
            self.store.append(self.row("unavailable", **facts))

    def metric(self, planned: Planned) -> Metric:
        """The metric, what it needs loaded before its first use."""
        if planned.id not in self._loaded:
            planned.metric.load(self.networks)
            self._loaded[planned.id] = planned.metric
        return self._loaded[planned.id]


def begun(images: ImageSet) -> Row:
    """What the store says of a set until all its images have been looked at: `content` is null."""
    facts = {"id": images.id, "name": images.name, "path": str(images.path), "settings": dict(images.settings)}
    return {**facts, "n": len(images.items), "content": None, "unreadable": [], "duplicates": 0, "notes": {}}


def finite(value: float) -> float | None:
    """The value, or null where it is none."""
    return value if math.isfinite(value) else None
