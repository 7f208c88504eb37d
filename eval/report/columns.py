"""What the columns of a page are: a table of columns, one of the features they share, and what to beware of in each."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from koala.harness.scores.headings import (
    SHORT,
    ColumnKey,
    column_key,
    column_names,
    heading,
    lines_of,
    plain,
    rounded,
    set_key,
    set_names,
)
from koala.harness.tables import escape, to_markdown

Line = dict[str, Any]

_SHA_SHOWN = 12
_LONG = 400  # characters of a preparation or of settings that are shown
UNNAMED = " ‡"  # marks statistics of features that nobody names
_BIAS = ("debiased", "bias", "at_least", "at_most")  # the bounds stand where no interval is known


class _Features(NamedTuple):
    """What columns may share: a network, how images are prepared for it, its weights."""

    network: str
    prepared: str
    weights: str


def render_columns(frame: pd.DataFrame) -> str:
    """The tables of columns and of features."""
    names, features, columns = column_names(frame), dict[_Features, str](), []
    for key, lines in _by_column(frame).items():
        first, own = lines[0], _features(lines[0])
        columns.append(
            {
                "column": heading(names[key], first),
                "features": features.setdefault(own, str(len(features) + 1)) if own else "pixels",
                "settings": _settings(first) or None,
                "interval": "; ".join(dict.fromkeys(plain(line["interval_method"] or "none") for line in lines)),
                "reference": _reference(lines),
                "metric id": first["metric_id"][:SHORT],
            }
        )
    shared = [{"features": number, **own._asdict()} for own, number in features.items()]
    tables = [to_markdown(pd.DataFrame(table).rename(columns=_HEADS)) for table in (columns, shared) if table]
    return "\n\n".join(["### Columns", *tables])


_HEADS = {"prepared": "images prepared by", "weights": "weights (sha256)"}


def render_bias(frame: pd.DataFrame) -> str:
    """The table of what distances are without their bias in n; empty where nothing is known of it."""
    names, sets = column_names(frame), set_names(frame)
    rows: dict[str, dict[str, str]] = {}
    floors: dict[str, dict[str, str]] = {}
    for key, lines in _by_column(frame).items():
        for line in lines:
            detail = json.loads(line["detail"] or "{}")
            if known := [name for name in _BIAS if _is_number(detail.get(name))]:
                text = ", ".join(f"{name.replace('_', ' ')} {rounded(detail[name])}" for name in known)
                rows.setdefault(f"{sets[set_key(line)]} (n={line['n']:.0f})", {})[escape(names[key])] = text
            if _is_number(detail.get("self_distance")):
                pair = f"the reference, {detail.get('self_distance_n')} images against {detail.get('self_distance_n')}"
                floors.setdefault(pair, {})[escape(names[key])] = rounded(detail["self_distance"])
    table = pd.DataFrame([{"images of": name, **cells} for name, cells in (*rows.items(), *floors.items())])
    return "\n\n".join(["### Without bias", to_markdown(table), _WITHOUT_BIAS]) if len(table) else ""


_WITHOUT_BIAS = (
    "The fewer the images, the greater a distance that is printed. Here is how far the distributions are from each "
    "other, of which the images are a sample: a debiased value, or bounds that hold with 97.5% each. The last "
    "rows are what is printed for two sets of the reference's own images: bias alone."
)


def column_remarks(frame: pd.DataFrame) -> list[str]:
    """What to beware of in columns: unlike numbers of images, another arithmetic than fp32."""
    names = column_names(frame)
    remarks, unlike = [], []
    for key, lines in _by_column(frame).items():
        if lines[0]["level"] == "set" and len({line["n"] for line in lines} - {None}) > 1:
            unlike.append(names[key])
        if lines[0]["beside_fp32"] is not None:
            remarks.append(f"{names[key]}: {_beside_fp32(lines[0])}.")
    if unlike:
        remarks.append(f"**n differs between rows** of {', '.join(unlike)}: {_UNLIKE}")
    return [escape(remark) for remark in remarks]


_UNLIKE = "so does the bias, which of all set metrics KID and kd_* alone do not have, and these rows do not compare."


def _by_column(frame: pd.DataFrame) -> dict[ColumnKey, list[Line]]:
    """The lines of each column, columns in the order of the page."""
    found: dict[ColumnKey, list[Line]] = {key: [] for key in column_names(frame)}
    for line in lines_of(frame):
        found[column_key(line)].append(line)
    return found


def _features(line: Line) -> _Features | None:
    """None for what reads pixels."""
    if not line["extractor"]:
        return None
    weights = ", ".join(f"{plain(file)} {str(sha)[:_SHA_SHOWN]}" for file, sha in json.loads(line["weights"]).items())
    return _Features(f"{plain(line['extractor'])} ({line['dtype']})", plain(line["preparation"] or "", _LONG), weights)


def _settings(line: Line) -> str:
    """What else decides a score, as far as it is set."""
    settings = json.loads(line["settings"]).items()
    return plain(", ".join(f"{name}={value}" for name, value in settings if value not in (None, "")), _LONG)


def _reference(lines: Sequence[Line]) -> str | None:
    first = lines[0]
    if first["reference_content"] is None and first["reference"] is None:
        return None
    counts = sorted({int(line["n_reference"]) for line in lines if line["n_reference"] is not None})
    n = f"n={' or '.join(map(str, counts))}" if counts else "n not known"
    n += f", {first['reference_unreadable']:.0f} unreadable" if first["reference_unreadable"] else ""
    name = plain(first["reference"] or "a reference") + (UNNAMED if first["reference_unnamed_features"] else "")
    return f"{name} ({n}, content {str(first['reference_content'])[:SHORT]})"


def _beside_fp32(line: Line) -> str:
    found = json.loads(line["beside_fp32"])
    return (
        f"{line['dtype']} instead of fp32 changed the scores of {found['n']} images by {rounded(found['mean'])} on "
        f"average and {rounded(found['largest'])} at most"
    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
