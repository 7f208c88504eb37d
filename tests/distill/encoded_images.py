"""Images as they would come from an encoder, with random values, caches of them, and options to encode real ones."""

from collections.abc import Sequence
from pathlib import Path

import torch

from koala.commands.encode import Options
from koala.distill.data.cache import Writer, model_settings
from koala.distill.data.shards import Encoded, write_shard
from koala.models import zoo
from koala.models.conditioning import Condition

SETTINGS = {"model": "tiny-sdxl", "resolution": 128, **model_settings(zoo.get("tiny-sdxl"))}


def options(source: Path, out: Path | None = None, **others) -> Options:
    """Of an encoding with a small model."""
    chosen = {"model": "tiny-koala-700m", "resolution": 32, "device": "cpu", "out": out}
    return Options(str(source), **(chosen | others))


def image(number: int, captions: int = 1, variants: int = 1, pooled: bool = True, side: int = 4) -> Encoded:
    """Image number `number` with random values that are its own."""
    generator = torch.Generator().manual_seed(number)

    def values(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).half()

    return Encoded(
        key=f"folder/{number:05d}",
        captions=tuple(f"picture {number}, caption {caption}: \u00e9\u2028" for caption in range(captions)),
        original=(100 + number, 200),
        clean=values(variants, 4, side, side),
        sizes=torch.arange(6 * variants, dtype=torch.int32).reshape(variants, 6) + number,
        condition=Condition(values(captions, 5, 8), values(captions, 3) if pooled else None),
    )


def cache(folder: Path, units: Sequence[Sequence[Encoded]], total: int = 0) -> Path:
    """A cache of these images, two of them to a shard; of `total` units, those that are given are finished."""
    with Writer(folder, {**SETTINGS, "units": total or len(units)}) as writer:
        writer.add_empty(lambda: units[0][0].condition.map(lambda field: torch.zeros_like(field[:1])))
        for number, images in enumerate(units):
            pairs = [images[start : start + 2] for start in range(0, len(images), 2)]
            shards = [write_shard(folder, f"unit-{number}-{i}", pair) for i, pair in enumerate(pairs)]
            writer.add_unit(number, {"name": f"unit {number}", "shards": shards, "tally": {}})
    return folder
