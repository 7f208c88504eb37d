"""Ratios of times that several fresh processes measured several times each: what noise cannot fake.

What a process measures is the median of its samples. B's time over A's is the median, over every pair of a process of
A and one of B, of the ratio of their medians (Hodges and Lehmann, 1963): of one process each, the ratio of medians.
A process that was ten times slower for reasons of its own moves it as little as one that was a bit slower.

The interval is a nested bootstrap's: processes are drawn with replacement, then samples inside each drawn process, as
Davison and Hinkley (1997, section 3.8) do with clusters, and its percentiles are taken. Of few processes percentiles
cover too seldom. So the interval is widened to at least that of the rank-sum test on the processes' medians (Lehmann,
1975, section 2.7), whose level is exact for any noise: processes that differ by nothing but their luck are
exchangeable. Of fewer than 4 processes a side no ranks reach it; there the interval is Student's with Welch's degrees
of freedom, on logarithms, and the nested bootstrap's standard error (of infinitely many resamples, in closed form;
a variance over k processes times k / (k - 1)). It supposes that logs of medians are about normal, and is too wide
rather than too narrow where they are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, exp, lgamma, log1p, pi, sqrt
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int64

from koala.harness.stats import Interval

# A look at two sides goes wrong in 4% of the draws where nothing differs, half of them on each side. Who measures more
# until no more is asked for looks several times, and stops when the spread looks small; that costs up to the fifth
# that is left to 5% (scripts/compare_rates.py).
TAIL = 0.02
# Reaches that a change must be to be found 95 times in 100: (z(0.98) + z(0.95)) / z(0.98) = 1.8, and a tenth more where
# the bootstrap's interval is wider than the ranks' that the reach is taken from.
SEEN = 2.0
RESAMPLES = 1000
GROWTH = 4  # times as many processes as there are is the most that is asked for at once
Runs: TypeAlias = Sequence[Sequence[float]]  # seconds of each sample of each process
Logs: TypeAlias = Float64[np.ndarray, "k"]  # noqa: F821
_AT_ONCE = 2**19  # ratios drawn at a time: 4 MiB
_INNER = 256  # medians that stand for all resamples of a process's samples
_EXACT = 40  # processes a side up to which ranks are counted and not approximated


@dataclass(frozen=True)
class Side:
    """The processes of one side: logs of their medians, and of medians of their resampled samples, alike probable."""

    logs: Logs
    resampled: Float64[np.ndarray, "k m"]

    def __len__(self) -> int:
        return len(self.logs)


@dataclass(frozen=True)
class Ratio:
    """Time of `b` over that of `a` with its 95% interval (null of single samples).

    `reach` is how far the logarithm's interval reaches, run-to-run variance included; null where each side is one
    process, so that nothing is known of that variance and the interval is that of these two processes only.
    `borrowed`: one side is one process, and the other's run-to-run variance is taken for both.
    """

    ratio: float
    interval: Interval | None
    reach: float | None
    processes: tuple[int, int]

    @property
    def borrowed(self) -> bool:
        """Whether one side alone knows its run-to-run variance."""
        return self.reach is not None and 1 in self.processes

    @property
    def visible(self) -> float | None:
        """A slowdown that such a measurement finds at least 95 times in 100 (0.03 is 3%)."""
        return None if self.reach is None else exp(min(SEEN * self.reach, 700.0)) - 1


def ratio_of_runs(a: Runs, b: Runs) -> Ratio:
    """The ratio of `b` to `a` with its interval; every process has a sample, and every sample is positive."""
    sides, counts = (side_of(a), side_of(b)), (len(a), len(b))
    middle = float(np.median(pairs(sides[0].logs, sides[1].logs)))
    if counts == (1, 1):
        reach = _within_reach(a[0], b[0], sides)
        return Ratio(exp(middle), None if reach is None else _around(middle, reach), None, counts)
    if rank_cut(*counts):
        low, high = rank_interval(sides[0].logs, sides[1].logs)
        drawn = np.sort(resampled_log_ratios(*sides))
        cut = int(TAIL * RESAMPLES)
        interval = Interval(exp(min(low, float(drawn[cut]))), exp(max(high, float(drawn[-1 - cut]))))
        return Ratio(exp(middle), interval, max(high - middle, middle - low), counts)
    errors, degrees = few_errors(*(_stacked(side) for side in sides))
    reach = float((errors * student_quantiles(1 - TAIL, degrees))[0])
    return Ratio(exp(middle), _around(middle, reach), reach, counts)


def interval_of_runs(runs: Runs) -> Interval | None:
    """The 95% interval of what a process takes, from the runs of several; null of fewer than two.

    Student's on the logarithms of the processes' medians, with the nested bootstrap's standard error.
    """
    if len(runs) < 2:
        return None
    side = side_of(runs)
    error = float(np.sqrt(nested_variance(*_stacked(side)))[0])
    reach = error * float(student_quantiles(0.975, np.array(float(len(runs) - 1))))
    return _around(float(np.median(side.logs)), reach)


def _around(middle: float, reach: float) -> Interval:
    return Interval(exp(middle - reach), exp(middle + reach))


def _within_reach(a: Sequence[float], b: Sequence[float], sides: tuple[Side, Side]) -> float | None:
    """How far the interval of two single processes reaches; null where one of them has one sample."""
    degrees = min(len(a), len(b)) - 1
    error = sqrt(sum(float(side.resampled.var()) for side in sides))
    return error * float(student_quantiles(1 - TAIL, np.array(float(degrees)))) if degrees else None


def processes_needed(pilot: Ratio, change: float = 0.05) -> int:
    """Processes a side to find a slowdown by `change` (0.05 is 5%) at least 95 times in 100: what there is, if enough.

    Where it is not, the number that the pilot's reach promises, shrinking as one over a square root; at most 4 times
    as many as there are. Measure so many and ask again until no more are asked for. 3 where nothing is known.
    """
    a, b = pilot.processes
    if pilot.visible is None or pilot.reach is None:
        return 3
    if pilot.visible <= change:
        return max(a, b, 3 if pilot.borrowed else 0)
    there = 2 * a * b / (a + b)
    wanted = there * min((SEEN * pilot.reach / log1p(change)) ** 2, GROWTH)
    return max(ceil(wanted), min(a, b) + 1, 3)


def asks_for_more(pilot: Ratio, change: float = 0.05) -> bool:
    """Whether `processes_needed` names only the next number to measure, for the pilot promises a larger one."""
    return pilot.reach is None or (SEEN * pilot.reach / log1p(change)) ** 2 > GROWTH


# ---- processes and their resamples


def side_of(runs: Runs) -> Side:
    """The side that these processes make up."""
    ordered = [np.sort(np.asarray(samples, dtype=np.float64)) for samples in runs]
    assert all(len(samples) and samples[0] > 0 for samples in ordered), "times are positive"
    logs = [np.log(np.median(samples)) for samples in ordered]
    resampled = []
    for samples in ordered:
        low, high = _middle_ranks(len(samples))
        resampled.append(np.log((samples[low] + samples[high]) / 2))
    return Side(np.array(logs), np.stack(resampled))


@cache
def _middle_ranks(n: int) -> tuple[Int64[np.ndarray, "m"], Int64[np.ndarray, "m"]]:  # noqa: F821
    """0-based ranks of the two middles (one, of an odd number) of n draws with replacement from n, `_INNER` times.

    Seeded: of uniform numbers the middle is a beta variable, and the next one the least of those above it.
    """
    random = np.random.default_rng(n)
    lower = (n + 1) // 2
    low = random.beta(lower, n + 1 - lower, size=_INNER)
    high = low if n % 2 else low + (1 - low) * random.beta(1, n - lower, size=_INNER)
    first, second = ((n * middle).astype(np.int64).clip(0, n - 1) for middle in (low, high))
    return first, second


def pairs(a: Logs, b: Float64[np.ndarray, "l"]) -> Float64[np.ndarray, "kl"]:  # noqa: F821
    """Log ratios of every process of `b` to every one of `a`."""
    return np.subtract.outer(b, a).ravel()


def resamples(a: Side, b: Side) -> tuple[Float64[np.ndarray, "r k"], Float64[np.ndarray, "r l"]]:
    """Logs of medians of resamples of processes and then of their samples; equal seeds for equal numbers of them."""
    random = np.random.default_rng([len(a), len(b)])

    def drawn(side: Side) -> np.ndarray:
        size = (RESAMPLES, len(side))
        return side.resampled[random.integers(len(side), size=size), random.integers(_INNER, size=size)]

    return drawn(a), drawn(b)


def resampled_log_ratios(a: Side, b: Side) -> Float64[np.ndarray, "r"]:  # noqa: F821
    """The log ratio of each of the `resamples`."""
    (first, second), at_once = resamples(a, b), max(1, _AT_ONCE // (len(a) * len(b)))
    parts = (slice(start, start + at_once) for start in range(0, RESAMPLES, at_once))
    found = [np.median(second[part, :, None] - first[part, None, :], axis=(1, 2)) for part in parts]
    return np.concatenate(found)


# ---- ranks


def rank_interval(a: Logs, b: Float64[np.ndarray, "l"]) -> tuple[float, float]:  # noqa: F821
    """Ends of the rank-sum test's interval of the log ratio, for numbers of processes that have one."""
    cut, ratios = rank_cut(len(a), len(b)), pairs(a, b)
    assert cut
    ratios.partition([cut - 1, len(ratios) - cut])
    return float(ratios[cut - 1]), float(ratios[-cut])


