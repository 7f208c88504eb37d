"""Features of many images on disk: appended as they come, read back in chunks, whole after any kill."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from eval.maths.gaussian import Gaussian, gaussian
from koala.errors import KoalaError
from koala.types import Features

_KEY = 64  # characters of a key, a sha256 in hex
CHUNK = 2048  # rows read at a time


class FeatureSet:
    """The features of a set of images, in their order; rows stay on disk until they are asked for."""

    def __init__(self, rows: np.ndarray, order: Sequence[int] | np.ndarray | None = None):
        self._rows, self._order = rows, None if order is None else np.asarray(order, dtype=np.int64)

    @classmethod
    def of(cls, features: Features) -> "FeatureSet":
        """Features that are in memory already."""
        return cls(features.cpu().numpy())

    def __len__(self) -> int:
        return len(self._rows) if self._order is None else len(self._order)

    @property
    def dim(self) -> int:
        """Width of a row."""
        return self._rows.shape[1]

    def chunks(self, size: int = CHUNK) -> Iterator[Features]:
        """The rows, at most `size` at a time, fp32."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            rows = self._rows[part] if self._order is None else self._rows[self._order[part]]
            yield torch.from_numpy(np.array(rows, dtype=np.float32))

    def all(self) -> Features:
        """All rows in memory."""
        return torch.cat(list(self.chunks())) if len(self) else torch.zeros(0, self.dim)

    def sample(self, n: int, seed: int) -> "FeatureSet":
        """`n` rows drawn without replacement, in random order."""
        drawn = np.random.default_rng(seed).permutation(len(self))[:n]
        return FeatureSet(self._rows, drawn if self._order is None else self._order[drawn])

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean and covariance, in memory that does not grow with the number of rows."""
        return gaussian(self.chunks())


class Spool:
    """Features in a file, found by the content hash of their image. One writer; a torn end is cut off on opening."""

    def __init__(self, base: Path, dim: int):
        self.dim, self._width = dim, 4 * dim
        try:
            base.parent.mkdir(parents=True, exist_ok=True)
            self._data = os.open(base.with_name(base.name + ".f32"), os.O_RDWR | os.O_CREAT, 0o644)
            self._keys = os.open(base.with_name(base.name + ".keys"), os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._keys, fcntl.LOCK_EX)
        except OSError as error:
            raise KoalaError(f"cannot write features to {base}: {error.strerror}") from error
        self._base = base
        self.index = self._opened()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._data)
        os.close(self._keys)

    def __contains__(self, key: str) -> bool:
        return key in self.index

    def append(self, keys: Sequence[str], features: Features) -> None:
        """Keep one row per key and return when they are on disk; NaN and infinite rows are refused by the caller."""
        rows = features.to("cpu", torch.float32).contiguous().numpy()
        assert rows.shape == (len(keys), self.dim) and all(len(key) == _KEY for key in keys)
        start = len(self.index)
        try:
            _write(self._data, rows.tobytes(), start * self._width)
            _write(self._keys, "".join(f"{key}\n" for key in keys).encode(), start * (_KEY + 1))
        except OSError as error:
            raise KoalaError(f"cannot write {self._base}: {error.strerror}; earlier features are kept") from error
        self.index.update({key: start + place for place, key in enumerate(keys)})

    def rows(self, keys: Sequence[str]) -> Features:
        """The rows of some keys, which are there."""
        return self.select(keys).all()

    def select(self, keys: Sequence[str]) -> FeatureSet:
        """The set of images with those keys, in that order."""
        if not self.index:
            return FeatureSet(np.zeros((0, self.dim), np.float32))
        path = self._base.with_name(self._base.name + ".f32")
        rows = np.memmap(path, np.float32, "r", shape=(len(self.index), self.dim))
        return FeatureSet(rows, [self.index[key] for key in keys])

    def _opened(self) -> dict[str, int]:
        """What is whole on disk; whatever a kill left behind it is cut off."""
        text = os.pread(self._keys, os.fstat(self._keys).st_size, 0)
        whole = min(len(text) // (_KEY + 1), os.fstat(self._data).st_size // self._width)
        keys = text[: whole * (_KEY + 1)].decode().split()
        if len(keys) != whole or any(len(key) != _KEY for key in keys):
            raise KoalaError(f"{self._base}.keys is damaged; delete {self._base}.* and run again")
        os.ftruncate(self._keys, whole * (_KEY + 1))
        os.ftruncate(self._data, whole * self._width)
        return {key: place for place, key in enumerate(keys)}


def _write(file: int, data: bytes, place: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, place)
        view, place = view[done:], place + done
    os.fsync(file)
