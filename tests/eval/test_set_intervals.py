"""Intervals of set metrics cover what they say they cover: counted on distributions whose distance is known."""

from math import nan

import numpy as np
import pytest
import torch
from eval_rows import FID, estimate_row, set_row
from eval_rows import known as known_rows
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.features import FeatureSet
from eval.maths.frechet import frechet_distance, frechet_distance_of_features
from eval.maths.gaussian import Gaussian
from eval.maths.intervals import fid_infinity, frechet_estimate, self_distance_floor
from eval.maths.kernel_intervals import gaussian_mmd_estimate, mmd_estimate
from eval.maths.mmd import gaussian_kernel, kernel_sums, polynomial_kernel
from eval.report.markdown import render_markdown
from eval.set_scores import _numbers
from koala.errors import KoalaError
from koala.harness.scores.headings import rounded
from koala.harness.scores.table import to_frame

REPLICATES = 200
COVERED = 180  # of 200: an interval that covers 95% falls below with probability 0.1%, and the seeds are fixed


def polynomial_mmd(x, y):
    return kernel_sums(x, y, polynomial_kernel(x.shape[1])).unbiased()


def gaussian_mmd(x, y):
    return 1000 * kernel_sums(x, y, gaussian_kernel(10.0)).biased()


class Known:
    """Gaussian or rectified features of `d` dimensions, and the same moved: a pair whose distance is known."""

    def __init__(self, d, moved, rectified=False):
        random = torch.Generator().manual_seed(d)
        self.mix = torch.randn(d, d, generator=random, dtype=torch.float64) / d**0.5 * torch.linspace(2, 0.2, d)
        change = torch.eye(d) + moved * torch.randn(d, d, generator=random, dtype=torch.float64) / d**0.5
        self.other = self.mix @ change
        self.shift = moved * torch.randn(d, generator=random, dtype=torch.float64) / 3
        self.rectified, self.random, self.d = rectified, torch.Generator().manual_seed(1), d

    def _draw(self, n, mix, shift):
        rows = torch.randn(n, self.d, generator=self.random, dtype=torch.float64) @ mix.T + shift
        return FeatureSet.of((rows.clamp(min=0) if self.rectified else rows).float())

    def pair(self, n, m):
        return self._draw(n, self.mix, 0), self._draw(m, self.other, self.shift)

    def distance(self):
        """Exact for Gaussians, else from so many draws that its own error is 1/50 of an interval."""
        if self.rectified:
            return frechet_distance(*(side.gaussian for side in self.pair(300_000, 300_000)))
        zero = torch.zeros(self.d, dtype=torch.float64)
        return frechet_distance(
            Gaussian(zero, self.mix @ self.mix.T, None), Gaussian(self.shift, self.other @ self.other.T, None)
        )


def covered(estimates, truth):
    return sum(estimate.low <= truth <= estimate.high for estimate in estimates)


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize(("n", "m"), [(60, 60), (60, 300)])
@pytest.mark.parametrize("moved", [0.1, 0.5])
def test_95_of_100_frechet_intervals_hold_the_distance_between_the_distributions(rectified, n, m, moved):
    known = Known(12, moved, rectified)
    truth = known.distance()
    estimates = [frechet_estimate(*known.pair(n, m)) for _ in range(REPLICATES)]
    assert covered(estimates, truth) >= COVERED
    plain, corrected = (
        np.mean(values) for values in zip(*((e.value, e.detail["debiased"]) for e in estimates), strict=True)
    )
    assert abs(corrected - truth) < 0.25 * (plain - truth)  # and most of the bias is gone
    assert all(e.detail["bias"] == pytest.approx(e.value - e.detail["debiased"]) for e in estimates)
    reach = np.mean([e.high - e.low for e in estimates]) / np.std([e.detail["debiased"] for e in estimates])
    assert reach < 2 * 1.96 * 1.6  # not by being wide


def test_the_plain_value_alone_lies_outside_its_own_interval_when_most_of_it_is_bias():
    estimates = [frechet_estimate(*Known(12, 0.0).pair(60, 60)) for _ in range(20)]
    assert all(estimate.value > estimate.high > estimate.low == 0 for estimate in estimates)


