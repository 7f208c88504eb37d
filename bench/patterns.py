"""Patterns among samples that honest noise does not have: spread, drift, groups and outliers, each as a sentence.

Pure. Thresholds are shares of the median, so that they hold for a step of a millisecond and for an image that takes a
minute; `tests/bench/test_trust.py` says how often noise alone is blamed.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import erfc, sqrt
from statistics import median, quantiles

FEWEST = 6  # samples; below this the median has no 95% interval
SPREAD = 0.10  # as pyperf, which warns of a standard deviation above 10% of the mean; here the middle half
DRIFT = 0.02
DRIFT_P = 0.01
GROUPS_APART = 0.03
GROUP_SHARE = 0.2  # of the samples, that the smaller of two groups holds
OUTLIER_EXCESS = 0.5  # as pyperf, which warns of a maximum 50% above the mean
OUTLIER_DEVIATIONS = 8.0  # standard deviations, estimated from the median absolute deviation
OUTLIER_SHARE = 0.005  # one of 200
_NORMAL_PER_MAD = 1.4826

Points = Sequence[tuple[float, float]]


def wide_spread(samples: Sequence[float]) -> str | None:
    """The middle half of the samples is wider than 10% of the median."""
    if len(samples) < FEWEST:
        return None
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    wide = (high - low) / middle if middle > 0 else 0.0
    return f"the middle half of the samples spans {percent(wide)} of the median" if wide > SPREAD else None


def drift(samples: Sequence[float]) -> str | None:
    """The samples rise or fall: by rank they go with their order, and the last third differs from the first by 2%.

    Spearman's rank correlation, whose sqrt(n - 1) fold is standard normal without a trend (Conover, 1999, section 5.4).
    """
    n = len(samples)
    if n < FEWEST:
        return None
    first, last = median(samples[: n // 3]), median(samples[-(n // 3) :])
    change = last / first - 1 if first > 0 else 0.0
    if abs(change) <= DRIFT or erfc(abs(rank_correlation(samples)) * sqrt((n - 1) / 2)) > DRIFT_P:
        return None
    word = "rise" if change > 0 else "fall"
    return f"the samples {word}: the last third takes {percent(abs(change))} {'more' if change > 0 else 'less'} time"


def rank_correlation(samples: Sequence[float]) -> float:
    """Spearman's correlation of samples with their order, -1 to 1; equal samples share their mean rank."""
    ordered = sorted(range(len(samples)), key=samples.__getitem__)
    ranks = [0.0] * len(samples)
    start = 0
    for end in range(1, len(samples) + 1):
        if end == len(samples) or samples[ordered[end]] != samples[ordered[start]]:
            for i in ordered[start:end]:
                ranks[i] = (start + end - 1) / 2
            start = end
    middle = (len(samples) - 1) / 2
    across = sum((i - middle) * (rank - middle) for i, rank in enumerate(ranks))
    square = sum((rank - middle) ** 2 for rank in ranks) * sum((i - middle) ** 2 for i in range(len(samples)))
    return across / sqrt(square) if square else 0.0


def two_groups(samples: Sequence[float]) -> str | None:
    """The samples have two modes at the 5% level of the dip test, which lie 3% apart and each hold a fifth or more.

    The level is that of samples from a uniform distribution, the worst case for one mode (Hartigan and Hartigan, 1985);
    the curve lies close above the 95% quantiles of 20,000 such draws of 6 to 30 samples and of fewer of up to 500.
    """
    n = len(samples)
    if n < FEWEST or max(samples) - min(samples) < GROUPS_APART * min(samples):
        return None
    if sqrt(n) * dip(samples) <= 0.55 - 0.33 / sqrt(n):
        return None
    ordered, fewest = sorted(samples), max(2, round(GROUP_SHARE * n))
    split = min(range(fewest, n - fewest + 1), key=lambda i: _scatter(ordered[:i]) + _scatter(ordered[i:]))
    low, high = median(ordered[:split]), median(ordered[split:])
    apart = (high - low) / low if low > 0 else 0.0
    if apart < GROUPS_APART:
        return None
    shares = f"{split} around {seconds(low)} and {n - split} around {seconds(high)}"
    return f"the samples fall into two groups {percent(apart)} apart, {shares}"


