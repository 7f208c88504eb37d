"""What to change on a machine before a sweep. Pure: facts in, findings out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bench.machine import Facts, GpuFacts, HostFacts

BUSY = 0.10  # as in bench/trust.py: a row measured under more is doubted
STOLEN = 0.01
ENOUGH_MEMORY_BYTES = 8 * 2**30  # SDXL's weights in fp16 pass through 7 GiB of the host's memory
ENOUGH_DISK_BYTES = 2**30
HOT_C = 70  # before any work
SLOW_CLOCKS = ("hpet", "acpi_pm", "jiffies", "refined-jiffies", "pit")  # each reading takes a microsecond or more

Level = Literal["ok", "note", "change"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: fine, worth knowing, or to be changed, and how."""

    level: Level
    subject: str
    found: str
    fix: str = ""


def findings(facts: Facts) -> list[Finding]:
    """Everything there is to say about a machine: the host, then the GPU if that is what will be measured."""
    on_gpu = [] if facts.gpu is None else [*_versions(facts.gpu), *_gpu_work(facts.gpu), *_gpu_settings(facts.gpu)]
    return [*_processor(facts.host), *_load(facts.host), *_room(facts.host), *_limits(facts.host), *on_gpu]


def _processor(host: HostFacts) -> Iterator[Finding]:
    if host.governors is None:
        yield Finding("note", "CPU governor", "this system shows none, so clocks may move unseen")
    elif host.governors == {"performance"}:
        yield Finding("ok", "CPU governor", "performance")
    else:
        fix = "sudo cpupower frequency-set -g performance"
        yield Finding("change", "CPU governor", f"{', '.join(sorted(host.governors))}: clocks follow the load", fix)
    if host.turbo is not None:
        yield Finding(
            "note" if host.turbo else "ok",
            "CPU boost",
            "on: clocks depend on heat and on busy neighbours" if host.turbo else "off",
            "leave it for what users see; switch it off in the BIOS to compare within 2%" if host.turbo else "",
        )
    if host.on_battery:
        yield Finding("change", "power", "on battery: clocks are held down", "plug the machine in")
    if host.clocksource in SLOW_CLOCKS or host.timer_s > 1e-6:
        fix = "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource"
        found = f"steps of {host.timer_s * 1e9:.0f} ns from {host.clocksource or 'an unknown source'}, a slow one"
        yield Finding("change", "timer", found, fix)
    else:
        yield Finding("ok", "timer", f"steps of {host.timer_s * 1e9:.0f} ns from {host.clocksource or 'the system'}")


def _load(host: HostFacts) -> Iterator[Finding]:
    names = ", ".join(f"{name} {100 * used:.0f}%" for name, used in host.busiest)
    average = "" if host.load_average is None else f"; load average {host.load_average:.2f}"
    if host.busy is not None:
        found = f"{100 * host.busy:.0f}% of the CPU time in use{average}{f' ({names} of one core)' if names else ''}"
        if host.busy > BUSY:
            yield Finding("change", "other load", found, "end these processes, or wait for them")
        else:
            yield Finding("ok", "other load", found)
    stolen = host.stolen or 0.0
    if stolen > STOLEN:
        found = f"{100 * stolen:.1f}% of the CPU time went to other guests of this virtual machine's host"
        yield Finding("change", "stolen time", found, "use a machine or an instance with processors of its own")
    elif host.virtual:
        yield Finding("note", "virtual machine", "other guests may slow it; none took CPU time while looking")


def _room(host: HostFacts) -> Iterator[Finding]:
    free = f"{_gib(host.memory_free_bytes)} free of {_gib(host.memory_total_bytes)}"
    if host.memory_free_bytes < ENOUGH_MEMORY_BYTES:
        fix = "end what holds it, or measure models that fit (`--dry-run` tells)"
        yield Finding("change", "memory", f"{free}: full-size models will not load", fix)
    else:
        yield Finding("ok", "memory", free)
    if host.swap_used_bytes > 64 * 2**20:
        found = f"{_gib(host.swap_used_bytes)} in use: pages of what is measured may land there"
        yield Finding("note", "swap", found, "sudo swapoff -a && sudo swapon -a")
    if host.disk_free_bytes < ENOUGH_DISK_BYTES:
        fix = "make room, or name another place with --out"
        yield Finding("change", "disk", f"{_gib(host.disk_free_bytes)} free under {host.folder}/", fix)
    else:
        yield Finding("ok", "disk", f"{_gib(host.disk_free_bytes)} free under {host.folder}/")


def _limits(host: HostFacts) -> Iterator[Finding]:
    allowed = host.cores
    if host.quota_cpus is not None and host.quota_cpus < host.cores:
        allowed = max(1, int(host.quota_cpus))
        found = f"{host.quota_cpus:g} CPUs' worth of time for {host.cores} processors: threads are stopped in between"
        yield Finding("change", "CPU quota", found, "start the container without --cpus, with --cpuset-cpus instead")
    if host.memory_limit_bytes is not None and host.memory_limit_bytes < host.memory_total_bytes:
        found = f"processes are killed beyond {_gib(host.memory_limit_bytes)} (control group)"
        yield Finding("note", "memory limit", found)
    threads = host.omp_num_threads
    if threads is None:
        if allowed == host.cores:
            yield Finding("ok", "threads", f"torch takes one a core ({host.cores})")
        else:
            found = f"torch will start {host.cores} where {allowed} can run"
            yield Finding("change", "threads", found, f"export OMP_NUM_THREADS={allowed}")
    elif not threads.isdigit() or not 1 <= int(threads) <= allowed:
        found = f"OMP_NUM_THREADS is {threads}, and {allowed} can run"
        yield Finding("change", "threads", found, f"export OMP_NUM_THREADS={allowed}")
    elif int(threads) < allowed:
        found = f"OMP_NUM_THREADS is {threads}, and {allowed} could run: rows say so"
        yield Finding("note", "threads", found, "unset OMP_NUM_THREADS")
    else:
        yield Finding("ok", "threads", f"OMP_NUM_THREADS is {threads}, as many as can run")


