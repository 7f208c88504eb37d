"""Files written whole, and what they hold by its digest."""

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from koala.errors import KoalaError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex, read from beginning to end."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error


def read_text(path: Path) -> str:
    """What is in a UTF-8 file, with or without a byte order mark; every line ends with a line feed."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        looks = "looks like UTF-16" if data.startswith(_UTF16) else "is not UTF-8"
        raise KoalaError(f"{path} {looks} (byte {error.start}); save it as UTF-8") from error
    if "\0" in text:
        raise KoalaError(f"{path} holds null characters, as a file in UTF-16 or a binary one does; save it as UTF-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; a `KoalaError` if there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KoalaError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise KoalaError(f"{path} does not hold a JSON object")
    return found


def write_whole(path: Path, text: str) -> None:
    """Replace `path` with `text` in one step: a reader sees the old file or the new one, never half of it.

    Several processes may do so at once. The folder is made where it is missing.
    """
    write_folder(path.parent)
    _replace(path, text.encode(), path.with_name(f".{path.name}.{os.getpid()}"))


def write_folder(folder: Path) -> None:
    """Make `folder` and those above it, where they are missing."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KoalaError(f"cannot write {folder}: {error.strerror}") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path`, which nobody else writes, with `data` in one step and return when it is on disk."""
    # one name, so that the next attempt takes a dead one's place
    _replace(path, data, path.with_name(f".{path.name}.part"))


def _replace(path: Path, data: bytes, aside: Path) -> None:
    try:
        with open(aside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        raise KoalaError(f"cannot write {path}: {error.strerror}") from error
