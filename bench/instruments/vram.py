"""A large card that stands for a smaller one: a hard limit on what the process of a case may allocate.

A card of N bytes has to hold the context too (CUDA's own state and the kernels that were loaded), which no allocator
of torch counts. So the limit on torch's pool is N less the bytes that this process holds beside its pool.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from koala.errors import KoalaError

Message = dict[str, Any]


@runtime_checkable
class Cap(Protocol):
    """`hold()` sets the limit, and sets it anew once more of the context is there; `facts()` says what it was."""

    def hold(self) -> None:
        """Limit what is allocated from here on; a `KoalaError` says why this device cannot stand for that card."""
        ...

    def facts(self) -> Message:
        """`card_bytes`, `context_bytes`, `limit_bytes`, and `how` the card was emulated."""
        ...


@runtime_checkable
class Driver(Protocol):
    """What `koala.harness.nvml.Nvml` says of the memory of a GPU, in bytes; null where it does not."""

    def used_bytes(self, index: int) -> int | None: ...

    def process_bytes(self, index: int) -> dict[int, int | None] | None: ...


class ContextBytes:
    """Bytes of a GPU that this process holds beside torch's pool: by its own entry in the driver's list, or, where a
    container hides that, by how the GPU's used bytes have grown since this was made, before the GPU was first used.
    """

    def __init__(self, index: int, nvml: Driver, reserved: Callable[[], int]):
        self._index, self._nvml, self._reserved = index, nvml, reserved
        self._before = nvml.used_bytes(index)

    def now(self) -> int | None:
        """The bytes; null where the driver says neither, or where others freed so much that growth says nothing."""
        own = (self._nvml.process_bytes(self._index) or {}).get(os.getpid())
        if own is None:
            used = self._nvml.used_bytes(self._index)
            if used is None or self._before is None:
                return None
            own = used - self._before
        beside = own - self.pool()
        return beside if beside > 0 else None

    def pool(self) -> int:
        """Bytes that torch's pool has taken from the GPU."""
        return self._reserved()


class CudaCap:
    """A limit on the pool of torch's CUDA allocator (`set_per_process_memory_fraction`)."""

    def __init__(self, card_bytes: int, device: Any, cuda: Any, context: ContextBytes):
        self._card, self._device, self._cuda, self._context = card_bytes, device, cuda, context
        self._held: int | None = None

    def hold(self) -> None:
        """Limit the pool to the card less the context as it is now; a pool that is larger gives back what is free."""
        total = self._cuda.get_device_properties(self._device).total_memory
        if self._card > total:
            raise KoalaError(f"this GPU has {total} bytes and cannot stand for one of {self._card}")
        context = self._context.now()
        if context is None:
            raise KoalaError(
                "the driver does not say how large the context is, so that no smaller card can be emulated"
            )
        if context >= self._card:
            raise KoalaError(f"the context alone takes {context} bytes, more than a card of {self._card} has")
        self._held = context
        self._cuda.set_per_process_memory_fraction((self._card - context) / total, self._device)
        if self._context.pool() > self._card - context:  # else calls would go on in memory that the card lacks
            self._cuda.empty_cache()

    def facts(self) -> Message:
        """The context is the one that the limit in force was made with."""
        return {
            "card_bytes": self._card,
            "context_bytes": self._held,
            "limit_bytes": None if self._held is None else self._card - self._held,
            "how": "limit on torch's CUDA allocator: the card less the context of this process",
        }


class ProcessCap:
    """A limit on this process's private memory beyond what it holds already (Linux, `RLIMIT_DATA`).

    It stands for a card's memory where there is no card: weights and activations are counted, libraries are not.
    """

    def __init__(self, card_bytes: int):
        self._card = card_bytes
        self._base: int | None = None

    def hold(self) -> None:
        """Set the limit once: what the libraries hold does not grow by kernels that are loaded."""
        if self._base is not None:
            return
        import resource

        self._base = _data_bytes()
        if self._base is None:
            raise KoalaError("this system does not say what a process holds, so that no cap can be put on it")
        limit = self._base + self._card
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    def facts(self) -> Message:
        """The context is what the process held before the case."""
        return {
            "card_bytes": self._card,
            "context_bytes": self._base,
            "limit_bytes": self._card,
            "how": "limit on the process's private memory (RLIMIT_DATA) beyond what its libraries hold",
        }


def cap_for(card_bytes: int, device: Any, context: ContextBytes | None) -> Cap:
    """The cap that emulates a card of that many bytes on a torch device."""
    if device.type == "cuda":
        import torch

        assert context is not None
        return CudaCap(card_bytes, device, torch.cuda, context)
    return ProcessCap(card_bytes)


def _data_bytes() -> int | None:
    """Private writable memory of this process, as the kernel counts it against `RLIMIT_DATA`."""
    try:
        found = re.search(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
