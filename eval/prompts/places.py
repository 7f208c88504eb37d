"""Where the official files of suites are on this machine, and how they get there."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eval.prompts.entry import Entry, File
from koala.errors import KoalaError
from koala.harness.cache import aside, cache_folder
from koala.harness.files import sha256_of

if TYPE_CHECKING:
    from rich.console import Console

SUITES = "KOALA_SUITES"


@dataclass(frozen=True)
class Found:
    """A file that is here; verified where it is known to be the official one."""

    path: Path
    verified: bool


def find(entry: Entry, file: File) -> Found:
    """The file; a `KoalaError` says where it was looked for and how to get it, or that another one lies there."""
    wrong: dict[Path, str] = {}
    for path in places(entry, file):
        if not path.exists():
            continue
        if file.sha256 is None:
            return Found(path, False)
        if (digest := digest_of(path)) == file.sha256:
            return Found(path, True)
        wrong[path] = digest
    if wrong:
        path, digest = next(iter(wrong.items()))
        raise KoalaError(
            f"{path} is not the file of {entry.title}: its sha256 is {digest}, and should be {file.sha256}; "
            f"get it anew{f' from {file.url}' if file.url else ''}"
        )
    raise KoalaError(missing_message(entry, file))


def places(entry: Entry, file: File) -> Iterator[Path]:
    """Where a file may lie: beside a user's own suite, below KOALA_SUITES, in our cache or where it is made."""
    if entry.folder:
        yield entry.folder / file.path
    if named := os.environ.get(SUITES):
        root = Path(named).expanduser()
        yield root / entry.name / file.path
        yield root / entry.name / Path(file.path).name
        yield root / file.path
    yield Path(file.made_at) if file.made_at else stored(entry, file)


def stored(entry: Entry, file: File) -> Path:
    """Where a fetched file is kept."""
    return cache_folder() / "suites" / entry.name / file.path


def missing_message(entry: Entry, file: File) -> str:
    """What to say of a file that is nowhere: what it is, and every way to supply it."""
    known = f"sha256 {file.sha256}" if file.sha256 else "sha256 unknown"
    lines = [f"{file.path} of {entry.title} is not on this machine ({known})", "looked for:"]
    lines += [f"  {path}" for path in places(entry, file)]
    lines += ["ways to supply it:"]
    lines += [f"  {file.made_by}"] if file.made_by else []
    lines += [f"  python -m eval suites {entry.name} --fetch, with a network: {file.url}"] if file.url else []
    lines += [f"  {SUITES}=DIR: DIR/{entry.name}/{file.path}, from {entry.source}"]
    return "\n".join(lines)


def digest_of(path: Path) -> str:
    """sha256 of a file, or of the names and contents of the .txt files in a folder."""
    if path.is_file():
        return sha256_of(path)
    digest = hashlib.sha256()
    for text in sorted(path.glob("*.txt")):
        digest.update(f"{text.name} {sha256_of(text)}\n".encode())
    return digest.hexdigest()


def fetch(entry: Entry, file: File, console: "Console") -> Path:
    """The file from its address, checked before it takes its place; a `KoalaError` in one line says why not."""
    from eval.download import download

    if file.url is None:
        way = f"`{file.made_by}` makes it" if file.made_by else f"see {entry.source}"
        raise KoalaError(f"{file.path} of {entry.name}: there is no address to fetch it from; {way}")
    with aside(stored(entry, file)) as part:
        download(file.url, part, console)
        if file.sha256 and (digest := sha256_of(part)) != file.sha256:
            raise KoalaError(f"{file.url}: what came has sha256 {digest}, the official file {file.sha256}: not kept")
    return stored(entry, file)
