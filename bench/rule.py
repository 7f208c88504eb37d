"""When to stop: a rule over the samples of a case so far. Imports no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log2
from statistics import quantiles

from koala.harness.stats import relative_reach

QUICK_CALL_S = 2.0  # below this a call is repeated at least six times, so that the median has a 95% interval
TARGET_REACH = 0.02
STILL_FASTER = 0.9  # a call this much faster than the first sample shows that the first was still warming up
MOST_WARMUP = 20
SETTLED_BITS = 0.15


@dataclass(frozen=True)
class Rule:
    """After at least `repeats` samples, once the median is known within `target` and the noise within, or `budget_s`
    is spent.

    `warmup` and `repeats` are the least; `repeats=None` takes 6 samples of a call under 2 s and 3 of a longer one.
    """

    warmup: int = 1
    repeats: int | None = None
    budget_s: float = 20.0
    most: int = 1000
    target: float = TARGET_REACH  # how far the median's 95% interval may reach from it, as a share of it

    def minimum(self, call_s: float) -> int:
        """The least number of samples of a call that takes `call_s` seconds."""
        return self.repeats or (6 if call_s < QUICK_CALL_S else 3)

    def enough(self, samples: Sequence[float]) -> bool:
        """Whether these samples need no further one."""
        if len(samples) >= self.most:
            return True
        if not samples or len(samples) < self.minimum(min(samples)):
            return False
        if sum(samples) >= self.budget_s:
            return True
        return relative_reach(samples) <= self.target and entropy_growth(samples, self.target) <= SETTLED_BITS


def still_warming(first: float, second: float) -> bool:
    """Whether the second of two calls shows that the first was slowed by what is done only once."""
    return second < STILL_FASTER * first


def entropy_growth(samples: Sequence[float], resolution: float) -> float:
    """Bits by which the entropy of all samples exceeds that of their first half.

    After the entropy criterion of NVIDIA's nvbench, which stops once the entropy of the measured times has stopped
    growing: the noise has then shown what it has. There times repeat exactly; here they fall into bins as wide as
    `resolution` times the median, or as half the quartiles' distance where that is more.
    """
    if len(samples) < 4:
        return 0.0
    low, middle, high = quantiles(samples, n=4, method="inclusive")
    width = max(resolution * middle, (high - low) / 2)
    binned = [floor((sample - middle) / width + 0.5) for sample in samples] if width > 0 else [0] * len(samples)
    return _entropy(binned) - _entropy(binned[: len(binned) // 2])


def _entropy(values: Sequence[int]) -> float:
    counts = Counter(values).values()
    return -sum(count / len(values) * log2(count / len(values)) for count in counts)
