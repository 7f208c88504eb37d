"""Precision and recall (Kynkaanniemi et al., 2019), density and coverage (Naeem et al., 2020) of sets of features.

A ball reaches to its centre's k-th neighbour, which lies in it for precision and recall and not for density and
coverage, as in their authors' code: an image is counted once less where it is a copy of that neighbour.

Squared distances are taken in float64 from rows less a common origin, `BLOCK` rows against `BLOCK`: beside the features
themselves that needs about 24 BLOCK^2 + 16 BLOCK d bytes, whatever n is (230 MiB at d = 4096). The distance of equal
rows is exactly 0.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from koala.errors import KoalaError
from koala.types import Features

BLOCK = 2048
_ROUNDING = 1e-13  # |x|^2 + |y|^2 - 2 <x, y> of equal rows stays below this share of |x|^2 + |y|^2
_TINY = 1e-300


def precision(real: Features, fake: Float[Tensor, "m d"], k: int = 3) -> float:
    """Share of generated images within the k-th neighbour distance of a real one; 0 to 1."""
    inside = torch.zeros(len(fake), dtype=torch.bool, device=fake.device)
    for rows, _, block in _inside(fake, real, k):
        inside[rows] |= block.any(dim=1)
    return inside.double().mean().item()


def recall(real: Features, fake: Float[Tensor, "m d"], k: int = 3) -> float:
    """Share of real images within the k-th neighbour distance of a generated one; 0 to 1."""
    return precision(fake, real, k)


def density(real: Features, fake: Float[Tensor, "m d"], k: int = 5) -> float:
    """Real images nearer than whose k-th neighbour a generated one lies, over k, on average; 1 for a copy."""
    return sum(block.sum().item() for _, _, block in _inside(fake, real, k, closed=False)) / (k * len(fake))


def coverage(real: Features, fake: Float[Tensor, "m d"], k: int = 5) -> float:
    """Share of real images with a generated one nearer than their k-th neighbour; 0 to 1, and 0 where all are equal."""
    covered = torch.zeros(len(real), dtype=torch.bool, device=real.device)
    for _, columns, block in _inside(fake, real, k, closed=False):
        covered[columns] |= block.any(dim=0)
    return covered.double().mean().item()


def _inside(
    x: Features, centres: Float[Tensor, "m d"], k: int, closed: bool = True
) -> Iterator[tuple[slice, slice, Bool[Tensor, "rows columns"]]]:
    """Block by block whether rows of `x` lie in the ball around each centre that reaches its k-th neighbour."""
    if min(len(x), len(centres)) <= k:
        raise KoalaError(
            f"the {k}th neighbour needs more than {k} images a side; there are {len(x)} and {len(centres)}"
        )
    for rows in (x, centres):
        if not rows.isfinite().all():
            raise KoalaError("features hold NaN or infinite values; find the images that gave them and leave them out")
    origin = torch.stack([rows.mean(dim=0) for _, rows in _blocks(centres)]).mean(dim=0)
    balls = _squared_radii(centres, origin, k)
    lengths = torch.cat([rows.square().sum(dim=1) for _, rows in _blocks(centres, origin)])
    rounding = (_ROUNDING * (balls + lengths)).clamp(min=_TINY)  # so that a neighbour itself is always a tie
    balls = balls + rounding if closed else balls - rounding
    for i, rows in _blocks(x, origin):
        for j, columns in _blocks(centres, origin):
            yield i, j, _squared_distances(rows, columns) <= balls[j]


def _squared_radii(x: Features, origin: Float64[Tensor, " d"], k: int) -> Float64[Tensor, " n"]:
    """The squared distance of each row to its k-th neighbour, itself not counted."""
    radii = []
    for _, rows in _blocks(x, origin):
        nearest = rows.new_zeros(len(rows), 0)
        for _, columns in _blocks(x, origin):
            nearest = torch.cat([nearest, _squared_distances(rows, columns)], dim=1)
            nearest = nearest.topk(min(k + 1, nearest.shape[1]), largest=False).values  # k + 1: a row is its own first
        radii.append(nearest[:, -1])
    return torch.cat(radii)


def _squared_distances(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    lengths = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    squared = torch.addmm(lengths, x, y.T, alpha=-2)
    return squared.masked_fill_(squared < lengths.mul_(_ROUNDING), 0)


def _blocks(
    x: Features, origin: Float64[Tensor, " d"] | float = 0.0
) -> Iterator[tuple[slice, Float64[Tensor, "block d"]]]:
    for start in range(0, len(x), BLOCK):
        part = slice(start, min(start + BLOCK, len(x)))
        yield part, x[part].double() - origin
