"""Batches of random values in the shapes of a model, and such by number."""

from dataclasses import dataclass, replace

import torch

from koala.distill.batch import Batch
from koala.models.conditioning import Condition, random_condition, size_ids
from koala.models.spec import ModelSpec


def random_batch(spec, n=2, side=8, seed=0, positions=None):
    """A batch of n rows; its values depend on `seed`."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clean = torch.randn(n, spec.unet.sample_channels, side, side)
        condition = random_condition(spec, n, torch.float32, torch.device("cpu"))
    pixels = side * spec.downscale
    sizes = None if spec.unet.pooled_dim is None else size_ids((pixels, pixels), (600, 1023), (3, 5), n)
    rows = tuple(range(n))
    captions = tuple(f"caption {row}" for row in rows)
    return Batch(clean, condition, sizes, positions or rows, tuple(map(str, rows)), captions)


def some_rows(batch, rows):
    """The batch of those rows."""

    def picked(field):
        return None if field is None else field[rows]

    return Batch(
        batch.clean[rows],
        batch.condition.map(picked),
        picked(batch.sizes),
        batch.positions[rows],
        batch.keys[rows],
        batch.captions[rows],
    )


@dataclass(frozen=True)
class RandomExamples:
    """As many random examples as wanted of a model."""

    spec: ModelSpec
    count: int = 100
    noise: bool = False  # told the seeds of the noise that they were drawn from

    def __len__(self) -> int:
        return self.count

    def batch(self, indices, positions) -> Batch:
        batch = random_batch(self.spec, self.count)
        condition = batch.condition.map(lambda field: field[list(indices)])
        captions = tuple(f"caption {index}" for index in indices)
        sizes = None if batch.sizes is None else batch.sizes[list(indices)]
        keys = tuple(map(str, indices))
        rows = Batch(batch.clean[list(indices)], condition, sizes, tuple(positions), keys, captions)
        return replace(rows, noise_seeds=tuple(indices)) if self.noise else rows

    def empty(self) -> Condition:
        return random_condition(self.spec, 1, torch.float32, torch.device("cpu")).map(torch.zeros_like)
