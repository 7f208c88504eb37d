"""A folder of images and the manifest that says of each how it was made. Importing this file imports no torch."""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
from jaxtyping import UInt8

from koala.errors import KoalaError
from koala.harness import records
from koala.harness.files import write_bytes
from koala.harness.records import Row
from koala.sampling.png import encode_png, png_text, text_chunks

KIND = "image"
MANIFEST = "manifest.jsonl"
_MANIFESTS = re.compile(r"manifest(?:\.rank-([0-9]+))?\.jsonl")
_SLUG_LENGTH = 60

# Everything that decides an image beside its prompt and seed, to the rounding of the device's arithmetic.
SETTINGS = (
    "negative",
    "model",
    "weights",
    "weights_hash",
    "adapters",
    "recipe",
    "profile",
    "height",
    "width",
    "dtype",
    "start_latents",
)


def is_manifest(name: str) -> bool:
    """Whether a file of that name is a manifest: the one writer's, or that of one of several."""
    return _MANIFESTS.fullmatch(name) is not None


def _place(path: Path) -> int:
    found = _MANIFESTS.fullmatch(path.name)
    return int(found[1]) if found and found[1] else -1


def settings_key(row: Row) -> str:
    """A digest of all that decides an image but its prompt and seed."""
    return _digest(row, SETTINGS)


def image_key(row: Row) -> str:
    """A digest of all that decides an image: rows of equal keys describe the same picture."""
    return _digest(row, ("prompt", "seed", *SETTINGS))


def _digest(row: Row, names: Sequence[str]) -> str:
    text = json.dumps({name: row.get(name) for name in names}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_name(prompt: str, seed: int) -> str:
    """`0007-a-red-apple.png`: the same for the same prompt and seed, whoever asks, and safe on any file system.

    A prompt that its slug does not spell out (capitals, punctuation, length) adds a hash: `0007-a-red-apple--1b2c...`.
    """
    ascii_text = unicodedata.normalize("NFKD", prompt).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_text)[:_SLUG_LENGTH].strip("-")
    if not slug or slug.replace("-", " ") != prompt:
        slug += "--" + hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{seed:04d}-{slug}.png"


@dataclass(frozen=True)
class Listing:
    """What a gallery holds: the newest row of every image that is there, files that are missing, lines skipped."""

    rows: list[Row]
    missing: list[str]
    problems: list[str]


