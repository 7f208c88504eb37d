"""Kernel distances against their definitions, and against what torch-fidelity and clean-fid print."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.maths import mmd
from eval.maths.mmd import gaussian_kernel, kernel_sums, polynomial_kernel, subset_kid
from koala.errors import KoalaError

SEEDS = st.integers(0, 2**31)


def rows(n, d, seed, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def polynomial_mmd(x, y, *kernel):
    return kernel_sums(x, y, polynomial_kernel(x.shape[1], *kernel)).unbiased()


def gaussian_mmd(x, y, sigma=10.0):
    return 1000 * kernel_sums(x, y, gaussian_kernel(sigma)).biased()


def u_statistic(x, y, kernel):
    n, m = len(x), len(y)
    own = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return (own + other - 2 * sum(kernel(a, b) for a in x for b in y) / (n * m)).item()


def torch_fidelity(x, y, subsets, size, seed):
    """torch-fidelity's KID (0.4.0, metric_kid.py) written out: one numpy stream, x's subset before y's."""
    random, values = np.random.RandomState(seed), []
    x, y = x.numpy(), y.numpy()
    for _ in range(subsets):
        a, b = (rows[random.choice(len(rows), size, replace=False)] for rows in (x, y))
        aa, bb, ab = (((p @ q.T) / x.shape[1] + 1) ** 3 for p, q in ((a, a), (b, b), (a, b)))
        own = aa.sum() - np.trace(aa) + bb.sum() - np.trace(bb)
        values.append(own / (size * (size - 1)) - 2 * ab.sum() / size**2)
    return np.mean(values), np.std(values)


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 7), st.integers(2, 7), st.integers(1, 3), st.sampled_from([None, 0.5]), SEEDS)
def test_polynomial_mmd_is_the_u_statistic_over_all_pairs(n, m, degree, gamma, seed):
    x, y = rows(n, 3, seed), rows(m, 3, seed + 1, 0.5)
    slow = u_statistic(x, y, lambda a, b: ((gamma or 1 / 3) * (a @ b) + 2.0) ** degree)
    assert polynomial_mmd(x, y, degree, gamma, 2.0) == pytest.approx(slow, rel=1e-9, abs=1e-10)


@settings(deadline=None, max_examples=15)
@given(st.integers(2, 9), st.integers(2, 9), st.floats(0.5, 20), SEEDS)
def test_gaussian_mmd_is_the_v_statistic_over_all_pairs(n, m, sigma, seed):
    x, y = rows(n, 3, seed), rows(m, 3, seed + 1, 0.5)

    def mean(p, q):
        return torch.exp(-(p[:, None] - q).square().sum(-1) / (2 * sigma**2)).mean()

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y)).item()
    assert gaussian_mmd(x, y, sigma) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_cmmd_of_opposite_unit_vectors_is_known():
    x = torch.tensor([[1.0, 0.0]] * 3)
    assert gaussian_mmd(x, -x) == pytest.approx(1000 * 2 * (1 - np.exp(-4 / 200)))
    assert gaussian_mmd(x, x) == 0


@pytest.mark.parametrize("block", [3, 7, 64])
def test_blocks_change_nothing(monkeypatch, block):
    x, y = rows(20, 5, 0), rows(33, 5, 1, 0.3)
    whole = polynomial_mmd(x, y), gaussian_mmd(x, y, 1.0)
    monkeypatch.setattr(mmd, "BLOCK", block)
    assert (polynomial_mmd(x, y), gaussian_mmd(x, y, 1.0)) == pytest.approx(whole, rel=1e-12)


def test_symmetric_and_blind_to_order():
    x, y = rows(20, 5, 0), rows(33, 5, 1, 0.3)
    assert polynomial_mmd(y.flip(0), x) == pytest.approx(polynomial_mmd(x, y), rel=1e-12)


def test_unbiased_for_equal_distributions():
    values = [polynomial_mmd(rows(12, 4, 2 * i), rows(15, 4, 2 * i + 1)) for i in range(100)]
    assert abs(np.mean(values)) < 4 * np.std(values) / 10  # a biased statistic is about 0.6 here


def test_subset_kid_draws_and_computes_as_torch_fidelity_does():
    x, y = rows(90, 6, 0), rows(70, 6, 1, 0.2)
    assert subset_kid(x, y, 7, 40) == pytest.approx(torch_fidelity(x, y, 7, 40, 2020), rel=1e-10)
    assert subset_kid(x, y, 7, 40, seed=5) == pytest.approx(torch_fidelity(x, y, 7, 40, 5), rel=1e-10)


def test_subset_kid_is_torch_fidelitys_own_function():
    theirs = pytest.importorskip("torch_fidelity.metric_kid")
    x, y = rows(90, 6, 0), rows(70, 6, 1, 0.2)
    out = theirs.kid_features_to_metric(x, y, kid_subsets=7, kid_subset_size=40, rng_seed=2020, verbose=False)
    assert subset_kid(x, y, 7, 40) == pytest.approx(tuple(out.values()), rel=1e-10)


def test_subset_kid_is_clean_fids_with_the_reference_first_and_subsets_of_the_smaller_set():
    x, y = rows(90, 6, 0), rows(70, 6, 1, 0.2)  # clean-fid 0.1.35: cleanfid/fid.py, kernel_distance(y, x)
    random, total, size = np.random.RandomState(3), 0.0, 70
    for _ in range(5):
        a, b = (rows[random.choice(len(rows), size, replace=False)] for rows in (x.numpy(), y.numpy()))
        own, across = ((a @ a.T) / 6 + 1) ** 3 + ((b @ b.T) / 6 + 1) ** 3, ((a @ b.T) / 6 + 1) ** 3
        total += (own.sum() - np.diag(own).sum()) / (size - 1) - across.sum() * 2 / size
    assert subset_kid(x, y, 5, 70, seed=3)[0] == pytest.approx(total / 5 / size, rel=1e-10)


def test_more_images_than_there_are_name_the_size_that_would_do():
    with pytest.raises(KoalaError, match="at most 33"):
        subset_kid(rows(40, 5, 0), rows(33, 5, 1))
    with pytest.raises(KoalaError, match="at least 2 images"):
        polynomial_mmd(rows(1, 5, 0), rows(33, 5, 1))
    broken = rows(40, 5, 0)
    broken[3, 3] = float("nan")
    with pytest.raises(KoalaError, match="leave them out"):
        polynomial_mmd(broken, rows(33, 5, 1))
