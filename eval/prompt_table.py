"""The prompts of a plain folder's images: `metadata.jsonl` or `metadata.csv`, as `datasets` reads for an imagefolder.

`file_name` says which image, `prompt`, `text` or `caption` what it shows, `seed` how it was drawn; all else are tags.
"""

import csv
import json
import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from koala.errors import KoalaError

FILES = ("metadata.jsonl", "metadata.csv")
_FILE, _SEED, _PROMPTS = "file_name", "seed", ("prompt", "text", "caption")


@dataclass(frozen=True)
class TableRow:
    """What the table says of one image."""

    prompt: str | None
    seed: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


def read(folder: Path) -> dict[str, TableRow]:
    """What the folder's table says, by the image's path in the folder; empty where there is no table."""
    there = [folder / name for name in FILES if (folder / name).is_file()]
    if not there:
        return {}
    if len(there) > 1:
        raise KoalaError(f"{folder} has both {' and '.join(FILES)}; keep one")
    (path,) = there
    rows: dict[str, TableRow] = {}
    try:
        for where, columns in _json_lines(path) if path.suffix == ".jsonl" else _csv_rows(path):
            file = _inside(columns.get(_FILE), where)
            row = _row(columns, where)
            if rows.setdefault(file, row) != row:
                raise KoalaError(f"{where}: {file!r} is named a second time, with other columns")
    except (OSError, UnicodeDecodeError) as error:
        raise KoalaError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from error
    return rows


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    # Split at \n alone: a prompt may hold the other characters that Python calls line ends.
    for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise KoalaError(f"{where}: not JSON") from error
        if not isinstance(row, dict):
            raise KoalaError(f"{where}: not a JSON object")
        yield where, row


def _csv_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                if None in row:
                    raise KoalaError(f"{where}: more columns than the header names; quote texts that hold commas")
                yield where, {name: value or None for name, value in row.items()}  # an empty cell says nothing
        except csv.Error as error:
            raise KoalaError(f"{path}, line {reader.line_num}: {error}") from error


def _inside(name: Any, where: str) -> str:
    """The image's path in the folder; `KoalaError` if it is none or leads out. Links are for the folder's reader."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise KoalaError(f"{where}: no {_FILE}")
    written = (PurePosixPath(name), PureWindowsPath(name))
    if any(path.anchor or ".." in path.parts for path in written):
        raise KoalaError(f"{where} names a file outside its folder: {name!r}")
    return posixpath.normpath(name)


def _row(columns: Mapping[str, Any], where: str) -> TableRow:
    used = next((name for name in _PROMPTS if columns.get(name) is not None), None)
    prompt = columns[used] if used else None
    if prompt is not None and not isinstance(prompt, str):
        raise KoalaError(f"{where}: {used} is no text: {json.dumps(prompt)[:80]}")
    seed = _whole(columns.get(_SEED))
    gone = {_FILE, used} | ({_SEED} if seed is not None else set())
    tags = {name: value for name, value in columns.items() if name not in gone and value is not None}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in tags.items()}
    return TableRow(prompt, seed, texts)


def _whole(value: Any) -> int | None:
    """A seed: a whole number, as JSON or as text."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