@pytest.mark.parametrize(("known_n", "least"), [(None, COVERED), (300, COVERED)])
def test_intervals_against_statistics_without_images_cover(known_n, least):
    known = Known(12, 0.5)
    truth, estimates = known.distance(), []
    for _ in range(REPLICATES):
        x, y = known.pair(60, 300)
        exact = Gaussian(known.shift, known.other @ known.other.T, None)
        estimates.append(frechet_estimate(x, y.gaussian if known_n else exact))
    assert covered(estimates, truth) >= least
    assert ("exact" in estimates[0].method) == (known_n is None)


@pytest.mark.parametrize(("n", "m"), [(36, 1000), (48, 1000), (36, 120)])
@pytest.mark.parametrize("rectified", [False, True])
def test_axes_fitted_to_few_images_do_not_make_the_interval_of_far_distributions_too_short(rectified, n, m):
    known = Known(24, 1.5, rectified)
    truth = known.distance()
    assert covered([frechet_estimate(*known.pair(n, m)) for _ in range(100)], truth) >= 86


def holds(estimates, truth):
    """How often both bounds hold."""
    return sum(e.detail["at_least"] <= truth <= e.detail["at_most"] for e in estimates)


@pytest.mark.parametrize(("n", "m"), [(8, 10), (20, 20), (20, 200)])
@pytest.mark.parametrize("moved", [0.0, 0.5, 2.0])
def test_fewer_images_than_features_give_no_interval_and_bounds_that_hold(n, m, moved):
    known = Known(24, moved)
    estimates = [frechet_estimate(*known.pair(n, m)) for _ in range(60)]
    assert holds(estimates, known.distance()) >= 59  # bounds reach further than an interval that covers 95%
    assert all((e.low, e.high, e.detail["debiased"]) == (None, None, None) for e in estimates)
    assert all(e.method == f"{n} images do not fix the bias in 24 dimensions" for e in estimates)
    assert all(e.detail["standard_error"] > 0 for e in estimates)
    assert all(e.detail["at_least"] <= e.value <= e.detail["at_most"] for e in estimates)


@pytest.mark.parametrize(("n", "m"), [(30, 100), (100, 30), (30, 1000), (30, None)])
def test_a_small_set_and_a_large_one_of_one_distribution_are_not_held_apart(n, m):
    random, d = torch.Generator().manual_seed(0), 128
    exact = Gaussian(torch.zeros(d, dtype=torch.float64), torch.eye(d, dtype=torch.float64), None)
    x = [FeatureSet.of(torch.randn(n, d, generator=random)) for _ in range(20)]
    y = [FeatureSet.of(torch.randn(m, d, generator=random)) if m else exact for _ in x]
    assert holds(map(frechet_estimate, x, y), 0.0) >= 19


def test_the_bounds_of_far_distributions_leave_zero_out():
    assert all(frechet_estimate(*Known(24, 2.0).pair(20, 20)).detail["at_least"] > 0 for _ in range(5))


def test_bounds_are_printed_apart_so_that_nobody_takes_them_for_a_confidence_interval():
    row = _numbers(frechet_estimate(*Known(24, 2.0).pair(20, 20)))
    assert row["interval"] is None and row["detail"]["no_interval"] == "20 images do not fix the bias in 24 dimensions"
    of_set = {**estimate_row(set_row(), FID, row["value"]), **row}
    page = render_markdown(to_frame(known_rows(FID, set_row(), of_set)))
    value, low, high = (rounded(number) for number in (row["value"], *bounds(row["detail"])))
    assert f" {value} (n=8) " in page and f"at least {low}, at most {high} " in page
    assert "none, 20 images do not fix the bias in 24 dimensions" in page


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 60), st.integers(2, 60), st.integers(1, 30), st.integers(0, 2**31))
def test_the_value_is_the_plain_distance_and_the_sides_may_be_exchanged(n, m, d, seed):
    random = torch.Generator().manual_seed(seed)
    x, y = torch.randn(n, d, generator=random), 1.2 * torch.randn(m, d, generator=random) + 0.3
    a, b = frechet_estimate(FeatureSet.of(x), FeatureSet.of(y)), frechet_estimate(FeatureSet.of(y), FeatureSet.of(x))
    assert a.value == pytest.approx(frechet_distance_of_features(x, y), rel=1e-6)
    assert ends(a) == pytest.approx(ends(b), rel=1e-5, abs=1e-6)