def _scatter(ordered: Sequence[float]) -> float:
    """Sum of the distances of sorted samples from their median."""
    half = len(ordered) // 2
    return sum(ordered[len(ordered) - half :]) - sum(ordered[:half])


def dip(samples: Sequence[float]) -> float:
    """Largest distance between the samples' distribution and the nearest one that has a single mode, at most 1/4.

    J. A. Hartigan and P. M. Hartigan, The dip test of unimodality, Ann. Statist. 13 (1985): the interval of the mode
    shrinks between a convex and a concave envelope until these are no further apart than the rest already demands.
    """
    values = sorted(set(samples))
    counts = dict.fromkeys(values, 0)
    for sample in samples:
        counts[sample] += 1
    below, low, high = 0, [], []  # the distribution just left of each value, and at it
    for value in values:
        low.append((value, below / len(samples)))
        below += counts[value]
        high.append((value, below / len(samples)))
    twice = 1 / len(samples)
    while len(values) > 1:
        convex, concave = _envelope(low, 1), _envelope(high, -1)
        under, over = _along(low, convex), _along(high, concave)
        apart = [b - a for a, b in zip(under, over, strict=True)]
        left, right = max(convex, key=apart.__getitem__), max(concave, key=apart.__getitem__)
        furthest = max(apart[left], apart[right])
        if apart[left] >= apart[right]:
            right = min(i for i in concave if i >= left)
        else:
            left = max(i for i in convex if i <= right)
        if furthest <= twice:
            break
        twice = max(
            twice,
            *(high[i][1] - under[i] for i in range(left + 1)),
            *(over[i] - low[i][1] for i in range(right, len(values))),
        )
        if (left, right) == (0, len(values) - 1):
            break
        kept = slice(left, right + 1)
        values, low, high = values[kept], low[kept], high[kept]
    return twice / 2


def _envelope(points: Points, sign: int) -> list[int]:
    """Which points the greatest convex curve below them touches (sign 1), or the least concave one above (-1)."""
    kept: list[int] = []
    for i, (x, y) in enumerate(points):
        while len(kept) > 1:
            (x0, y0), (x1, y1) = points[kept[-2]], points[kept[-1]]
            if sign * ((y1 - y0) * (x - x1) - (y - y1) * (x1 - x0)) < 0:
                break
            kept.pop()
        kept.append(i)
    return kept


def _along(points: Points, touched: Sequence[int]) -> list[float]:
    """Heights at every point of the curve through those that it touches."""
    heights = [y for _, y in points]
    for a, b in pairwise(touched):
        (x0, y0), (x1, y1) = points[a], points[b]
        for i in range(a + 1, b):
            heights[i] = y0 + (y1 - y0) * (points[i][0] - x0) / (x1 - x0)
    return heights


def outliers(samples: Sequence[float]) -> str | None:
    """Samples far slower than the rest: beyond the median by 8 robust standard deviations and by half of it."""
    if len(samples) < FEWEST:
        return None
    middle = median(samples)
    if max(samples) <= (1 + OUTLIER_EXCESS) * middle:
        return None
    deviation = _NORMAL_PER_MAD * median(abs(sample - middle) for sample in samples)
    far = [s for s in samples if s > middle + max(OUTLIER_DEVIATIONS * deviation, OUTLIER_EXCESS * middle)]
    if len(far) < OUTLIER_SHARE * len(samples) or not far:
        return None
    share = percent(len(far) / len(samples))
    verb = "is an outlier" if len(far) == 1 else "are outliers"
    return f"{len(far)} of {len(samples)} samples ({share}) {verb}, up to {max(far) / middle:.1f} times the median"


def percent(share: float) -> str:
    """A share for people: "2.6%", "31%"."""
    return f"{100 * share:.0f}%" if share >= 0.095 else f"{100 * share:.1f}%"


def seconds(value: float) -> str:
    """A time for people: "67.5 ms", "1.26 s"."""
    return f"{value:.3g} s" if value >= 1 else f"{1000 * value:.3g} ms"
