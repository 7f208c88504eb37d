"""What a machine is like before a sweep: facts of the host and of one GPU, gathered in about a second without torch."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from koala.harness import environment
from koala.harness.nvml import Nvml, Settings

LOOK_S = 1.0
_NO_LIMIT = 2**60  # version 1 of cgroups writes the largest page-aligned number where there is no limit


@dataclass(frozen=True)
class HostFacts:
    """The host in shares, bytes and seconds; null where the system does not say."""

    cores: int  # processors that this process may use
    governors: frozenset[str] | None
    turbo: bool | None
    load_average: float | None  # of the last minute
    busy: float | None  # share of all processors' time that was used in a short look
    stolen: float | None  # share that the hypervisor gave to others
    busiest: tuple[tuple[str, float], ...]  # names of processes, and processors that each kept busy
    swap_used_bytes: int
    memory_free_bytes: int
    memory_total_bytes: int
    memory_limit_bytes: int | None
    quota_cpus: float | None
    disk_free_bytes: int
    folder: str  # where rows are written
    omp_num_threads: str | None
    virtual: bool
    on_battery: bool
    timer_s: float
    clocksource: str | None


@dataclass(frozen=True)
class GpuFacts:
    """One GPU as the driver describes it, beside what torch was built for; null where it does not say."""

    name: str
    uuid: str | None
    driver: str
    driver_cuda: tuple[int, int] | None
    torch_cuda: str | None
    process_bytes: dict[int, int | None] | None
    settings: Settings
    sm_clock_max_hz: int | None
    throttled: frozenset[str] | None
    temperature_c: int | None


@dataclass(frozen=True)
class Facts:
    """A machine; `gpu` is null where the CPU is what will be measured."""

    host: HostFacts
    gpu: GpuFacts | None


def gather(device: str, nvml: Nvml | None = None, look_s: float = LOOK_S) -> Facts:
    """The facts of this machine for "cpu", "cuda" or "cuda:N"; an error where there is no such device."""
    environment.device_facts(device, nvml)
    index = int(device.partition(":")[2] or 0)
    return Facts(host_facts(look_s=look_s), None if device == "cpu" else gpu_facts(nvml or Nvml(), index))


def gpu_facts(nvml: Nvml, index: int) -> GpuFacts:
    """The facts of the visible GPU of that number."""
    gpu = nvml.gpu(index)
    return GpuFacts(
        name=gpu.name,
        uuid=nvml.uuid(index),
        driver=gpu.driver,
        driver_cuda=nvml.driver_cuda(),
        torch_cuda=environment.torch_cuda_version(),
        process_bytes=nvml.process_bytes(index),
        settings=nvml.settings(index),
        sm_clock_max_hz=gpu.sm_clock_max_hz,
        throttled=nvml.throttle_reasons(index),
        temperature_c=nvml.temperature_c(index),
    )


def host_facts(root: Path = Path("/"), look_s: float = LOOK_S, folder: Path = Path("runs")) -> HostFacts:
    """The facts of this host; `root` is where /proc and /sys are."""
    busy, stolen, busiest = look(look_s)
    memory, battery = psutil.virtual_memory(), _battery()
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return HostFacts(
        cores=environment.cpu_cores(),
        governors=governors(root),
        turbo=turbo(root),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        busy=busy,
        stolen=stolen,
        busiest=busiest,
        swap_used_bytes=psutil.swap_memory().used,
        memory_free_bytes=memory.available,
        memory_total_bytes=memory.total,
        memory_limit_bytes=memory_limit_bytes(root),
        quota_cpus=quota_cpus(root),
        disk_free_bytes=psutil.disk_usage(str(there)).free,
        folder=str(folder),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        virtual=" hypervisor" in (_text(root / "proc/cpuinfo") or ""),
        on_battery=battery is False,
        timer_s=time.get_clock_info("perf_counter").resolution,
        clocksource=_text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource"),
    )


def look(seconds: float) -> tuple[float | None, float | None, tuple[tuple[str, float], ...]]:
    """Share of the processors' time in use and stolen while looking, and the three busiest processes but this one."""
    before, of_each = psutil.cpu_times(), _process_seconds()
    start = time.perf_counter()
    time.sleep(seconds)
    after, later = psutil.cpu_times(), _process_seconds()
    passed_s = time.perf_counter() - start
    spent = {name: getattr(after, name) - getattr(before, name) for name in before._fields if "guest" not in name}
    whole = sum(spent.values())
    busiest = sorted(
        ((used - of_each[key][1]) / passed_s, name) for key, (name, used) in later.items() if key in of_each
    )
    shown = tuple((name, used) for used, name in reversed(busiest[-3:]) if used >= 0.05)
    if whole <= 0:
        return None, None, shown
    idle = spent["idle"] + spent.get("iowait", 0.0)
    return max(0.0, 1 - idle / whole), spent.get("steal", 0.0) / whole, shown


def _process_seconds() -> dict[tuple[int, float], tuple[str, float]]:
    """Name and CPU seconds of each other process, by its number and the time it was made."""
    found = {}
    for process in psutil.process_iter(["pid", "name", "create_time", "cpu_times"]):
        facts = process.info
        if facts["pid"] != os.getpid() and facts["cpu_times"] is not None:
            used = facts["cpu_times"].user + facts["cpu_times"].system
            found[facts["pid"], facts["create_time"]] = (facts["name"] or str(facts["pid"]), used)
    return found


def governors(root: Path) -> frozenset[str] | None:
    """The frequency governors in use; null where the system shows none, as in most virtual machines."""
    files = (root / "sys/devices/system/cpu").glob("cpu*/cpufreq/scaling_governor")
    return frozenset(text for text in map(_text, files) if text) or None


def turbo(root: Path) -> bool | None:
    """Whether clocks may rise above the nominal one; null where the system does not say."""
    intel = _text(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    if intel is not None:
        return intel == "0"
    boost = _text(root / "sys/devices/system/cpu/cpufreq/boost")
    return None if boost is None else boost == "1"


def quota_cpus(root: Path) -> float | None:
    """Processors' worth of time that the control groups grant; null without a limit."""
    found = []
    for folder in _groups(root, "cpu"):
        quota, _, period = (_text(folder / "cpu.max") or "max").partition(" ")  # version 2
        if quota == "max":  # version 1
            quota, period = _text(folder / "cpu.cfs_quota_us") or "-1", _text(folder / "cpu.cfs_period_us") or "100000"
        if int(quota) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def memory_limit_bytes(root: Path) -> int | None:
    """Bytes beyond which the control groups have a process killed; null without a limit."""
    texts = [
        _text(folder / name) for folder in _groups(root, "memory") for name in ("memory.max", "memory.limit_in_bytes")
    ]
    limits = [int(text) for text in texts if text and text.isdigit()]
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control groups from its own to the outermost, of both versions."""
    mount = root / "sys/fs/cgroup"
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0":
            base = mount
        elif controller in controllers.split(","):
            base = next((mount / name for name in (controllers, controller) if (mount / name).exists()), mount)
        else:
            continue
        own = Path(path.lstrip("/"))
        yield from dict.fromkeys([base / own, *(base / parent for parent in own.parents), base])


def _battery() -> bool | None:
    """Whether the machine is plugged in; null without a battery."""
    with suppress(AttributeError, OSError, RuntimeError):
        battery = psutil.sensors_battery()
        return None if battery is None else battery.power_plugged
    return None


def _text(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text().strip()
    return None