def _versions(gpu: GpuFacts) -> Iterator[Finding]:
    if gpu.torch_cuda is None:
        yield Finding("change", "torch", "built without CUDA", "install a build of torch with CUDA (pip install torch)")
        return
    built = tuple(int(part) for part in gpu.torch_cuda.split(".")[:2])
    driver = f"driver {gpu.driver}"
    if gpu.driver_cuda is None:
        yield Finding("note", "driver", f"{driver}, torch for CUDA {gpu.torch_cuda}; the driver names no CUDA version")
        return
    both = f"{driver} supports CUDA {'.'.join(map(str, gpu.driver_cuda))}, torch is built for {gpu.torch_cuda}"
    if gpu.driver_cuda[0] < built[0]:
        yield Finding("change", "driver", both, "install a newer driver, or a torch for the driver's CUDA")
    elif gpu.driver_cuda < built:
        yield Finding("note", "driver", f"{both}: within one major version that runs, but compiles nothing newer")
    else:
        yield Finding("ok", "driver", both)


def _gpu_work(gpu: GpuFacts) -> Iterator[Finding]:
    if gpu.process_bytes is None:
        yield Finding("note", "GPU processes", "the driver does not say who else uses the GPU")
    elif gpu.process_bytes:
        named = ", ".join(f"{pid} ({_gib(used)})" for pid, used in sorted(gpu.process_bytes.items()))
        fix = f"nvidia-smi {_which(gpu)}, and end them or wait"
        yield Finding("change", "GPU processes", f"others use the GPU: {named}", fix)
    else:
        yield Finding("ok", "GPU processes", "none")
    if gpu.throttled:
        fix = "see to cooling and power supply, and start when it has ended"
        yield Finding("change", "throttling", f"now, before any work: {', '.join(sorted(gpu.throttled))}", fix)
    elif gpu.throttled is not None:
        yield Finding("ok", "throttling", "none now; every row records its own")
    if gpu.temperature_c is not None:
        hot = gpu.temperature_c >= HOT_C
        fix = "let it cool, or see to its cooling" if hot else ""
        found = f"{gpu.temperature_c} °C{' before any work' if hot else ''}"
        yield Finding("change" if hot else "ok", "GPU temperature", found, fix)
    if gpu.settings.display:
        fix = "connect the screen to another GPU, or stop the desktop"
        yield Finding("note", "display", "a screen is driven by this GPU and takes memory and time", fix)


def _gpu_settings(gpu: GpuFacts) -> Iterator[Finding]:
    settings, which = gpu.settings, _which(gpu)
    if settings.persistence is not None:
        fix = "" if settings.persistence else f"sudo nvidia-smi {which} -pm 1"
        found = "on" if settings.persistence else "off: the driver starts anew with each process, and forgets settings"
        yield Finding("ok" if settings.persistence else "change", "persistence mode", found, fix)
    yield from _clocks(gpu)
    limit, default = settings.power_limit_w, settings.default_power_limit_w
    if limit is not None and default is not None:
        low = limit < 0.99 * default
        fix = f"sudo nvidia-smi {which} -pl {default:.0f}" if low else ""
        found = f"{limit:.0f} W{f', below the default of {default:.0f} W' if low else ''}"
        yield Finding("change" if low else "ok", "power limit", found, fix)
    if settings.compute_mode == "prohibited":
        yield Finding("change", "compute mode", "prohibited: nothing can run", f"sudo nvidia-smi {which} -c 0")
    elif settings.compute_mode is not None:
        yield Finding("ok", "compute mode", settings.compute_mode)
    if settings.mig:
        yield Finding("note", "MIG", "on: what is measured is a part of the GPU", f"sudo nvidia-smi {which} -mig 0")
    if settings.ecc is not None:
        found = "on: on GDDR memory it costs bandwidth" if settings.ecc else "off"
        yield Finding("note", "ECC", found)


def _clocks(gpu: GpuFacts) -> Iterator[Finding]:
    settings = gpu.settings
    if settings.clocks_held:
        yield Finding("ok", "GPU clocks", "held by a setting")
        return
    usual, highest = settings.default_application_clock_hz, gpu.sm_clock_max_hz
    megahertz = f"{(usual or highest or 0) / 1e6:.0f}" if usual or highest else "MHZ"
    fix = f"sudo nvidia-smi {_which(gpu)} -lgc {megahertz},{megahertz}; later -rgc"
    yield Finding("note", "GPU clocks", "not held by a setting now, so heat and power may move them", fix)


def _which(gpu: GpuFacts) -> str:
    return f"-i {gpu.uuid}" if gpu.uuid else "-i N"


def _gib(number: int | None) -> str:
    return "unknown" if number is None else f"{number / 2**30:.1f} GiB"
