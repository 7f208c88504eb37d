"""Scores of a set of images: each image decoded once, rows appended as they come, nothing computed twice."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.feed import Feed
from eval.groups import Groups
from eval.identity import digest
from eval.known import file_facts, known_images
from eval.metric import ExpectationMetric, GroupMetric, ImageMetric
from eval.passes import Batch, FeaturePass, Reading, equally_large
from eval.plan import Planned
from eval.run import Run, finite
from eval.sources import ImageSet, Item
from koala.harness.records import Row
from koala.types import Features

_CUT = "captions cut short for "


@dataclass(frozen=True)
class Scored:
    """What became of a set: the content hashes of its images in order, what could not be read, what was done."""

    keys: tuple[str, ...]
    unreadable: tuple[Row, ...]  # file and reason
    notes: Mapping[str, int]  # how many images something was done to beyond decoding

    @property
    def content(self) -> str:
        """A digest of the images, whatever their order."""
        return digest(sorted(self.keys))


class SetPass:
    """One set of images on its way through decoding, networks and the metrics of images and groups."""

    def __init__(self, images: ImageSet, planned: Sequence[Planned], run: Run):
        self._images, self._items, self._run = images, images.items, run
        self._metrics = [p for p in planned if isinstance(p.metric, ImageMetric | ExpectationMetric)]
        self._groups = Groups(images, [p for p in planned if isinstance(p.metric, GroupMetric)], run)
        self._features = FeaturePass(run.networks, run.spools, self._groups.feeds)
        self._known = known_images(run.done, images)

    def scored(self) -> Scored:
        """Score what is missing; every row is on disk when this returns."""
        reading = Reading(self._run.batch_size, self._run.workers)
        places = range(len(self._items))
        to_read = sorted((place for place in places if self._wants_pixels(place)), key=self._groups.order)
        read_before = sorted(set(places) - set(to_read))
        self._run.progress.begin(self._images.name, len(self._items), len(read_before))
        self._score_spooled(read_before)
        for batch in reading.batches([item.path for item in self._items], to_read):
            self._score(batch)
            self._run.progress.advance(len(batch.places))
        self._groups.flush()
        bad = {self._items[place].file: read.reason for place, read in sorted(reading.unreadable.items())}
        there = [self._known[item.file] for item in self._items if item.file not in bad]
        unreadable = tuple({"file": file, "reason": reason} for file, reason in bad.items())
        return Scored(tuple(row["sha256"] for row in there), unreadable, {**_notes(there), **self._cut(there)})

    def _cut(self, rows: Sequence[Row]) -> dict[str, int]:
        """How many captions each metric reads only in part; what earlier runs say of other metrics stays."""
        prompts = [row["prompt"] for row in rows if row["prompt"] is not None]
        metrics = {p.row["label"]: self._run.metric(p) for p in self._metrics}
        counts = {_CUT + label: of.cut(prompts) for label, of in metrics.items() if isinstance(of, ImageMetric)}
        known = [row for row in self._run.done.of_kind("set").rows if row["id"] == self._images.id and row["content"]]
        before = {note: n for note, n in known[-1]["notes"].items() if note.startswith(_CUT)} if known else {}
        return {note: n for note, n in (before | counts).items() if n}

    def _wants_pixels(self, place: int) -> bool:
        """Whether an image has to be decoded: its file is new, or features or scores of its pixels are missing."""
        row = self._known.get(self._items[place].file)
        if row is None or any(row["sha256"] not in spool for spool in self._run.spools.values()):
            return True
        return self._groups.wants(place) or any(p.feed is None for p in self._unscored(row, self._items[place]))

    def _unscored(self, row: Row, item: Item) -> list[Planned]:
        kept = self._kept(row, item)
        return [p for p in self._metrics if p.id not in kept]

    def _kept(self, row: Row, item: Item) -> Row:
        """The scores of a row that still count: others expected something else of the image."""
        if row.get("expects") == _expected(item):
            return row["scores"]
        expecting = {p.id for p in self._metrics if isinstance(p.metric, ExpectationMetric)}
        return {metric: score for metric, score in row["scores"].items() if metric not in expecting}

    def _outdated(self, place: int) -> bool:
        """Whether the row of an image lacks scores, or the seed or the tags that it has now."""
        row, item = self._known[self._items[place].file], self._items[place]
        return bool(self._unscored(row, item)) or (row["seed"], row["tags"]) != (item.seed, dict(item.tags))

    def _score_spooled(self, places: Sequence[int]) -> None:
        """Score images whose features are on disk by metrics that have not scored them yet; take new tags over."""
        unscored = [place for place in places if self._outdated(place)]
        for start in range(0, len(unscored), self._run.batch_size):
            part = unscored[start : start + self._run.batch_size]
            facts = [self._known[self._items[place].file] for place in part]
            keys = [row["sha256"] for row in facts]
            features = {feed: spool.rows(keys) for feed, spool in self._run.spools.items()}
            self._append(part, facts, self._scores(features, part))

    def _score(self, batch: Batch) -> None:
        features = self._features(batch.pictures, [self._items[place].file for place in batch.places])
        scores = self._scores(features, batch.places)
        for planned in (p for p in self._metrics if p.feed is None):
            for rows, pixels in equally_large(batch.pictures):
                values = self._values(planned, pixels, [self._items[batch.places[row]] for row in rows])
                for row, score in zip(rows, values, strict=True):
                    scores[row][planned.id] = score
        facts = [
            {**file_facts(self._items[place]), "sha256": picture.sha256, "notes": list(picture.notes)}
            for place, picture in zip(batch.places, batch.pictures, strict=True)
        ]
        self._append(batch.places, facts, scores)
        self._groups.add(batch, features)

    def _scores(self, features: Mapping[Feed, Features], places: Iterable[int]) -> list[Row]:
        """The scores of each image by metric id, of the metrics that read features."""
        items = [self._items[place] for place in places]
        columns = {p.id: self._values(p, features[p.feed], items) for p in self._metrics if p.feed}
        return [{metric: column[row] for metric, column in columns.items()} for row in range(len(items))]

    def _values(self, planned: Planned, images: Any, items: Sequence[Item]) -> list[float | None]:
        metric, prompts = self._run.metric(planned), [item.prompt or "" for item in items]
        if isinstance(metric, ExpectationMetric):
            scores = metric.score_expected(images, prompts, [item.expects for item in items])
        else:
            assert isinstance(metric, ImageMetric)
            scores = metric.score(images, prompts)
        return [finite(value) for value in scores.tolist()]

    def _append(self, places: Sequence[int], facts: Sequence[Row], scores: Sequence[Row]) -> None:
        """Write one row an image; earlier scores of the same file are kept in it."""
        rows = [self._image_row(self._items[place], *of) for place, *of in zip(places, facts, scores, strict=True)]
        self._run.append(self._images, *(row for row in rows if not self._says(row)))
        self._known.update({row["file"]: row for row in rows})

    def _says(self, row: Row) -> bool:
        """Whether the store says all of a row already."""
        old, when = self._known.get(row["file"]), ("environment", "started_at")
        return old is not None and all(old.get(name) == fact for name, fact in row.items() if name not in when)

    def _image_row(self, item: Item, facts: Row, scores: Row) -> Row:
        old = self._known.get(item.file)
        kept = self._kept(old, item) if old and old["sha256"] == facts["sha256"] else {}
        return self._run.row(
            "eval",
            level="image",
            set=self._images.id,
            file=item.file,
            **{name: facts[name] for name in ("sha256", "bytes", "mtime_ns", "notes")},
            prompt=item.prompt,
            seed=item.seed,
            tags=dict(item.tags),
            expects=_expected(item),
            scores={**scores, **kept},
        )


def _expected(item: Item) -> str | None:
    """A digest of what a machine can check of an image; None where that is nothing."""
    return digest(dict(item.expects)) if item.expects else None


def _notes(rows: Sequence[Row]) -> dict[str, int]:
    notes = [note for row in rows for note in row["notes"]]
    return {note: notes.count(note) for note in dict.fromkeys(notes)}
