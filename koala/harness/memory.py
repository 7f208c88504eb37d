"""Peak memory of this process and of its device, each kind under its own name, in bytes.

`rss_peak` is the whole process: interpreter, libraries, weights, activations. `rss_baseline` is what it held before
the work. `peak_allocated` are tensors, `peak_reserved` what torch's pool took from the GPU for them, both since before
the weights were loaded; `call_peak_allocated` and `call_peak_reserved` the same of a single call that began without
free blocks in the pool, so that no earlier call's are in them. What else the GPU holds (context, other processes) only
the driver knows.
"""

import ctypes
import gc
import re
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Bytes = dict[str, int | None]


@runtime_checkable
class MemoryMeter(Protocol):
    """`start()` forgets the past; `read()` gives the peaks since; `of_call()` those of one call, made for it."""

    def start(self) -> None: ...

    def read(self) -> Bytes: ...

    def of_call(self, call: Callable[[], object]) -> Bytes: ...


class RssMeter:
    """Resident memory of this process, from the kernel's own high-water mark."""

    def start(self) -> None:
        """Give freed memory back, then reset the high-water mark where the kernel allows it (Linux).

        Elsewhere the peak is that of the process's whole life.
        """
        gc.collect()
        with suppress(AttributeError, OSError):  # glibc keeps freed blocks of up to 32 MB for itself
            ctypes.CDLL(None).malloc_trim(0)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._baseline = _status_bytes("VmRSS")

    def read(self) -> Bytes:
        """`rss_baseline` and `rss_peak`."""
        return {"rss_baseline": self._baseline, "rss_peak": _status_bytes("VmHWM") or _lifetime_peak()}

    def of_call(self, call: Callable[[], object]) -> Bytes:
        """Nothing, and makes no call: what a process has freed, the kernel does not take from it at once."""
        return {}


class CudaMeter:
    """Tensors and pool of one GPU as torch's allocator counts them, beside the process's resident memory."""

    def __init__(self, device: Any, cuda: Any):
        self._device, self._cuda, self._rss = device, cuda, RssMeter()

    def start(self) -> None:
        """Give cached blocks back and count peaks from here."""
        self._rss.start()  # collects garbage first: an earlier case may still hold tensors in a cycle
        self._cuda.init()  # before that, torch has no statistics to reset and raises
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)

    def read(self) -> Bytes:
        """`peak_allocated` and `peak_reserved`, and what `RssMeter` reads."""
        return {
            "peak_allocated": self._cuda.max_memory_allocated(self._device),
            "peak_reserved": self._cuda.max_memory_reserved(self._device),
            **self._rss.read(),
        }

    def of_call(self, call: Callable[[], object]) -> Bytes:
        """`call_peak_allocated` and `call_peak_reserved` of one call; the peaks before it are forgotten."""
        self._cuda.empty_cache()
        self._cuda.reset_peak_memory_stats(self._device)
        call()
        self._cuda.synchronize(self._device)
        return {
            "call_peak_allocated": self._cuda.max_memory_allocated(self._device),
            "call_peak_reserved": self._cuda.max_memory_reserved(self._device),
        }


def meter_for(device: Any) -> MemoryMeter:
    """The meter of a torch device."""
    if device.type == "cuda":
        import torch

        return CudaMeter(device, torch.cuda)
    return RssMeter()


def _status_bytes(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found.group(1)) * 1024 if found else None


def _lifetime_peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
