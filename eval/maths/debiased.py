"""The Frechet distance between two distributions, from samples: the plain value less its bias, and its standard error.

The plain value of n images is too large by about d / n of the features' variance. Three steps take that away:

1. |m1 - m2|^2 is too large by tr S1 / n1 + tr S2 / n2, as for any two means.
2. tr (S1 S2)^(1/2) is too small, S1 and S2 being noisy. Random matrix theory says by how much where features are
   Gaussian and n is of the order of d: `_expected_overlap`, Tiomoko and Couillet's "Random matrix-improved estimation
   of the Wasserstein distance between two centered Gaussian distributions" (2019).
3. What is left is of the order of 1 / n: theirs is a theory of complex numbers, and features are not Gaussian.
   Expanding the trace to the second order in the noise of S, whose covariance is that of the features' fourth
   moments, gives both (`_Axes.moments`).

The standard error is the delta method's: the distance changes with each row by its influence, and their variance over
n is that of the distance. `tests/eval/test_set_intervals.py` counts how often the intervals made of these cover.
"""

from dataclasses import dataclass
from math import inf, pi, sqrt

import torch
from jaxtyping import Float64
from torch import Tensor

from eval.features import FeatureSet
from eval.maths.frechet import centred, congruent
from eval.maths.gaussian import Gaussian

_TINY = 1e-150  # instead of a zero divisor, where the numerator is 0 too
_STEP = 0.25
_GRID = torch.arange(-36, 36 + _STEP, _STEP, dtype=torch.float64)  # log u; the trapezoid rule is exact to 1e-15 on it


@dataclass(frozen=True)
class Debiased:
    """The distance less its bias, which may be below 0, and its standard error."""

    distance: float
    error: float


def debiased(x: FeatureSet, y: FeatureSet | Gaussian) -> Debiased | None:
    """The estimate from more rows than features; None where both covariances are singular."""
    a, b = x.gaussian, y if isinstance(y, Gaussian) else y.gaussian
    shift, axes = a.mean - b.mean, _Axes.of(a, b)
    if axes is None:
        return _of_varying_features(x, y, shift)
    n1, n2 = len(x), inf if b.n is None else b.n
    overlap, variance = _expected_overlap(axes.roots.square(), n1 - 1, n2 - 1), 0.0
    for side, stats, basis, sign in ((x, a, axes.of_x, 1), (y, b, axes.of_y, -1)):
        added, spread = axes.moments(side, stats, basis, sign * shift)
        overlap, variance = overlap + added, variance + spread
    means = (shift @ shift - a.covariance.trace() / n1 - b.covariance.trace() / n2).item()
    return Debiased(means + (a.covariance.trace() + b.covariance.trace()).item() - 2 * overlap, sqrt(variance))


def _of_varying_features(x: FeatureSet, y: FeatureSet | Gaussian, shift: Float64[Tensor, " d"]) -> Debiased | None:
    """The estimate where some features, or sums of them, vary on neither side: their means are known exactly."""
    basis = principal_axes(x, y, x.dim)
    inner = debiased(projected(x, basis), either_projected(y, basis)) if 0 < basis.shape[1] < x.dim else None
    constant = shift - basis @ (basis.T @ shift)
    return inner and Debiased(inner.distance + (constant @ constant).item(), inner.error)


def principal_axes(x: FeatureSet, y: FeatureSet | Gaussian, most: int) -> Float64[Tensor, "d k"]:
    """The leading eigenvectors of both sets' common covariance, `most` or as many as its rank.

    Every row weighs the same, and statistics that are exact weigh all: else the axes would fit the noise of the
    smaller set, whose variance along them would then seem larger, and distance appear where there is none.
    """
    if isinstance(y, FeatureSet) and len(x) + len(y) < x.dim:  # the rows' products are the smaller matrix
        rows = torch.cat([centred(side.all()) * sqrt(len(side)) for side in (x, y)])
        values, of_rows = torch.linalg.eigh(rows @ rows.T)
        kept = _leading(values, x.dim, most)
        return rows.T @ (of_rows[:, kept] / values[kept].sqrt())
    a, b = x.gaussian, y if isinstance(y, Gaussian) else y.gaussian
    common = b.covariance if b.n is None else len(x) * a.covariance + b.n * b.covariance
    values, vectors = torch.linalg.eigh(common)
    return vectors[:, _leading(values, x.dim, most)]


def _leading(values: Float64[Tensor, " k"], dim: int, most: int) -> slice:
    """The places of the largest of ascending eigenvalues, as many as the rank, at most `most`."""
    rank = int((values > dim * torch.finfo(torch.float64).eps * values[-1]).sum())
    return slice(len(values) - min(most, rank), len(values))


def projected(side: FeatureSet, basis: Float64[Tensor, "d k"]) -> FeatureSet:
    """The features in the axes of `basis`."""
    return FeatureSet.of(torch.cat([(chunk.double() @ basis).float() for chunk in side.chunks()]))


def either_projected(side: FeatureSet | Gaussian, basis: Float64[Tensor, "d k"]) -> FeatureSet | Gaussian:
    """The features, or the statistics of features, in the axes of `basis`."""
    if isinstance(side, FeatureSet):
        return projected(side, basis)
    return Gaussian(side.mean @ basis, basis.T @ side.covariance @ basis, side.n)


