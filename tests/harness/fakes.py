"""A stand-in for NVIDIA's management library, with made-up GPUs."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace


class FakeNvmlError(Exception):
    """What the driver answers where it has no answer."""


@dataclass(frozen=True)
class FakeGpu:
    """One GPU in the driver's own units: bytes, MHz and mW; null is a question it does not support."""

    name: str = "NVIDIA H200"
    uuid: str = "GPU-aaaaaaaa-1111"
    total: int = 150_754_820_096
    used: int = 625_999_872
    sm_clock_mhz: int | None = 1980
    memory_clock_mhz: int | None = 3201
    power_limit_mw: int | None = 700_000


class FakeNvml:
    """The functions of pynvml that Nvml calls; `driver=None` is a machine without a driver."""

    NVMLError = FakeNvmlError
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2

    def __init__(self, gpus: Sequence[FakeGpu] = (FakeGpu(),), driver: str | None = "580.95.05"):
        self.gpus, self.driver, self.initialised = list(gpus), driver, False

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
        return SimpleNamespace(total=handle.total, used=handle.used, free=handle.total - handle.used)

    def nvmlSystemGetDriverVersion(self) -> str:
        return self._answer(self.driver)

    def nvmlDeviceGetMaxClockInfo(self, handle: FakeGpu, kind: int) -> int:
        clocks = {self.NVML_CLOCK_SM: handle.sm_clock_mhz, self.NVML_CLOCK_MEM: handle.memory_clock_mhz}
        return self._answer(clocks[kind])

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: FakeGpu) -> int:
        return self._answer(handle.power_limit_mw)

    def _answer(self, value):
        if value is None:
            raise self.NVMLError("Not Supported")
        return value
