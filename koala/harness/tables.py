"""pandas frames as CSV and markdown: the only place that rounds."""

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from koala.errors import KoalaError

MISSING = ""
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
    shown = pd.DataFrame(
        {
            name: [_cell(value, formats.get(str(name), str)) for value in frame[name]]
            for name in frame.columns
            if frame[name].notna().any()
        }
    )
    numeric = [name in formats for name in shown.columns]
    return shown.to_markdown(
        index=False, disable_numparse=True, colalign=tuple("right" if n else "left" for n in numeric)
    )


def _cell(value: Any, show: Format) -> str:
    if pd.isna(value):
        return MISSING
    return escape(show(value))


def escape(text: str) -> str:
    """Text that stays in its cell and opens no HTML tag; a "<" before a space is left alone."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text)
    return re.sub(r"\s*[\r\n]+\s*", " ", text).replace("|", "\\|")
