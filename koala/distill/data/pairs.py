"""Pairs of noise and what a teacher draws from it, kept as a cache whose images know the seed of their noise."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256

import torch
from torch import Tensor

from koala import __version__
from koala.distill.data.building import Share, absolute
from koala.distill.data.cache import model_settings
from koala.distill.data.encoding import Encoder
from koala.distill.data.shards import Encoded, write_shard
from koala.harness.records import Row
from koala.models.load import load
from koala.models.spec import ModelSpec, Recipe
from koala.sampling.encodings import Encodings
from koala.sampling.sampler import Sampler

KIND = "pairs"
_UNIT = 64  # pairs that are kept together: what a kill costs at most


@dataclass(frozen=True)
class Pairs:
    """`n` pairs: the prompts one after the other, again and again, with one seed after the other."""

    spec: ModelSpec
    weights: str
    recipe: Recipe
    prompts: tuple[str, ...]
    n: int
    resolution: int
    seed: int = 0
    batch_size: int = 1

    def shares(self) -> Mapping[int, int | None]:
        """How many pairs each unit has."""
        return {unit: min(_UNIT, self.n - unit * _UNIT) for unit in range(-(-self.n // _UNIT))}

    def content(self, dtype: str, units: int) -> Row:
        """Everything that decides what the cache holds, but for rounding."""
        return {
            "made": KIND,
            "model": self.spec.name,
            "weights": absolute(self.weights),
            "dtype": dtype,
            "recipe": asdict(self.recipe),
            "prompts": sha256(json.dumps(self.prompts).encode()).hexdigest()[:16],
            "n": self.n,
            "seed": self.seed,
            "resolution": self.resolution,
            "units": units,
            "koala": __version__,
            **model_settings(self.spec),
        }

    def write(self, share: Share) -> None:
        """Draw the units of a share."""
        writer = share.writer
        sampler = Sampler(load(self.spec, share.device, share.dtype, self.weights, ("unet", "text"), self.seed))
        encodings = Encodings(sampler, self.prompts)
        if share.first:
            writer.add_empty(Encoder(sampler.components).empty)
        for unit, count in share.units.items():
            places = range(unit * _UNIT, unit * _UNIT + (count or 0))
            drawn: list[Encoded] = []
            for start in range(0, len(places), self.batch_size):
                some = self._draw(sampler, encodings, places[start : start + self.batch_size])
                drawn += [one.stored() for one in some]
                for _ in some:
                    share.on_example()
            shard = write_shard(writer.folder, f"pairs-{unit:06d}", drawn)
            writer.add_unit(unit, {"name": shard["name"], "shards": [shard]})
            share.on_unit()

    def _draw(self, sampler: Sampler, encodings: Encodings, places: range) -> list[Encoded]:
        prompts = [self.prompts[place % len(self.prompts)] for place in places]
        seeds, side = [self.seed + place for place in places], self.resolution
        latents = sampler.denoise(encodings(prompts, self.recipe), seeds, self.recipe, side, side)
        told = encodings(prompts, replace(self.recipe, guidance=0.0))
        sizes = torch.tensor([[side, side, 0, 0, side, side]], dtype=torch.int32)
        return [
            Encoded(
                f"{seed:08d}",
                (prompt,),
                (side, side),
                latents[row : row + 1].float().cpu(),
                sizes,
                told.map(_row(row)),
                seed,
            )
            for row, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]


def _row(row: int) -> Callable[[Tensor], Tensor]:
    return lambda field: field[row : row + 1].cpu()
