"""Where a weight file may lie on this machine, in the order of looking. Nothing is fetched."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from sysconfig import get_path

from eval.weights.file import WeightFile
from eval.weights.store import stored
from koala.models.spec import HubFile


@dataclass(frozen=True)
class Place:
    """A path where the file may lie."""

    path: Path
    chosen: bool = False  # by the user, in the folder of KOALA_WEIGHTS: it counts whatever its hash


def places(file: WeightFile) -> list[Place]:
    """Every place of `file`: KOALA_WEIGHTS, the caches of other tools, an installed package, our own cache."""
    listed = [*_caches(file), *_hub_cache(file), *_package(file), Place(stored(file))]
    return [*_mirror(file), *dict.fromkeys(listed)]


def mirror_folder() -> Path | None:
    """The folder that KOALA_WEIGHTS names, if any; a `KoalaError` if it is none."""
    from koala.models.weights.places import mirror  # torch, which a command line's --help need not wait for

    folder = mirror(HubFile(""))
    return folder.root if folder else None


def cache_path(template: str) -> Path:
    """The path of an entry of `WeightFile.caches`."""
    return Path(template.format(mirror="$KOALA_WEIGHTS", torch_hub=torch_hub()))


def torch_hub() -> Path:
    """torch.hub's folder, as TORCH_HOME says now."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "torch"
    return Path(home).expanduser() / "hub"


def hub_files(file: WeightFile) -> list[HubFile]:
    """The files of the hub's repository that hold the weights, the preferred one first."""
    if file.hub is None:
        return []
    parent = file.hub.path.removesuffix(file.file)
    return [file.hub, *(HubFile(file.hub.repository, parent + name, file.hub.revision) for name in file.also)]


def from_repository(file: WeightFile, path: Path, sha256: str) -> bool:
    """Whether `path` is what the hub's cache has of the file's own repository, whole: blobs there bear their sha256.

    Only the main branch counts: anyone may put weights into a pull request, which lies in the same cache.
    """
    from koala.models.weights.places import cached, repository_cache

    if file.hub is None:
        return False
    blob, blobs = path.resolve(), repository_cache(file.hub) / "blobs"
    main = [(snapshot.root / hub.path).resolve() for hub in hub_files(file) if (snapshot := cached(hub))]
    return blob in main and blob.parent == blobs.resolve() and blob.name == sha256


def _mirror(file: WeightFile) -> Iterator[Place]:
    root = mirror_folder()
    if root is None:
        return
    for hub in hub_files(file):
        yield Place(root / hub.repository / hub.path, chosen=True)
    yield Place(root / file.name / file.file, chosen=True)
    for template in file.caches:
        if template.startswith("{mirror}"):
            yield Place(Path(template.format(mirror=root)), chosen=True)


def _caches(file: WeightFile) -> Iterator[Place]:
    return (Place(cache_path(template)) for template in file.caches if not template.startswith("{mirror}"))


def _hub_cache(file: WeightFile) -> Iterator[Place]:
    from koala.models.weights.places import cached, other_snapshots, repository_cache

    for hub in hub_files(file):
        snapshot = cached(hub)
        folders = [*([snapshot.root] if snapshot else []), *other_snapshots(hub)]
        nowhere = repository_cache(hub) / "snapshots" / "*"  # so that an error says where it was looked for
        yield from (Place(folder / hub.path) for folder in folders or [nowhere])


def _package(file: WeightFile) -> Iterator[Place]:
    if file.package is None:
        return
    try:
        path = Path(str(distribution(file.package.distribution).locate_file(file.package.path)))
    except PackageNotFoundError:
        path = Path(get_path("purelib"), file.package.path)
    yield Place(path)
