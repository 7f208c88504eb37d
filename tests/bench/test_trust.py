from math import exp
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.patterns import dip, drift, outliers, rank_correlation, two_groups, wide_spread
from bench.trust import doubts, unstable_because

STEADY = [1.0, 1.002, 0.998, 1.001, 0.999, 1.0, 1.003, 0.997]


def row(total=STEADY, **more):
    samples = {"total": total, **more.pop("samples_s", {})}
    return {"status": "ok", "samples_s": samples, "rule": {"target": 0.02, "budget_s": 20.0}, **more}


def under(**conditions):
    quiet = {"other_processes": 0, "throttled": [], "busy_elsewhere": 0.02}
    clock = {"sm_clock_hz": {"low": 1.97e9, "median": 1.98e9, "high": 1.98e9}}
    return row(conditions=quiet | clock | conditions)


# what the machine did


def test_nothing_speaks_against_steady_samples_on_a_quiet_machine():
    assert doubts(under()) == [] and unstable_because(under()) is None


@pytest.mark.parametrize(
    ("conditions", "sentence"),
    [
        ({"other_processes": 1}, "1 other process was on the GPU"),
        ({"other_processes": 3}, "3 other processes were on the GPU"),
        ({"throttled": ["power cap", "thermal (software)"]}, "the GPU throttled: power cap, thermal (software)"),
        (
            {"sm_clock_hz": {"low": 1.755e9, "median": 1.98e9, "high": 1.98e9}},
            "SM clocks moved by 11%, from 1755 to 1980 MHz",
        ),
        ({"busy_elsewhere": 0.31}, "others used 31% of the host's CPU time"),
    ],
)
def test_each_condition_is_a_doubt_with_its_number(conditions, sentence):
    assert doubts(under(**conditions)) == [sentence]


@pytest.mark.parametrize(
    "conditions",
    [
        {"sm_clock_hz": {"low": 1.9e9, "median": 1.95e9, "high": 1.98e9}},
        {"busy_elsewhere": 0.1},
        dict.fromkeys(("other_processes", "throttled", "sm_clock_hz", "busy_elsewhere")),
    ],
)
def test_what_stays_below_its_threshold_or_was_not_measured_is_no_doubt(conditions):
    assert doubts(under(**conditions)) == []


def test_reasons_are_joined_into_one_sentence():
    text = unstable_because(under(other_processes=1, busy_elsewhere=0.5))
    assert text == ("may be unstable because 1 other process was on the GPU; others used 50% of the host's CPU time")


@pytest.mark.parametrize("status", ["oom", "timeout", "failed", "unsupported"])
def test_a_row_without_an_answer_is_not_doubted(status):
    assert doubts({"status": status, "conditions": {"other_processes": 3}}) == []


def test_a_row_from_before_any_of_this_was_measured_is_judged_by_its_samples():
    assert doubts({"status": "ok", "samples_s": {"total": STEADY}}) == []
    assert doubts({"status": "ok", "samples_s": {}}) == doubts({"status": "ok"}) == []


# how well the median is known


@pytest.mark.parametrize(("n", "words"), [(1, "1 sample gives"), (5, "5 samples give")])
def test_below_six_samples_there_is_no_interval_and_no_pattern(n, words):
    assert doubts(row([1.0, 5.0, 1.0, 9.0, 1.0][:n])) == [f"{words} no 95% interval (6 do)"]


def test_an_interval_wider_than_asked_says_whether_the_budget_was_spent():
    wide = [1.0, 1.04, 0.97, 1.02, 0.98, 1.01, 0.99]
    words = "the 95% interval reaches 4.0% from the median, not the 2.0% asked for"
    assert doubts(row(wide)) == [words]
    spent = [20 * sample for sample in wide]
    assert doubts(row(spent)) == [words + " (20 s of sampling are spent)"]
    assert doubts(row(wide) | {"rule": {"target": 0.05}}) == []


# stages


def test_stages_that_do_not_add_up_to_the_total_are_a_doubt():
    stages = {"encode": [0.1] * 8, "denoise": [0.6] * 8, "decode": [0.2] * 8}
    assert doubts(row([1.0] * 8, samples_s=stages | {"rest": [0.09] * 8})) == []
    short = doubts(row([1.0] * 8, samples_s=stages | {"rest": [0.071] * 8}))
    assert short == ["stages add up to 97.1% of the total"]
    assert doubts(row([1.0] * 8, samples_s=stages | {"rest": [0.13] * 8})) == ["stages add up to 103.0% of the total"]


def test_stages_without_the_rest_are_not_meant_to_add_up():
    assert doubts(row([1.0] * 8, samples_s={"encode": [0.1] * 8, "denoise": [0.6] * 8, "decode": None})) == []


# patterns: how often honest noise is blamed, and how often a real one is found


def student(random):
    """Student's t with 3 degrees of freedom: every hundredth sample is beyond 4.5 deviations of the bulk."""
    return random.gauss(0, 1) / (sum(random.gauss(0, 1) ** 2 for _ in range(3)) / 3) ** 0.5


