"""Packages of the registries: fetched by npm or pip, checked by sha256, read without being installed."""

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from koala.errors import KoalaError
from koala.harness.cache import aside, cache_folder, made
from koala.harness.files import sha256_of

FOLDER = "packages"  # below the cache folder
Tool = Literal["npm", "pip"]
_BLOCK = 1 << 20
_LICENCE = re.compile(r"(^|/)LICEN[CS]E[^/]*$", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """A release of a package, as its registry distributes it."""

    tool: Tool
    name: str
    version: str
    file: str
    sha256: str
    licence: str
    instead: str = ""  # of fetching it

    @property
    def requirement(self) -> str:
        """As the tool is asked for it."""
        return f"{self.name}{'@' if self.tool == 'npm' else '=='}{self.version}"


def archive(package: Package) -> Path:
    """The package's file: of the cache folder, else fetched; a `KoalaError` says what to do where it cannot be had."""
    kept = cache_folder() / FOLDER / package.file
    if kept.is_file():
        _check(package, kept)
        return kept
    with TemporaryDirectory(dir=made(kept.parent)) as folder:
        advice = f", or put {package.file} into {kept.parent}{package.instead}"
        came = fetch(package.tool, package.requirement, Path(folder), advice)
        if came.name != package.file:
            raise KoalaError(f"{package.tool} gave {came.name} for {package.requirement}, not {package.file}")
        _check(package, came)
        came.replace(kept)
    return kept


def fetch(tool: Tool, requirement: str, folder: Path, advice: str = "") -> Path:
    """The one file of a release, downloaded into the empty `folder` without what it depends on."""
    program = shutil.which("npm") if tool == "npm" else sys.executable
    if program is None:
        raise KoalaError(f"npm is not installed, which fetches {requirement}: install Node.js{advice}")
    if tool == "npm":
        command = [program, "pack", requirement, "--silent", f"--pack-destination={folder}"]
    else:
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check"]
        options += ["--progress-bar=off", "--retries=2", "--timeout=15", "--quiet", f"--dest={folder}"]
        command = [program, "-m", "pip", "download", *options, requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=folder)
    came = [path for path in folder.iterdir() if path.is_file()]
    if done.returncode or len(came) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        reason = said[-1].removeprefix("ERROR: ") if said else "it gave no file"
        raise KoalaError(f"{tool} cannot fetch {requirement}: {reason}")
    return came[0]


def members(path: Path, prefix: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Files of an archive whose name begins and ends so: the part between, and what they hold."""
    for name, data in _files(path, lambda name: name.startswith(prefix) and name.endswith(suffix)):
        yield name.removeprefix(prefix).removesuffix(suffix), data


def member(path: Path, name: str) -> bytes:
    """One file of an archive."""
    for _, data in _files(path, lambda found: found == name):
        return data
    raise KoalaError(f"{path} has no {name}")


def licences(path: Path) -> dict[str, str]:
    """The texts of the licences in an archive by the names of their files."""
    return {name: data.decode() for name, data in _files(path, lambda name: bool(_LICENCE.search(name)))}


def unpack(wheel: Path, name: str, target: Path, sha256: str | None) -> None:
    """Put the file `name` out of `wheel` at `target`, whole and with that digest or not at all."""
    with aside(target) as part:
        try:
            with zipfile.ZipFile(wheel) as files, files.open(name) as file, part.open("wb") as out:
                while block := file.read(_BLOCK):
                    out.write(block)
        except (KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise KoalaError(f"{wheel.name} has no whole {name}") from error
        except OSError as error:
            raise KoalaError(f"cannot write {target}: {error.strerror}") from error
        require(part, sha256)


def require(part: Path, sha256: str | None) -> None:
    """Raise a `KoalaError` unless the file that came has the digest that is known of it."""
    if sha256 and (digest := sha256_of(part)) != sha256:
        raise KoalaError(f"what came has sha256 {digest}, the standard file {sha256}: not kept")


def _files(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            for name in filter(wanted, wheel.namelist()):
                yield name, wheel.read(name)
        return
    with tarfile.open(path) as tar:
        for entry in tar:
            if entry.isfile() and wanted(entry.name) and (stream := tar.extractfile(entry)):
                yield entry.name, stream.read()


def _check(package: Package, path: Path) -> None:
    if (found := sha256_of(path)) != package.sha256:
        raise KoalaError(f"{path} has sha256 {found}, and {package.requirement} has {package.sha256}: remove it")
