import itertools
from math import comb, exp, log
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from koala.harness import nested
from koala.harness.nested import (
    TAIL,
    few_errors,
    interval_of_runs,
    nested_variance,
    processes_needed,
    rank_cut,
    rank_interval,
    ratio_of_runs,
    side_of,
    student_quantiles,
)

SAMPLES = st.lists(st.floats(1e-4, 1e2), min_size=1, max_size=6)


def runs(random, processes, samples=6, between=0.03, inside=0.02, scale=1.0):
    luck = scale * np.exp(between * random.normal(size=(processes, 1)))
    return (luck * np.exp(inside * random.normal(size=(processes, samples)))).tolist()


@pytest.mark.parametrize("degrees", [1.0, 1.3, 2.0, 3.7, 5.0, 20.0, 200.0, 3000.0])
@pytest.mark.parametrize("p", [0.9, 0.98, 0.995])
def test_students_quantiles_are_scipys_from_one_degree_of_freedom_on(p, degrees):
    assert float(student_quantiles(p, np.array(degrees))) == pytest.approx(t.ppf(p, degrees), rel=1e-5)


@pytest.mark.parametrize(("a", "b"), [(2, 2), (3, 3), (3, 4), (4, 4), (4, 6), (5, 5), (6, 6)])
def test_the_cut_is_that_of_counting_every_order(a, b):
    """U of each way to place a's processes among all: the sum of its ranks less the least such sum."""
    statistics = [sum(places) - a * (a - 1) // 2 for places in itertools.combinations(range(a + b), a)]
    expected = max(c for c in range(a * b + 1) if sum(u < c for u in statistics) <= TAIL * comb(a + b, a))
    assert rank_cut(a, b) == expected == rank_cut(b, a)


def test_four_processes_a_side_are_the_fewest_that_ranks_need():
    assert [rank_cut(k, k) for k in range(1, 6)] == [0, 0, 0, 1, 3]


def test_the_approximate_cut_goes_on_where_the_exact_one_ends(monkeypatch):
    monkeypatch.setattr(nested, "_EXACT", 30)
    for k in (31, 36, 40):
        assert rank_cut(k, k) - 2 <= rank_cut.__wrapped__(k, k) <= rank_cut(k, k)


def test_of_all_ways_to_deal_out_processes_at_most_4_percent_are_called_different():
    """A test over every split of one set of numbers, an outlier among them: exact whatever the noise is."""
    logs = np.array([0.0, 0.01, 0.013, 0.02, 0.021, 0.05, 0.3, 2.0])
    called = total = 0
    for places in itertools.combinations(range(8), 4):
        a = np.isin(np.arange(8), places)
        low, high = rank_interval(logs[a], logs[~a])
        called, total = called + (low > 0 or high < 0), total + 1
    assert 0 < called / total <= 2 * TAIL


@given(SAMPLES, SAMPLES)
def test_of_one_process_each_the_ratio_is_that_of_their_medians(a, b):
    found = ratio_of_runs([a], [b])
    assert found.ratio == pytest.approx(median(b) / median(a), rel=1e-9)
    assert (found.reach, found.visible, found.processes) == (None, None, (1, 1))
    assert (found.interval is None) == (min(len(a), len(b)) == 1)


@settings(max_examples=50, deadline=None)
@given(st.lists(SAMPLES, min_size=1, max_size=6), st.lists(SAMPLES, min_size=1, max_size=6), st.floats(0.1, 10))
def test_the_ratio_and_its_interval_scale_with_b(a, b, scale):
    once, scaled = ratio_of_runs(a, b), ratio_of_runs(a, [[scale * s for s in samples] for samples in b])
    assert scaled.ratio == pytest.approx(scale * once.ratio, rel=1e-6)
    if once.interval and once.interval.low > 1e-100 and once.interval.high < 1e100:
        assert scaled.interval.low == pytest.approx(scale * once.interval.low, rel=1e-6)
        assert scaled.interval.high == pytest.approx(scale * once.interval.high, rel=1e-6)
        assert once.interval.low <= once.ratio * (1 + 1e-9) and once.ratio * (1 - 1e-9) <= once.interval.high


@settings(max_examples=50, deadline=None)
@given(st.lists(SAMPLES, min_size=1, max_size=6), st.lists(SAMPLES, min_size=1, max_size=6))
def test_the_other_way_round_the_ratio_is_the_inverse(a, b):
    assert ratio_of_runs(b, a).ratio == pytest.approx(1 / ratio_of_runs(a, b).ratio, rel=1e-6)


def test_one_process_ten_times_slower_moves_the_ratio_as_little_as_one_a_bit_slower():
    quiet = runs(np.random.default_rng(0), 9, between=0.005)
    loud = [*quiet[:8], [10 * s for s in quiet[8]]]
    assert ratio_of_runs(quiet, loud).ratio == pytest.approx(1, abs=0.01)
    assert ratio_of_runs(quiet, loud).interval.high < 1.1


@pytest.mark.parametrize("n", [1, 2, 3, 6, 7, 20])
def test_medians_of_resamples_are_spread_as_drawing_the_samples_spreads_them(n):
    random = np.random.default_rng(n)
    samples = random.lognormal(0, 0.2, size=n)
    drawn = np.log(np.median(samples[random.integers(n, size=(20_000, n))], axis=1))
    found = side_of([samples.tolist()]).resampled[0]
    assert found.mean() == pytest.approx(drawn.mean(), abs=0.15 * drawn.std() + 1e-9)
    assert found.std() == pytest.approx(drawn.std(), rel=0.15, abs=1e-9)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_the_standard_error_of_few_processes_is_that_of_drawing_processes_and_then_samples(k):
    random = np.random.default_rng(k)
    times = np.array(runs(random, k, samples=5))
    drawn = times[random.integers(k, size=(20_000, k))]
    inner = np.take_along_axis(drawn, random.integers(5, size=drawn.shape), axis=2)
    expected = np.log(np.median(inner, axis=2)).mean(axis=1).var() * k / (k - 1)
    side = side_of(times.tolist()).resampled
    found = nested_variance(side.mean(axis=1)[None], side.var(axis=1)[None])
    assert float(found[0]) == pytest.approx(expected, rel=0.1)


def test_a_side_of_one_process_takes_the_others_run_to_run_variance():
    random = np.random.default_rng(3)
    many, one = runs(random, 6), runs(random, 1)
    found = ratio_of_runs(many, one)
    assert found.borrowed and found.reach > ratio_of_runs(many, runs(random, 6)).reach
    stacked = [(s.mean(axis=1)[None], s.var(axis=1)[None]) for s in (side_of(many).resampled, side_of(one).resampled)]
    errors, degrees = few_errors(*stacked)
    assert float(errors[0] ** 2) == pytest.approx(7 * float(nested_variance(*stacked[0])[0]))
    assert degrees.tolist() == [5.0]


@pytest.mark.parametrize("counts", [(2, 2), (3, 3), (3, 9), (5, 5), (9, 9), (6, 1)])
def test_the_interval_covers_the_true_ratio_at_least_95_times_in_100(counts):
    trials, truth, inside = 200, 1.2, 0
    for trial in range(trials):
        random = np.random.default_rng([trial, *counts])
        found = ratio_of_runs(runs(random, counts[0]), runs(random, counts[1], scale=truth))
        inside += found.interval.low <= truth <= found.interval.high
    assert inside / trials >= 0.95 - 0.035  # less than 3 standard errors of 200 trials


def test_percentiles_of_three_processes_alone_would_cover_far_too_seldom():
    trials, inside, cut = 300, 0, int(0.025 * nested.RESAMPLES)
    for trial in range(trials):
        random = np.random.default_rng(trial)
        a, b = (side_of(runs(random, 3, inside=0.001)) for _ in range(2))
        drawn = np.sort(nested.resampled_log_ratios(a, b))
        inside += drawn[cut] <= 0 <= drawn[-1 - cut]
    assert inside / trials < 0.9


def test_the_interval_of_two_processes_knows_nothing_of_runs():
    trials, inside = 200, 0
    for trial in range(trials):
        random = np.random.default_rng(trial)
        found = ratio_of_runs(runs(random, 1, 20, inside=0.005), runs(random, 1, 20, inside=0.005))
        inside += found.interval.low <= 1 <= found.interval.high
        assert found.reach is None
    assert inside / trials < 0.5  # which is why nothing is called by it


def test_what_is_visible_is_found_95_times_in_100():
    random, found = np.random.default_rng(0), 0
    typical = np.median([ratio_of_runs(runs(random, 9), runs(random, 9)).visible for _ in range(40)])
    for _ in range(200):
        found += ratio_of_runs(runs(random, 9), runs(random, 9, scale=1 + typical)).interval.low > 1
    assert found / 200 >= 0.9


def test_no_more_processes_are_asked_for_where_the_change_would_be_seen():
    random = np.random.default_rng(0)
    pilot = ratio_of_runs(runs(random, 6), runs(random, 6))
    assert processes_needed(pilot, pilot.visible) == 6
    assert processes_needed(pilot, pilot.visible * 0.99) > 6


@given(st.integers(2, 60), st.floats(0.001, 1), st.floats(0.005, 0.5), st.floats(1, 3))
def test_a_smaller_change_asks_for_no_fewer_processes_and_never_for_many_at_once(k, reach, change, factor):
    pilot = nested.Ratio(1.0, None, reach, (k, k))
    asked, more = processes_needed(pilot, change * factor), processes_needed(pilot, change)
    assert k <= asked <= more <= max(nested.GROWTH * k, 3)
    predicted = k * (nested.SEEN * reach / log(1 + change)) ** 2
    assert more >= min(predicted, nested.GROWTH * k) - 1e-6


def test_where_nothing_is_known_of_runs_three_processes_are_asked_for():
    assert processes_needed(ratio_of_runs([[1.0, 1.1]], [[1.0, 1.2]])) == 3
    random = np.random.default_rng(0)
    assert processes_needed(ratio_of_runs(runs(random, 2, between=1e-9, inside=1e-9), [[1.0, 1.0]])) == 3


def test_equal_times_are_no_difference_and_hide_nothing():
    found = ratio_of_runs([[1.0] * 3] * 4, [[1.0] * 3] * 4)
    assert (found.ratio, found.interval.low, found.interval.high) == (1.0, 1.0, 1.0)
    assert found.visible == pytest.approx(exp(0) - 1)


def test_a_time_of_nothing_is_a_programmers_mistake():
    with pytest.raises(AssertionError, match="positive"):
        side_of([[0.0, 1.0]])


@pytest.mark.parametrize("runs", [[], [[1.0, 2.0, 3.0]]])
def test_of_fewer_than_two_processes_no_interval_is_known(runs):
    assert interval_of_runs(runs) is None


@pytest.mark.parametrize("processes", [2, 3, 5, 10])
def test_the_interval_over_processes_covers_what_a_process_takes_as_often_as_it_says(processes):
    random, covered, draws = np.random.default_rng(processes), 0, 400
    for _ in range(draws):
        levels = np.exp(random.normal(0, 0.03, processes))
        runs = [list(level * np.exp(random.normal(0, 0.02, 12))) for level in levels]
        interval = interval_of_runs(runs)
        covered += interval.low <= 1.0 <= interval.high
    assert 0.92 <= covered / draws <= 1.0


@given(st.lists(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=9), min_size=2, max_size=6), st.floats(0.01, 100))
def test_the_interval_over_processes_is_alike_in_every_unit(runs, scale):
    once, scaled = interval_of_runs(runs), interval_of_runs([[scale * s for s in samples] for samples in runs])
    assert scaled.low == pytest.approx(scale * once.low, rel=1e-6)
    assert scaled.high == pytest.approx(scale * once.high, rel=1e-6)
