"""A captioned image before it is decoded, and where such come from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Example:
    """An image as its file's bytes or path, with its row of metadata."""

    key: str  # its name within the source, the same on every machine
    image: bytes | Path
    columns: Mapping[str, Any]
    problem: str = ""  # why there is no image, where the source knows; `image` is empty then


@runtime_checkable
class Source(Protocol):
    """Captioned images in units (a tar shard, a parquet file, a thousand rows) that are read one after the other."""

    name: str

    @property
    def units(self) -> Sequence[str]:
        """The name of each unit, safe as part of a file's name, in an order that is always the same."""
        ...

    @property
    def digest(self) -> str:
        """Another one once metadata or shards changed, seen without reading images; empty where that cannot be told."""
        ...

    def read(self, unit: int) -> Iterator[Example]:
        """The examples of a unit in an order that is always the same; few are in memory at once."""
        ...

    def indexed(self) -> Sequence[Example]:
        """All examples by number, for training without a cache."""
        ...
