"""What all sources share: names for their units, and their examples by number."""

import hashlib
import os
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from koala.distill.data.example import Example
from koala.errors import KoalaError

_END_BYTES = 2**16


def broken(key: str, problem: str) -> Example:
    """What stands for an example that a source knows to be lost, so that it is counted and listed."""
    return Example(key, b"", {}, problem)


def unit_names(files: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, safe in a file's name; unlike files of one stem add a digest of their path.

    That path begins at the last folder that holds all of them: where a source is mounted changes no name.
    """
    root = os.path.commonpath([file.absolute().parent for file in files])
    places = [file.absolute().relative_to(root) for file in files]
    stems = [re.sub(r"[^A-Za-z0-9._-]", "-", place.stem) for place in places]
    times = Counter(stem.casefold() for stem in stems)
    return [
        stem if times[stem.casefold()] == 1 and stem == place.stem else f"{stem}-{digest_of(place)[:8]}"
        for stem, place in zip(stems, places, strict=True)
    ]


def digest_of(*parts: object) -> str:
    """The sha256 of the parts as texts, in hex."""
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogatepass")).hexdigest()


def digest_of_ends(files: Iterable[Path]) -> str:
    """A digest of the names, sizes, beginnings and ends of large files, which another content hardly ever keeps."""
    return digest_of(*(part for file in files for part in (file.name, *_ends(file))))


def _ends(file: Path) -> tuple[int, str]:
    try:
        with open(file, "rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(size - _END_BYTES, 0))
            end = opened.read()
            opened.seek(0)
            return size, hashlib.sha256(opened.read(_END_BYTES) + end).hexdigest()
    except OSError as error:
        raise KoalaError(f"cannot read {file}: {error.strerror}") from error


class Numbered(Sequence[Example]):
    """Examples by number, those of all parts in order: `counts` is how many each has, `at(part, number)` one."""

    def __init__(self, counts: Sequence[int], at: Callable[[int, int], Example]):
        self._starts = [0, *accumulate(counts)]
        self._at = at

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: Any) -> Any:
        """The example with that number; slices are not read."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect_right(self._starts, index) - 1
        return self._at(part, index - self._starts[part])
