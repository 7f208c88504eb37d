"""What all sources share: names for their units, and their examples by number."""

import hashlib
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from koala.distill.data.example import Example


def broken(key: str, problem: str) -> Example:
    """What stands for an example that a source knows to be lost, so that it is counted and listed."""
    return Example(key, b"", {}, problem)


def unit_names(files: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, safe in a file's name; unlike files of one stem add a digest of their folder."""
    stems = [re.sub(r"[^A-Za-z0-9._-]", "-", file.stem) for file in files]
    times = Counter(stem.casefold() for stem in stems)
    return [
        stem if times[stem.casefold()] == 1 and stem == file.stem else f"{stem}-{_digest(file)}"
        for stem, file in zip(stems, files, strict=True)
    ]


def _digest(file: Path) -> str:
    """Of the last folder and the name alone: where a source is mounted changes no name."""
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode("utf-8", "surrogateescape")).hexdigest()[:8]


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