def bounds(detail):
    return detail["at_least"], detail["at_most"]


def ends(estimate):
    """Of the interval, or of the bounds where there is none."""
    return bounds(estimate.detail) if estimate.low is None else (estimate.low, estimate.high)


def test_features_that_never_vary_change_nothing():
    x, y = Known(6, 0.5).pair(60, 50)
    constant = [FeatureSet.of(torch.cat([side.all(), torch.full((len(side), 2), 3.0)], dim=1)) for side in (x, y)]
    plain, padded = frechet_estimate(x, y), frechet_estimate(*constant)
    assert (padded.low, padded.high) == pytest.approx((plain.low, plain.high), rel=1e-4)


def test_features_that_never_vary_but_differ_between_the_sides_are_part_of_the_distance():
    x, y = Known(6, 0.5).pair(60, 50)
    constant = [torch.cat([side.all(), torch.full((len(side), 2), c)], dim=1) for side, c in ((x, 3.0), (y, 5.0))]
    plain, padded = frechet_estimate(x, y), frechet_estimate(*map(FeatureSet.of, constant))
    assert padded.detail["debiased"] == pytest.approx(plain.detail["debiased"] + 2 * (5 - 3) ** 2, rel=1e-5)
    assert padded.value == pytest.approx(plain.value + 2 * (5 - 3) ** 2, rel=1e-6)


def test_a_collapsed_set_still_gets_an_answer():
    x, y = Known(6, 0.5).pair(60, 50)
    same = FeatureSet.of(y.all()[:1].repeat(40, 1))
    for estimate in (frechet_estimate(same, x), frechet_estimate(x, same), frechet_estimate(same, same)):
        low, high = ends(estimate)
        assert 0 <= low <= high < 1e3


@pytest.mark.parametrize("n", [4, 60])
def test_broken_features_are_refused_on_either_side(n):
    x, y = Known(6, 0.5).pair(n, 50)
    broken = x.all()
    broken[0, 0] = nan
    for sides in ((FeatureSet.of(broken), y), (y, FeatureSet.of(broken))):
        with pytest.raises(KoalaError, match="NaN"):
            frechet_estimate(*sides)


def test_fid_infinity_removes_the_bias_of_the_generated_images():
    known = Known(12, 0.5)
    exact = Gaussian(known.shift, known.other @ known.other.T, None)
    estimates = [fid_infinity(known.pair(600, 2)[0], exact, seed=i) for i in range(20)]
    at_n, at_infinity = (np.mean(v) for v in zip(*((e.detail["at_n"], e.value) for e in estimates), strict=True))
    assert abs(at_infinity - known.distance()) < 0.5 * (at_n - known.distance())
    assert estimates[0].detail["smallest"] == 60


@pytest.mark.parametrize(
    ("n", "d", "smallest"), [(200, 4, 20), (200, 30, 60), (200, 99, 100), (10_000, 2, 5000), (9_999, 2, 999)]
)
def test_fid_infinity_starts_from_the_authors_5000_images_where_there_are_twice_as_many(n, d, smallest):
    random = torch.Generator().manual_seed(0)
    x, y = (FeatureSet.of(torch.randn(size, d, generator=random)) for size in (n, 100))
    assert fid_infinity(x, y).detail["smallest"] == smallest


def test_fid_infinity_is_the_line_through_its_sizes_and_repeats_with_its_seed():
    x, y = Known(4, 0.5).pair(400, 300)
    assert fid_infinity(x, y, seed=3) == fid_infinity(x, y, seed=3)
    assert fid_infinity(x, y, seed=3).value != fid_infinity(x, y, seed=4).value
    random, sizes = torch.Generator().manual_seed(3), np.linspace(40, 400, 15).astype(int)
    values = [
        frechet_distance_of_features(x.all()[torch.randperm(400, generator=random)[:size]], y.all()) for size in sizes
    ]
    assert fid_infinity(x, y, seed=3).value == pytest.approx(np.polyfit(1 / sizes, values, 1)[1], rel=1e-6)


