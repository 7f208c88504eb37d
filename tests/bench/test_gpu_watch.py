import os
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.instruments.watch import (
    COUNTER,
    INTEGRATED,
    CpuTime,
    Watch,
    busy_elsewhere,
    counter_rise,
    cpu_time,
    gpu_reading,
    integral,
    watch_for,
)
from koala.harness.nvml import Nvml

sys.path.insert(0, str(Path(__file__).parents[1] / "harness"))
from fakes import FakeGpu, FakeNvml, FakeTime

CASE = 4242
BEGIN_S, END_S = 5.0, 15.0  # the window in which the played case takes its samples


def play(pids_match=True, until_s=20.0, begin_s=BEGIN_S, end_s=END_S, **script):
    """A case of 20 s on a GPU that follows a script, looked at every 50 ms."""
    now = FakeTime()
    nvml = Nvml(library=FakeNvml([FakeGpu(**script)], now=now), visible="0")
    watch = Watch(lambda: gpu_reading(nvml, 0, now), now, lambda pid: None, pids_match)
    watch.case_pid = CASE
    for tick in range(1, round(until_s / 0.05) + 1):
        now.seconds = tick * 0.05
        if begin_s is not None and tick == round(begin_s / 0.05):
            watch.begin_sampling()
        elif end_s is not None and tick == round(end_s / 0.05):
            watch.end_sampling()
        else:
            watch.look()
    return watch


def during(begin_s, end_s, inside, outside):
    return lambda t: inside if begin_s <= t < end_s else outside


def processes(**spans):
    """Processes on the GPU over time: name = (pid, bytes, from, to)."""
    return lambda t: {pid: used for pid, used, begin_s, end_s in spans.values() if begin_s <= t < end_s}


# energy


def test_a_constant_300_watts_for_10_seconds_are_3000_joules_by_the_counter():
    energy = play(energy_mj=lambda t: 10**9 + 300_000 * t, power_mw=1).energy()
    assert energy["joules"] == pytest.approx(3000) and energy["seconds"] == pytest.approx(10)
    assert energy["method"] == COUNTER == "NVML energy counter"


def test_without_a_counter_power_is_integrated_over_the_window_only():
    energy = play(energy_mj=None, power_mw=during(BEGIN_S, END_S + 0.01, 300_000, 75_000)).energy()
    assert energy["joules"] == pytest.approx(3000)
    assert energy["method"] == INTEGRATED == "NVML power, integrated at 20 Hz"


def test_power_that_rises_is_integrated_as_a_ramp():
    assert play(energy_mj=None, power_mw=lambda t: 20_000 * t).energy()["joules"] == pytest.approx(2000)


def test_a_counter_that_is_silent_at_the_ends_is_interpolated_there():
    def counter(t):
        at_an_end = min(abs(t - BEGIN_S), abs(t - END_S)) < 0.01
        return None if at_an_end else 300_000 * t

    energy = play(energy_mj=counter).energy()
    assert energy["joules"] == pytest.approx(3000) and energy["method"] == COUNTER


@pytest.mark.parametrize("counter", [lambda t: 7, lambda t: 300_000 * t if t < 10 else 300_000 * (t - 10)])
def test_a_counter_that_stands_still_or_begins_again_is_not_believed(counter):
    energy = play(energy_mj=counter, power_mw=200_000).energy()
    assert energy["joules"] == pytest.approx(2000) and energy["method"] == INTEGRATED


@pytest.mark.parametrize("late_s", [-0.05, 0.05])
def test_the_error_of_a_window_that_is_off_by_a_poll_at_each_end_is_within_its_bound(late_s):
    draw = during(BEGIN_S - late_s, END_S + late_s, 500.0, 60.0)
    exact = sum(draw(t / 1000) for t in range(int(1000 * (BEGIN_S - late_s)), int(1000 * (END_S + late_s)))) / 1000
    energy = play(energy_mj=None, power_mw=lambda t: 1000 * draw(t)).energy()
    assert abs(energy["joules"] - exact) <= energy["within_joules"] + 500 * 0.05
    assert energy["within_joules"] < 0.011 * energy["joules"]


