"""Captioned images -> what a U-Net is trained on: one process's work, whether it goes into a cache or into a step."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from koala.distill.data.captions import Captions
from koala.distill.data.example import Example, Source
from koala.distill.data.filters import BROKEN, Admitted, Filters, Refused
from koala.distill.data.images import Broken, Crop, Interpolation, crop
from koala.distill.data.order import number_below
from koala.distill.data.prefetch import ahead
from koala.distill.data.shards import Encoded, joined, write_shard
from koala.distill.data.statistics import Tally
from koala.errors import KoalaError
from koala.harness.records import Row
from koala.models.conditioning import Condition, PromptTruncated
from koala.models.load import Components
from koala.models.spec import ClassLabels, ModelSpec
from koala.sampling import seeds

Piece = TypeVar("Piece")
SHARD_BYTES = 2**27  # about; a shard is held in memory, twice while it is written
NO_CLASS = "no class of the model"


@dataclass(frozen=True)
class Preparation:
    """Which images are let in, with which captions, and what is cut out of them.

    Variant 0 is the centre, the others up to `crops` are cut at random; with `flip` as many follow out of the mirrored
    image. What is random depends on the seed, the image and the variant alone.
    """

    side: int
    captions: Captions = field(default_factory=Captions)
    filters: Filters = field(default_factory=Filters)
    crops: int = 1
    flip: bool = False
    seed: int = 0
    interpolation: Interpolation = "bilinear"
    classes: frozenset[str] | None = None  # captions there are, of a model that draws classes

    def __post_init__(self) -> None:
        if self.crops < 1:
            raise KoalaError(f"--crops must be at least 1, not {self.crops}")

    @property
    def variants(self) -> int:
        """How many ways there are to show an image."""
        return self.crops * (1 + self.flip)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that examples must have."""
        return (*self.captions.columns, *self.filters.columns)

    def admit(self, example: Example) -> Admitted | Refused:
        """The decoded image with the captions that it may have, each once, or why it stays out."""
        outcome = self.filters.admit(example, self.captions)
        if isinstance(outcome, Refused):
            return outcome
        captions = tuple(dict.fromkeys(outcome.captions))
        if self.classes is not None and not (captions := tuple(c for c in captions if c in self.classes)):
            return Refused(example.key, NO_CLASS, outcome.captions[0])
        return replace(outcome, captions=captions)

    def prepare(self, example: Example) -> "Prepared | Refused":
        """An image with all of its variants, ready for the encoder, or why it stays out."""
        outcome = self.admit(example)
        return outcome if isinstance(outcome, Refused) else self.cuts(outcome, outcome.captions, range(self.variants))

    def cuts(self, admitted: Admitted, captions: tuple[str, ...], variants: Iterable[int]) -> "Prepared | Refused":
        """An image with some of its captions and variants."""
        try:
            return Prepared(admitted.key, captions, {variant: self._cut(admitted, variant) for variant in variants})
        except Broken as error:
            return Refused(admitted.key, BROKEN, str(error))

    def settings(self) -> Row:
        """What of this decides the content of a cache."""
        row = asdict(self)
        return {"resolution": row.pop("side"), **{name: value for name, value in row.items() if name != "classes"}}

    def _cut(self, admitted: Admitted, variant: int) -> Crop:
        place = None  # the centre
        if variant % self.crops:
            place = seeds.generator(number_below(2**63, self.seed, admitted.key, "crop", variant))
        return crop(admitted.image, self.side, place, variant >= self.crops, self.interpolation)


def preparation_for(spec: ModelSpec, side: int = 0, **choices: Any) -> Preparation:
    """A `Preparation` for a model, at its own resolution unless `side` says otherwise."""
    spec.check_side(side or spec.resolution)
    named = spec.conditioning.names if isinstance(spec.conditioning, ClassLabels) else None
    return Preparation(side or spec.resolution, classes=None if named is None else frozenset(named), **choices)


@dataclass(frozen=True)
class Prepared:
    """An image before it is encoded: the captions that are wanted of it, and squares of it by variant.

    The whole image is gone: many of these wait at once, and a photograph is far larger than its squares.
    """

    key: str
    captions: tuple[str, ...]
    crops: Mapping[int, Crop]

    @property
    def original(self) -> tuple[int, int]:
        """Height and width in pixels before any resizing."""
        return next(iter(self.crops.values())).original


