"""Intervals and tests of means over images, where the images of one prompt are not independent of each other.

Prompts are resampled, each with all of its images: the cluster bootstrap (Davison and Hinkley, 1997, section 3.8).
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from koala.harness.stats import Interval

FEWEST_CLUSTERS = 6  # below, even the whole range of the resamples covers too seldom
RESAMPLES = 10_000
_AT_ONCE = 2**21  # numbers drawn at a time: 16 MiB
_ALL_SIGNS = 13  # clusters up to which every sign pattern is tried

Values: TypeAlias = Sequence[float] | np.ndarray  # one score an image


@dataclass(frozen=True)
class Difference:
    """A paired difference of means, its interval (null below 6 clusters) and the p-value of there being none."""

    mean: float
    interval: Interval | None
    p: float
    n: int
    clusters: int


def mean_interval(
    values: Values,
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Interval of the mean of `values`, each of which belongs to a cluster (a prompt); null below 6 clusters.

    Percentiles of the resampled means, moved outwards to where Student's interval would lie, without which they
    cover too seldom for few clusters (Hesterberg, 2015, section 5.3, "expanded percentile").
    """
    if len(_by_cluster(values, clusters)[0]) < FEWEST_CLUSTERS:
        return None
    middle, means, drawn_from = _means(values, clusters, resamples, seed)
    tail = _expanded_tail(drawn_from, confidence)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(middle + low), float(middle + high))


def balanced_interval(
    values: Values,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval | None:
    """Interval of the mean of the groups' means; null where a group has fewer than 6 clusters.

    Each group is resampled on its own, and the percentiles are expanded as for the smallest one.
    """
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    parts = [([values[i] for i in of], [clusters[i] for i in of]) for of in places.values()]
    if any(len(_by_cluster(*part)[0]) < FEWEST_CLUSTERS for part in parts):
        return None
    drawn = [_means(*part, resamples, seed + number) for number, part in enumerate(parts)]
    middle = float(np.mean([middle for middle, _, _ in drawn]))
    means = np.mean([means for _, means, _ in drawn], axis=0)
    tail = _expanded_tail(min(n for _, _, n in drawn), confidence)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(middle + low), float(middle + high))


def _means(values: Values, clusters: Sequence[Hashable], resamples: int, seed: int) -> tuple[float, np.ndarray, int]:
    """The mean, the resampled means less it, and the number of clusters."""
    sums, counts = _by_cluster(values, clusters)
    middle = sums.sum() / counts.sum()
    sums = sums - middle * counts  # small numbers keep their digits
    random = np.random.default_rng(seed)
    alike = bool((counts == counts[0]).all())
    means = np.concatenate(
        [
            sums[drawn].sum(axis=1) / (counts[0] * len(sums) if alike else counts[drawn].sum(axis=1))
            for drawn in _resampled(len(sums), resamples, random)
        ]
    )
    return float(middle), means, len(sums)


def paired_difference(
    ours: Values,
    theirs: Values,
    clusters: Sequence[Hashable],
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean of ours minus theirs over pairs, with its interval and the p-value of a sign-flip permutation test.

    Under the null hypothesis a prompt's differences may all change sign together. Every pattern of signs is tried
    for up to 13 prompts, `resamples` random ones for more, with the observed one among them so that p is never 0
    (Phipson and Smyth, 2010).
    """
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(theirs, dtype=np.float64)
    sums, _ = _by_cluster(differences, clusters)
    observed = abs(float(sums.sum())) * (1 - 1e-12)  # sums in another order count as equal
    extreme = sum(int((np.abs(flipped) >= observed).sum()) for flipped in _sign_flipped(sums, resamples, seed))
    exact = len(sums) <= _ALL_SIGNS
    return Difference(
        mean=float(differences.mean()),
        interval=mean_interval(differences, clusters, confidence, resamples, seed),
        p=extreme / 2 ** len(sums) if exact else (1 + extreme) / (1 + resamples),
        n=len(differences),
        clusters=len(sums),
    )


def _by_cluster(
    values: Values, clusters: Sequence[Hashable]
) -> tuple[Float64[np.ndarray, "g"], Int64[np.ndarray, "g"]]:  # noqa: F821
    """Sum and number of values of each cluster."""
    numbers = np.asarray(values, dtype=np.float64)
    assert len(numbers) == len(clusters) > 0 and np.isfinite(numbers).all()
    places: dict[Hashable, int] = {}
    codes = np.fromiter((places.setdefault(c, len(places)) for c in clusters), np.int64, len(clusters))
    return np.bincount(codes, numbers), np.bincount(codes)


def _resampled(n: int, resamples: int, random: np.random.Generator) -> Iterator[Int64[np.ndarray, "r n"]]:
    """Indices of `resamples` samples with replacement, as many at a time as fit."""
    rows = max(1, _AT_ONCE // n)
    for start in range(0, resamples, rows):
        yield random.integers(n, size=(min(rows, resamples - start), n))


def _sign_flipped(sums: Float64[np.ndarray, "g"], resamples: int, seed: int) -> Iterator[np.ndarray]:  # noqa: F821
    """Totals of `sums` after changes of sign: of every one, or of random ones."""
    n, total = len(sums), sums.sum()
    if n <= _ALL_SIGNS:
        signs = np.arange(2**n)[:, None] >> np.arange(n) & 1
        yield total - 2 * (signs @ sums)
        return
    random = np.random.default_rng(seed)
    rows = max(1, _AT_ONCE // n)
    for start in range(0, resamples, rows):
        signs = random.integers(2, size=(min(rows, resamples - start), n), dtype=np.int8)
        yield total - 2 * (signs.astype(np.float64) @ sums)


def _expanded_tail(n: int, confidence: float) -> float:
    """Share of the resamples to leave out on each side: Phi(-t sqrt(n / (n - 1))), t of n - 1 degrees of freedom."""
    normal = NormalDist()
    return normal.cdf(-student_quantile((1 + confidence) / 2, n - 1) * sqrt(n / (n - 1)))


def student_quantile(p: float, degrees: int) -> float:
    """Quantile of Student's t, right to 0.2% from 5 degrees of freedom on (Abramowitz and Stegun, 26.7.5)."""
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees ** (k + 1) for k, term in enumerate(terms))
