"""A shard: encoded images in a safetensors file, and the words that belong to them in a JSONL file beside it.

Tensors: `clean` [rows, variants, c, h, w] in fp16, `sizes` [rows, variants, 6], and the condition of every caption
(`context`, `pooled` in fp16, `labels`), those of row i from `captions`[i] to `captions`[i + 1]. `lines` tells in the
same way where a row's line of JSON begins and ends, in bytes.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save  # save_file makes files that nobody else may read
from torch import Tensor

from koala.errors import KoalaError
from koala.harness.files import sha256_of, write_bytes
from koala.harness.records import Row
from koala.models.conditioning import Condition

STORED = torch.float16
_CONDITION = tuple(field.name for field in fields(Condition))


@dataclass(frozen=True)
class Encoded:
    """An image: each of its variants (crops, mirrored or not) encoded, and a row of the condition per caption."""

    key: str
    captions: tuple[str, ...]
    original: tuple[int, int]  # height and width in pixels before any resizing
    clean: Float[Tensor, "variants c h w"]
    sizes: Int[Tensor, "variants 6"]
    condition: Condition
    seed: int | None = None  # of the noise that it was drawn from, where a model drew it

    def stored(self) -> "Encoded":
        """As shards hold it, in fp16; a `KoalaError` for values that are none there."""
        for tensor in (self.clean, *condition_tensors(self.condition).values()):
            if not stored(tensor).isfinite().all():
                raise KoalaError(f"{self.key} has values that are no numbers in fp16; try --dtype bf16 or fp32")
        return replace(self, clean=stored(self.clean), condition=self.condition.map(stored))

    @property
    def num_bytes(self) -> int:
        """What it takes in a shard's safetensors file."""
        tensors = (self.clean, self.sizes, *condition_tensors(self.condition).values())
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@dataclass(frozen=True)
class Drawn:
    """One caption and one variant of an image."""

    key: str
    caption: str
    clean: Float[Tensor, "c h w"]
    sizes: Int[Tensor, "6"]
    condition: Condition  # of one row
    seed: int | None = None


def stored(tensor: Tensor) -> Tensor:
    """A tensor as shards hold it: on the CPU, floating point values in fp16."""
    return tensor.detach().to("cpu", STORED if tensor.is_floating_point() else None).contiguous()


def write_shard(folder: Path, name: str, images: Sequence[Encoded]) -> Row:
    """What the index says of the new shard `name` of `folder`, which is on the disk whole when this returns."""
    lines = [_line(image) for image in images]
    tensors = {
        "clean": torch.stack([image.clean for image in images]),
        "sizes": torch.stack([image.sizes for image in images]).int(),
        "captions": _offsets([len(image.captions) for image in images]),
        "lines": _offsets([len(line) for line in lines]),
    }
    tensors |= condition_tensors(joined([image.condition for image in images]))
    tensors_file, words_file = f"{name}.safetensors", f"{name}.jsonl"
    write_tensors(folder / tensors_file, tensors)
    write_bytes(folder / words_file, b"".join(lines))
    return {"name": name, "rows": len(images), "files": files_entry(folder, (tensors_file, words_file))}


def files_entry(folder: Path, names: Sequence[str]) -> Row:
    """Size and digest of files, by which `problem_with` knows them again."""
    return {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in names}


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write or replace a safetensors file in one step; equal tensors give equal bytes."""
    data = save({name: stored(tensor) for name, tensor in tensors.items()})
    write_bytes(path, data)


def problem_with(folder: Path, entry: Row, digest: bool = False) -> str:
    """What is wrong with the files of a shard that the index describes, "" if nothing; `digest`: read all of them."""
    for name, expected in entry["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if (size := path.stat().st_size) != expected["bytes"]:
            return f"{path} has {size:,} bytes, and {expected['bytes']:,} were written"
        if digest and sha256_of(path) != expected["sha256"]:
            return f"{path} is damaged: its sha256 is not the one that was written"
    return ""


class Shard:
    """Random access to the rows of a shard; of its files only what is asked for is read."""

    def __init__(self, folder: Path, name: str):
        self._words = folder / f"{name}.jsonl"
        path = folder / f"{name}.safetensors"
        try:
            self._file = safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise KoalaError(f"cannot read {path}: {error}; `python -m koala encode --check` says more") from error
        self._condition = [name for name in _CONDITION if name in self._file.keys()]  # noqa: SIM118 (it is no dict)
        self._captions, self._lines = self._file.get_tensor("captions"), self._file.get_tensor("lines")
        self.variants: int = self._file.get_slice("clean").get_shape()[1]

    def __len__(self) -> int:
        return len(self._captions) - 1

    @property
    def sized(self) -> bool:
        """Whether the model is told sizes, as those are that read a pooled embedding."""
        return "pooled" in self._condition

    def num_captions(self, row: int) -> int:
        """How many captions an image has."""
        return int(self._captions[row + 1] - self._captions[row])

    def draw(self, row: int, caption: int, variant: int) -> Drawn:
        """One caption and one variant of an image."""
        words = self._line_of(row)
        place = int(self._captions[row]) + caption
        return Drawn(
            words["key"],
            words["captions"][caption],
            self._file.get_slice("clean")[row, variant],
            self._file.get_slice("sizes")[row, variant],
            Condition(**{field: self._file.get_slice(field)[place : place + 1] for field in self._condition}),
            words.get("seed"),
        )

    def _line_of(self, row: int) -> Row:
        begin, end = int(self._lines[row]), int(self._lines[row + 1])
        try:
            with open(self._words, "rb") as file:
                return json.loads(os.pread(file.fileno(), end - begin, begin))
        except (OSError, ValueError) as error:
            raise KoalaError(f"cannot read {self._words}: {error}") from error


def read_condition(path: Path) -> Condition:
    """The condition that `write_tensors` wrote."""
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return Condition(**tensors)
    except (OSError, SafetensorError) as error:
        raise KoalaError(f"cannot read {path}: {error}") from error


def condition_tensors(condition: Condition) -> dict[str, Tensor]:
    """The fields that a model has."""
    values = {name: getattr(condition, name) for name in _CONDITION}
    return {name: value for name, value in values.items() if value is not None}


def joined(conditions: Sequence[Condition]) -> Condition:
    """The rows of all conditions, one below the other."""
    names = condition_tensors(conditions[0])
    return Condition(**{name: torch.cat([getattr(condition, name) for condition in conditions]) for name in names})


def _line(image: Encoded) -> bytes:
    row: Row = {"key": image.key, "captions": list(image.captions), "original": list(image.original)}
    if image.seed is not None:
        row["seed"] = image.seed
    return json.dumps(row).encode() + b"\n"


def _offsets(lengths: Sequence[int]) -> Int[Tensor, "n"]:  # noqa: F821
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)