def test_no_energy_is_given_where_the_driver_says_nothing_or_the_window_never_ended():
    assert play(energy_mj=None, power_mw=None).energy() is None
    assert play(end_s=None).energy() is None
    assert play(begin_s=None, end_s=None).energy() is None


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_the_integral_of_watts_lies_between_the_least_and_the_most(watts, before, after):
    points = [(float(i), w) for i, w in enumerate(watts)]
    joules, seconds = integral(points, -before, len(watts) - 1 + after), before + len(watts) - 1 + after
    assert min(watts) * seconds - 1e-6 <= joules <= max(watts) * seconds + 1e-6


@given(st.floats(0, 9), st.floats(0, 9))
def test_a_counter_rises_in_two_parts_as_much_as_in_one(a, b):
    points = [(float(i), float(i * i)) for i in range(10)]
    low, high = sorted((a, b))
    parts = [counter_rise(points, x, y) or 0.0 for x, y in ((0.0, low), (low, high), (high, 9.0))]
    assert sum(parts) == pytest.approx(81)


def test_a_counter_known_on_one_side_only_has_no_rise():
    points = [(0.0, 0.0), (1.0, 5.0)]
    assert counter_rise(points, 0.5, 1.5) is None and counter_rise(points, -0.5, 1.0) is None
    assert counter_rise(points[:1], 0.0, 0.0) is None


# processes and memory


def test_memory_is_that_of_the_device_before_and_at_most_and_of_the_case_alone():
    peak = during(7, 7.04, 900, 400)
    watch = play(
        used=lambda t: 100 if t < 1 else 100 + peak(t),
        computing=lambda t: {} if t < 1 else {CASE: peak(t) - 50},
    )
    assert watch.memory() == {"device_baseline": 100, "device_peak": 1000, "process_peak": 850}


def test_in_a_container_the_case_is_the_one_process_that_was_not_there_before():
    watch = play(pids_match=False, computing=processes(old=(7, 10, 0, 99), case=(990_001, 500, 1, 19)))
    assert watch.memory()["process_peak"] == 500
    assert watch.conditions()["other_processes"] == 1


def test_in_a_container_a_process_that_comes_and_goes_is_not_taken_for_the_case():
    watch = play(pids_match=False, computing=processes(case=(990_001, 500, 1, 19), other=(990_002, 900, 6, 9)))
    assert watch.memory()["process_peak"] == 500
    assert watch.conditions()["other_processes"] == 1


def test_in_a_container_a_case_that_was_killed_while_it_sampled_is_known_by_its_time_before():
    watch = play(pids_match=False, computing=processes(case=(990_001, 500, 1, END_S), other=(990_002, 900, 6, 9)))
    assert watch.memory()["process_peak"] == 500 and watch.conditions()["other_processes"] == 1


def test_two_newcomers_that_stay_cannot_be_told_apart_but_one_of_them_is_another():
    watch = play(pids_match=False, computing=processes(a=(990_001, 500, 1, 19), b=(990_002, 900, 2, 19)))
    assert watch.memory()["process_peak"] is None
    assert watch.conditions()["other_processes"] == 1


def test_a_process_that_has_the_cases_number_by_chance_but_was_there_before_is_another():
    watch = play(pids_match=False, computing=processes(host=(CASE, 10, 0, 99), case=(990_001, 500, 1, 19)))
    assert watch.memory()["process_peak"] == 500
    assert watch.conditions()["other_processes"] == 1


def test_where_numbers_match_a_stranger_is_never_taken_for_the_case():
    watch = play(computing=processes(stranger=(77, 900, 2, 19)))
    assert watch.memory()["process_peak"] is None
    assert watch.conditions()["other_processes"] == 1


def test_a_driver_that_shows_no_process_leaves_others_unknown():
    for silent in ({"computing": {}}, {"computing": None, "drawing": None}):
        watch = play(pids_match=False, **silent)
        assert watch.memory()["process_peak"] is None and watch.conditions()["other_processes"] is None


def test_a_process_whose_bytes_are_unknown_is_seen_all_the_same():
    watch = play(computing=processes(case=(CASE, None, 1, 19)), drawing={9: None})
    assert watch.memory()["process_peak"] is None and watch.conditions()["other_processes"] == 1


