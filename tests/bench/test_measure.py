import time
from itertools import chain, cycle
from itertools import repeat as forever

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.instruments.clock import Clock, CpuClock
from bench.instruments.phases import CALL, Phases, Span
from bench.measure import Workload, part_seconds, repeat
from bench.rule import MOST_WARMUP, SETTLED_BITS, TARGET_REACH, Rule, entropy_growth
from koala.harness.stats import relative_reach

NOISY = (1.0, 1.5)  # two values in turn: an interval of the median never gets tight
PATIENT = 1e9


class ScriptedClock:
    """Runs each call and answers with the next time of a script."""

    def __init__(self, times):
        self.times, self.inside = iter(times), False

    def time(self, call):
        self.inside = True
        call()
        self.inside = False
        seconds = next(self.times)
        return {"total": seconds, "device": seconds / 2}

    def mark(self):
        return next(self.times)

    def between(self, start, end):
        return end - start


class ScriptedPhases(Phases):
    """Phases that say of the n-th run what a script says: that many steps, each of the run's number of seconds."""

    def __init__(self, clock, spans):
        super().__init__(clock)
        self.script, self.runs = spans, 0

    def clear(self):
        self.runs += 1

    def spans(self):
        inside = [Span(name, 0.0, float(self.runs)) for name in self.script]
        return [*inside, Span(CALL, 0.0, 9.0)] if inside else []


class Diary:
    """A workload that writes down what is done to it, and whether the clock was running."""

    def __init__(self, clock, spans=()):
        self.clock, self.lines, self.timed = clock, [], []
        self.phases = ScriptedPhases(clock, spans)

    def note(self, line):
        self.lines.append(line)
        self.timed.append(self.clock.inside)

    def prepare(self):
        self.note("prepare")

    def run(self):
        self.note("run")


class Heard:
    """A listener that keeps what it hears."""

    def __init__(self):
        self.lines = []

    def warmed_up(self):
        self.lines.append("warmed up")

    def timed(self, stage, timing):
        self.lines.append((stage, timing))


def measured(times, rule, spans=(), listener=None):
    clock = ScriptedClock(times)
    diary = Diary(clock, spans)
    return repeat(diary, clock, rule, listener), diary


def test_the_fakes_are_what_the_code_asks_for():
    assert isinstance(ScriptedClock([]), Clock)
    assert isinstance(Diary(ScriptedClock([])), Workload)


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_warm_up_runs_are_kept_apart_and_never_measured(warmup):
    slow = [100.0 + i for i in range(warmup)]
    samples, diary = measured(chain(slow, [1.0] * 6), Rule(warmup=warmup))
    assert samples.warmup == slow
    assert samples.total == [1.0] * 6
    assert samples.seconds == {"total": [1.0] * 6, "device": [0.5] * 6}
    assert diary.lines == ["prepare", "run"] * (warmup + 6)


def test_every_run_is_prepared_first_and_only_the_run_is_timed():
    _, diary = measured(forever(1.0), Rule(warmup=2))
    assert {line for line, timed in zip(diary.lines, diary.timed, strict=True) if timed} == {"run"}
    assert [timed for line, timed in zip(diary.lines, diary.timed, strict=True) if line == "run"] == [True] * 8


def test_a_first_sample_that_the_next_undercuts_by_a_tenth_was_warm_up():
    heard = Heard()
    samples, _ = measured(chain([30.0, 9.0, 2.0, 1.0], forever(1.0)), Rule(warmup=1), ["encode"], heard)
    assert samples.warmup == [30.0, 9.0, 2.0]
    assert samples.total == samples.seconds["device"][:0] + [1.0] * 6
    assert [line if isinstance(line, str) else line[0] for line in heard.lines] == [
        *("warm-up", "warmed up", "sample", "again", "again"),
        *["sample"] * 5,
    ]
    assert len(samples.seconds["encode"]) == 6


def test_calls_that_get_faster_for_ever_are_not_left_out_for_ever():
    samples, _ = measured((0.8**n for n in range(200)), Rule(warmup=0, repeats=3, budget_s=0.0))
    assert len(samples.warmup) == MOST_WARMUP
    assert len(samples.total) == 3


def test_a_later_fast_sample_makes_no_warm_up_of_those_before_it():
    samples, _ = measured([9.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0], Rule(budget_s=0.0))
    assert (samples.warmup, len(samples.total)) == ([9.0], 6)


def test_steps_are_kept_one_list_a_sample_and_those_of_warm_up_are_not():
    samples, _ = measured(forever(1.0), Rule(warmup=1), ["step", "step"])
    assert samples.steps == [[float(run)] * 2 for run in range(2, 8)]


