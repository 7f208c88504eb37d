import math
from statistics import median

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from koala.harness.stats import Interval, median_interval, ratio_interval, relative_reach

TIMINGS = st.lists(st.floats(1e-6, 1e6), max_size=40)
SIX_OR_MORE = st.lists(st.floats(1e-6, 1e6), min_size=6, max_size=40)


def coverage(n, rank):
    """Probability that the median lies between the rank-th smallest and the rank-th largest of n samples."""
    return binom.cdf(n - rank, n, 0.5) - binom.cdf(rank - 1, n, 0.5)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("n", range(1, 61))
def test_the_interval_is_the_narrowest_that_scipys_binomial_says_covers_the_median(n, confidence):
    covering = [rank for rank in range(1, (n + 1) // 2 + 1) if coverage(n, rank) >= confidence - 1e-12]
    expected = Interval(float(covering[-1]), float(n + 1 - covering[-1])) if covering else None
    assert median_interval([float(i) for i in range(1, n + 1)], confidence) == expected


# Ranks of the two-sided 95% interval: Conover (1999), table A3 (binomial, p = 1/2).
@pytest.mark.parametrize(("n", "low", "high"), [(6, 1, 6), (8, 1, 8), (9, 2, 8), (20, 6, 15), (50, 18, 33)])
def test_ranks_of_the_interval_are_the_tabulated_ones(n, low, high):
    assert median_interval([float(i) for i in range(1, n + 1)]) == Interval(float(low), float(high))


@pytest.mark.parametrize("n", range(6))
def test_there_is_no_interval_below_six_samples(n):
    assert median_interval([1.0] * n) is None
    assert relative_reach([1.0] * n) == math.inf


@given(SIX_OR_MORE)
def test_the_interval_contains_the_median_and_ends_at_samples(samples):
    interval = median_interval(samples)
    assert min(samples) <= interval.low <= median(samples) <= interval.high <= max(samples)
    assert {interval.low, interval.high} <= set(samples)


@given(TIMINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(samples, random):
    shuffled = list(samples)
    random.shuffle(shuffled)
    assert median_interval(shuffled) == median_interval(samples)
    assert relative_reach(shuffled) == relative_reach(samples)


@given(SIX_OR_MORE, st.floats(1e-3, 1e3))
def test_the_interval_scales_with_the_unit_and_the_relative_reach_does_not_change(samples, scale):
    scaled, interval = [scale * s for s in samples], median_interval(samples)
    assert median_interval(scaled) == Interval(scale * interval.low, scale * interval.high)
    assert relative_reach(scaled) == pytest.approx(relative_reach(samples), rel=1e-9, abs=1e-9)


def test_the_samples_are_left_in_their_order():
    samples = [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]
    median_interval(samples)
    relative_reach(samples)
    assert samples == [3.0, 1.0, 2.0, 6.0, 5.0, 4.0]


@pytest.mark.parametrize("n", [6, 20])
def test_intervals_of_skewed_noise_cover_the_true_median_as_often_as_promised(n):
    trials, true_median = 10_000, 2.0
    noise = np.random.default_rng(0).lognormal(mean=math.log(true_median), sigma=1.0, size=(trials, n))
    intervals = [median_interval(samples) for samples in noise.tolist()]
    covered = sum(interval.low <= true_median <= interval.high for interval in intervals) / trials
    exact = max(c for rank in range(1, n // 2 + 1) if (c := coverage(n, rank)) < 0.98 and c >= 0.95)
    assert covered >= 0.95 - 0.002
    assert covered == pytest.approx(exact, abs=0.01)


@pytest.mark.parametrize(
    ("samples", "reach"),
    [
        ([2.0] * 6, 0.0),
        ([9.0, 10.0, 10.0, 10.0, 10.0, 12.0], 0.2),
        ([7.0, 10.0, 10.0, 10.0, 10.0, 12.0], 0.3),
        ([7.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 99.0], 0.0),
        ([], math.inf),
        ([0.0] * 6, math.inf),
        ([-1.0] * 6, math.inf),
    ],
)
def test_the_reach_is_the_longer_side_of_the_interval_as_a_share_of_the_median(samples, reach):
    assert relative_reach(samples) == pytest.approx(reach)


def test_the_interval_of_a_ratio_holds_the_true_one_as_often_as_it_says():
    truth, draws = 0.9, np.random.default_rng(0)
    inside = 0
    for seed in range(100):
        machine = draws.lognormal(0, 0.1, 20)  # what both sides of a pair suffer
        ours, theirs = (machine * draws.lognormal(0, 0.02, 20) * scale for scale in (truth, 1.0))
        interval = ratio_interval(ours.tolist(), theirs.tolist(), resamples=200, seed=seed)
        inside += interval.low <= truth <= interval.high
    assert 88 <= inside <= 100


def test_pairs_that_suffer_together_give_a_tight_interval_of_their_ratio():
    theirs = [1.0, 5.0, 2.0, 9.0, 3.0, 4.0]
    interval = ratio_interval([0.5 * t for t in theirs], theirs)
    assert (interval.low, interval.high) == (0.5, 0.5)


def test_a_ratio_needs_its_samples_in_pairs():
    with pytest.raises(ValueError, match="argument"):
        ratio_interval([1.0, 2.0], [1.0])
