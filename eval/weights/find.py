"""Finds weight files on this machine, and says whether they are the standard ones."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from eval.weights import table
from eval.weights.file import WeightFile
from eval.weights.places import from_repository, places
from eval.weights.supply import missing_message
from koala.errors import KoalaError
from koala.harness.hashes import sha256


class MissingWeights(KoalaError):
    """A weight file is not on this machine and cannot be fetched; the message says which, and where to put it."""


@dataclass(frozen=True)
class Found:
    """A weight file on this machine."""

    path: Path
    sha256: str
    verified: bool  # it is the standard file: its hash, or the repository it came from, says so
    made: bool = False  # there is no standard one: each is made for the images it judges, and told by its hash


class Weights:
    """Finds weight files by name; `user` are the paths that the user gave."""

    def __init__(self, user: Mapping[str, Path] | None = None):
        self.user = {name: path.expanduser() for name, path in (user or {}).items()}
        for name, path in self.user.items():
            table.get(name)
            if not path.exists():
                raise KoalaError(f"--weights {name}={path}: there is no such file")
            if not path.is_file():
                raise KoalaError(f"--weights {name}={path}: that is no file; give the file itself")

    def find(self, name: str) -> Found:
        """The file; `MissingWeights` if it is nowhere. Nothing is fetched.

        What the user gives counts whatever it holds; elsewhere a file with another hash than the standard one's, as a
        torn download, is passed over.
        """
        file = table.get(name)
        if name in self.user:
            return examine(file, self.user[name])
        looked: dict[Path, str] = {}
        for place in places(file):
            if not place.path.is_file():
                looked[place.path] = "not there"
                continue
            found = examine(file, place.path)
            if found.verified or place.chosen or not hash_known(file, place.path):
                return found
            looked[place.path] = f"another file, sha256 {found.sha256}"
        raise MissingWeights(missing_message(file, looked))

    def missing(self, names: Iterable[str]) -> list[WeightFile]:
        """Those of `names` that are nowhere on this machine."""
        return [table.get(name) for name in dict.fromkeys(names) if self._lacks(name)]

    def _lacks(self, name: str) -> bool:
        try:
            self.find(name)
        except MissingWeights:
            return True
        return False


def examine(file: WeightFile, path: Path) -> Found:
    """What lies at `path`: the standard file if its hash says so, or its repository where no hash is known."""
    digest = sha256(path)
    if hash_known(file, path):
        return Found(path, digest, digest == file.sha256)
    return Found(path, digest, from_repository(file, path, digest), made=file.made_by is not None)


def hash_known(file: WeightFile, path: Path) -> bool:
    """Whether the table has a hash for the file at `path`; it has none for the other forms of the same weights."""
    return file.sha256 is not None and path.name not in file.also
