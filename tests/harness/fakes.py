"""A stand-in for NVIDIA's management library, with made-up GPUs that may follow a script over time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

Scripted = Any  # a value, or a function from seconds to one; null is a question that the card does not support


class FakeNvmlError(Exception):
    """What the driver answers where it has no answer."""


class FakeMismatchError(Exception):
    """What pynvml raises, no kin of its NVMLError, where the driver lacks a versioned function."""


class FakeTime:
    """A clock that a test moves by hand, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass(frozen=True)
class FakeGpu:
    """One GPU in the driver's own units: bytes, MHz, mW and mJ."""

    name: str = "NVIDIA H200"
    uuid: str = "GPU-aaaaaaaa-1111"
    total: int = 150_754_820_096
    used: Scripted = 625_999_872
    sm_clock_mhz: int | None = 1980
    memory_clock_mhz: int | None = 3201
    power_limit_mw: int | None = 700_000
    default_power_limit_mw: int | None = 700_000
    computing: Scripted = field(default_factory=dict)  # bytes by process number
    drawing: Scripted = field(default_factory=dict)
    present_sm_clock_mhz: Scripted = 345
    clock_events: Scripted = 0x1  # idle
    temperature_c: Scripted = 32
    power_mw: Scripted = 75_000
    energy_mj: Scripted = 1_000_000
    persistence: int | None = 1
    ecc: int | None = 1
    mig: int | None = 0
    display: int | None = 0
    compute_mode: int | None = 0
    application_clock_mhz: int | None = 1980
    default_application_clock_mhz: int | None = 1980


class FakeNvml:
    """The functions of pynvml that Nvml calls; `driver=None` is a machine without a driver.

    `old` is a driver that has only the former name of the clock events.
    """

    NVMLError = FakeNvmlError
    NVMLLibraryMismatchError = FakeMismatchError
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_TEMPERATURE_GPU = 0

    def __init__(
        self,
        gpus: Sequence[FakeGpu] = (FakeGpu(),),
        driver: str | None = "580.95.05",
        now: Callable[[], float] = lambda: 0.0,
        old: bool = False,
    ):
        self.gpus, self.driver, self.initialised = list(gpus), driver, False
        self._now, self._old = now, old

    def nvmlInit(self) -> None:
        self._answer(self.driver)
        self.initialised = True

    def nvmlDeviceGetCount(self) -> int:
        assert self.initialised
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> FakeGpu:
        assert self.initialised
        return self.gpus[index]

    def nvmlDeviceGetName(self, handle: FakeGpu) -> str:
        return handle.name

    def nvmlDeviceGetUUID(self, handle: FakeGpu) -> str:
        return handle.uuid

    def nvmlDeviceGetMemoryInfo(self, handle: FakeGpu) -> SimpleNamespace:
        used = self._answer(handle.used)
        return SimpleNamespace(total=handle.total, used=used, free=handle.total - used)

    def nvmlSystemGetDriverVersion(self) -> str:
        return self._answer(self.driver)

    def nvmlSystemGetCudaDriverVersion_v2(self) -> int:
        return 13000

    def nvmlDeviceGetMaxClockInfo(self, handle: FakeGpu, kind: int) -> int:
        clocks = {self.NVML_CLOCK_SM: handle.sm_clock_mhz, self.NVML_CLOCK_MEM: handle.memory_clock_mhz}
        return self._answer(clocks[kind])

    def nvmlDeviceGetClockInfo(self, handle: FakeGpu, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return self._answer(handle.present_sm_clock_mhz)

    def nvmlDeviceGetApplicationsClock(self, handle: FakeGpu, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return self._answer(handle.application_clock_mhz)

    def nvmlDeviceGetDefaultApplicationsClock(self, handle: FakeGpu, kind: int) -> int:
        assert kind == self.NVML_CLOCK_SM
        return self._answer(handle.default_application_clock_mhz)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: FakeGpu) -> int:
        return self._answer(handle.power_limit_mw)

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: FakeGpu) -> int:
        return self._answer(handle.default_power_limit_mw)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: FakeGpu) -> list[SimpleNamespace]:
        return self._processes(handle.computing)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: FakeGpu) -> list[SimpleNamespace]:
        return self._processes(handle.drawing)

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: FakeGpu) -> int:
        return self._answer(None if self._old else handle.clock_events)

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: FakeGpu) -> int:
        return self._answer(handle.clock_events)

    def nvmlDeviceGetTemperature(self, handle: FakeGpu, sensor: int) -> int:
        assert sensor == self.NVML_TEMPERATURE_GPU
        return self._answer(handle.temperature_c)

    def nvmlDeviceGetPowerUsage(self, handle: FakeGpu) -> int:
        return self._answer(handle.power_mw)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: FakeGpu) -> int:
        return self._answer(handle.energy_mj)

    def nvmlDeviceGetPersistenceMode(self, handle: FakeGpu) -> int:
        return self._answer(handle.persistence)

    def nvmlDeviceGetEccMode(self, handle: FakeGpu) -> list[int]:
        return [self._answer(handle.ecc), 1]  # what is, and what will be after a restart

    def nvmlDeviceGetMigMode(self, handle: FakeGpu) -> list[int]:
        return [self._answer(handle.mig), 1]

    def nvmlDeviceGetDisplayActive(self, handle: FakeGpu) -> int:
        return self._answer(handle.display)

    def nvmlDeviceGetComputeMode(self, handle: FakeGpu) -> int:
        return self._answer(handle.compute_mode)

    def _processes(self, script: Scripted) -> list[SimpleNamespace]:
        used = script(self._now()) if callable(script) else script
        if used is None:
            raise self.NVMLLibraryMismatchError("a versioned function is missing")
        return [SimpleNamespace(pid=pid, usedGpuMemory=number) for pid, number in used.items()]

    def _answer(self, script: Scripted) -> Any:
        value = script(self._now()) if callable(script) else script
        if value is None:
            raise self.NVMLError("Not Supported")
        return value
