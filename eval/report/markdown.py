"""Frames as pages for people: rounded, with what each number is said below it."""

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from eval.report.columns import UNNAMED, column_remarks, render_bias, render_columns
from koala.harness.records import Row
from koala.harness.scores.collect import reference_content
from koala.harness.scores.headings import (
    SUBSTITUTE,
    ColumnKey,
    column_key,
    column_names,
    heading,
    lines_of,
    plain,
    set_key,
    set_names,
    value_text,
)
from koala.harness.scores.table import TAG_COLUMNS
from koala.harness.tables import escape, to_markdown

_TITLES = {"set": "Sets", "image": "Images (means)", "group": "Images of one prompt (means; n counts prompts)"}
_LONG_REASON = 240
Line = dict[str, Any]

_CELLS = (
    "↑ higher is better, ↓ lower is better. Cells are `value [interval] (n=images)`; the table of columns says which "
    "interval, at 95% unless it says otherwise, and an empty cell was not scored. A column holds scores of one "
    "identity (code, features, weights, preparation, settings) against one reference."
)
_SUBSTITUTES = (
    f"{SUBSTITUTE} A metric of its own, on features that come with a package and work offline. It estimates no "
    "standard metric, and its numbers compare with nothing but the same column."
)
_UNVERIFIED = (
    "[unverified]: the standard code on weights that are not the published file, or could not be shown to be; such a "
    "number compares with nothing but the same column, and with no published one."
)
_UNNAMED = (
    f"{UNNAMED.strip()} A file of statistics that does not say of which features: only who made it knows whether "
    "network, weights and preparation were those of the column, without which the distance says nothing."
)
_OUTSIDE = (
    "A value outside its interval: the interval is that of the bias-corrected value, which stands below; at small n "
    "the printed distance is mostly bias."
)
_RANDOM = "the model's weights are random, so its images are noise and its scores say nothing of the model"


def render_markdown(frame: pd.DataFrame) -> str:
    """Tables of model x metric, one for each level; below them what to beware of, and what every column is."""
    if frame.empty:
        return "No scores yet: `python -m eval score RUN_OR_FOLDER` makes some.\n"
    parts = []
    for level, title in _TITLES.items():
        lines = [line for line in lines_of(frame) if line["level"] == level]
        if lines:
            parts += [f"### {title}", "", _table(frame, lines), ""]
    parts += [bias, ""] if (bias := render_bias(frame)) else []
    return "\n".join([*parts, "### What to know", "", *_notes(frame), "", render_columns(frame), ""])


def render_tags(tags: pd.DataFrame, frame: pd.DataFrame) -> str:
    """For each image metric and tag a table of its values x sets; empty where no image has a tag."""
    if tags.empty:
        return ""
    sets, columns = set_names(frame), column_names(frame)
    parts = []
    for (metric, tag), group in tags.groupby(["metric_id", TAG_COLUMNS[0]], sort=False):
        lines = lines_of(group)
        cells: dict[str, dict[str, str]] = {}
        for line in sorted(lines, key=lambda line: line[TAG_COLUMNS[1]]):
            cells.setdefault(plain(line[TAG_COLUMNS[1]]), {})[escape(sets[set_key(line)])] = value_text(line)
        shown = pd.DataFrame([{escape(plain(tag)): value, **row} for value, row in cells.items()])
        title = heading(columns[ColumnKey(metric, None)], lines[0])
        parts += [
            f"### {escape(title)} by {escape(plain(tag))}",
            "",
            to_markdown(shown, dict.fromkeys(shown.columns[1:], str)),
            "",
        ]
    return "\n".join(parts)


def not_computed(unavailable: Sequence[Row], frame: pd.DataFrame) -> str:
    """The table of metrics that could not be computed, each with what is missing; one that was since is left out."""
    done = {(line["set"], line["label"], line["reference_content"]) for line in lines_of(frame)}
    done |= {(where, label, None) for where, label, _ in done}
    latest = {(row.get("set"), row.get("metric"), reference_content(row)): row for row in unavailable}
    missing: dict[tuple[str, str], dict[str, set[str]]] = {}
    for (set_id, metric, _), row in ((key, row) for key, row in latest.items() if key not in done):
        files, reason = ", ".join(map(plain, row.get("files") or [])), str(row.get("reason") or "").partition("\n")[0]
        why = plain(reason, _LONG_REASON) if not files else "not on this machine"
        missing.setdefault((files, why), {}).setdefault(plain(metric), set()).add(str(set_id))
    if not missing:
        return "Nothing that was tried is missing.\n"
    lines = [
        {
            "metrics": ", ".join(sorted(of)),
            "missing files": files or None,
            "why": why,
            "sets": len(set().union(*of.values())),
        }
        for (files, why), of in sorted(missing.items())
    ]
    ending = "`python -m eval weights` says where each file goes, and `--fetch` gets what may be fetched."
    return "\n".join([to_markdown(pd.DataFrame(lines)), "", ending, ""])


