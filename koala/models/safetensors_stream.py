"""A safetensors file written one tensor at a time, of which no more than one is held."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from koala.errors import KoalaError

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.uint8: "U8",
}
_ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """A tensor as the header of a file describes it."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return prod(self.shape) * self.dtype.itemsize


def write(
    path: Path,
    entries: Mapping[str, Entry],
    take: Callable[[str], Tensor],
    metadata: Mapping[str, str],
    on_tensor: Callable[[str], None] = lambda _: None,
) -> int:
    """Write the new file `path` with what `take` returns for each key, and return its size in bytes.

    The file is on the disk when this returns. `on_tensor` hears of each key that is written.
    """
    entries = dict(sorted(entries.items(), key=lambda item: -item[1].dtype.itemsize))  # keeps all of them aligned
    header = _header(entries, metadata)
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for key, entry in entries.items():
            file.write(_bytes(take(key), entry))  # no name holds the tensor while the next one is made
            on_tensor(key)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _bytes(tensor: Tensor, entry: Entry) -> Any:
    """The values of `tensor` as a buffer of bytes."""
    assert (tensor.dtype, tuple(tensor.shape)) == (entry.dtype, entry.shape)
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()


def _header(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> bytes:
    described: dict[str, object] = {"__metadata__": dict(metadata)}
    start = 0
    for key, entry in entries.items():
        if entry.dtype not in _DTYPES:
            raise KoalaError(f"{key} is {entry.dtype}, which these files do not know; convert it to another dtype")
        end = start + entry.num_bytes
        described[key] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    header = json.dumps(described, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % _ALIGNMENT)
