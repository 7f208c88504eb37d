"""sha256 of the images of a folder, remembered, so that tens of thousands of files are read once."""

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eval.sources import Item
from koala.errors import KoalaError
from koala.harness.cache import cache_folder, made
from koala.harness.environment import cpu_cores
from koala.harness.files import sha256_of, write_whole

State = list[int | str]  # size, two times in nanoseconds, sha256; empty for a file that cannot be read


def file_hashes(root: Path, items: Sequence[Item]) -> dict[str, str]:
    """The sha256 of each file that can be read, by `Item.file`; those that have not changed are not read again."""
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
    store = made(cache_folder() / "hashes") / f"{name}.json"
    known = _known(store)
    with ThreadPoolExecutor(cpu_cores()) as pool:
        states = dict(pool.map(lambda item: (item.file, _hashed(item.path, known.get(item.file))), items))
    if states != known:
        write_whole(store, json.dumps(states))
    return {file: str(state[-1]) for file, state in states.items() if state}


def _known(store: Path) -> dict[str, State]:
    try:
        known = json.loads(store.read_text())
    except (OSError, ValueError):
        return {}
    return {file: state for file, state in known.items() if isinstance(state, list)} if isinstance(known, dict) else {}


def _hashed(path: Path, known: State | None) -> State:
    """The state of a file: the known one if it has not changed since."""
    try:
        now = path.stat()
        # The time of a change to the file's own record too: a copy may bring its old modification time along.
        state: State = [now.st_size, now.st_mtime_ns, now.st_ctime_ns]
        return known if known and known[:-1] == state else [*state, sha256_of(path)]
    except (OSError, KoalaError):
        return []
