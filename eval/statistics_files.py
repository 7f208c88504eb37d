"""Files of mean and covariance: those of pytorch-fid, clean-fid, MLPerf and torch-fidelity, and ours, which say more.

All but torch-fidelity's hold the arrays `mu` (d) and `sigma` (d d) as `.npz`; torch-fidelity's hold them as a
dictionary of arrays written by `torch.save`. Ours add `n` and `origin`, a JSON text. Nothing is unpickled.
"""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from eval.maths.gaussian import Gaussian
from koala.errors import KoalaError, UnknownName, first_few
from koala.harness.files import write_bytes

_ASYMMETRY = 1e-5  # of the greatest entry: what fp32 arithmetic leaves
OURS = "koala"

_KEYS = ("mu", "sigma", "n", "origin")
_TORCH = (".pt", ".pth")
# What the two readers raise on damaged files, beside OSError.
_DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    SyntaxError,
    MemoryError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
)
# What a torch-fidelity file consists of; numpy 1 and 2 call the first by different names.
_ARRAYS: list[Callable | tuple[Callable, str]] = [
    np._core.multiarray._reconstruct,
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    np.dtypes.Float32DType,
    np.dtypes.Float64DType,
]


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of features, and where a file of ours says they come from (else empty)."""

    gaussian: Gaussian
    origin: Mapping[str, Any] = field(default_factory=dict)


def read_statistics(path: Path) -> Statistics:
    """The statistics in a file of any of the tools; `KoalaError` names the file and what is wrong with which key."""
    arrays = _torch_file(path) if path.suffix in _TORCH else _npz_file(path)
    for key in ("mu", "sigma"):
        if key not in arrays:
            raise KoalaError(f"{path} has no {key!r}; it holds {first_few(sorted(arrays)) or 'nothing'}")
    mean, covariance = (_finite(arrays[key], key, path) for key in ("mu", "sigma"))
    if mean.ndim != 1 or not len(mean):
        raise KoalaError(f"{path}: 'mu' has the shape {mean.shape} and should be one row of numbers")
    if covariance.shape != (len(mean), len(mean)):
        raise KoalaError(
            f"{path}: 'sigma' has the shape {covariance.shape}, which does not fit 'mu' of {len(mean)} numbers"
        )
    if np.abs(covariance - covariance.T).max() > _ASYMMETRY * np.abs(covariance).max():
        raise KoalaError(f"{path}: 'sigma' is not symmetric, so it is no covariance")
    if (np.diagonal(covariance) < 0).any():
        raise KoalaError(f"{path}: 'sigma' has negative variances, so it is no covariance")
    covariance = (covariance + covariance.T) / 2
    gaussian = Gaussian(torch.from_numpy(mean), torch.from_numpy(covariance), _count(arrays, path))
    return Statistics(gaussian, _origin(arrays, path))


def write_statistics(path: Path, gaussian: Gaussian, tool: str = OURS, origin: Mapping[str, Any] | None = None) -> None:
    """Write statistics as `tool` (one of `TOOLS`) reads them; `origin` (extractor, feed ...) is kept by ours alone."""
    if tool not in TOOLS:
        raise UnknownName("tool", tool, TOOLS)
    suffix, write = TOOLS[tool]
    if path.suffix != suffix:
        raise KoalaError(f"{tool} reads statistics from a file called *{suffix}, not {path.name}")
    buffer = io.BytesIO()
    write(buffer, gaussian, dict(origin or {}))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, buffer.getvalue())


# ---- reading


def _npz_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`; those that are no part of statistics are empty, for they may be large."""
    try:
        with open(path, "rb") as file:
            content = np.load(file, allow_pickle=False)
            if not isinstance(content, np.lib.npyio.NpzFile):
                raise KoalaError(f"{path} is one array; statistics are an .npz of 'mu' and 'sigma'")
            arrays = {key: content[key] if key in _KEYS else np.empty(0) for key in content.files}
            return {key: array for key, array in arrays.items() if isinstance(array, np.ndarray)}
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise KoalaError(f"{path} is no whole .npz of arrays: {_line(error)}") from error


def _torch_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with torch.serialization.safe_globals(_ARRAYS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise KoalaError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise KoalaError(f"{path} is no file of statistics as torch-fidelity writes them: {_line(error)}") from error
    if not isinstance(content, dict):
        kind = type(content).__name__
        raise KoalaError(f"{path} holds a {kind}; torch-fidelity's statistics are called *-stat-fid-*.pt")
    return {str(key): np.asarray(value) for key, value in content.items()}


def _line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def _finite(array: np.ndarray, key: str, path: Path) -> np.ndarray:
    if array.dtype.kind not in "fiu":
        raise KoalaError(f"{path}: {key!r} holds {array.dtype}, not numbers")
    values = np.array(array, dtype=np.float64)
    if not np.isfinite(values).all():
        raise KoalaError(f"{path}: {key!r} holds {np.count_nonzero(~np.isfinite(values))} NaN or infinite numbers")
    return values


def _count(arrays: Mapping[str, np.ndarray], path: Path) -> int | None:
    if (n := arrays.get("n")) is None:
        return None
    if n.shape or n.dtype.kind not in "iu" or n < 2:
        raise KoalaError(f"{path}: 'n' should be a number of images, 2 or more, and is {n.tolist()}"[:200])
    return int(n)


def _origin(arrays: Mapping[str, np.ndarray], path: Path) -> dict[str, Any]:
    if (text := arrays.get("origin")) is None:
        return {}
    try:
        origin = json.loads(str(text))
    except ValueError:
        origin = None
    if not isinstance(origin, dict):
        raise KoalaError(f"{path}: 'origin' is no JSON object; leave it out or write the file again")
    return origin


# ---- writing


def _write_ours(file: io.BytesIO, gaussian: Gaussian, origin: dict[str, Any]) -> None:
    extra = {} if gaussian.n is None else {"n": np.int64(gaussian.n)}
    text = np.array(json.dumps(origin, sort_keys=True))
    np.savez(file, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy(), origin=text, **extra)


def _write_npz(file: io.BytesIO, gaussian: Gaussian, _: dict[str, Any]) -> None:
    np.savez_compressed(file, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())


def _write_torch(file: io.BytesIO, gaussian: Gaussian, _: dict[str, Any]) -> None:
    # torch-fidelity keeps the mean in the features' fp32 and compares only means of one dtype.
    torch.save({"mu": gaussian.mean.float().numpy(), "sigma": gaussian.covariance.numpy()}, file)


TOOLS: dict[str, tuple[str, Callable[[io.BytesIO, Gaussian, dict[str, Any]], None]]] = {
    OURS: (".npz", _write_ours),
    "pytorch-fid": (".npz", _write_npz),
    "clean-fid": (".npz", _write_npz),
    "mlperf": (".npz", _write_npz),
    "torch-fidelity": (".pt", _write_torch),
}
