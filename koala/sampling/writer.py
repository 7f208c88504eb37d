"""Images on their way into a gallery: encoded and written by threads while the next ones are drawn."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from koala.errors import KoalaError
from koala.harness.records import Row
from koala.sampling.gallery import Gallery

_ENCODERS = max(1, min(4, (os.cpu_count() or 1) - 1))  # a PNG of 1024 px takes a third of a second
_WAITING = 64  # images that may wait for the disk: 200 MB at 1024 px


class Writer:
    """Writes images and their rows, in order; leaving the `with` block waits until all of them are on disk.

    What went wrong with one of them is raised by the next call. Rows follow their images one by one, so that a kill
    leaves no row without its image.
    """

    def __init__(self, gallery: Gallery):
        self._gallery = gallery
        self._encoders = ThreadPoolExecutor(_ENCODERS, "png")
        self._appender = ThreadPoolExecutor(1, "manifest")
        self._pending: deque[Future[Path]] = deque()
        self._broken: KoalaError | None = None

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._encoders.shutdown()
        self._appender.shutdown()

    def write(self, image: UInt8[np.ndarray, "h w 3"], row: Row) -> None:
        """Hand over an image; a clash with another one is an error now, a full disk at a later call."""
        row = self._gallery.described(row)
        self._gallery.refuse_clash(row)
        file = self._encoders.submit(self._gallery.write_image, image, row)
        self._pending.append(self._appender.submit(self._append, file, row))

    def written(self, all_of_them: bool = False) -> Iterator[Path]:
        """Those that are on disk by now, in order, or all after waiting for them; never lets too many wait."""
        while self._pending and (all_of_them or self._pending[0].done() or len(self._pending) > _WAITING):
            yield self._pending.popleft().result()

    def _append(self, file: "Future[Path]", row: Row) -> Path:
        if self._broken:  # a row that the disk took half of is the manifest's last
            raise self._broken
        path = file.result()
        try:
            self._gallery.append(row)
        except KoalaError as error:
            self._broken = error
            raise
        return path
