"""WebDataset shards: tar files in which files that share a name up to its first dot make one example."""

import json
import re
import tarfile
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from koala.distill.data.example import Example
from koala.distill.data.images import EXTENSIONS
from koala.distill.data.units import Numbered, broken, digest_of_ends, unit_names
from koala.errors import KoalaError

_NAME = re.compile(r"(?:\./)?((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)
_IMAGES = tuple(extension[1:] for extension in EXTENSIONS)
_END = bytes(512)  # an empty header


@dataclass
class _Group:
    """Files of one example, by what follows the first dot of their names; or where and why a shard ends too early."""

    offset: int
    key: str
    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # first byte, bytes
    problem: str = ""


class Tars:
    """Shards, one a unit: `key.jpg` is the image, `key.txt` the column `text`, `key.cls` the column `cls`.

    `key.COLUMN.txt` is a further column, and `key.json` holds any number of them.
    """

    def __init__(self, shards: Sequence[Path], name: str):
        self.name, self._shards = name, list(shards)
        self._units = unit_names(self._shards)

    @property
    def units(self) -> Sequence[str]:
        """A shard each."""
        return self._units

    @property
    def digest(self) -> str:
        """Of the shards' names, sizes and ends."""
        return digest_of_ends(self._shards)

    def read(self, unit: int) -> Iterator[Example]:
        """The examples in the order of the shard, one in memory at a time; the last of a shard cut off says so."""
        with _opened(self._shards[unit]) as file:
            for group in _groups(file, 0):
                yield _example(file, group, self._units[unit])

    def indexed(self) -> Sequence[Example]:
        """All examples, found by reading the headers; 8 bytes of memory for each."""
        offsets = []
        for shard in self._shards:
            with _opened(shard) as file:
                offsets.append(array("q", (group.offset for group in _groups(file, 0))))

        def at(part: int, number: int) -> Example:
            with _opened(self._shards[part]) as file:
                return _example(file, next(_groups(file, offsets[part][number])), self._units[part])

        return Numbered([len(some) for some in offsets], at)


def _opened(shard: Path) -> BinaryIO:
    try:
        return open(shard, "rb")
    except OSError as error:
        raise KoalaError(f"cannot read {shard}: {error.strerror}") from error


def _groups(file: BinaryIO, offset: int) -> Iterator[_Group]:
    """The groups of a tar from the header at `offset` on; in the place of what is cut off, one with a problem."""
    size = file.seek(0, 2)
    group: _Group | None = None
    for member in _members(file, offset):
        if isinstance(member, int):  # the end of a damaged tar: what it cut through counts once
            if group and _image_of(group):
                yield group
            yield _Group(member, "", problem=f"the tar breaks off at byte {min(member, size)}")
            return
        match = _NAME.fullmatch(member.name)
        if not (match and member.isreg() and member.offset_data + member.size <= size):
            continue
        key, suffix = match[1], match[2].lower()
        if group and (key != group.key or suffix in group.files):
            yield group
            group = None
        group = group or _Group(member.offset, key)
        group.files[suffix] = (member.offset_data, member.size)
    if group:
        yield group


def _members(file: BinaryIO, offset: int) -> Iterator[tarfile.TarInfo | int]:
    """The headers of a tar from `offset` on, and if it has no proper end, where the next one should be."""
    file.seek(offset)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while member := tar.next():
                offset = tar.offset
                yield member
                tar.members = []  # type: ignore[attr-defined]  # or it keeps every header
            file.seek(offset)
            if file.read(len(_END)) != _END:
                yield offset
    except (tarfile.TarError, ValueError):
        yield offset


def _image_of(group: _Group) -> str | None:
    """The file of a group that is its image: key.jpg before key.mask.png."""
    images = [suffix for suffix in group.files if suffix.rpartition(".")[2] in _IMAGES]
    return min(images, key=lambda suffix: suffix.count("."), default=None)


def _example(file: BinaryIO, group: _Group, unit: str) -> Example:
    if group.problem:
        return broken(f"{unit}, byte {group.offset}", group.problem)
    key, image = f"{unit}/{group.key}", _image_of(group)
    if image is None:
        return broken(key, f"no image beside {', '.join(group.files)}")
    columns: dict[str, Any] = {}
    if "json" in group.files:
        try:
            columns |= json.loads(_bytes(file, group.files["json"]))
        except (ValueError, TypeError, RecursionError) as error:
            return broken(key, f"its json is no object of JSON: {error}")
    for suffix, place in group.files.items():
        if suffix == "cls" or suffix.rpartition(".")[2] == "txt":  # key.cls, key.txt or key.COLUMN.txt
            columns[suffix.removesuffix("txt").rstrip(".") or "text"] = _bytes(file, place).decode("utf-8", "replace")
    return Example(key, _bytes(file, group.files[image]), columns)


def _bytes(file: BinaryIO, place: tuple[int, int]) -> bytes:
    file.seek(place[0])
    return file.read(place[1])
