"""NVIDIA's management library: what GPUs there are, what they do and how they are set, without a CUDA context."""

import os
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from itertools import takewhile
from typing import Any

# Bits of nvml.h (nvmlClocksEventReason..., nvmlClocksThrottleReason...) that hold clocks below what was asked for.
# The others are an idle GPU, a setting of the user's or the display's, and the voltage of the highest clock.
THROTTLE_REASONS = {
    0x004: "power cap",
    0x008: "hardware slowdown",
    0x010: "sync boost",
    0x020: "thermal (software)",
    0x040: "thermal (hardware)",
    0x080: "power brake",
    0x200: "board limit",
}
HELD_BY_SETTING = 0x002  # application clocks, or clocks locked by nvidia-smi -lgc
_COMPUTE_MODES: dict[int | None, str] = {0: "default", 2: "prohibited", 3: "exclusive process"}
_UNKNOWN_BYTES = 2**64 - 1  # NVML_VALUE_NOT_AVAILABLE


@dataclass(frozen=True)
class Settings:
    """How one GPU is set up; clocks in Hz, power in W, null where the driver does not say.

    The driver tells no one whether clocks are locked, only whether a setting holds them at this moment.
    """

    persistence: bool | None
    ecc: bool | None
    mig: bool | None
    display: bool | None  # whether a screen is driven by this GPU
    compute_mode: str | None
    power_limit_w: float | None
    default_power_limit_w: float | None
    application_clock_hz: int | None
    default_application_clock_hz: int | None
    clocks_held: bool | None


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
            sm_clock_max_hz=self._ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM, scale=10**6),
            memory_clock_max_hz=self._ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM, scale=10**6),
            power_limit_w=self._ask("nvmlDeviceGetEnforcedPowerLimit", handle, scale=1e-3),
        )

    def uuid(self, index: int) -> str | None:
        """The name that nvidia-smi knows the GPU by, whatever CUDA_VISIBLE_DEVICES makes of its number."""
        return self._ask("nvmlDeviceGetUUID", self._handles[index])

    def used_bytes(self, index: int) -> int | None:
        """Bytes in use on the whole device, by every process and the driver; null where it does not say."""
        info = self._ask("nvmlDeviceGetMemoryInfo", self._handles[index])
        return None if info is None else info.used

    def process_bytes(self, index: int) -> dict[int, int | None] | None:
        """Bytes in use by each process on the GPU, computing or drawing; null where the driver does not say.

        In a container the numbers are the host's, which differ from those that the container sees.
        """
        handle = self._handles[index]
        answers = [self._ask(f"nvmlDeviceGet{kind}RunningProcesses", handle) for kind in ("Compute", "Graphics")]
        if all(answer is None for answer in answers):
            return None
        used: dict[int, int | None] = {}
        for process in (process for answer in answers for process in answer or ()):
            known = process.usedGpuMemory if process.usedGpuMemory != _UNKNOWN_BYTES else None
            both = [n for n in (known, used.get(process.pid)) if n is not None]  # it may compute and draw
            used[process.pid] = max(both, default=None)
        return used

    def sm_clock_hz(self, index: int) -> int | None:
        """The clock of the streaming multiprocessors at this moment."""
        nvml = self._nvml
        return self._ask("nvmlDeviceGetClockInfo", self._handles[index], nvml.NVML_CLOCK_SM, scale=10**6)

    def temperature_c(self, index: int) -> int | None:
        """Temperature of the chip in degrees Celsius."""
        nvml = self._nvml
        return self._ask("nvmlDeviceGetTemperature", self._handles[index], nvml.NVML_TEMPERATURE_GPU)

    def power_w(self, index: int) -> float | None:
        """Power of the whole board; from Ampere on (but GA100) the driver gives the mean of the last second."""
        return self._ask("nvmlDeviceGetPowerUsage", self._handles[index], scale=1e-3)

    def energy_j(self, index: int) -> float | None:
        """Energy that the board has used since the driver was loaded; cards before Volta do not count it."""
        return self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handles[index], scale=1e-3)

    def throttle_reasons(self, index: int) -> frozenset[str] | None:
        """What holds the clocks down at this moment; settings of the user and an idle GPU do not count."""
        bits = self._clock_events(index)
        return None if bits is None else frozenset(name for bit, name in THROTTLE_REASONS.items() if bits & bit)

    def settings(self, index: int) -> Settings:
        """How the visible GPU of that number is set up."""
        nvml, handle = self._nvml, self._handles[index]
        bits = self._clock_events(index)
        return Settings(
            persistence=_switch(self._ask("nvmlDeviceGetPersistenceMode", handle)),
            ecc=_switch(self._ask("nvmlDeviceGetEccMode", handle)),
            mig=_switch(self._ask("nvmlDeviceGetMigMode", handle)),
            display=_switch(self._ask("nvmlDeviceGetDisplayActive", handle)),
            compute_mode=_COMPUTE_MODES.get(self._ask("nvmlDeviceGetComputeMode", handle)),
            power_limit_w=self._ask("nvmlDeviceGetEnforcedPowerLimit", handle, scale=1e-3),
            default_power_limit_w=self._ask("nvmlDeviceGetPowerManagementDefaultLimit", handle, scale=1e-3),
            application_clock_hz=self._ask("nvmlDeviceGetApplicationsClock", handle, nvml.NVML_CLOCK_SM, scale=10**6),
            default_application_clock_hz=self._ask(
                "nvmlDeviceGetDefaultApplicationsClock", handle, nvml.NVML_CLOCK_SM, scale=10**6
            ),
            clocks_held=None if bits is None else bool(bits & HELD_BY_SETTING),
        )

    def driver_cuda(self) -> tuple[int, int] | None:
        """The newest CUDA version that the driver supports, as (major, minor)."""
        number = self._ask("nvmlSystemGetCudaDriverVersion_v2") if self._handles else None
        return None if number is None else (number // 1000, number % 1000 // 10)

    def _clock_events(self, index: int) -> int | None:
        handle = self._handles[index]
        bits = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if bits is None:  # drivers before 535 know only the older name
            bits = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        return bits

    def _ask(self, question: str, *args: Any, scale: int | float | None = None) -> Any | None:
        function = getattr(self._nvml, question, None)  # later libraries drop what is deprecated
        if function is None:
            return None
        try:
            answer = function(*args)
        except (self._nvml.NVMLError, self._nvml.NVMLLibraryMismatchError):  # not every card answers every question
            return None
        return answer if scale is None else answer * scale


def _switch(state: Any) -> bool | None:
    """A mode that is on or off; of a pair, the present one and not the one after a restart."""
    present = state[0] if isinstance(state, list | tuple) else state
    return None if present is None else bool(present)
