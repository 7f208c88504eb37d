"""pandas frames as CSV and markdown: the only place that rounds."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from koala.errors import KoalaError

MISSING = ""
_SPECIAL = re.compile(r"[<|\r\n]")
Format = Callable[[Any], str]


def significant(digits: int) -> Format:
    """A format with that many significant digits and no exponent: 0.0123, 1.23, 123."""

    def show(value: Any) -> str:
        number = float(value)
        if number == 0:
            return "0"
        magnitude = int(f"{number:.{digits - 1}e}".partition("e")[2])  # after rounding: 9.996 is 10.0
        return f"{number:.{max(0, digits - 1 - magnitude)}f}"

    return show


def decimals(digits: int) -> Format:
    """A format with that many digits after the point, for shares below each other: 0.3, 12.0, 100.0, never -0.0."""
    return lambda value: f"{float(value):z.{digits}f}"


def gib(value: Any) -> str:
    """Bytes as GiB in three significant digits."""
    return significant(3)(float(value) / 2**30)


def read_cells(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A CSV file of exactly those columns; cells stay text, so that no digit is lost, an empty one too."""
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise KoalaError(f"cannot read {path}: {error}") from error
    if list(frame.columns) != list(columns):
        raise KoalaError(f"{path} should have the columns {','.join(columns)}")
    return frame


def to_csv(frame: pd.DataFrame) -> str:
    """Every column, unrounded; an empty cell was not measured."""
    return frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)


def to_markdown(frame: pd.DataFrame, formats: Mapping[str, Format] | None = None) -> str:
    """A markdown table of the columns that hold anything; text from outside cannot break out of its cell."""
    formats = formats or {}
    shown = [name for name in frame.columns if frame[name].notna().any()]
    if not shown:
        return ""
    columns = [_column(str(name), frame[name], formats.get(str(name))) for name in shown]
    rules = [
        "-" * (len(head) + 1) + ":" if str(name) in formats else ":" + "-" * (len(head) + 1)
        for name, (head, *_) in zip(shown, columns, strict=True)
    ]
    head, *lines = (f"| {' | '.join(cells)} |" for cells in zip(*columns, strict=True))
    return "\n".join([head, f"|{'|'.join(rules)}|", *lines])


def _column(head: str, values: pd.Series, show: Format | None) -> list[str]:
    """Head and cells of a column, all of one width; numbers, which have a format, to the right."""
    known = zip(values, values.isna(), strict=True)
    cells = [MISSING if missing else escape((show or str)(value)).strip() for value, missing in known]
    width = max(len(head) + 2, *map(len, cells))
    align = str.rjust if show else str.ljust
    return [align(cell, width) for cell in (head, *cells)]


def escape(text: str) -> str:
    """Text that stays in its cell and opens no HTML tag; a "<" before a space is left alone."""
    if not _SPECIAL.search(text):  # as of almost every cell of a large table
        return text
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"\s*[\r\n]+\s*", " ", text).replace("|", "\\|")
