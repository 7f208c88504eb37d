"""NVIDIA's management library: what GPUs there are and how much of their memory is used, without a CUDA context."""

import os
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import takewhile
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver describes it; clocks in Hz, power in W, null where the driver does not say."""

    name: str
    memory_bytes: int
    driver: str
    sm_clock_max_hz: int | None
    memory_clock_max_hz: int | None
    power_limit_w: float | None


class Nvml:
    """The driver's view, limited to the GPUs that CUDA_VISIBLE_DEVICES leaves; none where there is no driver."""

    def __init__(self, library: Any = None, visible: str | None = None):
        self._nvml = library or import_module("pynvml")
        self._visible = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible

    @cached_property
    def _handles(self) -> list:
        try:
            self._nvml.nvmlInit()
        except self._nvml.NVMLError:
            return []
        handles = [self._nvml.nvmlDeviceGetHandleByIndex(i) for i in range(self._nvml.nvmlDeviceGetCount())]
        if self._visible is None:
            return handles
        found = (self._find(word.strip(), handles) for word in self._visible.split(","))
        return list(takewhile(lambda handle: handle is not None, found))  # CUDA stops at a word it does not know

    def _find(self, word: str, handles: list) -> Any | None:
        """A GPU by its number in PCI order or by the beginning of its UUID, the two ways CUDA accepts."""
        if word.isdigit():
            return handles[int(word)] if int(word) < len(handles) else None
        return next((h for h in handles if word and self._nvml.nvmlDeviceGetUUID(h).startswith(word)), None)

    def count(self) -> int:
        """Number of visible GPUs."""
        return len(self._handles)

    def gpu(self, index: int) -> Gpu:
        """The visible GPU of that number."""
        nvml, handle = self._nvml, self._handles[index]
        return Gpu(
            name=nvml.nvmlDeviceGetName(handle),
            memory_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
            driver=nvml.nvmlSystemGetDriverVersion(),
            sm_clock_max_hz=self._ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM, scale=10**6),
            memory_clock_max_hz=self._ask(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM, scale=10**6),
            power_limit_w=self._ask(nvml.nvmlDeviceGetEnforcedPowerLimit, handle, scale=1e-3),
        )

    def used_bytes(self, index: int) -> int | None:
        """Bytes in use on the whole device, by every process and the driver; null where it does not say."""
        info = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, self._handles[index])
        return None if info is None else info.used

    def _ask(self, question: Any, *args: Any, scale: int | float | None = None) -> Any | None:
        try:
            answer = question(*args)
        except self._nvml.NVMLError:  # not every card answers every question
            return None
        return answer if scale is None else answer * scale