def _expected_overlap(spectrum: Float64[Tensor, " d"], n1: int, n2: float | int) -> float:
    """tr (C1 C2)^(1/2) of the populations from the eigenvalues l of S1 S2, samples with n1 and n2 degrees of freedom.

    The paper's contour integral for f = sqrt, drawn to the imaginary axis of sqrt(z), where it is, u > 0,
    -4 sqrt(n1 n2) / pi * integral of log((sqrt(n1 - s) + sqrt(n2 - s)) / (sqrt(n1) + sqrt(n2))) du
    with s(u) = sum_j l_j / (l_j + u^2). For n1 and n2 to infinity the logarithm is -s / (2 sqrt(n1 n2)), and the
    integral of l / (l + u^2) being pi sqrt(l) / 2, what is left is the plain sum of sqrt(l_j).
    """
    u = spectrum.max().clamp(min=_TINY).sqrt() * _GRID.exp()  # du = u d(log u)
    s = (spectrum / (spectrum + u[:, None].square())).sum(dim=1)
    left = [(n - s).clamp(min=0).sqrt() + sqrt(n) for n in (n1, n2) if n < inf]
    if n2 == inf:  # the limit: sqrt(n2) log(...) goes to sqrt(n1 - s) - sqrt(n1) = -s / left
        return (4 / pi * _STEP * (sqrt(n1) * s / left[0] * u).sum()).item()
    # sqrt(n - s) - sqrt(n) = -s / (sqrt(n - s) + sqrt(n)), which keeps its digits where s is small
    ratio = torch.log1p(-s * (1 / left[0] + 1 / left[1]) / (sqrt(n1) + sqrt(n2)))
    return (-4 / pi * sqrt(n1 * n2) * _STEP * (ratio * u).sum()).item()


@dataclass(frozen=True)
class _Axes:
    """Axes in which both covariances are known: z = (rows - mean) @ `of_x` (or `of_y`) has covariance 1 on its side.

    In both, the optimal transport map to the other side stretches z_j^2 by `roots`_j, the roots of S1 S2's spectrum.
    """

    a: Gaussian
    b: Gaussian
    roots: Float64[Tensor, " d"]
    of_x: Float64[Tensor, "d d"]
    of_y: Float64[Tensor, "d d"]

    @classmethod
    def of(cls, a: Gaussian, b: Gaussian) -> "_Axes | None":
        """Of S1 = L L^T and L^T S2 L = V diag(l) V^T: L^-T V, and L V scaled; None where both are singular."""
        factor, failed = torch.linalg.cholesky_ex(a.covariance)
        if failed:
            turned = None if torch.linalg.cholesky_ex(b.covariance).info else cls.of(b, a)
            return turned and cls(a, b, turned.roots, turned.of_y, turned.of_x)
        spectrum, vectors = torch.linalg.eigh(congruent(factor, b.covariance))
        of_x, of_y = torch.linalg.solve_triangular(factor.T, vectors, upper=True), factor @ vectors
        scale = (of_y * (b.covariance @ of_y)).sum(dim=0).clamp(min=0).sqrt()
        return cls(
            a, b, spectrum.clamp(min=0).sqrt(), of_x, of_y / scale.clamp(min=max(1e-7 * scale.max().item(), _TINY))
        )

    def moments(
        self, side: FeatureSet | Gaussian, stats: Gaussian, basis: Float64[Tensor, "d d"], shift: Float64[Tensor, " d"]
    ) -> tuple[float, float]:
        """What one side adds to `_expected_overlap`, and to the variance of the distance.

        To the second order noise E in S lowers the trace by sum_jk w_jk E_jk^2 / 4, w_jk = r_j r_k / (r_j + r_k), r
        being `roots`. n times the mean of E_jk^2 is that of z_j^2 z_k^2, less 1 on the diagonal: 1 for complex
        Gaussians, which `_expected_overlap` knows; 2 on the diagonal for real ones, which is sum r / (8 n) more; and
        what the fourth moments of heavy tails add.
        A row's influence on the distance is 2 <row, shift> + |row|^2 - sum_j r_j z_j^2.
        """
        if stats.n is None:
            return 0.0, 0.0
        n, real = stats.n, self.roots.sum().item() / (8 * stats.n)
        # Axes fitted to the rows make their influences too alike: by d / n of the variance, as tests count it.
        fitted = (1 + len(basis) / n) / n
        if isinstance(side, Gaussian):
            back = basis.T @ stats.covariance
            spread = 4 * shift @ stats.covariance @ shift + 2 * (back @ back.T - self.roots.diag()).square().sum()
            return real, spread.item() * fitted
        fourth, influences = torch.zeros_like(basis), []
        for chunk in side.chunks():
            rows = chunk.double() - stats.mean
            squares = (rows @ basis).square()
            fourth += squares.T @ squares
            influences.append(2 * rows @ shift + rows.square().sum(dim=1) - squares @ self.roots)
        normal = (n - 1) ** 3 / (n**2 * (n + 1)) * (1 + 2 * torch.eye(len(basis), dtype=torch.float64))
        weight = self.roots[:, None] * self.roots / (self.roots[:, None] + self.roots).clamp(min=_TINY)
        heavier = (weight * (fourth / n - normal)).sum().item() / (4 * n)
        return real + heavier, torch.cat(influences).var().item() * fitted
