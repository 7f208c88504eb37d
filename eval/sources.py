"""Sets of images to score: a gallery, or a plain folder with or without a table of prompts. Imports no torch."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eval import prompt_table
from eval.images import EXTENSIONS
from koala.errors import KoalaError, first_few
from koala.harness.records import Row
from koala.sampling.gallery import SETTINGS, Gallery, is_manifest, settings_key

_BARE = ("model", "profile")  # settings that a set's name gives without saying what they are
_SHOWN = {"weights_hash": 8}  # characters of a setting in a set's name
_IGNORED_FOLDER = "__MACOSX"


@dataclass(frozen=True)
class Item:
    """One image file of a set, and what is known of it."""

    path: Path
    file: str  # its path inside the set's folder, with "/"
    prompt: str | None = None
    seed: int | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    expects: Mapping[str, Any] = field(default_factory=dict)  # as `eval.suite.Expectations`


@dataclass(frozen=True)
class ImageSet:
    """Images that are scored together: all of them drawn with the same settings, or one folder."""

    id: str  # a digest of the folder's path and the settings
    name: str
    path: Path
    settings: Mapping[str, Any]  # the fields of `koala.sampling.gallery.SETTINGS`; empty for a plain folder
    items: tuple[Item, ...]
    problems: tuple[str, ...] = ()  # what was left out and why, one line each


def read_sets(path: Path) -> list[ImageSet]:
    """The sets in a folder, at least one, none of them empty; `KoalaError` where there is no image."""
    if not path.exists():
        raise KoalaError(f"{path} does not exist; give a gallery or a folder of images")
    if not path.is_dir():
        raise KoalaError(f"{path} is a file; give a gallery or a folder of images (an archive must be unpacked first)")
    try:
        return _gallery(path) if _has_manifest([entry.name for entry in path.iterdir()]) else [_folder(path)]
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror}") from error


def _has_manifest(names: Sequence[str]) -> bool:
    return any(map(is_manifest, names))


def _id(path: Path, settings: Mapping[str, Any]) -> str:
    text = json.dumps([str(path.resolve()), settings], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- galleries


def _gallery(path: Path) -> list[ImageSet]:
    """A set for each combination of settings, in the order of their first images."""
    listing = Gallery(path).read()
    missing = [f"{file}: the manifest names it and it is not there" for file in listing.missing]
    if not listing.rows:
        raise KoalaError(f"{path} has a manifest and no image: {first_few(missing) or 'the manifest is empty'}")
    groups: dict[str, list[Row]] = {}
    for row in listing.rows:
        groups.setdefault(settings_key(row), []).append(row)
    settings = [_settings(rows[0]) for rows in groups.values()]
    # What is missing cannot be told to a setting: its row may be of another run. Every set says it.
    problems = (*missing, *listing.problems)
    return [
        ImageSet(_id(path, chosen), name, path, chosen, tuple(_item(path, row) for row in rows), problems)
        for chosen, name, rows in zip(settings, _names(settings, path), groups.values(), strict=True)
    ]


def _settings(row: Row) -> dict[str, Any]:
    """What decides an image; what came to be asked later is left out where it is not there, or sets changed ids."""
    return {name: row.get(name) for name in SETTINGS if name != "start_latents" or row.get(name)}


def _item(folder: Path, row: Row) -> Item:
    seed, tags, expects = row.get("seed"), row.get("tags"), row.get("expects")
    given = tags.items() if isinstance(tags, dict) else ()
    texts = {name: str(value) for name, value in given if value is not None}
    return Item(
        folder / row["file"],
        row["file"],
        row["prompt"],
        seed if isinstance(seed, int) else None,
        texts,
        expects if isinstance(expects, dict) else {},
    )


def _names(settings: Sequence[Mapping[str, Any]], folder: Path) -> list[str]:
    """Each set's model, then whatever else is not the same in all of them: "koala-700m compiled steps=10".

    One set in a folder that says more than its model ("koala-700m_steps4") is called as that is.
    """
    if len(settings) == 1 and folder.resolve().name.startswith(f"{settings[0]['model']}_"):
        return [folder.resolve().name]
    flat = [dict(_flat(chosen)) | {"model": chosen["model"] or folder.resolve().name} for chosen in settings]
    fields = dict.fromkeys(name for chosen in flat for name in chosen)
    differing = [name for name in fields if len({repr(chosen.get(name)) for chosen in flat}) > 1]
    shown = ["model", *(name for name in differing if name != "model")]
    return [" ".join(_said(name, chosen[name]) for name in shown if chosen.get(name) is not None) for chosen in flat]


def _flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The settings, those of the recipe among them."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from value.items()
        else:
            yield name, value


def _said(name: str, value: Any) -> str:
    text = str(value)[: _SHOWN.get(name)]
    return text if name in _BARE else f"{name}={text}"


# ---- plain folders


def _folder(path: Path) -> ImageSet:
    problems: list[str] = []
    files = _files(path, problems)
    table = prompt_table.read(path)
    images = {file: Item(path / file, file) for file in files if Path(file).suffix.lower() in EXTENSIONS}
    others = [file for file in files if file not in images and file not in prompt_table.FILES]
    if others:
        kinds = Counter(Path(file).suffix or "no suffix" for file in others)
        problems.append(f"{len(others)} other files ({', '.join(f'{n} {kind}' for kind, n in kinds.most_common(5))})")
    if not images:
        found = f"; found {first_few(problems)}" if problems else ""
        raise KoalaError(f"{path} holds no images ({', '.join(EXTENSIONS)}){found}")
    for file, row in table.items():
        if file in images:
            images[file] = replace(images[file], prompt=row.prompt, seed=row.seed, tags=row.tags)
        else:
            problems.append(f"{file}: the table of prompts names it and it is not among the images")
    if table and (bare := [file for file in images if file not in table]):
        problems.append(f"{len(bare)} images have no row in the table of prompts: {first_few(bare)}")
    return ImageSet(_id(path, {}), path.resolve().name, path, {}, tuple(images.values()), tuple(problems))


def _files(root: Path, problems: list[str]) -> list[str]:
    """The files below a folder, sorted by their path in it; hidden ones and links that lead out of it are left out."""
    inside = os.path.realpath(root).rstrip(os.sep) + os.sep
    found: list[str] = []

    def unlistable(error: OSError) -> None:
        problems.append(f"{os.path.relpath(error.filename, root)}: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=unlistable):
        folders[:] = [name for name in folders if not name.startswith(".") and name != _IGNORED_FOLDER]
        if folder != str(root) and _has_manifest(names):
            raise KoalaError(f"{root} holds galleries, {folder} for one; name the gallery to score")
        inner = Path(folder).relative_to(root)
        for name in (*folders, *(name for name in names if not name.startswith("."))):
            file, path = (inner / name).as_posix(), root / inner / name
            link = path.is_symlink()
            if not _is_utf8(file):
                problems.append(f"{file!a}: its name is not UTF-8; rename it")
            elif link and name in folders:
                problems.append(f"{file}: a link to a folder is not followed")
            elif link and not os.path.realpath(path).startswith(inside):
                problems.append(f"{file}: a link that leads out of the folder; put the file itself there")
            elif name not in folders:
                found.append(file)
    return sorted(found)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
