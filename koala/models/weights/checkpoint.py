"""The tensors of a file or of several shards, by name: mapped from the files and read when they are asked for."""

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from koala.errors import KoalaError

_TORCH = (".bin", ".pt", ".pth", ".ckpt")
ENDINGS = (".safetensors", *_TORCH)
_NESTED = ("state_dict", "model")  # where a training checkpoint has its weights


@runtime_checkable
class Tensors(Protocol):
    """Tensors by name, whose `str` says where they are from."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor."""
        ...

    def tensor(self, key: str) -> Tensor:
        """The tensor called `key`."""
        ...


@dataclass(frozen=True)
class Renamed:
    """The tensors of `source` under other names."""

    source: str
    tensors: Mapping[str, Tensor]

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}

    def tensor(self, key: str) -> Tensor:
        """The tensor called `key`."""
        return self.tensors[key]

    def __str__(self) -> str:
        return self.source


class Checkpoint:
    """`shapes` names every tensor; only headers have been read."""

    def __init__(self, paths: Sequence[Path]):
        """Open `paths`; a file that is damaged, or that would run code when read, is a `KoalaError`."""
        assert paths
        self.paths = tuple(paths)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._take: dict[str, Callable[[], Tensor]] = {}
        for path in self.paths:
            for key, shape, take in _open(path):
                self.shapes[key], self._take[key] = shape, take

    def __str__(self) -> str:
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0]}{more}"

    def tensor(self, key: str) -> Tensor:
        """The tensor called `key`, on the CPU and in the file's dtype."""
        return self._take[key]()


def _open(path: Path) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix in _TORCH:
        return _open_torch(path)
    raise KoalaError(f"{path}: weights are files that end in {', '.join(ENDINGS)}")


def _open_safetensors(path: Path) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    try:
        file = safe_open(path, "pt")
        keys = list(file.keys())
        shapes = [tuple(file.get_slice(key).get_shape()) for key in keys]
    except (SafetensorError, OSError, ValueError) as error:
        raise KoalaError(f"{path} is not a whole safetensors file ({error}); fetch it again") from error
    for key, shape in zip(keys, shapes, strict=True):
        yield key, shape, partial(file.get_tensor, key)


def _open_torch(path: Path) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    found = _load(path)
    tensors = _nested(found) if isinstance(found, Mapping) else found
    if not isinstance(tensors, Mapping) or not any(isinstance(value, Tensor) for value in tensors.values()):
        raise KoalaError(f"{path} holds no tensors by name")
    for key, value in tensors.items():
        if isinstance(value, Tensor):
            yield str(key), tuple(value.shape), partial(_itself, value)


def _nested(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The mapping of weights that a trainer wrote below a name; `found` itself where it wrote none."""
    return next((found[name] for name in _NESTED if isinstance(found.get(name), Mapping)), found)


def _load(path: Path) -> Any:
    """The objects in `path`, tensors mapped from it; torch's old format cannot be mapped and is read whole."""
    try:
        with path.open("rb") as file:
            mapped = file.read(2) == b"PK"  # a zip archive: torch's format since 1.6
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise KoalaError(
            f"{path} is damaged, or holds objects other than tensors, which could run code when they are read: "
            "it is not opened. Fetch it again, or save its tensors as .safetensors"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise KoalaError(f"{path} is not a whole torch checkpoint ({reason}); fetch it again") from error


def _itself(tensor: Tensor) -> Tensor:
    return tensor
