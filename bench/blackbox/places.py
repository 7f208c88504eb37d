"""Where a pipeline's folder lies: on this machine, in a mirror, in the hub's cache, or on the hub."""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from koala.errors import KoalaError
from koala.harness.files import read_json
from koala.models.spec import HubFile
from koala.models.weights.files import Layout, choose
from koala.models.weights.places import (
    MIRROR,
    Place,
    Unavailable,
    cache_folder,
    cached,
    mirror,
    online,
    repository_cache,
)

INDEX = "model_index.json"
_ID = re.compile(r"[\w.-]+/[\w.-]+")
_TEXTS = (".json", ".txt", ".model", ".jinja")  # configurations, vocabularies, chat templates
# What a network's weights are called, as diffusers and as transformers save them.
LAYOUTS = (Layout("", "diffusion_pytorch_model"), Layout("", "model", "pytorch_model"))


def locate(dir_or_id: str) -> tuple[str, Path]:
    """A short name and the folder of a pipeline; an id's is found nearby or downloaded, else a `KoalaError` says how
    to supply it.
    """
    folder = Path(dir_or_id).expanduser()
    if folder.is_dir():
        return folder.resolve().name, folder.resolve()
    if not _ID.fullmatch(dir_or_id):
        raise KoalaError(f"{dir_or_id!r} is neither a folder nor an id (owner/name) of a diffusers pipeline")
    file = HubFile(dir_or_id)
    for place in (mirror(file), cached(file)):
        if place is not None and _has_every_part(place.root):
            return dir_or_id, place.root
    try:
        return dir_or_id, _download(dir_or_id, online(file))
    except Unavailable as error:
        raise KoalaError(_ways_to_supply(file, error)) from error


def named_parts(index: Mapping[str, Any]) -> dict[str, tuple[str | None, str | None]]:
    """Library and class of every component in a model_index.json, (None, None) of one that is left out."""
    entries = {name: value for name, value in index.items() if not name.startswith("_")}
    return {name: (value[0], value[1]) for name, value in entries.items() if _is_part(value)}


def _is_part(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str | None) for v in value)


def _has_every_part(root: Path) -> bool:
    if not (root / INDEX).is_file():
        return False
    parts = named_parts(read_json(root / INDEX))
    return all((root / name).is_dir() for name, (library, _) in parts.items() if library and name != "safety_checker")


def _download(repository: str, hub: Place) -> Path:
    """The snapshot in the hub's cache, with configurations, vocabularies and one set of safetensors each."""
    if INDEX not in hub.names(""):
        raise KoalaError(f"{repository} on the hub has no {INDEX}: it is no diffusers pipeline")
    root = hub.fetch(INDEX).parent
    for part, (library, _) in named_parts(read_json(root / INDEX)).items():
        names = hub.names(part) if library and part != "safety_checker" else []
        wanted = [name for name in names if name.endswith(_TEXTS)]
        chosen = (choose(names, layout, "fp32") for layout in LAYOUTS)
        wanted += next((files for files in chosen if files and files[0].endswith(".safetensors")), ())
        for name in wanted:
            hub.fetch(str(PurePosixPath(part, name)))
    return root


def _ways_to_supply(file: HubFile, reason: Unavailable) -> str:
    snapshot = f"hub/{repository_cache(file).name}/snapshots/REVISION, its name in refs/main/{INDEX}"
    return "\n".join(
        [
            f"the pipeline {file.repository} is not on this machine, and the hub does not give it: {reason}",
            f"wanted: {INDEX}, and a folder for each component it names, with its .json and vocabulary files and its",
            "  .safetensors; where no network has any, it is timed with random weights",
            "ways to supply it:",
            "  --pipeline DIR: that folder, wherever it is",
            f"  {MIRROR}=DIR: DIR/{file.repository}/{INDEX}, and so on",
            f"  HF_HOME=DIR: DIR/{snapshot}, and so on",
            f"  a network: it is downloaded once, into {cache_folder()}",
        ]
    )