def test_stages_stand_beside_the_total_one_value_a_sample():
    heard = Heard()
    samples, _ = measured(forever(1.0), Rule(warmup=1), ["encode", "decode"], heard)
    assert samples.seconds["encode"] == samples.seconds["decode"] == [2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    assert samples.total == [1.0] * 6
    assert [line[1].get("decode") for line in heard.lines if line[0] == "sample"] == samples.seconds["decode"]


def test_a_workload_without_steps_keeps_none():
    assert measured(forever(1.0), Rule())[0].steps == []


def test_parts_of_a_call_are_sums_of_its_spans_and_a_lone_step_has_no_stages():
    names = ["rest", "scheduler", "unet", "step", "unet", "step", "rest", "decode"]
    spans = [Span(name, 0.0, 2.0) for name in names]
    step = {"unet": 4.0, "scheduler": 2.0}
    assert part_seconds([*spans, Span(CALL, 0.0, 9.0)]) == {"denoise": 4.0, "decode": 2.0, "rest": 4.0} | step
    assert part_seconds(spans) == step


def test_a_listener_hears_of_each_timing_as_it_is_made():
    heard, times = Heard(), [9.0, 8.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    measured(times, Rule(warmup=2, budget_s=0.0), listener=heard)
    assert [line if isinstance(line, str) else (line[0], line[1]["total"]) for line in heard.lines] == [
        *(("warm-up", 9.0), ("warm-up", 8.0), "warmed up"),
        *(("sample", seconds) for seconds in times[2:]),
    ]


# ---- when to stop


@pytest.mark.parametrize(
    ("call_s", "repeats", "least"),
    [(0.001, None, 6), (1.999, None, 6), (2.0, None, 3), (60.0, None, 3), (0.001, 2, 2), (60.0, 10, 10), (0.5, 1, 1)],
)
def test_a_quick_call_is_sampled_six_times_a_slow_one_three_times_unless_repeats_says_otherwise(call_s, repeats, least):
    rule = Rule(repeats=repeats, budget_s=0.0)
    assert rule.minimum(call_s) == least
    assert measured(forever(call_s), rule)[0].total == [call_s] * least


def test_sampling_stops_as_soon_as_the_interval_of_the_median_is_tight():
    times = [1.0, 1.03, 0.97, 1.0, 1.03, 0.97] + [1.0] * 50  # 3% to either side at first
    samples, _ = measured([9.0, *times], Rule(budget_s=PATIENT))
    n = len(samples.total)
    assert samples.total == times[:n]
    assert n > 6
    assert settled(times[:n])
    assert not any(settled(times[:k]) for k in range(6, n))


def settled(times):
    return relative_reach(times) <= TARGET_REACH and entropy_growth(times, TARGET_REACH) <= SETTLED_BITS


def test_a_tight_median_is_not_enough_while_the_noise_still_shows_something_new():
    times = [*[1.0] * 8, *[1.0, 1.0, 1.0, 1.3] * 100]  # one call in four begins to be slow
    assert relative_reach(times[:16]) <= TARGET_REACH
    assert entropy_growth(times[:16], TARGET_REACH) > SETTLED_BITS
    samples, _ = measured([1.0, *times], Rule(repeats=16, budget_s=PATIENT))
    assert 16 < len(samples.total) < 200


@given(st.lists(st.floats(0.5, 2.0), min_size=4, max_size=60), st.integers(-10, 10))
def test_entropy_grows_alike_in_every_unit(times, power):
    other = entropy_growth([time * 2.0**power for time in times], TARGET_REACH)
    assert other == entropy_growth(times, TARGET_REACH)


def test_noise_that_repeats_itself_has_no_growing_entropy():
    assert entropy_growth([1.0, 1.1, 1.2, 1.3] * 8, TARGET_REACH) == pytest.approx(0)
    assert entropy_growth([1.0] * 50, TARGET_REACH) == 0


def test_three_slow_calls_are_too_few_to_be_tight_so_the_budget_decides():
    assert len(measured(forever(3.0), Rule(budget_s=PATIENT))[0].total) == 6
    assert len(measured(forever(3.0), Rule(budget_s=9.5))[0].total) == 4
    assert len(measured(forever(3.0), Rule(budget_s=9.0))[0].total) == 3


def test_sampling_stops_when_the_budget_is_spent():
    samples, _ = measured(chain([500.0], cycle(NOISY)), Rule(budget_s=12.6))
    assert len(samples.total) == 11
    assert sum(samples.total) >= 12.6 > sum(samples.total[:-1])


@pytest.mark.parametrize("most", [1, 2, 4, 6, 7, 50])
def test_there_are_never_more_samples_than_most(most):
    samples, _ = measured(cycle(NOISY), Rule(budget_s=PATIENT, most=most))
    assert len(samples.total) == most


@given(
    st.lists(st.floats(0.01, 5.0), min_size=40, max_size=40) | st.lists(st.floats(1.0, 1.1), min_size=40, max_size=40),
    st.none() | st.integers(1, 10),
    st.floats(0.0, 60.0),
    st.integers(10, 30),
)
def test_sampling_stops_at_the_first_moment_that_the_rule_allows(times, repeats, budget_s, most):
    rule = Rule(warmup=0, repeats=repeats, budget_s=budget_s, most=most)
    total = measured(times, rule)[0].total

    times = times[len(measured(times, rule)[0].warmup) :]

    def may_stop(n):
        spent, known = sum(times[:n]) >= budget_s, settled(times[:n])
        least = repeats or (6 if min(times[:n]) < 2 else 3)
        return n >= least and (n >= most or spent or known)

    assert total == times[: len(total)]
    assert [n for n in range(1, len(total) + 1) if may_stop(n)] == [len(total)]


def test_the_real_clock_times_a_workload_and_not_its_preparation():
    class Sleeper:
        phases = Phases(CpuClock())

        def prepare(self):
            time.sleep(0.05)

        def run(self):
            time.sleep(0.01)

    samples = repeat(Sleeper(), CpuClock(), Rule(warmup=1, repeats=3, budget_s=0.0))
    assert 0.01 <= min(samples.total) < 0.05
    assert len(samples.warmup) == 1