class Gallery:
    """Images in `folder`, each described by a row of its manifest. As a context manager it may be written to.

    `rank` gives each of several writers a manifest of its own; reading reads all of them.
    """

    def __init__(self, folder: Path | str, rank: int | None = None):
        self.folder = Path(folder)
        self.manifest = self.folder / (MANIFEST if rank is None else f"manifest.rank-{rank}.jsonl")
        self._store: records.Store | None = None
        self._keys: dict[str, str] = {}
        self._environments: set[str] = set()

    def __enter__(self) -> "Gallery":
        if self.folder.exists() and not self.folder.is_dir():
            raise KoalaError(f"{self.folder} is a file, and images go into a folder; choose another --out")
        names = [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        if any(name[0] != "." for name in names) and not any(map(is_manifest, names)):
            raise KoalaError(f"{self.folder} holds other files and no {MANIFEST}; choose another --out")
        self._store = records.Store(self.manifest)
        try:
            contents = self._records()
            self._keys = {row["file"]: image_key(row) for row in self._split(contents)[0]}
            self._environments = set(contents.environments)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._store:
            self._store.__exit__()
        self._store = None

    # ---- reading

    def read(self) -> Listing:
        """Everything in it; a row that names a file outside the folder is an error."""
        contents = self._records()
        return Listing(*self._split(contents), contents.problems)

    def rows(self) -> list[Row]:
        """The rows of the images that are there, the oldest first."""
        return self.read().rows

    def images(self) -> list[Path]:
        """The images that have a row, in the order of `rows`."""
        return [self.folder / row["file"] for row in self.rows()]

    def finished(self) -> set[str]:
        """The keys (`image_key`) of the images that are there: what a second run need not draw."""
        return {image_key(row) for row in self.rows()}

    def row_of(self, key: str) -> Row:
        """The row of the image with that key, which is there."""
        return next(row for row in self.rows() if image_key(row) == key)

    def _manifests(self) -> list[Path]:
        return sorted((path for path in self.folder.glob("manifest*.jsonl") if is_manifest(path.name)), key=_place)

    def _records(self) -> records.Records:
        manifests = self._manifests()
        if not manifests:
            raise KoalaError(f"{self.folder} is no gallery: it has no {MANIFEST}")
        return records.read(manifests)

    def _split(self, contents: records.Records) -> tuple[list[Row], list[str]]:
        """The newest row of each file that is there, and the files that are not."""
        images = contents.of_kind(KIND)
        root = os.path.realpath(self.folder)
        for row in images.rows:
            self._refuse_outside(row, root)
        newest = images.latest(lambda row: row["file"]).values()
        there = [row for row in newest if (self.folder / row["file"]).is_file()]
        return there, [row["file"] for row in newest if not (self.folder / row["file"]).is_file()]

    def _refuse_outside(self, row: Row, root: str) -> None:
        name = row.get("file")
        if not isinstance(name, str) or not name or "\0" in name or not isinstance(row.get("prompt"), str):
            raise KoalaError(f"a manifest in {self.folder} has an image row without a file name or a prompt: {row}")
        written = (PurePosixPath(name), PureWindowsPath(name))
        climbs = any(path.anchor or ".." in path.parts for path in written)
        if climbs or not os.path.realpath(self.folder / name).startswith(root.rstrip(os.sep) + os.sep):
            raise KoalaError(f"a manifest in {self.folder} names a file outside that folder: {name!r}")

    # ---- writing

    def write(self, image: UInt8[np.ndarray, "h w 3"], row: Row) -> Path:
        """The path of an image once it and its row are on disk.

        `row` holds the prompt, the seed and `SETTINGS`; an image that was drawn otherwise is never replaced.
        """
        row = self.described(row)
        self.refuse_clash(row)
        path = self.write_image(image, row)
        self.append(row)
        return path

    def described(self, row: Row) -> Row:
        """`row` as the manifest has it, with the name of its file."""
        return {"schema": records.SCHEMA, "kind": KIND, "file": file_name(row["prompt"], row["seed"]), **row}

    def write_image(self, image: UInt8[np.ndarray, "h w 3"], row: Row) -> Path:
        """Write the file of a row; any thread may. It is in the gallery once `append` has written the row."""
        path = self.folder / row["file"]
        write_bytes(path, encode_png(image, text_chunks(row)))
        return path

    def append(self, row: Row) -> None:
        """Write the row of an image whose file is on disk; one thread at a time."""
        assert self._store, "a gallery is written to within `with`"
        self._store.append(row)
        self._keys[row["file"]] = image_key(row)

    def add_environment(self, environment: Row) -> None:
        """Keep the environment that rows name by its id, once."""
        assert self._store, "a gallery is written to within `with`"
        if environment["id"] not in self._environments:
            self._store.append(environment)
            self._environments.add(environment["id"])

    def refuse_clash(self, row: Row) -> None:
        """Raise a `KoalaError` where the file of `row` is there already and is another image."""
        name = file_name(row["prompt"], row["seed"])
        path, key = self.folder / name, self._keys.get(name)
        if key is None:
            # An image whose row a kill prevented is drawn again; any other file stays.
            if path.exists() and png_text(path) != text_chunks(row):
                raise KoalaError(f"{path} exists and no manifest describes it; choose another --out")
        elif key != image_key(row):
            there = next(old for old in self.rows() if old["file"] == name)
            plain = json.loads(json.dumps(row))
            differ = [field for field in ("prompt", "seed", *SETTINGS) if there.get(field) != plain.get(field)]
            raise KoalaError(f"{path} exists, drawn with another {', '.join(differ)}; choose another --out")
