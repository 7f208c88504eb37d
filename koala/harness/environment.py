"""The machine and the software that a number was measured with, as one flat record; imports no torch."""

import hashlib
import json
import os
import platform
import re
import runpy
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from koala import __version__
from koala.errors import KoalaError
from koala.harness.nvml import Nvml

Record = dict[str, Any]

_PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "torchao", "numpy")
# Instruction sets that decide how fast a CPU multiplies matrices, the best first.
_ISA_LEVELS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2", "bf16", "asimd")


def collect(device: str, nvml: Nvml | None = None) -> Record:
    """A flat record of the device, driver, packages, processor, system and commit, with its own `id`."""
    record: Record = {"kind": "environment", **device_facts(device, nvml), **software(), **host()}
    text = json.dumps(record, sort_keys=True)
    return {**record, "id": hashlib.sha256(text.encode()).hexdigest()[:16]}


def device_facts(device: str, nvml: Nvml | None = None) -> Record:
    """Name, memory, driver, clocks and power limit of "cpu", "cuda" or "cuda:N"; an error lists what is here."""
    if device == "cpu":
        model, isa, cores = cpu_model(), cpu_isa(), cpu_cores()
        return {
            "device_kind": "cpu",
            "device_name": f"{model} ({cores} cores, {isa})",
            "device_memory_bytes": psutil.virtual_memory().total,
        }
    cuda = re.fullmatch(r"cuda(?::([0-9]+))?", device)
    if cuda is None:
        raise KoalaError(f"unknown device {device!r}; known: cpu, cuda, cuda:N")
    if nvml is None and torch_cuda_version() is None:
        raise KoalaError(
            "this torch was built without CUDA; install one with it (pip install torch) or try --device cpu"
        )
    nvml = nvml or Nvml()
    index = int(cuda[1] or 0)
    if index >= nvml.count():
        raise KoalaError(f"there is no {device} here ({nvml.count()} NVIDIA GPUs are visible); try --device cpu")
    gpu = nvml.gpu(index)
    return {
        "device_kind": "cuda",
        "device_name": f"{gpu.name} MIG" if nvml.settings(index).mig else gpu.name,  # a slice is another device
        "device_memory_bytes": gpu.memory_bytes,
        "driver": gpu.driver,
        "sm_clock_max_hz": gpu.sm_clock_max_hz,
        "memory_clock_max_hz": gpu.memory_clock_max_hz,
        "power_limit_w": gpu.power_limit_w,
    }


def software() -> Record:
    """Versions of this project, its commit, Python and the packages that do the work."""
    commit, dirty = git_state()
    packages = {name: _version(name) for name in _PACKAGES}
    return {
        "koala_bench": __version__,
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        **packages,
        "cuda": torch_cuda_version(),
    }


def host() -> Record:
    """Processor, cores, memory and operating system."""
    return {
        "cpu": cpu_model(),
        "cpu_isa": cpu_isa(),
        "cpu_cores": cpu_cores(),
        "ram_bytes": psutil.virtual_memory().total,
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "os": f"{platform.system()} {platform.release()}",
    }


def slug(device_name: str) -> str:
    """A folder name for a device: "NVIDIA H200" -> "nvidia-h200"."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", device_name.lower())).strip("-")


def cpu_cores() -> int:
    """Processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def cpu_model() -> str:
    """The processor's own name."""
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


@cache
def cpu_isa() -> str:
    """The most capable matrix instruction set of this processor, or its architecture where none is known."""
    flags = set(" ".join(re.findall(r"^(?:flags|Features)\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)).split())
    return next((level for level in _ISA_LEVELS if level in flags), platform.machine())


@cache
def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


def torch_cuda_version() -> str | None:
    """The CUDA version torch was built with, read from its version file; null for a build without CUDA."""
    package = find_spec("torch")
    folders = (package.submodule_search_locations or []) if package else []
    for folder in folders:
        return runpy.run_path(str(Path(folder) / "version.py")).get("cuda")
    return None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout this code runs from and whether it has changes; KOALA_COMMIT stands in for a .git."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return os.environ.get("KOALA_COMMIT"), None
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py").strip())
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("KOALA_COMMIT"), None


def _git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True, check=True)
    return done.stdout
