"""Mean and covariance of features, gathered in float64 and chunk by chunk."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from koala.errors import KoalaError


@dataclass(frozen=True)
class Gaussian:
    """Mean and unbiased covariance (division by n - 1) of `n` samples; `n` is None where a file does not say it."""

    mean: Float64[Tensor, "d"]  # noqa: F821
    covariance: Float64[Tensor, "d d"]
    n: int | None


def gaussian(chunks: Iterable[Float[Tensor, "_ d"]]) -> Gaussian:
    """Mean and covariance of all rows, in memory that does not grow with their number (Chan et al., 1979)."""
    n, mean, scatter = 0, torch.zeros(0, dtype=torch.float64), torch.zeros(0, 0, dtype=torch.float64)
    for chunk in chunks:
        rows = chunk.double()
        m, centre = len(rows), rows.mean(dim=0)
        spread = (rows - centre).T @ (rows - centre)
        if not n:
            n, mean, scatter = m, centre, spread
            continue
        shift = centre - mean
        scatter += spread + torch.outer(shift, shift) * (n * m / (n + m))
        mean += shift * (m / (n + m))
        n += m
    if n < 2:
        raise KoalaError(f"a mean and a covariance need at least 2 images, and there {'is' if n == 1 else 'are'} {n}")
    return Gaussian(mean, scatter / (n - 1), n)