@cache
def rank_cut(k_a: int, k_b: int) -> int:
    """Which of the ordered pairs' ratios is the interval's lower end, counted from 1; 0 where no pair's is.

    The largest c with P(U < c) <= 2%, U the rank-sum statistic of Mann and Whitney (1947).
    """
    if max(k_a, k_b) > _EXACT and min(k_a, k_b) > 4:
        deviation = sqrt(k_a * k_b * (k_a + k_b + 1) / 12)
        return max(0, int(k_a * k_b / 2 + 0.5 + NormalDist().inv_cdf(TAIL) * deviation))
    ways = _rank_sums(min(k_a, k_b), max(k_a, k_b))
    total, so_far = sum(ways), 0
    for value, count in enumerate(ways):
        so_far += count
        if so_far > TAIL * total:
            return value
    raise AssertionError


def _rank_sums(few: int, many: int) -> list[int]:
    """In how many orders the statistic is 0, 1, ... up to half of its range and a bit: Gauss's binomial coefficient."""
    size = few * many + 1
    ways = [1] + [0] * (size - 1)
    for i in range(1, few + 1):
        for value in range(size - 1, many + i - 1, -1):
            ways[value] -= ways[value - many - i]
        for value in range(i, size):
            ways[value] += ways[value - i]
    return ways


