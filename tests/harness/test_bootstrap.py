import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from koala.harness.bootstrap import (
    FEWEST_CLUSTERS,
    balanced_interval,
    mean_interval,
    paired_difference,
    student_quantile,
)

SCORES = st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=30)


def clustered(random, clusters, each, skewed=False):
    """Scores of `each` images of every prompt, which share a prompt's luck; their mean is 0."""
    shared = random.exponential(size=(clusters, 1)) - 1 if skewed else random.normal(size=(clusters, 1))
    return (shared + random.normal(size=(clusters, each))).ravel(), np.repeat(np.arange(clusters), each).tolist()


@pytest.mark.parametrize(("clusters", "skewed"), [(6, False), (12, False), (40, False), (40, True)])
def test_the_interval_covers_the_mean_about_95_times_in_100(clusters, skewed):
    hits, trials = 0, 400
    for trial in range(trials):
        values, prompts = clustered(np.random.default_rng([trial, clusters]), clusters, 4, skewed)
        interval = mean_interval(values, prompts, resamples=1000)
        hits += interval.low <= 0 <= interval.high
    assert 0.91 <= hits / trials <= 0.98  # 0.95 +- 3 standard errors of 400 trials, less 1% for skew


def test_treating_images_of_one_prompt_as_independent_would_cover_far_too_seldom():
    hits, trials = 0, 200
    for trial in range(trials):
        values, _ = clustered(np.random.default_rng(trial), 20, 8)
        interval = mean_interval(values, list(range(len(values))), resamples=500)
        hits += interval.low <= 0 <= interval.high
    assert hits / trials < 0.75


@given(SCORES)
def test_copies_of_an_images_score_within_its_prompt_do_not_narrow_the_interval(scores):
    prompts = list(range(len(scores)))
    once = mean_interval(scores, prompts, resamples=200)
    thrice = mean_interval(scores * 3, prompts * 3, resamples=200)
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high), rel=1e-9, abs=1e-6)


@given(SCORES, st.floats(-100, 100))
def test_the_interval_moves_with_the_scores(scores, shift):
    prompts = list(range(len(scores)))
    here = mean_interval(scores, prompts, resamples=200)
    there = mean_interval([score + shift for score in scores], prompts, resamples=200)
    assert (there.low, there.high) == pytest.approx((here.low + shift, here.high + shift), rel=1e-9, abs=1e-6)
    assert here.low - 1e-6 <= np.mean(scores) <= here.high + 1e-6


def test_prompts_with_more_images_count_for_more_as_in_the_mean_over_images():
    values, prompts = [1.0] * 90 + [0.0] * 10, ["a"] * 90 + [f"b{i}" for i in range(10)]
    interval = mean_interval(values, prompts)
    assert interval.low <= 0.9 <= interval.high
    assert interval.high > 0.95


@pytest.mark.parametrize("clusters", range(1, FEWEST_CLUSTERS))
def test_there_is_no_interval_below_six_prompts(clusters):
    values, prompts = clustered(np.random.default_rng(0), clusters, 50)
    assert mean_interval(values, prompts) is None
    assert paired_difference(values, values + 1, prompts).interval is None


def test_equal_seeds_give_equal_intervals_and_others_nearly_equal_ones():
    values, prompts = clustered(np.random.default_rng(3), 50, 2)
    first, again, other = (mean_interval(values, prompts, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert other.low == pytest.approx(first.low, abs=0.05)


def test_ten_thousand_resamples_of_five_thousand_images_take_seconds():
    values = np.random.default_rng(0).normal(size=5000)
    start = time.perf_counter()
    mean_interval(values, list(range(5000)))
    assert time.perf_counter() - start < 10  # 0.4 s on an idle core


@pytest.mark.parametrize("degrees", [5, 6, 9, 20, 100, 5000])
@pytest.mark.parametrize("p", [0.9, 0.95, 0.975, 0.995])
def test_students_quantiles_are_scipys(p, degrees):
    assert student_quantile(p, degrees) == pytest.approx(t.ppf(p, degrees), rel=2e-3)


@given(st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=1, max_size=8))
def test_p_is_the_share_of_sign_patterns_that_are_as_extreme(differences):
    patterns = itertools.product((1, -1), repeat=len(differences))
    totals = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in patterns]
    expected = np.mean([total >= abs(sum(differences)) - 1e-9 for total in totals])
    found = paired_difference(differences, [0.0] * len(differences), list(range(len(differences))), resamples=10)
    assert found.p == pytest.approx(expected)
    assert found.mean == pytest.approx(np.mean(differences), abs=1e-12)
    assert (found.n, found.clusters) == (len(differences), len(differences))


def test_p_is_below_5_percent_5_times_in_100_where_nothing_differs():
    random = np.random.default_rng(5)
    small = [
        paired_difference(*random.normal(size=(2, 60)), [i // 3 for i in range(60)], resamples=500).p < 0.05
        for _ in range(400)
    ]
    assert 0.02 <= np.mean(small) <= 0.09


def test_pairs_show_a_difference_that_the_spread_of_images_would_hide():
    random = np.random.default_rng(1)
    theirs = random.normal(30, 5, size=200)
    found = paired_difference(theirs + 0.2 + random.normal(0, 0.2, size=200), theirs, list(range(200)))
    assert found.interval.low < 0.2 < found.interval.high
    assert found.interval.low > 0
    assert found.p == 1 / 10_001


def test_a_model_held_against_itself_differs_by_nothing():
    values, prompts = clustered(np.random.default_rng(0), 30, 2)
    found = paired_difference(values, values, prompts)
    assert (found.mean, found.p, found.interval.low, found.interval.high) == (0, 1, 0, 0)


def test_a_balanced_interval_weighs_groups_alike_and_covers_their_mean():
    random = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        large, small = random.normal(1.0, 1.0, 60), random.normal(3.0, 1.0, 12)
        values, groups = [*large, *small], ["a"] * 60 + ["b"] * 12
        interval = balanced_interval(values, list(range(72)), groups, resamples=400)
        middle = (large.mean() + small.mean()) / 2
        assert interval.low < middle < interval.high
        covered += interval.low <= 2.0 <= interval.high
    assert covered / 200 >= 0.9


def test_a_balanced_interval_of_one_group_is_the_plain_one():
    values = list(np.random.default_rng(0).normal(size=20))
    assert balanced_interval(values, list(range(20)), ["a"] * 20) == mean_interval(values, list(range(20)))


def test_a_group_with_too_few_prompts_has_no_interval():
    assert balanced_interval([1.0] * 10, list(range(10)), ["a"] * 6 + ["b"] * 4) is None
