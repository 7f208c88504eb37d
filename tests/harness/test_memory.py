import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from koala.harness.memory import CudaMeter, MemoryMeter, RssMeter, meter_for

ROOT = Path(__file__).parents[2]
NUM_BYTES = 256 * 2**20

# A process of its own, so that nothing but the tensor comes and goes between two readings.
READINGS = f"""
import json
import torch
from koala.harness.memory import RssMeter

torch.set_num_threads(1)
torch.ones(2**20).sum()
meter, readings = RssMeter(), dict()
meter.start()
readings["nothing"] = meter.read()
tensor = torch.ones({NUM_BYTES} // 4)
readings["held"] = meter.read()
del tensor
readings["freed"] = meter.read()
meter.start()
readings["started again"] = meter.read()
print(json.dumps(readings))
"""


@pytest.fixture(scope="module")
def grown():
    """By how many bytes the peak lay above the baseline, at each point of `READINGS`."""
    done = subprocess.run([sys.executable, "-c", READINGS], cwd=ROOT, capture_output=True, text=True, check=True)
    return {when: read["rss_peak"] - read["rss_baseline"] for when, read in json.loads(done.stdout).items()}


needs_reset = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="this kernel cannot reset a process's high-water mark"
)


@needs_reset
def test_a_tensor_of_256_mib_raises_the_peak_of_the_process_by_its_size(grown):
    assert grown["held"] == pytest.approx(NUM_BYTES, rel=0.01)


@needs_reset
def test_the_peak_still_shows_a_tensor_that_was_freed(grown):
    assert grown["freed"] == pytest.approx(NUM_BYTES, rel=0.01)


@needs_reset
def test_starting_again_forgets_an_earlier_peak(grown):
    assert 0 <= grown["nothing"] < 0.01 * NUM_BYTES
    assert 0 <= grown["started again"] < 0.01 * NUM_BYTES


class FakeCuda:
    """The part of torch.cuda that a meter uses: notes each call, and counts peaks from the last reset."""

    def __init__(self):
        self.calls, self.peak = [], {"allocated": 10**9, "reserved": 2 * 10**9}

    def init(self):
        self.calls.append("init")

    def empty_cache(self):
        self.calls.append("empty_cache")

    def reset_peak_memory_stats(self, device):
        self.calls.append(("reset", device))
        self.peak = {"allocated": 0, "reserved": 0}

    def synchronize(self, device):
        self.calls.append(("synchronize", device))

    def use(self, allocated, reserved):
        self.peak = {"allocated": allocated, "reserved": reserved}

    def max_memory_allocated(self, device):
        self.calls.append(("allocated", device))
        return self.peak["allocated"]

    def max_memory_reserved(self, device):
        self.calls.append(("reserved", device))
        return self.peak["reserved"]


def test_a_cuda_meter_empties_the_cache_and_resets_before_it_counts():
    cuda, device = FakeCuda(), torch.device("cuda", 1)
    meter = CudaMeter(device, cuda)
    assert cuda.calls == []
    meter.start()
    assert cuda.calls == ["init", "empty_cache", ("reset", device)]
    cuda.use(allocated=300, reserved=400)
    found = meter.read()
    assert sorted(cuda.calls[3:]) == [("allocated", device), ("reserved", device)]
    assert (found["peak_allocated"], found["peak_reserved"]) == (300, 400)


def test_a_cuda_meter_also_reads_the_memory_of_the_process():
    meter = CudaMeter(torch.device("cuda"), FakeCuda())
    meter.start()
    found = meter.read()
    assert set(found) == {"peak_allocated", "peak_reserved", "rss_baseline", "rss_peak"}
    assert 10 * 2**20 < found["rss_peak"] < 2**40
    assert 10 * 2**20 < found["rss_baseline"] < 2**40


def test_the_peaks_of_one_call_begin_with_an_empty_pool_and_end_when_the_device_is_done():
    cuda, device = FakeCuda(), torch.device("cuda", 1)
    meter = CudaMeter(device, cuda)
    meter.start()
    cuda.use(allocated=3000, reserved=4000)
    del cuda.calls[:]

    def call():
        cuda.calls.append("call")
        cuda.use(allocated=30, reserved=40)

    assert meter.of_call(call) == {"call_peak_allocated": 30, "call_peak_reserved": 40}
    assert cuda.calls[:4] == ["empty_cache", ("reset", device), "call", ("synchronize", device)]


def test_on_a_cpu_no_call_is_made_for_its_memory():
    meter = RssMeter()
    meter.start()
    assert meter.of_call(lambda: pytest.fail("it was called")) == {}


def test_a_meter_can_start_again_and_then_counts_anew():
    cuda = FakeCuda()
    meter = CudaMeter(torch.device("cuda"), cuda)
    meter.start()
    cuda.use(allocated=300, reserved=400)
    meter.start()
    assert meter.read()["peak_allocated"] == meter.read()["peak_reserved"] == 0


@pytest.mark.parametrize(("device", "meter"), [("cpu", RssMeter), ("cuda", CudaMeter), ("cuda:1", CudaMeter)])
def test_the_meter_is_chosen_by_the_kind_of_device(device, meter):
    chosen = meter_for(torch.device(device))
    assert type(chosen) is meter
    assert isinstance(chosen, MemoryMeter)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_a_tensor_of_256_mib_on_a_gpu_is_read_within_one_percent_also_after_it_was_freed():
    meter = meter_for(torch.device("cuda"))
    meter.start()
    before = meter.read()
    tensor = torch.ones(NUM_BYTES // 4, device="cuda")
    del tensor
    after = meter.read()
    for kind in ("peak_allocated", "peak_reserved"):
        assert after[kind] - before[kind] == pytest.approx(NUM_BYTES, rel=0.01)
    meter.start()
    assert meter.read()["peak_allocated"] == before["peak_allocated"]


def test_what_an_earlier_case_freed_is_not_in_the_next_ones_baseline():
    script = """
import torch
from koala.harness.memory import RssMeter
meter = RssMeter()
meter.start()
clean = meter.read()["rss_baseline"]
first = torch.ones(6 * 2**20)
del first  # one freed block of 24 MB, and glibc keeps smaller ones for itself from then on
held = [torch.ones(2**20) for _ in range(200)]
kept = held[-1]
del held
meter.start()
print(meter.read()["rss_baseline"] - clean)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 40 * 2**20
