"""sha256 of files, remembered, since gigabytes take seconds."""

import json
import time
from pathlib import Path

from koala.errors import KoalaError
from koala.harness.cache import cache_folder
from koala.harness.files import sha256_of, write_whole

_STATE = ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")  # the last two tell a copy that keeps the times of a file
_COARSE_NS = 2 * 10**9  # two writes within a tick of a file system's clock leave the same time


def sha256(path: Path) -> str:
    """The file's sha256 in hex; remembered until its size, its times of change or its place on the disk differ.

    A `KoalaError` if it cannot be read.
    """
    try:
        status = path.stat()
        key, state = str(path.resolve()), [getattr(status, name) for name in _STATE]
        known = _read()
        if key in known and known[key][:-1] == state:
            return known[key][-1]
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error
    digest = sha256_of(path)
    if time.time_ns() - status.st_mtime_ns > _COARSE_NS:
        _write(_read() | {key: [*state, digest]})
    return digest


def _memory() -> Path:
    return cache_folder() / "hashes.json"


def _read() -> dict[str, list]:
    """What is remembered; nothing if the file was not written by this."""
    try:
        known = json.loads(_memory().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(known, dict):
        return {}
    return {path: entry for path, entry in known.items() if isinstance(entry, list) and len(entry) == len(_STATE) + 1}


def _write(known: dict[str, list]) -> None:
    still = {path: entry for path, entry in known.items() if Path(path).exists()}
    try:
        write_whole(_memory(), json.dumps(still, indent=1))
    except KoalaError:  # a cache that cannot be written costs time, nothing else
        return
