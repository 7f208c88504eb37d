"""A folder of encoded images: shards, the condition of no caption, and an index of what is finished.

`index.jsonl`, and `index.rank-N.jsonl` of further processes, hold what decided the content, then a row per finished
unit of the source. A unit without its row does not exist, whatever files there are.
"""

import json
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import torch

from koala.distill.batch import Batch
from koala.distill.data.order import number_below
from koala.distill.data.shards import (
    Drawn,
    Shard,
    condition_tensors,
    files_entry,
    joined,
    problem_with,
    read_condition,
    write_tensors,
)
from koala.errors import KoalaError, first_few
from koala.harness import records
from koala.harness.records import Row
from koala.models.conditioning import Condition
from koala.models.spec import ModelSpec

INDEX = "index.jsonl"
EMPTY = "empty.safetensors"
_OPEN_SHARDS = 8


@dataclass(frozen=True)
class Index:
    """What the index files of a folder say: what decided the content, and the newest row of every unit, in order."""

    folder: Path
    settings: Row
    units: dict[int, Row]
    empty: Row | None

    @property
    def shards(self) -> list[Row]:
        """Every shard, in the order of the source."""
        return [shard for unit in self.units.values() for shard in unit["shards"]]

    def whole(self, unit: int) -> bool:
        """Whether a unit is finished and its files are there."""
        return unit in self.units and not any(problem_with(self.folder, row) for row in self.units[unit]["shards"])

    def problems(self, digest: bool = False) -> list[str]:
        """What is wrong with each file; `digest`: read all of them and compare their sha256."""
        entries = [*([self.empty] if self.empty else []), *self.shards]
        return [problem for entry in entries if (problem := problem_with(self.folder, entry, digest))]


def read_index(folder: Path) -> Index:
    """The index of a cache, whether it is finished or not; an error where there is none."""
    index = _read_index(folder)
    if index is None:
        raise KoalaError(f"{folder} is no cache: it has no {INDEX}; `python -m koala encode` writes one")
    return index


def _read_index(folder: Path) -> Index | None:
    found = records.read(_index_files(folder)).rows
    settings = [row for row in found if row["kind"] == "cache"]
    if not settings:
        return None
    for other in settings[1:]:
        refuse_difference(folder, settings[0], other)
    units = {row["unit"]: row for row in found if row["kind"] == "unit"}
    empty = next((row for row in reversed(found) if row["kind"] == "empty"), None)
    return Index(folder, settings[0], {unit: units[unit] for unit in sorted(units)}, empty)


def refuse_difference(folder: Path, there: Row, here: Row) -> None:
    """A `KoalaError` that names what differs, where the content was decided by other settings."""
    differ = [name for name in sorted({*there, *here}) if there.get(name) != here.get(name)]
    if differ:
        said = "; ".join(f"{name}: {_short(there.get(name))} there, {_short(here.get(name))} here" for name in differ)
        raise KoalaError(f"{folder} holds a cache made with other settings ({said}); choose another --out")


def model_settings(spec: ModelSpec) -> Row:
    """What a model must have in common with the one that a cache was made for: its text encoders and latent space."""
    plan = spec.autoencoder
    latents = {"channels": spec.unet.sample_channels, "downscale": spec.downscale}
    scale = getattr(plan, "scaling_factor", 1.0)
    settings = {"conditioning": asdict(spec.conditioning), "latents": {**latents, "scaling_factor": scale}}
    return json.loads(json.dumps(settings))  # lists for tuples, as the index gives them back


