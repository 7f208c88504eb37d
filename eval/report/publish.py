"""From working rows to what people cite: `results/quality/` with rows, CSV and markdown."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.report.markdown import render_markdown
from eval.report.published import read_published, render_published
from koala.errors import KoalaError
from koala.harness import records
from koala.harness.files import write_whole
from koala.harness.records import SCHEMA, Records, Row
from koala.harness.scores.collect import (
    MEAN,
    SINGLE,
    Scored,
    SetKey,
    collect,
    count,
    reference_content,
    scores_of_level,
)
from koala.harness.scores.headings import lines_of, plain, set_key
from koala.harness.scores.table import frame_of
from koala.harness.tables import to_csv
from koala.models.twin import TWIN_PREFIX

FOLDER = "quality"
REFERENCE = "reference"
IMAGE_ROWS_BELOW_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Published:
    """What was written, and what stayed behind and why."""

    folder: Path
    remarks: list[str]


def publish(sources: Iterable[Path], results: Path) -> Published:
    """Merge the whole rows of `sources` into `results/quality`.

    Unreadable images, an interruption, or a missing score keep a set or a metric back; so does a small twin.
    """
    fresh = records.read(sources)
    scored = collect(fresh)
    whole, remarks = _whole_rows(scored, fresh)
    if not whole:
        raise KoalaError("; ".join(["there are no whole rows of full-size models to publish", *remarks]))
    folder = results / FOLDER
    file = folder / "rows.jsonl"
    old = records.read([file] if file.exists() else [])
    if old.problems:
        raise KoalaError(f"{old.problems[0]}; mend the published file first")
    merged = _merged(old, fresh, scored, whole)
    remarks += _write_rows(file, merged)
    frame = frame_of(collect(merged, every_content=True), merged)
    page = [
        "# Image quality",
        "",
        render_markdown(frame),
        "## Published beside measured",
        "",
        render_published(read_published(results / REFERENCE), frame),
    ]
    write_whole(folder / "quality.csv", to_csv(frame))
    write_whole(folder / "quality.md", "\n".join(page))
    return Published(folder, [*scored.problems, *remarks])


def _whole_rows(scored: Scored, known: Records) -> tuple[list[Row], list[str]]:
    """Rows of sets and means that are whole, and a line for each set or metric that is not."""
    kept, remarks = [], []
    held = {key: reason for key, row in scored.sets.items() if (reason := _obstacle(scored, key, row))}
    remarks += [f"{plain(scored.sets[key].get('name'))}: {reason}; not published" for key, reason in held.items()]
    for line in lines_of(frame_of(scored, known)):
        key = set_key(line)
        if key in held:
            continue
        if not known.environments.get(line["environment"] or ""):
            raise KoalaError(f"a row of {plain(line['name'])} names an environment that its file does not hold")
        partial = bool(scored.metrics[line["metric_id"]].get("partial"))
        if reason := _lack(line, scored.sets[key].get("n"), partial):
            remarks.append(f"{plain(line['name'])}, {line['label']}: {reason}; not published")
            continue
        row = scored.estimates.get((key, line["metric_id"], line["reference_content"], "set"))
        kept.append(_cleaned(row) if row else _mean_row(line))
    return kept, remarks


def _obstacle(scored: Scored, key: SetKey, row: Row) -> str | None:
    """Why a set is not published."""
    model = (row.get("settings") or {}).get("model")
    images, n = len(scored.images[key]), int(row.get("n") or 0)
    if _is_twin(model):
        return f"{plain(model)} is a small twin"
    if bad := count(row.get("unreadable")):
        return f"{bad} images could not be read"
    if images < n:
        return f"interrupted, {images} of {n} images have a row"
    if key.set in scored.unfinished:
        return "its last scoring did not come to its end"
    return f"{images} images have a row and the set holds {n}" if images > n else None


def _lack(line: dict[str, Any], images: int | None, partial: bool) -> str | None:
    """Why one number of a set is not published; the images without a score of a `partial` metric are no fault."""
    asked = line["n"] + line["without_score"] if partial else line["n"]
    missing = line["without_score"] and not partial
    if line["value"] is None or missing or (line["level"] == "image" and asked != images):
        return "not every image has a score"
    return "images of its reference could not be read" if line["reference_unreadable"] else None


def _is_twin(model: str | None) -> bool:
    return model is not None and model.startswith(TWIN_PREFIX)


def _mean_row(line: dict[str, Any]) -> Row:
    """A mean of image or group scores as a row, so that it outlives their rows."""
    interval = {"low": line["low"], "high": line["high"], "confidence": 0.95, "method": line["interval_method"]}
    return {
        "schema": SCHEMA,
        "kind": "eval",
        "level": MEAN,
        "set": line["set"],
        "content": line["content"],
        "metric": line["metric_id"],
        "value": line["value"],
        "interval": interval if line["low"] is not None else None,
        "n": int(line["n"]),
        "n_prompts": None if line["n_prompts"] is None else int(line["n_prompts"]),
        "without_score": int(line["without_score"]),
        "n_reference": None,
        "reference": None,
        "detail": {},
        "environment": line["environment"],
        "started_at": line["started_at"],
    }


def _cleaned(row: Row) -> Row:
    """A row without paths, which say nothing on another machine."""
    cleaned = {name: value for name, value in row.items() if name != "path"}
    if cleaned.get("reference"):
        cleaned["reference"] = {name: value for name, value in cleaned["reference"].items() if name != "path"}
    return cleaned


def _merged(old: Records, fresh: Records, scored: Scored, whole: Sequence[Row]) -> Records:
    """What was published and what is new; of two rows of a set's content, metric and reference the newer one stays."""
    estimates = {
        (row["set"], row.get("content"), row["metric"], reference_content(row)): row
        for row in sorted(
            [*(row for row in old.rows if scores_of_level(row, "set", MEAN)), *whole],
            key=lambda row: row.get("started_at") or "",
        )
    }
    used = {metric for _, _, metric, _ in estimates}
    merged = Records(environments={**old.environments, **fresh.environments})
    metrics = {row["id"]: row for source in (old, fresh) for row in source.rows if row["kind"] == "metric"}
    sets = {(row["id"], row.get("content")): row for row in old.rows if row["kind"] == "set"}
    sets |= {(key.set, key.content): _cleaned(row) for key, row in scored.sets.items()}
    merged.rows += [row for id, row in metrics.items() if id in used]
    merged.rows += [sets[key] for key in dict.fromkeys((set, content) for set, content, _, _ in estimates)]
    merged.rows += estimates.values()
    merged.rows += _image_rows(old, scored, {(row["set"], row.get("content"), row["metric"]) for row in whole})
    named = {row.get("environment") for row in merged.rows}
    merged.environments = {id: row for id, row in merged.environments.items() if id in named}
    return merged


