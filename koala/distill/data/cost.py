"""What a cache costs, before any weights are loaded."""

from itertools import islice
from math import prod

from koala.distill.data.building import Job, Progress
from koala.distill.data.captions import check_columns
from koala.distill.data.prefetch import ahead
from koala.distill.data.statistics import Tally
from koala.models.spec import ModelSpec

_HALF, _SIZES, _LABEL, _OFFSETS = 2, 6 * 4, 8, 2 * 8  # bytes of a value, of six sizes, of a class, of two offsets


def bytes_per_image(spec: ModelSpec, side: int, captions: int = 1, variants: int = 1) -> int:
    """Bytes of an image's tensors in a cache; its words, a few hundred bytes, come on top."""
    latent = prod((spec.unet.sample_channels, side // spec.downscale, side // spec.downscale))
    return variants * (latent * _HALF + _SIZES) + captions * bytes_per_caption(spec) + _OFFSETS


def bytes_per_caption(spec: ModelSpec) -> int:
    """Bytes of a caption's condition: SDXL's 77 x 2048 states and pooled embedding of 1280 in fp16, or a class."""
    context = prod(spec.conditioning.context_shape) if spec.conditioning.context_shape else 0
    return (context + (spec.unet.pooled_dim or 0)) * _HALF + (_LABEL if spec.unet.class_labels is not None else 0)


def survey(job: Job, progress: Progress) -> tuple[Tally, int]:
    """What a cache would hold, and its tensors' bytes; every image is decoded, for only so is a broken one found."""
    preparation, tally = job.preparation, Tally()
    check_columns(job.source.read(0), preparation.columns)
    shares = job.shares()
    with progress(len(shares)) as (on_example, on_unit):
        for unit, limit in shares.items():
            examples = islice(job.source.read(unit), limit)
            for outcome in ahead(preparation.admit, examples, job.workers):
                tally.count(outcome)
                on_example()
            on_unit()
    images = bytes_per_image(job.spec, preparation.side, 0, preparation.variants) * tally.images
    return tally, images + bytes_per_caption(job.spec) * tally.captions
