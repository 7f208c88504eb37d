"""The Frechet distance between two sets of features seen as Gaussians (Dowson and Landau, 1982), in float64."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from eval.maths.gaussian import Gaussian
from koala.errors import KoalaError
from koala.types import Features

_PANEL = 256  # rows
_NOISE = 1e-6  # share of the total variance below which a negative distance is rounding; singular input reaches 1e-7
_NEGATIVE = 1e-4  # share of the largest eigenvalue: a covariance stored in float32 has some as low as -1e-5
_NOT_A_COVARIANCE = "a covariance has negative eigenvalues, so it is none; make the statistics anew from the images"


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)), the squared 2-Wasserstein distance of two Gaussians; at least 0."""
    check(a, b)
    shift, spread = a.mean - b.mean, (a.covariance.trace() + b.covariance.trace()).item()
    return _distance((shift @ shift).item(), spread, _overlap(a.covariance, b.covariance))


def frechet_distance_of_features(x: Features, y: Float[Tensor, "m e"]) -> float:
    """The Frechet distance of two sets of rows; exact, through no singular matrix, where one has at most d rows.

    With A = centred rows / sqrt(n - 1), tr (S1 S2)^(1/2) is the nuclear norm of A1 A2^T, an n1 x n2 matrix.
    """
    a, b = centred(x), centred(y)
    _check_widths(a.shape[1], b.shape[1])
    if min(len(x), len(y)) > a.shape[1]:
        return frechet_distance(_gaussian(x, a), _gaussian(y, b))
    shift = x.double().mean(dim=0) - y.double().mean(dim=0)
    return distance_of_factors(shift, _at_most_square(a), _at_most_square(b))


def distance_of_factors(
    shift: Float64[Tensor, " d"], a: Float64[Tensor, "rank1 d"], b: Float64[Tensor, "rank2 d"]
) -> float:
    """The Frechet distance of Gaussians whose means differ by `shift` and whose covariances are A^T A and B^T B."""
    spread, overlap = (a.square().sum() + b.square().sum()).item(), torch.linalg.svdvals(a @ b.T).sum().item()
    return _distance((shift @ shift).item(), spread, overlap)


def centred(x: Features) -> Float64[Tensor, "n d"]:
    """Rows less their mean, over sqrt(n - 1), so that A^T A is the covariance; float64."""
    if len(x) < 2:
        raise KoalaError(f"a Frechet distance needs at least 2 images on each side, and there {_there_are(len(x))}")
    rows = x.double()
    if not rows.isfinite().all():
        raise KoalaError("features hold NaN or infinite values; find the images that gave them and leave them out")
    return (rows - rows.mean(dim=0)) / (len(x) - 1) ** 0.5


def root(s: Float64[Tensor, "d d"]) -> Float64[Tensor, "d rank"]:
    """F with F F^T = S: its Cholesky factor, or as many scaled eigenvectors as S has rank."""
    factor, failed = torch.linalg.cholesky_ex(s)
    return _scaled_eigenvectors(s) if failed else factor


def congruent(factor: Float64[Tensor, "d d"], s: Float64[Tensor, "d d"]) -> Float64[Tensor, "d d"]:
    """L^T S L up to its diagonal, which is all that `eigvalsh` and `eigh` read, in half the work of two products."""
    product = torch.zeros_like(s)
    for start in range(0, len(s), _PANEL):
        end = start + _PANEL
        product[start:end, :end] = (factor[start:, start:end].T @ s[start:]) @ factor[:, :end]
    return product


def _at_most_square(a: Float64[Tensor, "n d"]) -> Float64[Tensor, "rank d"]:
    return a if len(a) <= a.shape[1] else root(a.T @ a).T


def _there_are(n: int) -> str:
    return "is 1" if n == 1 else f"are {n}"


def _gaussian(x: Features, a: Float64[Tensor, "n d"]) -> Gaussian:
    return Gaussian(x.double().mean(dim=0), a.T @ a, len(x))


def check(a: Gaussian, b: Gaussian) -> None:
    """A `KoalaError` where the two cannot be compared: unlike widths, NaN or infinite values."""
    _check_widths(len(a.mean), len(b.mean))
    for part in (a.mean, a.covariance, b.mean, b.covariance):
        if not part.isfinite().all():
            raise KoalaError("a mean or covariance holds NaN or infinite values; make it anew from the images")


def _check_widths(a: int, b: int) -> None:
    if a != b:
        raise KoalaError(f"statistics of {a} and of {b} features are not comparable; make both with one extractor")


def _distance(shift: float, spread: float, overlap: float) -> float:
    distance = shift + spread - 2 * overlap
    if distance < -_NOISE * spread:
        raise KoalaError(_NOT_A_COVARIANCE)
    return max(distance, 0.0)


def _overlap(s1: Float64[Tensor, "d d"], s2: Float64[Tensor, "d d"]) -> float:
    """tr (S1 S2)^(1/2): the square roots of the eigenvalues of L^T S2 L, where S1 = L L^T."""
    for one, other in ((s1, s2), (s2, s1)):
        factor, failed = torch.linalg.cholesky_ex(one)
        if not failed:
            return _positive(torch.linalg.eigvalsh(congruent(factor, other))).sqrt().sum().item()
    return torch.linalg.svdvals(_scaled_eigenvectors(s1).T @ _scaled_eigenvectors(s2)).sum().item()  # both singular


def _scaled_eigenvectors(s: Float64[Tensor, "d d"]) -> Float64[Tensor, "d rank"]:
    values, vectors = torch.linalg.eigh(s)
    keep = _positive(values) > len(s) * torch.finfo(s.dtype).eps * values[-1]
    return vectors[:, keep] * values[keep].sqrt()


def _positive(values: Float64[Tensor, " d"]) -> Float64[Tensor, " d"]:
    """Eigenvalues, in ascending order, without what rounding left below 0."""
    if values[0] < -_NEGATIVE * values[-1].clamp(min=0):
        raise KoalaError(_NOT_A_COVARIANCE)
    return values.clamp(min=0)
