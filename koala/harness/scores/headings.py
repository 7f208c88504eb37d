"""What sets, columns and numbers look like in tables and figures: unlike things never bear one name."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd

from koala.harness.scores.collect import SetKey
from koala.harness.tables import significant

SHORT = 8  # characters of an id that are shown
_LONGEST = 120
SUBSTITUTE = "†"
RANDOM = "random weights"
_ARROWS = {True: "↑", False: "↓"}
LEVELS = ("set", "image", "group")  # the order of their columns


class ColumnKey(NamedTuple):
    """What shares a column: one metric id against one reference."""

    metric: str
    reference: str | None


def lines_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame with None where nothing is known."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def set_key(line: dict[str, Any]) -> SetKey:
    """The set of a line."""
    return SetKey(line["set"], line["content"])


def column_key(line: dict[str, Any]) -> ColumnKey:
    """The column of a line."""
    return ColumnKey(line["metric_id"], line["reference_content"])


def plain(text: object, longest: int = _LONGEST) -> str:
    """Text from outside on one line, of printable characters, too short to flood a page and without a link."""
    words = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * longest]).split()
    shown = " ".join(words).replace("](", "] (")
    return shown if len(shown) <= longest else shown[: longest - 1].rstrip() + "…"


def rounded(value: float) -> str:
    """Four digits; what is nearly nothing has an exponent."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-6 else significant(4)(value)


def value_text(line: dict[str, Any]) -> str:
    """`value [low, high] (n=240)`; a line without a value says so."""
    if line["value"] is None:
        return "no value"
    interval = f" [{rounded(line['low'])}, {rounded(line['high'])}]" if line["low"] is not None else ""
    return f"{rounded(line['value'])}{interval} (n={int(line['n'] or 0)})"


def set_names(frame: pd.DataFrame) -> dict[SetKey, str]:
    """A name for each set: its own, with its id or its content where that alone would not tell it apart."""
    lines = {set_key(line): line for line in lines_of(frame)}
    own = {key: plain(line["name"]) for key, line in lines.items()}
    ids = {name: {key.set for key in own if own[key] == name} for name in own.values()}
    contents = Counter(key.set for key in own)
    return {
        key: " ".join(
            [
                name,
                *([f"({_short(key.set, ids[name])})"] if len(ids[name]) > 1 else []),
                *([f"(content {str(key.content)[:SHORT]})"] if contents[key.set] > 1 else []),
                *([f"({RANDOM})"] if lines[key]["random_weights"] else []),
            ]
        )
        for key, name in own.items()
    }


def column_names(frame: pd.DataFrame) -> dict[ColumnKey, str]:
    """A name for each column, sets' first: its label, with the id or the reference where labels collide."""
    lines: dict[ColumnKey, dict[str, Any]] = {}
    for line in sorted(lines_of(frame), key=lambda line: _level_place(line["level"])):
        lines.setdefault(column_key(line), line)
    labels = {key: plain(line["label"]) for key, line in lines.items()}
    ids = {label: {key.metric for key in labels if labels[key] == label} for label in labels.values()}
    references: dict[str, list[str]] = {}
    for key, line in lines.items():
        references.setdefault(key.metric, []).append(plain(line["reference"] or "no reference"))
    return {
        key: " ".join(
            [
                label,
                *([f"({_short(key.metric, ids[label])})"] if len(ids[label]) > 1 else []),
                *_against(plain(lines[key]["reference"] or "no reference"), key, references[key.metric]),
            ]
        )
        for key, label in labels.items()
    }


def heading(name: str, line: dict[str, Any]) -> str:
    """A column's name with the mark of a substitute and an arrow towards what is better."""
    marks = [SUBSTITUTE] if line["substitute"] else []
    return " ".join(
        [name, *marks, *([_ARROWS[line["higher_is_better"]]] if line["higher_is_better"] in _ARROWS else [])]
    )


def _level_place(level: str | None) -> int:
    return LEVELS.index(level) if level in LEVELS else len(LEVELS)


def _short(id: str, others: Iterable[str]) -> str:
    """The beginning of an id, or all of it where another one begins alike."""
    return id if sum(other[:SHORT] == id[:SHORT] for other in others) > 1 else id[:SHORT]


def _against(name: str, key: ColumnKey, names: list[str]) -> list[str]:
    if len(names) == 1:
        return []
    return [f"vs {name}" + (f" ({str(key.reference)[:SHORT]})" if names.count(name) > 1 else "")]
