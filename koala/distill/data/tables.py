"""Images inside tables: local parquet files, and the datasets that the datasets library finds by their id."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from koala.distill.data.example import Example
from koala.distill.data.units import Numbered, broken, digest_of_ends, unit_names
from koala.errors import KoalaError, first_few

IMAGE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp")
ROWS_PER_UNIT = 1000
_ROWS_AT_ONCE = 16
_BUFFER_BYTES = 1 << 20
_ID = re.compile(r"([\w.-]+/[\w.-]+)(?::([\w.-]+))?", re.ASCII)


class Parquet:
    """Local files of rows; a unit is as many row groups of a file as hold a thousand rows."""

    def __init__(self, files: Sequence[Path], name: str):
        self.name, self._files = name, list(files)
        self._units = self._find_units()

    def _find_units(self) -> list[tuple[str, int, list[int], int]]:
        """Name, file, row groups and number of rows of each unit."""
        units = []
        for number, (file, name) in enumerate(zip(self._files, unit_names(self._files), strict=True)):
            with _opened(file) as table:
                image_column(table.schema_arrow, file)
                sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
            first = 0
            for groups in _joined(sizes):
                rows = sum(sizes[group] for group in groups)
                units.append((f"{name}-{first:09d}", number, groups, rows))
                first += rows
        if not units:
            raise KoalaError(f"{first_few(map(str, self._files))} holds no rows")
        return units

    @property
    def units(self) -> Sequence[str]:
        """Row groups of a file."""
        return [name for name, *_ in self._units]

    @property
    def digest(self) -> str:
        """Of the files' names, sizes and ends."""
        return digest_of_ends(self._files)

    def read(self, unit: int) -> Iterator[Example]:
        """The rows in the order of the file; where it is damaged, one that says so in the place of the unit's rest."""
        name, file, groups, _ = self._units[unit]
        with _opened(self._files[file]) as table:
            column = image_column(table.schema_arrow, self._files[file])
            number = 0
            try:
                for batch in table.iter_batches(_ROWS_AT_ONCE, groups):
                    for row in batch.to_pylist():
                        yield _example(f"{name}/{number}", row, column)
                        number += 1
            except (OSError, pa.ArrowException) as error:
                yield broken(f"{name}/{number}", f"the table is damaged from here on: {error}")

    def indexed(self) -> Sequence[Example]:
        """All rows, in the datasets library's memory-mapped copy, which it keeps in its cache folder."""
        units = self._units
        with _opened(self._files[0]) as table:
            column = image_column(table.schema_arrow, self._files[0])
        rows = _undecoded(_load("parquet", "train", data_files=[_literal(file) for file in self._files]))
        counts = [count for *_, count in units]
        starts = [0, *accumulate(counts)]
        return Numbered(
            counts, lambda part, number: _example(f"{units[part][0]}/{number}", rows[starts[part] + number], column)
        )


def _joined(sizes: Sequence[int]) -> Iterator[list[int]]:
    """Neighbouring row groups that together have a thousand rows or more; the last may have fewer."""
    groups: list[int] = []
    rows = 0
    for group, size in enumerate(sizes):
        groups, rows = [*groups, group], rows + size
        if rows >= ROWS_PER_UNIT:
            yield groups
            groups, rows = [], 0
    if rows:
        yield groups


def _opened(file: Path) -> pq.ParquetFile:
    try:
        # As it comes, it holds a whole row group, and so all images of many a file; this way it holds a page.
        return pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise KoalaError(f"cannot read {file} as parquet: {error}") from error


def _literal(file: Path) -> str:
    """A path as a pattern that only this file matches."""
    return re.sub(r"([*?[])", r"[\1]", str(file))


def image_column(schema: pa.Schema, origin: Any) -> str:
    """The column whose cells are the files of images, or which the datasets library marks as such."""
    found = [field.name for field in schema if _holds_bytes(field.type)]
    named = [name for name in IMAGE_COLUMNS if name in found]
    if named or len(found) == 1:
        return (named or found)[0]
    raise KoalaError(
        f"{origin} has no column of images (bytes, or bytes and path), or several and none of them is called "
        f"{' or '.join(IMAGE_COLUMNS)}; there are: {first_few(schema.names, 30)}"
    )


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _example(key: str, row: Mapping[str, Any], column: str) -> Example:
    image, columns = row[column], {name: value for name, value in row.items() if name != column}
    data = image.get("bytes") if isinstance(image, Mapping) else image
    return Example(key, data, columns) if data else broken(key, "no image in its row")


class Hub:
    """A dataset by its id and split, read as a stream; a unit is a file of it."""

    def __init__(self, dataset: str, split: str = "train"):
        self.dataset, self.split = dataset, split
        self.name = f"{dataset}:{split}"
        rows = _load(dataset, split, streaming=True)
        if rows.features is None:  # formats that tell their columns only in their rows
            rows = rows._resolve_features()
        self._column = image_column(rows.features.arrow_schema, dataset)
        self._rows = _undecoded(rows)

    @property
    def units(self) -> Sequence[str]:
        """A file each."""
        return [f"{self.split}-{shard:05d}" for shard in range(self._rows.num_shards)]

    @property
    def digest(self) -> str:
        """None: the library does not say which revision it reads."""
        return ""

    def read(self, unit: int) -> Iterator[Example]:
        """The rows of a file in order; a connection that is lost is an error, for the images are not."""
        rows, name = self._rows.shard(self._rows.num_shards, unit), self.units[unit]
        try:
            for number, row in enumerate(rows):
                yield self._example(f"{name}/{number}", row)
        except _load_errors() as error:
            raise KoalaError(f"reading {self.name} broke off; start again to continue: {error}") from error

    def indexed(self) -> Sequence[Example]:
        """All rows, downloaded into the datasets library's cache folder and memory-mapped."""
        rows = _undecoded(_load(self.dataset, self.split))
        return Numbered([len(rows)], lambda _, number: self._example(f"{self.split}/{number}", rows[number]))

    def _example(self, key: str, row: Mapping[str, Any]) -> Example:
        return _example(key, _fetched(row, self._column), self._column)


def _undecoded(rows: Any) -> Any:
    """The rows with every image as the bytes or the path that it is stored as."""
    import datasets

    for name in [name for name, kind in rows.features.items() if isinstance(kind, datasets.Image)]:
        rows = rows.cast_column(name, datasets.Image(decode=False))
    return rows


def _fetched(row: Mapping[str, Any], column: str) -> Mapping[str, Any]:
    """The row with the bytes of an image that it only names: of a file in the dataset's own repository."""
    import fsspec

    image = row[column]
    if not isinstance(image, Mapping) or image.get("bytes") or not image.get("path"):
        return row
    with fsspec.open(image["path"], "rb") as file:
        return {**row, column: {"bytes": file.read()}}


def _load(dataset: str, split: str, **options: Any) -> Any:
    import datasets

    try:
        return datasets.load_dataset(dataset, split=split, **options)
    except _load_errors() as error:
        message = str(error).partition("\n")[0]
        raise KoalaError(
            f"{dataset!r} is no such path here, and the datasets library cannot load its split {split!r}: {message}"
        ) from error


def _load_errors() -> tuple[type[Exception], ...]:
    """What the datasets library raises where a dataset is not to be had; the hub's client changes its HTTP library."""
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    return (OSError, ValueError, RuntimeError, DatasetsError, *HfHubHTTPError.__bases__)


def hub_id(text: str) -> tuple[str, str] | None:
    """Id and split of "owner/name" or "owner/name:split"; None for anything else."""
    match = _ID.fullmatch(text)
    return (match[1], match[2] or "train") if match else None