NOISE = {
    "normal": lambda random: 1 + 0.01 * random.gauss(0, 1),
    "lognormal": lambda random: exp(0.01 * random.gauss(0, 1)),
    "exponential": lambda random: 1 + 0.01 * random.expovariate(1),
    "student": lambda random: 1 + 0.01 * student(random),
}
DETECTORS = (wide_spread, drift, two_groups, outliers)
DRAWS = 200


def found(detector, noise, n, shape=lambda i, random: 1.0):
    """Share of draws of n samples that the detector speaks of."""
    random = Random(n)
    draws = [[shape(i, random) * NOISE[noise](random) for i in range(n)] for _ in range(DRAWS)]
    return sum(detector(samples) is not None for samples in draws) / DRAWS


@pytest.mark.parametrize("n", [6, 7, 10, 20, 50, 200])
@pytest.mark.parametrize("noise", NOISE)
def test_honest_noise_is_blamed_in_less_than_5_percent_of_draws(noise, n):
    assert all(found(detector, noise, n) < 0.05 for detector in DETECTORS)


@pytest.mark.parametrize("n", [6, 10, 30, 200])
def test_even_the_worst_distribution_of_one_mode_rarely_looks_like_two(n):
    random = Random(0)
    draws = [[1 + 0.1 * random.random() for _ in range(n)] for _ in range(400)]
    assert sum(two_groups(samples) is not None for samples in draws) / 400 < 0.08  # 5%, and 3 deviations of 400 draws


@pytest.mark.parametrize("noise", NOISE)
def test_a_drift_of_5_percent_over_30_samples_is_found(noise):
    for sign in (1, -1):
        assert found(drift, noise, 30, lambda i, random, sign=sign: 1 + sign * 0.05 * i / 29) > 0.9


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n", [40, 100])
def test_two_modes_10_percent_apart_are_found(noise, n):
    assert found(two_groups, noise, n, lambda i, random: random.choice((1, 1.1))) > 0.9


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("n", [8, 30, 200])
def test_one_sample_of_twice_the_median_is_found(noise, n):
    assert found(outliers, noise, n, lambda i, random: 2 if i == n // 2 else 1) > 0.9


def test_each_pattern_is_told_with_its_numbers():
    assert wide_spread([1.0, 1.3, 1.0, 1.3, 1.1, 1.1, 1.1]) == "the middle half of the samples spans 14% of the median"
    assert drift([1 + i / 100 for i in range(9)]) == "the samples rise: the last third takes 5.9% more time"
    assert drift([1 - i / 100 for i in range(9)]) == "the samples fall: the last third takes 6.1% less time"
    assert two_groups([0.067, 0.088] * 10) == (
        "the samples fall into two groups 31% apart, 10 around 67 ms and 10 around 88 ms"
    )
    assert outliers([*STEADY, 2.5]) == "1 of 9 samples (11%) is an outlier, up to 2.5 times the median"


def test_a_rare_outlier_among_many_samples_is_none_of_the_medians_business():
    assert outliers([*STEADY * 100, 2.0]) is None


@given(st.lists(st.integers(0, 6), min_size=1, max_size=30))
def test_rank_correlation_is_antisymmetric_and_bounded(samples):
    forward = rank_correlation(samples)
    assert rank_correlation(samples[::-1]) == pytest.approx(-forward) and abs(forward) <= 1 + 1e-9


def test_rank_correlation_equals_that_of_scipy():
    from scipy.stats import spearmanr

    samples = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0, 5.0, 3.0]
    assert rank_correlation(samples) == pytest.approx(spearmanr(range(10), samples).statistic)


def test_the_dip_of_known_distributions():
    assert dip([1, 2, 3, 4, 5]) == pytest.approx(1 / 10)  # evenly spread: half a step, the least there is
    assert dip([0] * 50 + [1] * 50) == pytest.approx(1 / 4)  # two points: the most there is


# Least d for which a distribution that is convex before its mode and concave after it stays within d of the samples',
# by linear programming over the place of the mode (scipy.optimize.linprog, 12 digits).
@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([0.0, 0.3, 0.5, 0.6, 5.0, 5.1, 5.3, 5.8], 0.211538461538),
        ([0.0, 1.0, 1.1, 1.2, 2.0, 4.0, 4.1, 4.3, 7.0], 0.145161290323),
        ([0.0, 0.1, 0.2, 3.0, 6.0, 6.1, 6.2, 9.0, 9.1, 9.2, 9.3], 0.130303030303),
    ],
)
def test_the_dip_equals_its_definition(samples, expected):
    assert dip(samples) == pytest.approx(expected, abs=1e-9)


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=40), st.integers(1, 9), st.integers(-9, 9))
def test_the_dip_knows_neither_unit_nor_order_nor_direction(samples, scale, shift):
    expected = dip(samples)
    assert dip([scale * s + shift for s in reversed(samples)]) == pytest.approx(expected)
    assert dip([-s for s in samples]) == pytest.approx(expected)
    assert 1 / (2 * len(samples)) - 1e-12 <= expected
    assert expected <= 0.25 + 1 / len(samples) + 1e-12
