"""The folder of things that can be had again: fetched weights, features of references and captions, hashes of files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from koala.errors import KoalaError

CACHE = "KOALA_CACHE"


def cache_folder() -> Path:
    """The folder that KOALA_CACHE names, else koala-bench in the user's cache folder; it need not be there."""
    if named := os.environ.get(CACHE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "koala-bench"


def made(folder: Path) -> Path:
    """`folder`, made if it was not there; a `KoalaError` if nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise KoalaError(f"cannot write to {folder}: {error.strerror}; {CACHE}=DIR says where else") from error


@contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A file beside `target` that takes its place when the block ends well, and is removed when it does not."""
    part = made(target.parent) / f".{target.name}.{os.getpid()}"
    try:
        yield part
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
