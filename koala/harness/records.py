"""Rows as JSON lines that survive a kill: appended whole, synced, never rewritten; a torn line costs itself alone."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from koala.errors import KoalaError
from koala.harness.garbage import collection_paused

SCHEMA = 2
Row = dict[str, Any]


def _name_the_profile(row: Row) -> Row:
    """Bench cases name the profile they ran under; until then every pipeline was diffusers' own."""
    case = row.get("case")
    if row["kind"] != "bench" or not isinstance(case, dict):
        return row
    profile = "diffusers-eager" if case.get("target") == "pipeline" else "eager"
    return row | {"case": {**case, "profile": profile}}


# schema number -> how a row of it becomes one of the next number
UPGRADERS: dict[int, Callable[[Row], Row]] = {1: _name_the_profile}


@dataclass
class Records:
    """What one or several files hold: rows in order, environments by id, and every line that was skipped."""

    rows: list[Row] = field(default_factory=list)
    environments: dict[str, Row] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def environment(self, row: Row) -> Row:
        """The environment `row` was measured in; empty if its line is missing."""
        return self.environments.get(row.get("environment", ""), {})

    def of_kind(self, kind: str) -> "Records":
        """The rows of one kind, with all environments."""
        return Records([row for row in self.rows if row["kind"] == kind], self.environments, self.problems)

    def latest(self, key: Callable[[Row], Hashable]) -> dict[Hashable, Row]:
        """The row of each key that was started last; rows that do not say when stand in the order they were read."""
        return {key(row): row for row in sorted(self.rows, key=lambda row: row.get("started_at") or "")}

    def add(self, row: Row) -> None:
        """Take one parsed line in."""
        if row["kind"] == "environment":
            self.environments[row["id"]] = row
        else:
            self.rows.append(row)


def read(paths: Iterable[Path | str]) -> Records:
    """All rows of `paths`; a line that is no JSON is reported in `problems`, a file that is no store is an error."""
    records = Records()
    with collection_paused():
        for path in map(Path, paths):
            _read_file(path, records)
    return records


def _read_file(path: Path, records: Records) -> None:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error
    good, torn = 0, []
    for number, line in enumerate(lines, start=1):
        if not line or line.isspace():
            continue
        row = _parse(line)
        if row is None:
            torn.append(f"{path}, line {number}: not a whole row, skipped")
        else:
            records.add(row if row.get("schema", SCHEMA) == SCHEMA else upgraded(row, f"{path}, line {number}"))
            good += 1
    if torn and not good and not _first_line_torn(lines):
        raise KoalaError(f"{path} holds no rows: it is not a file of JSON lines written by this project")
    records.problems += torn


def _first_line_torn(lines: list[bytes]) -> bool:
    """Whether a file holds nothing but the beginning of its first row: its writer was killed then."""
    return len(lines) == 1 and lines[0].startswith(b'{"')


def _parse(line: bytes) -> Row | None:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:  # also of what is JSON to Python alone, such as numbers beyond 64 bits
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None
    known = isinstance(row, dict) and isinstance(row.get("kind"), str)
    return row if known and ("id" in row if row["kind"] == "environment" else True) else None


def upgraded(row: Row, origin: str) -> Row:
    """`row` as one of today's schema; `origin` says in an error where it was found."""
    schema = row.get("schema", SCHEMA)
    if schema not in (*UPGRADERS, SCHEMA):
        raise KoalaError(f"{origin}: schema {schema!r} is newer than this version reads, or none; upgrade koala-bench")
    while schema < SCHEMA:
        row, schema = UPGRADERS[schema](row) | {"schema": schema + 1}, schema + 1
    return row


class Store:
    """The one writer of a file of rows; a second writer of the same file is refused."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise KoalaError(f"cannot write {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._file)
            raise KoalaError(f"another run is writing {self.path}; wait for it or choose another --out") from error
        self._finish_torn_line()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def append(self, *rows: Row) -> None:
        """Write rows and return when they are on disk; a kill leaves the first of them whole."""
        self._write(b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows))

    def _write(self, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(self._file, data) :]
            os.fsync(self._file)
        except OSError as error:
            raise KoalaError(f"cannot write {self.path}: {error.strerror}; rows before it are whole") from error

    def _finish_torn_line(self) -> None:
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._write(b"\n")


def set_aside(path: Path) -> Path | None:
    """Rename an existing file so that a fresh one can start; its new name, or null if there was none.

    A file that another run is writing stays.
    """
    if not path.exists():
        return None
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
    for n in range(2, 1000):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.stem}.{stamp}-{n}{path.suffix}")
    with Store(path):
        try:
            return path.rename(aside)
        except OSError as error:
            raise KoalaError(f"cannot rename {path}: {error.strerror}") from error