def test_fid_infinity_needs_images_for_its_line():
    with pytest.raises(KoalaError, match="at least 30"):
        fid_infinity(*Known(4, 0.5).pair(29, 300))


def test_the_floor_is_what_bias_alone_gives():
    x, _ = Known(12, 0.0).pair(600, 2)
    known = Known(12, 0.0)
    fresh = np.mean([frechet_estimate(*known.pair(60, 60)).value for _ in range(100)])
    floors = {n: np.mean([self_distance_floor(x, n, seed) for seed in range(20)]) for n in (30, 60)}
    assert floors[60] == pytest.approx(fresh, rel=0.2)
    assert floors[30] > 1.5 * floors[60]
    assert self_distance_floor(x, 60) == self_distance_floor(x, 60) != self_distance_floor(x, 60, seed=1)
    with pytest.raises(KoalaError, match="need 602"):
        self_distance_floor(x, 301)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (40, 150)])
@pytest.mark.parametrize("moved", [0.0, 0.5])
def test_95_of_100_kid_intervals_hold_the_distance_between_the_distributions(n, m, moved):
    known = Known(6, moved)
    truth = (
        0.0 if not moved else np.mean([polynomial_mmd(*map(FeatureSet.all, known.pair(3000, 3000))) for _ in range(3)])
    )
    assert covered([mmd_estimate(*known.pair(n, m)) for _ in range(REPLICATES)], truth) >= COVERED


@pytest.mark.parametrize(("d", "rectified", "least"), [(24, True, 176), (64, True, 180), (6, False, 168)])
def test_kid_intervals_of_few_images_of_far_distributions_cover(d, rectified, least):
    known = Known(d, 1.0, rectified)
    truth = np.mean([polynomial_mmd(*map(FeatureSet.all, known.pair(3000, 3000))) for _ in range(3)])
    estimates = [mmd_estimate(*known.pair(30, 30)) for _ in range(REPLICATES)]
    assert covered(estimates, truth) >= least
    plain = sum(abs(e.value - truth) <= 1.96 * e.detail["standard_error"] for e in estimates)
    assert plain < covered(estimates, truth)
    assert all(e.high - e.value > 0.999 * (e.value - e.low) > 1.96 * e.detail["standard_error"] for e in estimates)
    assert "too seldom" in mmd_estimate(*known.pair(29, 30)).method and "seldom" not in estimates[0].method


def test_features_too_large_for_the_kernel_are_refused():
    x, y = (1e30 * side.all() for side in Known(6, 0.5).pair(20, 30))
    with pytest.raises(KoalaError, match="overflows"):
        mmd_estimate(x, y)


def test_the_cmmd_interval_lies_around_the_unbiased_estimate():
    known = Known(6, 0.0)
    estimates = [gaussian_mmd_estimate(*known.pair(40, 60)) for _ in range(REPLICATES)]
    assert covered(estimates, 0.0) >= COVERED
    assert abs(np.mean([e.detail["debiased"] for e in estimates])) < 0.1 * np.mean([e.value for e in estimates])
    x, y = known.pair(40, 60)
    assert gaussian_mmd_estimate(x, y).value == gaussian_mmd(x.all(), y.all())
    assert mmd_estimate(x, y).value == polynomial_mmd(x.all(), y.all())


def test_the_jackknife_leaves_out_each_image_once():
    x, y = (side.all() for side in Known(3, 0.5).pair(7, 9))
    variance = 0.0
    for rows, without in ((x, lambda keep: (x[keep], y)), (y, lambda keep: (x, y[keep]))):
        n = len(rows)
        values = [polynomial_mmd(*without(torch.arange(n) != i)) for i in range(n)]
        variance += (n - 1) * np.var(values)
    assert mmd_estimate(x, y).detail["standard_error"] == pytest.approx(variance**0.5, rel=1e-9)
