"""One decode of each image, one preparation for each distinct resize, one forward for each distinct network."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from eval.features import Spool
from eval.feed import Feed, Preparation
from eval.images import Picture, Unreadable
from eval.networks import Networks
from eval.reader import read
from koala.errors import KoalaError
from koala.types import Features, Images


@dataclass
class Batch:
    """Decoded images that go through the networks together, with the place of each in the list they came from."""

    places: list[int]
    pictures: list[Picture]

    @property
    def keys(self) -> list[str]:
        """The content hash of each."""
        return [picture.sha256 for picture in self.pictures]


@dataclass
class Reading:
    """How images are read: batch size, decoding processes, and what could not be read, by place."""

    batch_size: int
    workers: int
    unreadable: dict[int, Unreadable] = field(default_factory=dict)

    def batches(self, paths: Sequence[Path], places: Sequence[int]) -> Iterator[Batch]:
        """The images at `places` of `paths` in order; unreadable ones are noted and left out."""
        batch = Batch([], [])
        for place, read_image in zip(places, read([paths[place] for place in places], self.workers), strict=True):
            if isinstance(read_image, Unreadable):
                self.unreadable[place] = read_image
                continue
            batch.places.append(place)
            batch.pictures.append(read_image)
            if len(batch.places) == self.batch_size:
                yield batch
                batch = Batch([], [])
        if batch.places:
            yield batch


class FeaturePass:
    """Features of batches of images for several feeds; those that were computed before are read from their spools."""

    def __init__(self, networks: Networks, spools: Mapping[Feed, Spool], unspooled: Sequence[Feed] = ()):
        self._networks, self._spools, self._unspooled = networks, spools, unspooled

    def __call__(self, pictures: Sequence[Picture], names: Sequence[str]) -> dict[Feed, Features]:
        """The features of each feed, in the order of `pictures`; `names` are what errors call these."""
        prepared: dict[tuple[Preparation, tuple[int, ...]], Tensor] = {}

        def compute(feed: Feed, wanted: list[int]) -> Features:
            key = feed.preparation, tuple(wanted)
            if key not in prepared:
                chosen, called = zip(*((pictures[i], names[i]) for i in wanted), strict=True)
                prepared[key] = prepare(feed.preparation, chosen, called, self._networks.device)
            features = self._networks.features(feed, prepared[key])
            _check_finite(features, feed, [names[i] for i in wanted])
            return features

        found = {feed: self._through(feed, spool, pictures, compute) for feed, spool in self._spools.items()}
        everything = list(range(len(pictures)))
        return {**found, **{feed: compute(feed, everything) for feed in self._unspooled}}

    def _through(
        self, feed: Feed, spool: Spool, pictures: Sequence[Picture], compute: Callable[[Feed, list[int]], Features]
    ) -> Features:
        """Spooled features, the missing ones computed first; an image that occurs twice is computed once."""
        keys = [picture.sha256 for picture in pictures]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        wanted = sorted(place for key, place in first.items() if key not in spool)
        if wanted:
            spool.append([keys[place] for place in wanted], compute(feed, wanted))
        return spool.rows(keys)


def equally_large(pictures: Sequence[Picture]) -> Iterator[tuple[list[int], Images]]:
    """The places and pixels (uint8, n h w 3) of images of one size, size by size."""
    by_size: dict[tuple[int, ...], list[int]] = {}
    for place, picture in enumerate(pictures):
        by_size.setdefault(picture.pixels.shape, []).append(place)
    for places in by_size.values():
        yield places, torch.stack([torch.from_numpy(pictures[place].pixels) for place in places])


def prepare(
    preparation: Preparation, pictures: Sequence[Picture], names: Sequence[str], device: torch.device
) -> Tensor:
    """Images of any sizes as one batch for a network; an error names the image that does not fit."""
    ready: list[Tensor | None] = [None] * len(pictures)
    for places, pixels in equally_large(pictures):
        try:
            images = preparation(pixels.to(device).permute(0, 3, 1, 2))
        except KoalaError as error:
            raise KoalaError(f"{names[places[0]]}: {error}") from error
        for place, image in zip(places, images, strict=True):
            ready[place] = image
    return torch.stack([image for image in ready if image is not None])


def _check_finite(features: Features, feed: Feed, names: Sequence[str]) -> None:
    good = torch.isfinite(features).all(dim=1)
    if not good.all():
        bad = [name for name, fine in zip(names, good.tolist(), strict=True) if not fine]
        raise KoalaError(
            f"{feed.extractor} ({feed.dtype}) gives features that are not finite for {bad[0]}"
            + (f" and {len(bad) - 1} more" if len(bad) > 1 else "")
            + "; check its weights file, or leave that image out"
        )