@pytest.mark.parametrize(("begin_s", "end_s", "others"), [(2, 4, 0), (4, 6, 1), (9, 9.06, 1), (16, 18, 0)])
def test_another_process_counts_only_while_samples_are_taken(begin_s, end_s, others):
    watch = play(computing=processes(case=(CASE, 500, 1, 19), other=(78, 5, begin_s, end_s)))
    assert watch.conditions()["other_processes"] == others


# clocks, throttling, temperature


def test_conditions_are_those_of_the_window():
    conditions = play(
        present_sm_clock_mhz=lambda t: 345 if t < 5.01 or t > 14.99 else 1980 if t < 12 else 1755,
        clock_events=lambda t: 0x1 if t < 5 else 0x4 if t < 8 else 0x60 if t < 8.06 else 0x8 if t > 16 else 0,
        temperature_c=lambda t: 30 + int(t),
    ).conditions()
    assert conditions["sm_clock_hz"] == {"low": 1_755_000_000, "median": 1_980_000_000, "high": 1_980_000_000}
    assert conditions["throttled"] == ["power cap", "thermal (hardware)", "thermal (software)"]
    assert conditions["temperature_c"] == {"low": 35, "high": 45}


def test_no_throttling_seen_is_an_empty_list_and_none_asked_is_null():
    assert play(clock_events=0x3).conditions()["throttled"] == []
    assert play(clock_events=None).conditions()["throttled"] is None
    assert set(play(begin_s=None, end_s=None).conditions().values()) == {None}


def test_a_case_that_ended_badly_has_the_conditions_up_to_then():
    conditions = play(end_s=None, clock_events=lambda t: 0x40 if t > 15 else 0).conditions()
    assert conditions["throttled"] == ["thermal (hardware)"]


# the host's processors


def test_busy_elsewhere_is_work_of_the_host_less_that_of_the_case():
    before, after = CpuTime(100, 1000, 5), CpuTime(112, 1020, 10)
    assert busy_elsewhere(before, after) == pytest.approx(7 / 20)
    assert busy_elsewhere(before, CpuTime(104, 1020, 10)) == 0  # clocks of unlike grain
    assert busy_elsewhere(None, after) is None and busy_elsewhere(before, before) is None


def test_stolen_time_is_work_of_others_and_waiting_for_a_disk_is_none(tmp_path):
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 10 20 1000 50 1 2 7 90 0\ncpu0 1 2 3 4 5 6 7 8\n")
    seen, tick = cpu_time(os.getpid(), stat), os.sysconf("SC_CLK_TCK")
    assert (seen.worked_s * tick, seen.passed_s * tick) == (pytest.approx(140), pytest.approx(1190))
    own = psutil.Process().cpu_times()
    assert 0 < seen.case_s <= own.user + own.system + own.children_user + own.children_system


def test_cpu_time_is_null_without_a_case_off_linux_and_for_a_process_that_is_gone(tmp_path):
    assert cpu_time(None) is None
    assert cpu_time(os.getpid(), tmp_path / "missing") is None
    assert cpu_time(2**22 + 1) is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux says")
def test_on_a_cpu_only_the_ends_of_the_window_are_looked_at():
    watch = watch_for("cpu")
    watch.case_pid = os.getpid()
    watch.look()
    watch.begin_sampling()
    end = time.perf_counter() + 0.1
    while time.perf_counter() < end:
        pass
    watch.end_sampling()
    conditions = watch.conditions()
    assert 0 <= conditions.pop("busy_elsewhere") <= 1 and set(conditions.values()) == {None}
    assert (watch.period_s, watch.memory(), watch.energy()) == (None, {}, None)


def test_the_watch_of_a_gpu_looks_at_the_one_that_is_named_and_20_times_a_second():
    gpus = [FakeGpu(used=100), FakeGpu(used=200)]
    nvml = Nvml(library=FakeNvml(gpus), visible="1,0")
    used = [watch_for(d, nvml).memory()["device_baseline"] for d in ("cuda", "cuda:0", "cuda:1")]
    assert used == [200, 200, 100] and watch_for("cuda", nvml).period_s == 0.05
