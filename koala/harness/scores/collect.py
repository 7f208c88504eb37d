"""What counts of an evaluation's rows: the latest score of each image, of each group and of each set."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from koala.harness.records import Records, Row

MEAN = "mean"  # level of a published mean of image or group scores, whose own rows may have been left out

SINGLE = ("image", "group")  # levels of rows that a mean can stand for


class SetKey(NamedTuple):
    """A set of images as it was at one time: what it held is part of what it is."""

    set: str
    content: str | None


@dataclass(frozen=True)
class Score:
    """A score of an image, or of the images of one prompt."""

    value: float | None
    row: Row  # where it came from

    @property
    def cluster(self) -> tuple[str, str | None]:
        """What it shares with scores that depend on it: its prompt, else its own file."""
        prompt = self.row.get("prompt")
        return ("prompt", prompt) if prompt else ("file", self.row.get("file"))


@dataclass(frozen=True)
class Scored:
    """The sets, the metrics and the scores that count."""

    metrics: dict[str, Row]
    sets: dict[SetKey, Row]
    images: dict[SetKey, list[Row]]  # the last row of each image
    scores: dict[tuple[SetKey, str], list[Score]]  # (set, metric id) -> scores of images or groups
    estimates: dict[tuple[SetKey, str, str | None, str], Row]  # (set, metric id, reference content, level) -> row
    unavailable: list[Row]
    unfinished: set[str]  # ids of sets whose last scoring did not come to its end
    problems: list[str] = field(default_factory=list)

    def scores_of(self, level: str) -> dict[tuple[SetKey, str], list[Score]]:
        """The scores of metrics of one level."""
        return {key: scores for key, scores in self.scores.items() if self.metrics[key[1]].get("level") == level}


def collect(records: Records, every_content: bool = False) -> Scored:
    """What counts of `records`: of the latest content of each set, or of all that it ever had."""
    ordered = sorted(records.rows, key=lambda row: row.get("started_at") or "")
    metrics = {row["id"]: row for row in records.rows if row["kind"] == "metric" and "id" in row}
    about = [row for row in ordered if row["kind"] == "set" and "id" in row]
    # A set's first row comes before its content is known; the last one that knows it tells what counts.
    latest = {row["id"]: None for row in about} | {row["id"]: row["content"] for row in about if row.get("content")}
    sets = {
        SetKey(row["id"], row.get("content")): row
        for row in about
        if row.get("content") == latest[row["id"]] or (every_content and row.get("content"))
    }
    last = {row["id"]: row.get("content") for row in about}
    unfinished = {id for id, content in last.items() if content is None}
    evals = [(_key(row, latest), row) for row in ordered if row["kind"] == "eval"]
    current = [(key, row) for key, row in evals if key in sets]
    problems = [*records.problems, *_lost(evals, latest, metrics)]
    estimates = {
        (key, row["metric"], reference_content(row), row["level"]): row
        for key, row in current
        if scores_of_level(row, "set", MEAN) and row.get("metric") in metrics
    }
    named = [row for row in records.rows if row["kind"] == "unavailable" and row.get("set") in (*latest, None)]
    scoring = [(key, row) for key, row in current if scores_of_level(row, *SINGLE)]
    newest = {(key, row.get("file")): row for key, row in scoring if row["level"] == "image"}
    images: dict[SetKey, list[Row]] = {key: [] for key in sets}
    for (key, _), row in newest.items():
        images[key].append(row)
    images = {key: _still_there(sets[key], rows) for key, rows in images.items()}
    newest = {(key, row.get("file")): row for key, rows in images.items() for row in rows}
    return Scored(
        metrics, sets, images, _latest_scores(scoring, metrics, newest), estimates, named, unfinished, problems
    )


def reference_content(row: Row) -> str | None:
    """The content of the reference that a row was scored against."""
    return (row.get("reference") or {}).get("content")


def scores_of_level(row: Row, *levels: str) -> bool:
    """Whether a row holds scores of one of these levels; lines of metrics have a level too."""
    return row["kind"] == "eval" and row.get("level") in levels


def count(value: Any) -> int:
    """How many: of a list its length."""
    return len(value) if isinstance(value, Sequence | dict) else int(value or 0)


def _key(row: Row, latest: dict[str, str | None]) -> SetKey:
    """The set of a row; a row that does not say which content it saw saw the latest."""
    name = row.get("set", "")
    return SetKey(name, row["content"] if "content" in row else latest.get(name))


def _still_there(about: Row, rows: list[Row]) -> list[Row]:
    """The rows of images that a set holds: where more have a row, those of files that are still there and readable."""
    unreadable = {bad.get("file") for bad in about.get("unreadable") or ()}
    held = [row for row in rows if row.get("file") not in unreadable]
    if about.get("n") is None or len(held) <= about["n"]:
        return held
    folder = Path(str(about.get("path") or ""))
    there = [row for row in held if (folder / str(row.get("file"))).is_file()]
    return there if len(there) == about["n"] else held


def _latest_scores(
    rows: Iterable[tuple[SetKey, Row]], metrics: dict[str, Row], newest: dict[tuple[SetKey, str | None], Row]
) -> dict[tuple[SetKey, str], list[Score]]:
    """The last score of each image and group; those of pixels or prompts that the set no longer has do not count."""
    found: dict[tuple[SetKey, str], dict[Any, Score]] = {}
    for key, row in rows:
        is_image = row["level"] == "image"
        files, pixels = ([row.get("file")], [row.get("sha256")]) if is_image else (row["files"], row.get("sha256", []))
        now = [newest.get((key, file), {}) for file in files]
        if [image.get("sha256") for image in now] != pixels or {image.get("prompt") for image in now} - {row["prompt"]}:
            continue
        who = files[0] if is_image else row["prompt"]
        about = {**row, **{name: now[0].get(name) for name in ("seed", "tags")}} if is_image else row
        for metric, value in (row.get("scores") or {}).items():
            if metric in metrics:
                found.setdefault((key, metric), {})[who] = Score(value, about)
    return {where: list(scores.values()) for where, scores in found.items()}


def _lost(evals: Iterable[tuple[SetKey, Row]], sets: dict[str, Any], metrics: dict[str, Row]) -> list[str]:
    """A line for each metric or set whose own line is missing, with the number of rows that it costs."""
    lost: Counter[str] = Counter()
    for key, row in evals:
        named = row.get("scores") or ([row["metric"]] if "metric" in row else [])
        lost.update(f"metric {metric!r} has no line of its own" for metric in named if metric not in metrics)
        if key.set not in sets:
            lost[f"set {key.set!r} has no line of its own (was its scoring interrupted?)"] += 1
    return [f"{reason}: {n} row{'s' if n > 1 else ''} skipped" for reason, n in lost.items()]
