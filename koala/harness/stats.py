"""Medians and intervals of a handful of timings, without assuming how the noise is distributed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from random import Random
from statistics import median


@dataclass(frozen=True)
class Interval:
    """An interval of a statistic, in the unit of its samples."""

    low: float
    high: float


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """The narrowest order-statistic interval that covers the median with at least `confidence`.

    Null where there is none: below 6 samples even minimum to maximum covers less than 95% (Conover, 1999,
    section 3.2: P(X(k) <= median <= X(n+1-k)) = 1 - 2 P(Binomial(n, 1/2) < k)).
    """
    n, ordered = len(samples), sorted(samples)
    tail, rank = 0, 0
    while rank < (n + 1) // 2 and 2 * (tail + comb(n, rank)) <= (1 - confidence) * 2**n:
        tail += comb(n, rank)
        rank += 1
    return Interval(ordered[rank - 1], ordered[n - rank]) if rank else None


def relative_reach(samples: Sequence[float]) -> float:
    """How far the median's 95% interval reaches from the median, as a share of it; infinite where there is none."""
    interval, middle = median_interval(samples), median(samples) if samples else 0.0
    if interval is None or middle <= 0:
        return float("inf")
    return max(interval.high - middle, middle - interval.low) / middle


def ratio_interval(
    ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Interval of median(ours) / median(theirs) from a bootstrap over pairs that were measured side by side.

    Percentiles of the ratio over pairs drawn with replacement (Efron and Tibshirani, 1993, chapter 13).
    """
    pairs, random = list(zip(ours, theirs, strict=True)), Random(seed)
    ratios = []
    for _ in range(resamples):
        a, b = zip(*random.choices(pairs, k=len(pairs)), strict=True)
        ratios.append(median(a) / median(b))
    ratios.sort()
    tail = round((1 - confidence) / 2 * resamples)
    return Interval(ratios[tail], ratios[resamples - 1 - tail])
