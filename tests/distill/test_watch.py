import time

import pytest
import torch

from koala.distill.watch import Watch

CPU = torch.device("cpu")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_second_is_a_second():
    watch = Watch(CPU)
    with watch("sleep"):
        time.sleep(0.2)
    assert watch.take()["sleep"] == pytest.approx(0.2, abs=0.15)


def test_times_of_a_name_add_up_until_they_are_taken():
    clock = Clock()
    watch = Watch(CPU, clock)
    for seconds in (1.0, 2.5):
        with watch("teacher"):
            clock.now += seconds
        clock.now += 100
    with watch("student"):
        clock.now += 0.25
    assert watch.take() == {"teacher": 3.5, "student": 0.25}
    assert watch.take() == {}


def test_a_part_within_a_part_counts_in_both():
    clock = Clock()
    watch = Watch(CPU, clock)
    with watch("outer"):
        clock.now += 1
        with watch("inner"):
            clock.now += 2
    assert watch.take() == {"inner": 2.0, "outer": 3.0}


def test_the_time_of_a_block_that_fails_counts():
    clock = Clock()
    watch = Watch(CPU, clock)
    with pytest.raises(ZeroDivisionError), watch("failing"):
        clock.now += 4
        raise ZeroDivisionError
    assert watch.take() == {"failing": 4.0}


class Event:
    """An event of a stream that is `milliseconds` long until it."""

    stream = 0.0

    def __init__(self):
        self.at = Event.stream

    def elapsed_time(self, other):
        return other.at - self.at


def test_events_of_a_gpu_are_read_only_when_times_are_taken():
    watch = Watch(CPU, Event)
    with watch("teacher"):
        Event.stream += 1500.0
    assert watch.take() == {"teacher": 1.5}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_the_time_is_that_of_its_work_and_nobody_waits():
    watch = Watch(torch.device("cuda"))
    torch.cuda._sleep(1000)
    torch.cuda.synchronize()
    began = time.perf_counter()
    with watch("busy"):
        torch.cuda._sleep(1_000_000_000)  # cycles: about half a second
    asked = time.perf_counter() - began
    seconds = watch.take()["busy"]
    waited = time.perf_counter() - began
    assert asked < 0.1 and seconds == pytest.approx(waited, rel=0.1)