def _image_rows(old: Records, scored: Scored, fresh: set[tuple[str, str | None, str]]) -> list[Row]:
    """Rows of images and groups: the published ones, and those of metrics that are whole now."""
    rows: dict[Any, Row] = {_image_key(row): row for row in old.rows if scores_of_level(row, *SINGLE)}
    for (key, metric), scores in scored.scores.items():
        if (key.set, key.content, metric) not in fresh:
            continue
        for score in scores:
            row = {**score.row, "content": key.content, "scores": {}}
            stood = rows.setdefault(_image_key(row), row)
            newer = row if (row.get("started_at") or "") >= (stood.get("started_at") or "") else stood
            both = {**stood["scores"], metric: score.value}
            rows[_image_key(row)] = {**newer, "scores": both}
    return list(rows.values())


def _image_key(row: Row) -> tuple[Any, ...]:
    return row["set"], row.get("content"), row["level"], row.get("file"), row.get("prompt")


def _write_rows(file: Path, merged: Records) -> list[str]:
    """Write the rows, those of single images only while the file stays small; a line that says what was left out."""
    images = [row for row in merged.rows if scores_of_level(row, *SINGLE)]
    text = _lines(merged)
    remarks = []
    if images and len(text.encode()) >= IMAGE_ROWS_BELOW_BYTES:
        merged.rows = [row for row in merged.rows if not scores_of_level(row, *SINGLE)]
        text = _lines(merged)
        limit = IMAGE_ROWS_BELOW_BYTES // 2**20
        remarks.append(
            f"the {len(images)} rows of single images would exceed {limit} MiB: only their means are published"
        )
    write_whole(file, text)
    return remarks


def _lines(merged: Records) -> str:
    return "".join(json.dumps(line, allow_nan=False) + "\n" for line in (*merged.environments.values(), *merged.rows))
