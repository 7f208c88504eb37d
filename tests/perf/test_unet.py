"""The measurement function of `bench` under pytest-benchmark; `python -m bench table FILE.json` reads the result."""

from dataclasses import asdict

import pytest
import torch

from bench.case import Case
from bench.estimate import fast_dtype
from bench.instruments.clock import clock_for
from bench.instruments.phases import Phases
from bench.isolate import ForkServer
from bench.workloads import build_workload
from koala.harness import environment, records
from koala.harness.memory import meter_for
from koala.models import zoo
from koala.models.networks import count_params

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])
FULL_SIZE = ["koala-700m", "koala-1b", "sdxl"]


@pytest.fixture(scope="module")
def dtype_of():
    """The fast dtype of a device, probed once."""
    server, known = ForkServer(), {}
    return lambda device: known.setdefault(device, fast_dtype(server, device))


def measure(benchmark, case, rounds):
    device = torch.device(case.device)
    meter, clock = meter_for(device), clock_for(device)
    meter.start()
    workload, components = build_workload(zoo.get(case.model), case, Phases(clock))
    seconds = []

    def prepare():
        workload.prepare()
        workload.phases.clear()

    def timed():
        seconds.append(clock.time(workload.run)["total"])

    benchmark.pedantic(timed, setup=prepare, rounds=rounds, warmup_rounds=1)
    benchmark.extra_info |= {
        "schema": records.SCHEMA,
        "case": asdict(case),
        "environment": environment.collect(case.device),
        "memory_bytes": {"weights": components.weight_bytes, **meter.read()},
        "params": sum(map(count_params, components.networks)),
        "threads": torch.get_num_threads(),
    }
    measured = benchmark.stats.stats.data
    # pytest-benchmark's own clock brackets ours: it may only read a little more.
    for ours, theirs in zip(seconds[-len(measured) :], measured, strict=True):
        assert ours <= theirs <= ours * 1.02 + 1e-3


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("target", ["unet", "pipeline"])
@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-koala-1b", "tiny-sdxl"])
def test_small(benchmark, name, target, device):
    steps = 4 if target == "pipeline" else None
    measure(benchmark, Case(name, target, 128, 1, "fp32", steps, device), rounds=10)


@pytest.mark.fullsize
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", FULL_SIZE)
def test_full_size_step(benchmark, name, device, dtype_of):
    resolution = 1024 if device == "cuda" else 256
    measure(
        benchmark,
        Case(name, "unet", resolution, 1, dtype_of(device), None, device),
        rounds=6 if device == "cuda" else 3,
    )
