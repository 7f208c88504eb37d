"""Files written whole, and what they hold by its digest."""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from koala.errors import KoalaError


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex, read from beginning to end."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error


def write_whole(path: Path, text: str) -> None:
    """Replace `path` with `text` in one step: a reader sees the old file or the new one, never half of it."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise KoalaError(f"cannot write {path}: {error.strerror}") from error
