"""Squared maximum mean discrepancies (Gretton et al., 2012), KID's and CMMD's, in float64.

Kernels are summed block by block: memory does not grow with the square of the number of rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from koala.errors import KoalaError
from koala.types import Features

BLOCK = 2048  # rows: one block of a kernel is 32 MiB
Kernel = Callable[[Tensor, Tensor], Tensor]  # float64 rows (n d), (m d) -> (n m)


@dataclass(frozen=True)
class KernelSums:
    """For each row its kernel summed over the others of its own set (itself left out) and over the other set."""

    xx: Float64[Tensor, " n"]
    yy: Float64[Tensor, " m"]
    xy: Float64[Tensor, " n"]
    yx: Float64[Tensor, " m"]

    def unbiased(self) -> float:
        """The U-statistic (Gretton et al., 2012, equation 3); may be below 0."""
        n, m = len(self.xx), len(self.yy)
        own = self.xx.sum() / (n * (n - 1)) + self.yy.sum() / (m * (m - 1))
        return (own - 2 * self.xy.sum() / (n * m)).item()

    def biased(self) -> float:
        """The V-statistic (equation 5) of a kernel that is 1 on equal rows; at least 0."""
        n, m = len(self.xx), len(self.yy)
        own = (self.xx.sum() + n) / n**2 + (self.yy.sum() + m) / m**2
        return max((own - 2 * self.xy.sum() / (n * m)).item(), 0.0)


def subset_kid(
    x: Features, y: Float[Tensor, "m d"], subsets: int = 100, subset_size: int = 1000, seed: int = 2020
) -> tuple[float, float]:
    """Mean and standard deviation of the unbiased squared MMD over random subsets, in torch-fidelity's random sequence.

    clean-fid's KID is the same mean with `subset_size` = min(n, m, 1000), the reference first and no seed.
    """
    if min(len(x), len(y)) < subset_size:
        raise KoalaError(
            f"KID over subsets of {subset_size} needs as many images, and there are {len(x)} and {len(y)}; "
            f"take subsets of at most {min(len(x), len(y))} or the estimate over all rows"
        )
    random, kernel = np.random.RandomState(seed), polynomial_kernel(x.shape[1])
    values = []
    for _ in range(subsets):
        first = x[torch.from_numpy(random.choice(len(x), subset_size, replace=False))]
        second = y[torch.from_numpy(random.choice(len(y), subset_size, replace=False))]
        values.append(kernel_sums(first, second, kernel).unbiased())
    return float(np.mean(values)), float(np.std(values))


def polynomial_kernel(d: int, degree: int = 3, gamma: float | None = None, coef0: float = 1.0) -> Kernel:
    """(gamma <x, y> + coef0)^degree, gamma 1 / d where it is not given."""
    slope = 1 / d if gamma is None else gamma
    return lambda x, y: (x @ y.T).mul_(slope).add_(coef0).pow_(degree)


def gaussian_kernel(sigma: float) -> Kernel:
    """exp(-|x - y|^2 / (2 sigma^2))."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        squared = (x @ y.T).mul_(-2).add_(x.square().sum(1)[:, None]).add_(y.square().sum(1)).clamp_(min=0)
        return squared.div_(-2 * sigma**2).exp_()

    return kernel


def kernel_sums(x: Features, y: Float[Tensor, "m d"], kernel: Kernel) -> KernelSums:
    """The sums of which every MMD of two sets is made."""
    if min(len(x), len(y)) < 2:
        raise KoalaError(f"an MMD needs at least 2 images on each side, and there are {len(x)} and {len(y)}")
    for rows in (x, y):
        if not rows.isfinite().all():
            raise KoalaError(
                "features hold NaN or infinite values; find the images that gave them, leave them out, run again"
            )
    xy, yx = x.new_zeros(len(x), dtype=torch.float64), y.new_zeros(len(y), dtype=torch.float64)
    for i, rows in _blocks(x):
        for j, columns in _blocks(y):
            block = kernel(rows, columns)
            xy[i] += block.sum(dim=1)
            yx[j] += block.sum(dim=0)
    return KernelSums(_own_sums(x, kernel), _own_sums(y, kernel), xy, yx)


def _own_sums(x: Features, kernel: Kernel) -> Float64[Tensor, " n"]:
    """Each row's kernel summed over all other rows; blocks below the diagonal are those above it, transposed."""
    sums = x.new_zeros(len(x), dtype=torch.float64)
    for i, rows in _blocks(x):
        for j, columns in _blocks(x):
            if j.start < i.start:
                continue
            block = kernel(rows, columns)
            if i == j:
                block.fill_diagonal_(0)
            else:
                sums[j] += block.sum(dim=0)
            sums[i] += block.sum(dim=1)
    return sums


def _blocks(x: Features) -> Iterator[tuple[slice, Float64[Tensor, "block d"]]]:
    for start in range(0, len(x), BLOCK):
        part = slice(start, min(start + BLOCK, len(x)))
        yield part, x[part].double()
