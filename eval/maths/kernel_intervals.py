"""Intervals of squared maximum mean discrepancies, KID's and CMMD's: the jackknife's."""

from dataclasses import dataclass
from math import isfinite, sqrt

from jaxtyping import Float
from torch import Tensor

from eval.features import FeatureSet
from eval.maths.mmd import KernelSums, gaussian_kernel, kernel_sums, polynomial_kernel
from eval.metric import Estimate
from koala.errors import KoalaError
from koala.harness.bootstrap import student_quantile
from koala.types import Features


@dataclass(frozen=True)
class _Jackknife:
    """Standard error of a U-statistic, and how much further than it an interval reaches to either side."""

    error: float
    reach: float


def mmd_estimate(
    x: Features | FeatureSet,
    y: Float[Tensor, "m d"] | FeatureSet,
    degree: int = 3,
    gamma: float | None = None,
    coef0: float = 1.0,
) -> Estimate:
    """The unbiased squared MMD over all rows (KID without subsets; Binkowski et al., 2018), with a 95% interval.

    A power of inner products makes its errors skew to the right, the more the farther the sets. Where the value is more
    than its error the upper end is therefore found on the scale of its root of that degree, which is nearly even.
    """
    x, y = _rows(x), _rows(y)
    sums = kernel_sums(x, y, polynomial_kernel(x.shape[1], degree, gamma, coef0))
    value, jackknife = sums.unbiased(), _jackknife(sums)
    above = jackknife.reach * jackknife.error
    if value > jackknife.error:
        above = value * ((1 + above / (degree * value)) ** degree - 1)
    short = "; covers too seldom below 30 images" if min(len(x), len(y)) < 30 else ""
    method = f"jackknife, Student's t, upper end by the root of degree {degree}{short}"
    detail = {"standard_error": jackknife.error}
    return Estimate(value, value - jackknife.reach * jackknife.error, value + above, method, detail)


def gaussian_mmd_estimate(
    x: Features | FeatureSet, y: Float[Tensor, "m d"] | FeatureSet, sigma: float = 10.0, scale: float = 1000.0
) -> Estimate:
    """CMMD: `scale` times the biased squared MMD (Jayasumana et al., 2024), at least 0 since it keeps the diagonals.

    The rows are expected to be CLIP image embeddings of length 1. The 95% interval is the jackknife's, around the
    unbiased estimate.
    """
    sums = kernel_sums(_rows(x), _rows(y), gaussian_kernel(sigma))
    value, unbiased, jackknife = scale * sums.biased(), scale * sums.unbiased(), _jackknife(sums)
    error = scale * jackknife.error
    detail = {"debiased": unbiased, "bias": value - unbiased, "standard_error": error}
    low, high = max(unbiased - jackknife.reach * error, 0.0), max(unbiased + jackknife.reach * error, 0.0)
    return Estimate(value, low, high, "jackknife around the unbiased estimate, Student's t", detail)


def _rows(x: Features | FeatureSet) -> Features:
    return x.all() if isinstance(x, FeatureSet) else x


def _jackknife(sums: KernelSums) -> _Jackknife:
    """From leaving out each row of either set (Arvesen, 1969); Student's t has Welch's degrees of freedom (1947)."""
    of_sides, sizes = [], []
    for own, across, other in ((sums.xx, sums.xy, len(sums.yy)), (sums.yy, sums.yx, len(sums.xx))):
        n = len(own)
        if n < 3:
            raise KoalaError(f"an interval of an MMD needs at least 3 images on each side, and there are {n}")
        without = (own.sum() - 2 * own) / ((n - 1) * (n - 2)) - 2 * (across.sum() - across) / ((n - 1) * other)
        of_sides.append((n - 1) * without.var(correction=0).item())
        sizes.append(n)
    if not isfinite(variance := sum(of_sides)):
        raise KoalaError("features are so large that their kernel overflows; check the network's weights file")
    shares = sum((of_side / variance) ** 2 / (n - 1) for of_side, n in zip(of_sides, sizes, strict=True) if variance)
    return _Jackknife(sqrt(variance), student_quantile(0.975, round(1 / shares) if shares else min(sizes) - 1))