def _table(frame: pd.DataFrame, lines: Sequence[Line]) -> str:
    """Sets x columns of one level."""
    names, columns = set_names(frame), column_names(frame)
    headings = {column_key(line): escape(heading(columns[column_key(line)], line)) for line in lines}
    ordered = [headings[key] for key in columns if key in headings]
    rows: dict[Any, Line] = {}
    for line in lines:
        about = {
            "images of": names[set_key(line)],
            "model": line["model"] and plain(line["model"]),
            "steps": line["steps"],
        }
        rows.setdefault(set_key(line), about)[headings[column_key(line)]] = value_text(line)
    shown = pd.DataFrame(list(rows.values()), columns=["images of", "model", "steps", *ordered])
    shown = shown.drop(columns=["model"]) if (shown["model"] == shown["images of"]).all() else shown
    return to_markdown(shown, {"steps": lambda steps: str(int(steps)), **dict.fromkeys(ordered, str)})


def _notes(frame: pd.DataFrame) -> list[str]:
    names, lines = set_names(frame), lines_of(frame)
    of_sets: dict[str, list[str]] = {}
    for name, line in {names[set_key(line)]: line for line in lines}.items():
        for text in _faults(line):
            of_sets.setdefault(text, []).append(escape(name))
    notes = [
        _CELLS,
        *([_SUBSTITUTES] if any(line["substitute"] for line in lines) else []),
        *([_UNNAMED] if any(line["reference_unnamed_features"] for line in lines) else []),
        *([_UNVERIFIED] if any("[unverified]" in line["label"] for line in lines) else []),
        *([_OUTSIDE] if any(map(_outside, lines)) else []),
        *(f"{', '.join(called)}: {text}." for text, called in of_sets.items()),
        *(
            f"{escape(names[set_key(line)])}, {escape(plain(line['label']))}: {_no_value(line)}."
            for line in lines
            if line["value"] is None or line["without_score"]
        ),
        *column_remarks(frame),
        *_versions(lines),
    ]
    return [f"- {note}" for note in notes]


def _outside(line: Line) -> bool:
    known = None not in (line["value"], line["low"], line["high"])
    return known and not line["low"] <= line["value"] <= line["high"]


def _faults(line: Line) -> list[str]:
    """What is wrong with a set of images, or was done to them."""
    images, scored = int(line["images"] or 0), int(line["images_scored"] or 0)
    gone = line["finished"] and scored > images > 0
    return [
        *([_RANDOM] if line["random_weights"] else []),
        *([f"{line['unreadable']} images could not be read and are left out"] if line["unreadable"] else []),
        *([f"{line['duplicates']} images are duplicates of others"] if line["duplicates"] else []),
        *([f"interrupted, {scored} of {images} images have a row"] if 0 < scored < images else []),
        *(["its last scoring did not come to its end"] if not line["finished"] and scored >= images else []),
        *([f"{scored} images have a row and the set holds {images}: some are gone"] if gone else []),
        *([escape("; ".join(map(plain, line["notes"].split("; "))))] if line["notes"] else []),
    ]


def _no_value(line: Line) -> str:
    detail = json.loads(line["detail"]) if line["detail"] else {}
    if line["value"] is None:
        return f"no value ({plain(detail.get('reason') or detail or 'no score is a number')})"
    return f"{line['without_score']} images without a score are left out"


def _versions(lines: Sequence[Line]) -> list[str]:
    said = {
        ", ".join(
            f"{name} {plain(line[name])}"
            for name in ("device_name", "koala_bench", "torch", "transformers")
            if line[name]
        )
        for line in lines
    } - {""}
    return [f"Scored with {escape(' / '.join(sorted(said)))}."] if said else []