# ---- fewer processes than ranks need


def _stacked(side: Side) -> tuple[np.ndarray, np.ndarray]:
    return side.resampled.mean(axis=1)[None], side.resampled.var(axis=1)[None]


def few_errors(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[Float64[np.ndarray, "draws"], Float64[np.ndarray, "draws"]]:  # noqa: F821
    """Standard error and degrees of freedom (Welch, 1947) of the log ratio, of each draw.

    A side is the means and variances over resamples of its processes' log medians, [draws, k]. A side of one process
    takes the other's run-to-run variance.
    """
    counts = [side[0].shape[1] for side in (a, b)]
    known = [nested_variance(*side) if k > 1 else None for side, k in zip((a, b), counts, strict=True)]
    if known[0] is None or known[1] is None:
        variance, k = (known[0], counts[0]) if known[1] is None else (known[1], counts[1])
        assert variance is not None
        return np.sqrt(variance + k * variance), np.full(variance.shape, float(k - 1))
    total = known[0] + known[1]
    parts = known[0] ** 2 / (counts[0] - 1) + known[1] ** 2 / (counts[1] - 1)
    return np.sqrt(total), np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1.0), 1.0)


def nested_variance(
    means: Float64[np.ndarray, "draws k"], variances: Float64[np.ndarray, "draws k"]
) -> Float64[np.ndarray, "draws"]:  # noqa: F821
    """Variance of the mean log median of k >= 2 processes over resamples of processes, then samples, times k/(k-1)."""
    return (means.var(axis=1) + variances.mean(axis=1)) / (means.shape[1] - 1)


def student_quantiles(p: float, degrees: Float64[np.ndarray, "*draws"]) -> Float64[np.ndarray, "*draws"]:
    """Quantiles (p >= 1/2) of Student's t of any degrees of freedom from 1 on, right to 1e-5 of their value.

    With t = sqrt(degrees) tan(angle) the density is a power of a cosine, and Simpson's rule does the rest.
    """
    nu = np.atleast_1d(degrees)[..., None]
    factor = np.exp([lgamma((x + 1) / 2) - lgamma(x / 2) for x in nu.ravel()]).reshape(nu.shape) / sqrt(pi)
    grid, weights = np.linspace(0, 1, 201), np.array([1, *[4, 2] * 99, 4, 1]) / 600
    low, high = np.zeros_like(nu), np.minimum(pi / 2, 40 / np.sqrt(nu)) * np.ones_like(nu)
    for _ in range(48):
        angle = (low + high) / 2
        area = factor * angle * (np.cos(angle * grid) ** (nu - 1) @ weights)[..., None]
        low, high = np.where(area < p - 0.5, angle, low), np.where(area < p - 0.5, high, angle)
    return (np.sqrt(nu) * np.tan((low + high) / 2))[..., 0].reshape(np.shape(degrees))