@dataclass
class Encoder:
    """Runs a model's autoencoder and text encoders, at most `batch_size` squares or captions at a time.

    Latents are a sample of the autoencoder's posterior, whose noise depends on the seed, the image and the variant
    alone, times its scaling factor; a model without an autoencoder gets pixels in [-1, 1].
    """

    components: Components
    seed: int = 0
    batch_size: int = 8

    def encode(self, images: Sequence[Prepared]) -> list[Encoded]:
        """The images in fp32 on the CPU, with the condition of each of their captions; equal ones are made once."""
        squares = [(one.key, variant, cut) for one in images for variant, cut in one.crops.items()]
        texts = list(dict.fromkeys(text for one in images for text in one.captions))
        try:
            clean = torch.cat([self._latents(some) for some in _chunks(squares, self.batch_size)])
            rows = self._conditions(texts)
        except torch.OutOfMemoryError as error:
            raise KoalaError(f"the GPU's memory is full; try a --batch-size below {self.batch_size}") from error
        found, place = [], 0
        for one in images:
            until = place + len(one.crops)
            sizes = torch.tensor([cut.sizes for cut in one.crops.values()], dtype=torch.int32)
            condition = _rows(rows, [texts.index(text) for text in one.captions])
            found.append(Encoded(one.key, one.captions, one.original, clean[place:until], sizes, condition))
            place = until
        return found

    @torch.no_grad()
    def empty(self) -> Condition:
        """One row that stands for no caption: zeros, the empty prompt or no class, as the model was trained.

        Of a model that knows no such row it is one that no table has.
        """
        plan, conditioner = self.components.spec.conditioning, self.components.conditioner
        assert conditioner is not None, "loaded without its text encoders"
        if isinstance(plan, ClassLabels):
            return Condition(labels=torch.tensor([len(plan.names)]))
        prompt = ""
        return conditioner.guided([prompt], None).map(lambda field: _on_cpu(field[:1]))

    @torch.no_grad()
    def _latents(self, squares: Sequence[tuple[str, int, Crop]]) -> Tensor:
        autoencoder, device = self.components.autoencoder, self.components.device
        pixels = torch.stack([torch.from_numpy(cut.pixels) for _, _, cut in squares]).to(device)
        samples = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        if autoencoder is None:
            return _on_cpu(samples)
        encoded = autoencoder.encode(samples.to(autoencoder.dtype))
        if "latents" in encoded:  # a tiny autoencoder has no posterior
            return _on_cpu(encoded.latents * autoencoder.config.scaling_factor)
        mean, std = encoded.latent_dist.mean.float(), encoded.latent_dist.std.float()
        noise = seeds.noise([self._generator(key, variant) for key, variant, _ in squares], tuple(mean.shape[1:]))
        return _on_cpu((mean + std * noise.to(device)) * autoencoder.config.scaling_factor)

    def _generator(self, key: str, variant: int) -> torch.Generator:
        return seeds.generator(number_below(2**63, self.seed, key, "posterior", variant))

    @torch.no_grad()
    def _conditions(self, texts: Sequence[str]) -> Condition:
        conditioner = self.components.conditioner
        assert conditioner is not None, "loaded without its text encoders"
        parts = [conditioner.encode(list(some)).map(_on_cpu) for some in _chunks(texts, self.batch_size)]
        return joined(parts)


@dataclass(frozen=True)
class Encoding:
    """The making of a cache's shards out of a source, unit by unit."""

    source: Source
    preparation: Preparation
    encoder: Encoder
    folder: Path
    workers: int = 2  # threads that read, decode and crop ahead
    on_example: Callable[[], None] = lambda: None

    def unit(self, number: int, limit: int | None = None) -> Row:
        """What the index says of a unit, whose shards are on the disk then; of `limit` examples at most.

        Its content depends on nothing but the unit: not on what was encoded before it or beside it.
        """
        name, tally, shards = self.source.units[number], Tally(), []
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PromptTruncated)
            for place, images in enumerate(_filled(self._encoded(number, limit, tally))):
                shards.append(write_shard(self.folder, f"{name}-{place:03d}", images))
        long = [warning for warning in caught if issubclass(warning.category, PromptTruncated)]
        for warning in caught:
            if warning not in long:
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return {"name": name, "shards": shards, "tally": tally.row(), "truncated_captions": len(long)}

    def _encoded(self, unit: int, limit: int | None, tally: Tally) -> Iterator[Encoded]:
        """The images of a unit in order, each example counted in `tally`."""
        examples = islice(self.source.read(unit), limit)
        size, waiting = self.encoder.batch_size, []
        for outcome in ahead(self.preparation.prepare, examples, self.workers, self.workers + size):
            self.on_example()
            if isinstance(outcome, Prepared):
                tally.let_in(outcome.original, outcome.captions)
                waiting.append(outcome)
            else:
                tally.count(outcome)
            if len(waiting) == size:
                yield from self.encoder.encode(waiting)
                waiting = []
        if waiting:
            yield from self.encoder.encode(waiting)


def _filled(images: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    """The images in lists that make a shard each."""
    held: list[Encoded] = []
    num_bytes = 0
    for image in images:
        held.append(image.stored())
        num_bytes += held[-1].num_bytes
        if num_bytes >= SHARD_BYTES:
            yield held
            held, num_bytes = [], 0
    if held:
        yield held


def _rows(condition: Condition, wanted: Sequence[int]) -> Condition:
    return condition.map(lambda field: field[list(wanted)])


def _chunks(pieces: Sequence[Piece], size: int) -> Iterator[Sequence[Piece]]:
    return (pieces[start : start + size] for start in range(0, len(pieces), size))


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()
