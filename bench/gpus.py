"""What a GPU can do at most, by its name: the table `gpus.toml`, and a probe for whatever is not in it."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.isolate import ForkServer

_PROBE_TIMEOUT_S = 60.0
_TF32_NOTE = "; without tensor cores, though torch lets convolutions in fp32 use them (TF32)"
# What may stand before a card's own name, depending on the age of the driver.
_MAKER = re.compile(r"^(nvidia )?(tesla |geforce )?")

Peak = dict[str, Any]


@dataclass(frozen=True)
class Gpu:
    """A card's nominal peaks: bytes, bytes/s and FLOP/s (dense, accumulated in fp32); None: it lacks that unit.

    `fp32_flops_per_s` is without tensor cores; `tf32_flops_per_s` is what they do with fp32 rounded to 10 bits.
    """

    key: str
    names: tuple[str, ...]
    memory_bytes: int
    bandwidth_bytes_per_s: float
    fp32_flops_per_s: float
    source: str
    fp16_flops_per_s: float | None = None
    bf16_flops_per_s: float | None = None
    tf32_flops_per_s: float | None = None

    def flops_per_s(self, dtype: str) -> float | None:
        """Peak FLOP/s in "fp32", "bf16" or "fp16"."""
        return {"fp32": self.fp32_flops_per_s, "bf16": self.bf16_flops_per_s, "fp16": self.fp16_flops_per_s}[dtype]


@cache
def _table() -> Mapping[str, Gpu]:
    tables = tomllib.loads(Path(__file__).with_name("gpus.toml").read_text(encoding="utf-8"))
    return {key: Gpu(key=key, **{**fields, "names": tuple(fields["names"])}) for key, fields in tables.items()}


def names() -> list[str]:
    """The keys of the table, the fastest GPU in fp16 first."""
    return sorted(_table(), key=lambda key: -(_table()[key].fp16_flops_per_s or 0.0))


def get(key: str) -> Gpu:
    """The GPU of that key."""
    return _table()[key]


def known(device_name: str) -> Gpu | None:
    """The GPU that NVML and CUDA call `device_name`; None where the table has no such card.

    Capitals, punctuation and the maker's name do not count, every other word does: a laptop's GPU, a slice of a
    partitioned one and a variant are other cards.
    """
    exact = {name: gpu for gpu in _table().values() for name in gpu.names}
    alike = {_plain(name): gpu for name, gpu in exact.items()}
    return exact.get(device_name) or alike.get(_plain(device_name))


def _plain(name: str) -> str:
    words = " ".join(re.findall(r"[a-z0-9]+", name.lower()))
    return _MAKER.sub("", words)


_probed: dict[tuple[str, str, str], Peak] = {}


def peak(server: ForkServer, device: str, device_name: str, dtype: str) -> Peak:
    """`flops_per_s`, `bytes_per_s` and `source` of a device for a dtype: from the table, else probed in about 2 s.

    A probe that fails leaves both rates null, and says why in `source`. Each device and dtype is probed once.
    """
    gpu = known(device_name)
    flops_per_s = gpu.flops_per_s(dtype) if gpu else None
    if gpu and flops_per_s is not None:
        note = _TF32_NOTE if dtype == "fp32" and gpu.tf32_flops_per_s else ""
        return {"flops_per_s": flops_per_s, "bytes_per_s": gpu.bandwidth_bytes_per_s, "source": gpu.source + note}
    key = (device, device_name, dtype)
    if key not in _probed:
        _probed[key] = _probe(server, device, dtype)
    return _probed[key]


def _probe(server: ForkServer, device: str, dtype: str) -> Peak:
    outcome = server.call("bench.gpus_probe:probe_peak", device, dtype, timeout_s=_PROBE_TIMEOUT_S)
    if outcome.result is None:
        return {"flops_per_s": None, "bytes_per_s": None, "source": f"not probed: {outcome.reason}"}
    return outcome.result