class Cache:
    """Encoded images as training `Examples`; reading needs the memory of a batch, however many images there are.

    Which caption and which crop of an image is shown, `seed` and the position in the training decide.
    `unfinished`: take what is there of a cache that is still being written.
    """

    def __init__(self, folder: Path | str, seed: int = 0, unfinished: bool = False):
        self.folder, self._seed = Path(folder), seed
        self.index = read_index(self.folder)
        self._refuse_unfit(unfinished)
        self._shards = self.index.shards
        self._ends = list(accumulate(shard["rows"] for shard in self._shards))
        if not self._shards:
            raise KoalaError(f"{self.folder} holds no image; `python -m koala encode --check` says what was rejected")
        self._empty = read_condition(self.folder / EMPTY)
        self._open = lru_cache(_OPEN_SHARDS)(lambda name: Shard(self.folder, name))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def model(self) -> str:
        """The model of the zoo whose text encoders and autoencoder it was made with."""
        return self.index.settings["model"]

    @property
    def resolution(self) -> int:
        """Side of the square crops in pixels."""
        return self.index.settings["resolution"]

    def refuse_other(self, spec: ModelSpec, resolution: int) -> None:
        """A `KoalaError` unless `spec` can be trained with it at that resolution."""
        wanted, found = model_settings(spec), self.index.settings
        what = {"conditioning": "text encoders", "latents": "latent space"}
        for field, name in what.items():
            if wanted[field] != found[field]:
                raise KoalaError(f"{self.folder} was encoded for {self.model}, whose {name} {spec.name} does not have")
        if resolution != self.resolution:
            raise KoalaError(f"{self.folder} was encoded at {self.resolution} pixels, and {resolution} are asked for")

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        """The images with these numbers, in the order of the source."""
        drawn = [self._draw(index, position) for index, position in zip(indices, positions, strict=True)]
        return batch_of(drawn, positions, sized=self._empty.pooled is not None)

    def empty(self) -> Condition:
        """One row that stands for no caption: zeros, the empty prompt or no class, as the model was trained."""
        return self._empty

    def check(self) -> list[str]:
        """What is wrong with each file, every one of which is read from beginning to end."""
        return self.index.problems(digest=True)

    def _draw(self, index: int, position: int) -> Drawn:
        assert 0 <= index < len(self), index
        number = bisect_right(self._ends, index)
        shard = self._open(self._shards[number]["name"])
        row = index - self._ends[number] + self._shards[number]["rows"]
        return shard.draw(row, *choice(self._seed, position, shard.num_captions(row), shard.variants))

    def _refuse_unfit(self, unfinished: bool) -> None:
        again = "the same `python -m koala encode` command again"
        done, total = len(self.index.units), self.index.settings["units"]
        if self.index.empty is None or (done < total and not unfinished):
            raise KoalaError(f"{self.folder} is not finished: {done} of {total} units are; run {again}")
        if problems := self.index.problems():
            raise KoalaError(f"{first_few(problems, 3)}; {again} makes it anew")


class Writer:
    """The one process of that rank that adds to the index of a cache; `index` is what was there before it.

    Settings are written with the first row, so that those of a run that came to nothing bind nobody.
    """

    def __init__(self, folder: Path, settings: Row, rank: int = 0):
        self.folder, self._rank = folder, rank
        self._settings = json.loads(json.dumps({"schema": records.SCHEMA, "kind": "cache", **settings}))
        self._file = folder / (INDEX if rank == 0 else f"index.rank-{rank}.jsonl")

    def __enter__(self) -> "Writer":
        folder = self.folder
        if folder.exists() and not folder.is_dir():
            raise KoalaError(f"{folder} is a file, and a cache is a folder; choose another --out")
        if folder.is_dir() and not _index_files(folder) and any(path.name[0] != "." for path in folder.iterdir()):
            raise KoalaError(f"{folder} holds other files and no {INDEX}; choose another --out")
        self._store = records.Store(self._file)
        try:
            self.index = _read_index(folder) or Index(folder, self._settings, {}, None)
            refuse_difference(folder, self.index.settings, self._settings)
            self.has_empty = self.index.empty is not None and not problem_with(folder, self.index.empty)
            self._begun = bool(records.read([self._file]).of_kind("cache").rows)
        except BaseException:
            self._store.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._store.__exit__()

    def add_unit(self, unit: int, row: Row) -> None:
        """Finish a unit, whose shards are on the disk."""
        self._append({"kind": "unit", "unit": unit, **row})

    def add_empty(self, make: Callable[[], Condition]) -> None:
        """Write the condition of no caption, unless it is there."""
        if not self.has_empty:
            write_tensors(self.folder / EMPTY, condition_tensors(make()))
            self._append({"kind": "empty", "files": files_entry(self.folder, (EMPTY,))})
            self.has_empty = True

    def _append(self, row: Row) -> None:
        self._store.append(*([] if self._begun else [self._settings]), {"schema": records.SCHEMA, **row})
        self._begun = True


def choice(seed: int, position: int, captions: int, variants: int) -> tuple[int, int]:
    """Which caption and which variant of an image are shown at a position."""
    return number_below(captions, seed, position, "caption"), number_below(variants, seed, position, "variant")


def batch_of(drawn: Sequence[Drawn], positions: Sequence[int], sized: bool) -> Batch:
    """Images as a batch, one row each."""
    return Batch(
        clean=torch.stack([one.clean for one in drawn]),
        condition=joined([one.condition for one in drawn]),
        sizes=torch.stack([one.sizes for one in drawn]).float() if sized else None,
        positions=tuple(positions),
        keys=tuple(one.key for one in drawn),
        captions=tuple(one.caption for one in drawn),
        noise_seeds=None if drawn[0].seed is None else tuple(one.seed or 0 for one in drawn),
    )


def _index_files(folder: Path) -> list[Path]:
    return [path for pattern in (INDEX, "index.rank-*.jsonl") for path in sorted(folder.glob(pattern))]


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) < 60 else text[:57] + "..."
