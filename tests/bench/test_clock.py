import time
from itertools import pairwise

import pytest
import torch

from bench import worker
from bench.instruments.clock import Clock, CpuClock, CudaClock, clock_for


class FakeEvent:
    """A point in the fake device's queue; like CUDA's, it can be read only once the host has waited for it."""

    def __init__(self, cuda, enable_timing):
        assert enable_timing
        self.cuda = cuda

    def record(self):
        self.at_s = max(self.cuda.host_s, self.cuda.busy_until_s)
        self.cuda.calls.append("record")

    def elapsed_time(self, end):
        assert max(self.at_s, end.at_s) <= self.cuda.host_s, "the device has not come there yet"
        return (end.at_s - self.at_s) * 1000


class FakeCuda:
    """A GPU beside a host, each with its own time: launched work is queued and the host goes on at once."""

    def __init__(self):
        self.host_s, self.busy_until_s, self.calls = 100.0, 100.0, []

    def Event(self, enable_timing=False):
        return FakeEvent(self, enable_timing)

    def synchronize(self, device):
        self.calls.append(("synchronize", device))
        self.host_s = max(self.host_s, self.busy_until_s)

    def now(self):
        self.calls.append("now")
        return self.host_s

    def launch(self, device_s, host_s=0.0):
        self.calls.append("launch")
        self.host_s += host_s
        self.busy_until_s = max(self.host_s, self.busy_until_s) + device_s

    @property
    def clock(self):
        return CudaClock(self, "cuda:1", self.now)


def test_a_sleep_is_read_as_long_as_it_was():
    clock = CpuClock()
    readings = [clock.time(lambda: time.sleep(0.2))["total"] for _ in range(3)]
    assert min(readings) == pytest.approx(0.2, rel=0.02)


def test_a_cpu_clock_subtracts_its_readings_and_calls_once():
    readings, calls = iter([5.0, 7.5, 10.0, 10.25]), []
    clock = CpuClock(now=lambda: next(readings))
    assert clock.time(lambda: calls.append(1)) == {"total": 2.5}
    assert calls == [1]
    assert clock.between(clock.mark(), clock.mark()) == 0.25


def test_a_cuda_clock_waits_for_the_device_before_each_reading_of_the_wall():
    cuda = FakeCuda()
    cuda.clock.time(lambda: cuda.launch(1.0))
    wait = ("synchronize", "cuda:1")
    assert cuda.calls == [wait, "now", "record", "launch", "record", wait, "now"]


def test_the_wall_time_of_a_call_ends_when_the_device_is_done():
    cuda = FakeCuda()
    seconds = cuda.clock.time(lambda: cuda.launch(device_s=3.0, host_s=0.5))
    assert seconds == {"total": pytest.approx(3.5), "device": pytest.approx(3.5)}


def test_work_that_was_queued_before_the_call_is_not_counted():
    cuda = FakeCuda()
    cuda.launch(50.0)
    assert cuda.clock.time(lambda: cuda.launch(2.0)) == {"total": pytest.approx(2.0), "device": pytest.approx(2.0)}


def test_the_device_time_comes_from_the_events_and_the_total_from_the_wall():
    cuda = FakeCuda()
    readings = iter([10.0, 10.75])
    clock = CudaClock(cuda, now=lambda: next(readings))
    assert clock.time(lambda: cuda.launch(0.25)) == {"total": 0.75, "device": pytest.approx(0.25)}
    assert cuda.calls[0] == ("synchronize", None)


def test_marks_split_a_call_without_making_the_host_wait():
    cuda, marks = FakeCuda(), []
    clock = cuda.clock

    def call():
        marks.append(clock.mark())
        for device_s in (1.0, 2.0):
            cuda.launch(device_s)
            marks.append(clock.mark())
        assert cuda.host_s == 100.0
        assert cuda.calls.count(("synchronize", "cuda:1")) == 1

    clock.time(call)
    assert [clock.between(a, b) for a, b in pairwise(marks)] == pytest.approx([1.0, 2.0])


@pytest.mark.parametrize(("device", "clock"), [("cpu", CpuClock), ("cuda", CudaClock), ("cuda:1", CudaClock)])
def test_the_clock_is_chosen_by_the_kind_of_device(device, clock):
    chosen = clock_for(torch.device(device))
    assert type(chosen) is clock
    assert isinstance(chosen, Clock)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_on_a_real_gpu_wall_and_events_agree_and_marks_do_not_wait():
    device = torch.device("cuda")
    clock, marks, returned = clock_for(device), [], []
    cycles = 200_000_000  # about 0.1 s on GPUs of 1 to 2 GHz

    def call():
        start = time.perf_counter()
        marks.append(clock.mark())
        for _ in range(2):
            torch.cuda._sleep(cycles)
            marks.append(clock.mark())
        returned.append(time.perf_counter() - start)

    clock.time(call)
    marks.clear()
    seconds = clock.time(call)
    steps = [clock.between(a, b) for a, b in pairwise(marks)]
    assert seconds["total"] > 0.05
    assert seconds["device"] == pytest.approx(seconds["total"], rel=0.02)
    assert sum(steps) == pytest.approx(seconds["device"], rel=0.02)
    assert steps[0] == pytest.approx(steps[1], rel=0.1)
    assert returned[-1] < seconds["total"] / 2


@pytest.mark.parametrize(("name", "index"), [("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_the_measured_gpu_is_made_the_current_one(name, index, monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert worker.current_device(name) == torch.device("cuda", index)
    assert chosen == [torch.device("cuda", index)]


def test_a_cpu_needs_no_choosing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: pytest.fail("there is no GPU to choose"))
    assert worker.current_device("cpu") == torch.device("cpu")
