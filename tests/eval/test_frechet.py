"""The Frechet distance against scipy, against distances known by construction, and against its own definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from eval.maths.frechet import frechet_distance, frechet_distance_of_features
from eval.maths.gaussian import Gaussian, gaussian
from koala.errors import KoalaError

SEEDS = st.integers(0, 2**31)


def rows(n, d, seed, rank=None):
    random = torch.Generator().manual_seed(seed)
    mixed = torch.randn(n, rank or d, generator=random, dtype=torch.float64)
    mixed = mixed @ torch.randn(rank or d, d, generator=random, dtype=torch.float64) / d**0.5
    return mixed + torch.randn(d, generator=random, dtype=torch.float64)


def by_scipy(a, b):
    shift, product = a.mean - b.mean, (a.covariance @ b.covariance).numpy()
    overlap = np.trace(sqrtm(product)).real
    return (shift @ shift + a.covariance.trace() + b.covariance.trace()).item() - 2 * overlap


def moved(x, seed, singular=False):
    """Rows T x + c with T symmetric and positive, and their exact distance: |shift|^2 + tr S1 + tr S2 - 2 tr T S1."""
    random, d = torch.Generator().manual_seed(seed), x.shape[1]
    half = torch.randn(d, d // 2 if singular else d, generator=random, dtype=torch.float64)
    stretch = half @ half.T / d + (0 if singular else 0.1) * torch.eye(d, dtype=torch.float64)
    y = x @ stretch + torch.randn(d, generator=random, dtype=torch.float64)
    s1, s2, shift = torch.cov(x.T), torch.cov(y.T), x.mean(0) - y.mean(0)
    exact = shift @ shift + s1.trace() + s2.trace() - 2 * (stretch @ s1).trace()
    return y, exact.item()


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 24), SEEDS)
def test_equals_scipys_square_root_to_1e_9_at_full_rank(d, seed):
    a, b = gaussian([rows(4 * d, d, seed)]), gaussian([rows(5 * d, d, seed + 1)])
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b), rel=1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 24), st.booleans(), SEEDS)
def test_equals_a_distance_known_by_construction(d, singular, seed):
    x = rows(3 * d, d, seed)
    y, exact = moved(x, seed + 1, singular)
    assert frechet_distance(gaussian([x]), gaussian([y])) == pytest.approx(exact, rel=1e-6 if singular else 1e-9)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 8), st.integers(8, 48), SEEDS)
def test_fewer_rows_than_features_change_nothing(n, d, seed):
    x = rows(n, d, seed)
    y, exact = moved(x, seed + 1, singular=True)
    assert frechet_distance_of_features(x, y) == pytest.approx(exact, rel=1e-9)
    assert frechet_distance(gaussian([x]), gaussian([y])) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize(("n", "m"), [(6, 9), (9, 200), (200, 9), (17, 200), (200, 150)])
def test_rows_and_their_moments_give_one_distance(n, m):
    x, y = rows(n, 16, 0), rows(m, 16, 1)
    whole = frechet_distance(gaussian([x]), gaussian([y]))
    assert frechet_distance_of_features(x, y) == pytest.approx(whole, rel=1e-7)


@pytest.mark.parametrize("rank", [3, 12])
def test_two_singular_covariances_are_as_exact_as_scipy_is_not(rank):
    x = rows(100, 24, 0, rank)
    y, exact = moved(x, 1, singular=True)
    assert frechet_distance(gaussian([x]), gaussian([y])) == pytest.approx(exact, rel=1e-7)
    assert frechet_distance_of_features(x, y) == pytest.approx(exact, rel=1e-7)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 24), SEEDS)
def test_symmetric_at_least_zero_and_blind_to_order(n, m, d, seed):
    x, y = rows(n, d, seed), rows(m, d, seed + 1)
    distance = frechet_distance_of_features(x, y)
    assert distance >= 0
    assert frechet_distance_of_features(y, x) == pytest.approx(distance, rel=1e-6)
    assert frechet_distance_of_features(x.flip(0), y[torch.randperm(m)]) == pytest.approx(distance, rel=1e-6)


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(1, 24), SEEDS)
def test_zero_on_itself(n, d, seed):
    x = rows(n, d, seed)
    spread = x.var(dim=0).sum().item()
    assert 0 <= frechet_distance_of_features(x, x) <= 1e-10 * spread
    assert 0 <= frechet_distance(gaussian([x]), gaussian([x])) <= 1e-6 * spread


@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(0, 5), st.floats(0, 5))
def test_one_dimension_is_the_difference_of_means_and_of_deviations(m1, m2, s1, s2):
    def one(mean, deviation):
        mean, deviation = torch.tensor([mean], dtype=torch.float64), torch.tensor([[deviation]], dtype=torch.float64)
        return Gaussian(mean, deviation.square(), None)

    distance = frechet_distance(one(m1, s1), one(m2, s2))
    assert distance == pytest.approx((m1 - m2) ** 2 + (s1 - s2) ** 2, rel=1e-6, abs=1e-6)


def test_equal_covariances_leave_the_means_alone():
    a = gaussian([rows(50, 8, 0)])
    b = Gaussian(a.mean + 3, a.covariance, 50)
    assert frechet_distance(a, b) == pytest.approx(8 * 9)


def test_float32_features_are_computed_in_float64():
    x, y = rows(40, 8, 0).float(), rows(40, 8, 1).float()
    assert frechet_distance_of_features(x, y) == frechet_distance_of_features(x.double(), y.double())


def test_a_collapsed_set_is_at_its_distance_from_the_mean_plus_the_spread():
    x = rows(60, 6, 0)
    y = x[:1].repeat(40, 1)
    expected = (x.mean(0) - x[0]).square().sum() + x.var(0).sum()
    assert frechet_distance_of_features(x, y) == pytest.approx(expected.item())


@pytest.mark.parametrize("n", [1, 4, 60])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_refused(n, bad):
    x = rows(max(n, 2), 6, 0)
    x[0, 0] = bad
    with pytest.raises(KoalaError, match="leave them out"):
        frechet_distance_of_features(x, rows(60, 6, 1))
    stats = gaussian([rows(60, 6, 1)])
    stats.covariance[0, 0] = bad
    with pytest.raises(KoalaError, match="anew"):
        frechet_distance(stats, gaussian([rows(60, 6, 1)]))


def test_one_image_or_unlike_widths_are_refused():
    with pytest.raises(KoalaError, match="at least 2 images"):
        frechet_distance_of_features(rows(1, 6, 0), rows(60, 6, 1))
    with pytest.raises(KoalaError, match="one extractor"):
        frechet_distance_of_features(rows(60, 7, 0), rows(60, 6, 1))


def test_a_matrix_that_is_no_covariance_is_refused():
    zero, whole = torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    broken = Gaussian(zero, torch.diag(torch.tensor([1.0, 1.0, -0.5], dtype=torch.float64)), None)
    with pytest.raises(KoalaError, match="negative"):
        frechet_distance(broken, broken)
    with pytest.raises(KoalaError, match="negative"):
        frechet_distance(broken, Gaussian(zero, whole, None))
