"""Images in a folder: with the metadata.jsonl or metadata.csv of the datasets library's imagefolder, or a gallery."""

import csv
import json
import os
import posixpath
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from koala.distill.data.example import Example
from koala.distill.data.units import Numbered, broken, digest_of
from koala.errors import KoalaError, first_few
from koala.harness.files import sha256_of
from koala.sampling.gallery import Gallery

METADATA = ("metadata.jsonl", "metadata.csv")
FILE_NAME = "file_name"
ROWS_PER_UNIT = 1000
_BOM = b"\xef\xbb\xbf"


@runtime_checkable
class Metadata(Protocol):
    """A file of rows that can be read from any of them on."""

    path: Path

    def records(self, offset: int | None = None) -> Iterator[tuple[int, Any]]:
        """Where each record begins, in bytes, and the record; from that place on, or all of them."""
        ...

    def parse(self, record: Any) -> Mapping[str, Any] | str:
        """The columns of a record, or what is wrong with it."""
        ...


class JsonLines:
    """One JSON object a line; blank lines are none."""

    def __init__(self, path: Path):
        self.path = path

    def records(self, offset: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Lines as bytes."""
        position = offset or 0
        with open(self.path, "rb") as file:
            file.seek(position)
            for line in file:
                if line.strip():
                    yield position, line
                position += len(line)

    def parse(self, record: bytes) -> Mapping[str, Any] | str:
        """The object, if it is one."""
        try:
            row = json.loads(record.removeprefix(_BOM))
        except (ValueError, RecursionError) as error:
            return f"no JSON: {error}"
        return row if isinstance(row, dict) else "JSON, but no object"


class CommaSeparated:
    """A CSV file in UTF-8 whose first row names the columns; quoted cells may span lines."""

    def __init__(self, path: Path):
        self.path = path
        header = next(self._rows(0), None)
        self._columns = header[1] if header else []

    def records(self, offset: int | None = None) -> Iterator[tuple[int, list[str]]]:
        """Cells; rows without any are none."""
        rows = self._rows(offset or 0)
        if offset is None:
            next(rows, None)
        yield from rows

    def parse(self, record: list[str]) -> Mapping[str, Any] | str:
        """The cells by column."""
        if len(record) != len(self._columns):
            return f"{len(record)} cells for {len(self._columns)} columns"
        return dict(zip(self._columns, record, strict=True))

    def _rows(self, offset: int) -> Iterator[tuple[int, list[str]]]:
        position = start = offset

        def lines() -> Iterator[str]:
            nonlocal position
            for line in file:
                text = line if position else line.removeprefix(_BOM)
                position += len(line)
                yield text.decode("utf-8")

        with open(self.path, "rb") as file:
            file.seek(offset)
            try:
                for cells in csv.reader(lines()):  # takes one line after the other, so `position` is the row's end
                    if cells:
                        yield start, cells
                    start = position
            except UnicodeDecodeError as error:
                raise KoalaError(f"{self.path} is not UTF-8 near byte {start}; save it as UTF-8") from error
            except csv.Error as error:
                raise KoalaError(f"cannot read {self.path} near byte {start}: {error}") from error


class Folder:
    """Images whose captions stand in one metadata file at the top of their folder, or in several further down."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.resolve().name
        files = metadata_files(path)
        if len(folders := {file.parent for file in files}) < len(files):
            twice = next(folder for folder in sorted(folders) if len([f for f in files if f.parent == folder]) > 1)
            raise KoalaError(f"{twice} has both {' and '.join(METADATA)}; keep one of them")
        self._metadata: list[Metadata] = [
            JsonLines(file) if file.suffix == ".jsonl" else CommaSeparated(file) for file in files
        ]
        self._starts = self._find_starts()

    def _find_starts(self) -> list[tuple[int, int, int]]:
        """Of each unit: its metadata file, the number of its first row there, and where that row begins."""
        starts = [
            (part, number, offset)
            for part, metadata in enumerate(self._metadata)
            for number, (offset, _) in islice(enumerate(metadata.records()), 0, None, ROWS_PER_UNIT)
        ]
        if not starts:
            raise KoalaError(f"{first_few(str(metadata.path) for metadata in self._metadata)} lists no images")
        self._check_file_names(starts[0])
        return starts

    def _check_file_names(self, start: tuple[int, int, int]) -> None:
        """A metadata file that names no files is a mistake, which no count of broken rows should hide."""
        part, _, offset = start
        metadata = self._metadata[part]
        rows = [metadata.parse(record) for _, record in islice(metadata.records(offset), ROWS_PER_UNIT)]
        columns = dict.fromkeys(name for row in rows if not isinstance(row, str) for name in row)
        if not columns:
            raise KoalaError(f"{metadata.path} has no row that can be read; the first: {rows[0]}")
        if FILE_NAME not in columns:
            raise KoalaError(f"{metadata.path} has no column {FILE_NAME}; there are: {first_few(columns, 30)}")

    @property
    def units(self) -> Sequence[str]:
        """A thousand rows each."""
        return [f"rows-{part}-{number:09d}" for part, number, _ in self._starts]

    @property
    def digest(self) -> str:
        """Of the metadata, not of the images."""
        return digest_of(*(sha256_of(metadata.path) for metadata in self._metadata))

    def read(self, unit: int) -> Iterator[Example]:
        """The rows in the order of the file; what is wrong with one stands in its place."""
        part, first, offset = self._starts[unit]
        metadata = self._metadata[part]
        for number, (_, record) in enumerate(islice(metadata.records(offset), ROWS_PER_UNIT), first):
            yield self._example(metadata, number, record)

    def indexed(self) -> Sequence[Example]:
        """All rows; 8 bytes of memory for each."""
        offsets = [array("q", (offset for offset, _ in metadata.records())) for metadata in self._metadata]

        def at(part: int, number: int) -> Example:
            metadata = self._metadata[part]
            _, record = next(metadata.records(offsets[part][number]))
            return self._example(metadata, number, record)

        return Numbered([len(some) for some in offsets], at)

    def _example(self, metadata: Metadata, number: int, record: Any) -> Example:
        place = metadata.path.relative_to(self.path).as_posix()
        row = metadata.parse(record)
        if isinstance(row, str):
            return broken(f"{place}, row {number + 1}", row)
        name = row.get(FILE_NAME)
        if not isinstance(name, str) or not name:
            return broken(f"{place}, row {number + 1}", f"no {FILE_NAME}")
        key = posixpath.normpath(posixpath.join(posixpath.dirname(place), name))
        if key.startswith(("/", "../")) or key in (".", "..") or "\0" in key:
            return broken(f"{place}, row {number + 1}", f"{FILE_NAME} is outside the folder: {name!r}")
        return Example(key, self.path / key, {column: row[column] for column in row if column != FILE_NAME})


def metadata_files(path: Path) -> list[Path]:
    """The metadata at the top of a folder, else all that lie further down, in order; hidden folders are left out."""
    if top := [path / name for name in METADATA if (path / name).is_file()]:
        return top
    found = []
    for folder, below, files in os.walk(path):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(folder, name) for name in METADATA if name in files]
    return found


class Drawn:
    """A gallery of `koala sample`: its prompts are the column `text`, its manifest's fields further ones."""

    def __init__(self, path: Path):
        self.path, self.name = path, path.resolve().name
        self._examples = self._read()

    def _read(self) -> list[Example]:
        listing = Gallery(self.path).read()
        there = [Example(row["file"], self.path / row["file"], {**row, "text": row["prompt"]}) for row in listing.rows]
        lost = [broken(file, "the manifest names it and it is not there") for file in listing.missing]
        if not there:
            raise KoalaError(f"{self.path} has a manifest and no image")
        return there + lost

    @property
    def units(self) -> Sequence[str]:
        """A thousand images each."""
        return [f"rows-{first:09d}" for first in range(0, len(self._examples), ROWS_PER_UNIT)]

    @property
    def digest(self) -> str:
        """Of the images' names and prompts."""
        return digest_of(*(part for one in self._examples for part in (one.key, one.columns.get("text"))))

    def read(self, unit: int) -> Iterator[Example]:
        """The images in the order of the manifest."""
        yield from self._examples[unit * ROWS_PER_UNIT : (unit + 1) * ROWS_PER_UNIT]

    def indexed(self) -> Sequence[Example]:
        """All images."""
        return self._examples
