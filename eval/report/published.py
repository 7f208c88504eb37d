"""The papers' numbers beside ours: marked as published, with every difference of protocol that is known."""

from pathlib import Path
from typing import Any

import pandas as pd

from koala import aliases
from koala.errors import KoalaError
from koala.harness.scores.headings import lines_of, plain, set_key, set_names, value_text
from koala.harness.tables import escape, read_cells, to_markdown

PATTERN = "*_published_quality.csv"
COLUMNS = (
    *("benchmark", "model", "steps", "guidance", "metric"),
    *("value", "low", "high", "n", "resolution", "source", "note"),
)
NUMBERS = ("steps", "guidance", "value", "low", "high", "n", "resolution")
_PROTOCOL = (("n", "n"), ("steps", "steps"), ("guidance", "guidance"), ("resolution", "height"))  # published, measured


def read_published(folder: Path) -> pd.DataFrame:
    """The numbers of all files of a folder; `value`, or the range from `low` to `high`, as the source prints it.

    Cells stay text, so that no digit is lost; an empty one was not given.
    """
    frames = [_read_file(path) for path in sorted(folder.glob(PATTERN))]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))


def _read_file(path: Path) -> pd.DataFrame:
    frame = read_cells(path, COLUMNS)
    for place, line in enumerate(frame.to_dict("records"), start=2):
        for name in NUMBERS:
            if line[name] and _number(line[name]) is None:
                raise KoalaError(f"{path}, line {place}: {name} is {line[name]!r}, and should be a number")
        if not line["model"] or not line["metric"] or not line["source"] or not (line["value"] or line["low"]):
            raise KoalaError(f"{path}, line {place}: model, metric, source and a value or range have to be there")
    return frame


def beside(published: pd.DataFrame, frame: pd.DataFrame) -> pd.DataFrame:
    """One line per published number of a measured model, ours beside it where its label is the bare standard one.

    Ours stays out where the model's weights were random.
    """
    measured = [line for line in lines_of(frame) if line["model"] is not None]
    names = set_names(frame) if measured else {}
    models = {canonical(line["model"]) for line in measured}
    lines = []
    for cell in published.to_dict("records"):
        if canonical(cell["model"]) not in models:
            continue
        ours = [
            line
            for line in measured
            if canonical(line["model"]) == canonical(cell["model"])
            and line["label"] == cell["metric"]
            and line["value"] is not None
            and not line["random_weights"]
        ]
        lines += [_line(cell, line, plain(names[set_key(line)])) for line in ours] or [_line(cell, None, None)]
    return pd.DataFrame(lines)


def render_published(published: pd.DataFrame, frame: pd.DataFrame) -> str:
    """The table of published numbers beside measured ones; a sentence where there are none."""
    lines = beside(published, frame) if not frame.empty else pd.DataFrame()
    if lines.empty:
        return "No number was published for the models of these sets, or none is on file.\n"
    right, notes = ("published", "measured"), {note: str(n) for n, note in enumerate(dict.fromkeys(lines["note"]), 1)}
    return "\n".join(
        [
            to_markdown(lines.assign(note=lines["note"].map(notes)), dict.fromkeys(right, str)),
            "",
            *(f"{n}. {escape(note)}." for note, n in notes.items()),
            "",
            "- *published* is copied from the source; *measured* is ours, only where the metric is the bare standard "
            "one (never `[unverified]`, a substitute, or images of random weights). Where *protocol differs* names "
            "something, or the images are of other prompts, the two numbers are not the same quantity.",
            "",
        ]
    )


def canonical(model: str) -> str:
    """Our name of a model, or the name itself where it has no alias."""
    return aliases.MODELS.get(model, model)


def _line(cell: dict[str, str], ours: dict[str, Any] | None, name: str | None) -> dict[str, Any]:
    return {
        "model": cell["model"],
        "metric": cell["metric"],
        "benchmark": cell["benchmark"],
        "published": cell["value"] or f"{cell['low']} to {cell['high']}",
        "measured": value_text(ours) if ours else None,
        "images of": name,
        "protocol differs": _differences(cell, ours) if ours else None,
        **{name: cell[name] or None for name in ("n", "steps", "guidance", "resolution")},
        "note": f"{cell['source']}; {cell['note']}" if cell["note"] else cell["source"],
    }


def _differences(cell: dict[str, str], ours: dict[str, Any]) -> str | None:
    """What of the protocol is known to differ: published against measured."""
    said = [
        f"{name} {cell[name]} against {float(ours[own]):g}"
        for name, own in _PROTOCOL
        if cell[name] and ours[own] is not None and _number(cell[name]) != float(ours[own])
    ]
    return ", ".join(said) or None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
