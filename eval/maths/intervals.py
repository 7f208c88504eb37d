"""Intervals that cover the Frechet distance between two distributions, from the features of finite sets of images.

A bootstrap does not: it adds its own bias to that of the plain distance. See `debiased` for what is done instead.
"""

from math import inf, sqrt

import torch
from jaxtyping import Float64
from torch import Tensor

from eval.features import FeatureSet
from eval.maths.debiased import debiased, either_projected, principal_axes, projected
from eval.maths.frechet import (
    centred,
    check,
    distance_of_factors,
    frechet_distance,
    frechet_distance_of_features,
    root,
)
from eval.maths.gaussian import Gaussian
from eval.metric import Estimate
from koala.errors import KoalaError

Z = 1.959963984540054  # the normal distribution's 97.5% quantile
_PAPERS_SMALLEST = 5000  # images in the smallest subset of FID-infinity, in the authors' code


def frechet_estimate(x: FeatureSet, y: FeatureSet | Gaussian) -> Estimate:
    """The Frechet distance at this n, as all tools print it, and a 95% interval of that between the distributions.

    A `Gaussian` without n is taken as exact. Where a side has at most d images there is no interval, and `detail`
    holds bounds, each of which holds with 97.5%: `at_most`, the plain value and its error (its bias is never negative);
    `at_least`, the corrected distance within the leading principal axes (no projection adds distance).
    """
    b = y if isinstance(y, Gaussian) else y.gaussian
    value = plain_distance(x, y)
    fewest = min(len(x), inf if b.n is None else b.n)
    inner = debiased(x, y) if fewest > x.dim else None
    if inner is None:
        return _without_interval(x, y, value)
    detail = {"debiased": inner.distance, "bias": value - inner.distance, "standard_error": inner.error}
    low, high = max(inner.distance - Z * inner.error, 0.0), max(inner.distance + Z * inner.error, 0.0)
    return Estimate(value, low, high, "bias-corrected, delta method; too wide near 0" + _note(y), detail)


def fid_infinity(x: FeatureSet, y: FeatureSet | Gaussian, seed: int = 0, points: int = 15) -> Estimate:
    """The Frechet distance at infinitely many generated images, by a line in 1 / n (Chong and Forsyth, 2020).

    The sizes of the subsets are evenly spaced from the authors' 5,000 to n; below 10,000 images from n / 10, or from
    2 d or n / 2 where that is more: on smaller ones the distance is no line. The reference's own bias stays in the
    value, as in the paper, and is not in the interval, which is `frechet_estimate`'s.
    """
    n = len(x)
    smallest = _PAPERS_SMALLEST if n >= 2 * _PAPERS_SMALLEST else max(n // 10, min(2 * x.dim, n // 2))
    if n < 2 * points:
        raise KoalaError(f"FID-infinity needs at least {2 * points} images, and there are {n}")
    rows, random = x.all(), torch.Generator().manual_seed(seed)
    sizes = torch.linspace(smallest, n, points, dtype=torch.float64).long()
    values = []
    for size in sizes.tolist():
        part = FeatureSet.of(rows[torch.randperm(n, generator=random)[:size]])
        values.append(plain_distance(part, y))
    line = torch.stack([torch.ones(points, dtype=torch.float64), 1 / sizes], dim=1)
    intercept, slope = (
        torch.linalg.lstsq(line, torch.tensor(values, dtype=torch.float64)[:, None]).solution[:, 0].tolist()
    )
    plain = frechet_estimate(x, y)
    detail = {**plain.detail, "slope": slope, "smallest": smallest, "points": points, "at_n": plain.value}
    return Estimate(intercept, plain.low, plain.high, plain.method, detail)


def self_distance_floor(x: FeatureSet, n: int, seed: int = 0, pairs: int = 5) -> float:
    """Mean Frechet distance between disjoint random subsets of `n` images: what bias alone gives at this n."""
    if not 2 <= n <= len(x) // 2:
        raise KoalaError(
            f"two disjoint subsets of {n} images need {2 * n}, and there are {len(x)}; ask for a smaller n"
        )
    count = min(pairs, len(x) // (2 * n))
    parts = x.sample(2 * n * count, seed).all().split(n)
    return sum(frechet_distance_of_features(parts[2 * i], parts[2 * i + 1]) for i in range(count)) / count


def plain_distance(x: FeatureSet, y: FeatureSet | Gaussian) -> float:
    """The Frechet distance of the two samples, by the route that is exact and fast for their sizes."""
    a, b = x.gaussian, y if isinstance(y, Gaussian) else y.gaussian
    check(a, b)
    if min(len(x), b.n or len(x)) > x.dim:
        return frechet_distance(a, b)
    return distance_of_factors(a.mean - b.mean, _factor(x), _factor(y))


def _note(y: FeatureSet | Gaussian) -> str:
    """What is assumed of a reference without images."""
    if isinstance(y, FeatureSet):
        return ""
    return "; reference statistics taken as " + ("exact" if y.n is None else "normal")


def _without_interval(x: FeatureSet, y: FeatureSet | Gaussian, value: float) -> Estimate:
    """Bounds where the images are too few or too alike to know the bias."""
    b = y if isinstance(y, Gaussian) else y.gaussian
    fewest = min(len(x), len(x) if b.n is None else b.n)
    error = _plain_error(x, y)
    basis = principal_axes(x, y, min(fewest // 4, x.dim))
    inner = debiased(projected(x, basis), either_projected(y, basis)) if basis.shape[1] else None
    at_least = max(inner.distance - Z * inner.error, 0.0) if inner else 0.0
    reason = f"{fewest} images do not" if fewest <= x.dim else "a singular covariance does not"
    bounds = {"at_least": min(at_least, value), "at_most": value + Z * error, "principal_axes": basis.shape[1]}
    detail = {"debiased": None, "bias": None, "standard_error": error, **bounds}
    return Estimate(value, method=f"{reason} fix the bias in {x.dim} dimensions" + _note(y), detail=detail)


def _plain_error(x: FeatureSet, y: FeatureSet | Gaussian) -> float:
    """The standard error of the plain distance: row i weighs (K K^T)^(1/2)_ii in the nuclear norm of K = A1 A2^T.

    Where a side has more rows than axes, or no rows, they are taken as normal: cov(z_j^2, z_k^2) = 2 of the axes'.
    """
    a, b = x.gaussian, y if isinstance(y, Gaussian) else y.gaussian
    left, right = _factor(x), _factor(y)
    u, sizes, v = torch.linalg.svd(left @ right.T, full_matrices=False)
    shift, variance = a.mean - b.mean, 0.0
    for factor, side, vectors, delta, n in ((left, x, u, shift, len(x)), (right, y, v.T, -shift, b.n)):
        if n is None:
            continue
        if isinstance(side, FeatureSet) and n <= x.dim:
            influence = 2 * sqrt(n - 1) * factor @ delta + (n - 1) * factor.square().sum(dim=1)
            variance += (influence - (n - 1) * vectors.square() @ sizes).var().item() / n
        else:
            spread = 2 * (factor @ factor.T - (vectors * sizes) @ vectors.T).square().sum()
            variance += (4 * (factor @ delta).square().sum() + spread).item() / n
    return sqrt(variance)


def _factor(side: FeatureSet | Gaussian) -> Float64[Tensor, "rank d"]:
    """F with F^T F the covariance: the centred rows where they are few."""
    if isinstance(side, FeatureSet) and len(side) <= side.dim:
        return centred(side.all())
    return root((side.gaussian if isinstance(side, FeatureSet) else side).covariance).T
