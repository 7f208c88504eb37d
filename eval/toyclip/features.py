"""The frozen features that the heads are trained on and read: of a folder's images, whole and shrunk, and of texts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.extractors import effnet_lite0, minilm
from eval.feed import Feed, Preparation
from eval.identity import digest, feed_digest
from eval.networks import Networks
from eval.passes import Reading
from eval.preparation import Bicubic
from eval.progress import ScoreProgress
from eval.reference import Reference
from eval.reference_pass import compute
from eval.toyclip.captions import Captioned, captioned
from koala.errors import KoalaError, first_few
from koala.types import Features

WHOLE = 0  # the side that stands for images as they are
TEXTS = "minilm"
IMAGE_FILES, TEXT_FILES = (effnet_lite0.EXTRACTOR.weights, minilm.EXTRACTOR.weights)


@dataclass(frozen=True)
class Folder:
    """A folder's images with their captions, and the features of each, by the side that they were shrunk to."""

    name: str
    content: str  # a digest of images and captions
    images: tuple[Captioned, ...]
    keys: tuple[str, ...]  # the sha256 of each image's file
    features: Mapping[int, Features]


def feed_at(side: int) -> Feed:
    """The score's own feed, of images that were `side` pixels high and wide before."""
    feed = effnet_lite0.FEED
    shrunk = (Bicubic(side),) if side != WHOLE else ()
    return Feed(Preparation((*shrunk, *feed.preparation.steps)), feed.extractor, feed.dtype)


def read_folder(
    path: Path, columns: Sequence[str], sides: Sequence[int], networks: Networks, reading: Reading, bar: ScoreProgress
) -> Folder:
    """A captioned folder; a `KoalaError` where an image has no caption or cannot be read."""
    if not path.is_dir():
        raise KoalaError(f"{path} is no folder of images")
    reference = Reference(path)
    images = captioned(path, reference.items, columns)
    found = {name: networks.weights.find(name) for name in IMAGE_FILES}
    feeds = {side: feed_at(side) for side in sides}
    names = {feed: feed_digest(feed, found) for feed in feeds.values()}
    compute(reference, names, reading, networks, bar)
    if reading.unreadable:
        bad = [f"{each.path}: {each.reason}" for each in reading.unreadable.values()]
        raise KoalaError(
            f"{len(bad)} of the images of {path} cannot be read: {first_few(bad)}; mend them or take them out"
        )
    dim = effnet_lite0.EXTRACTOR.dim
    keys = tuple(reference.hash_of(item) for item in reference.items)
    content = digest(sorted([key, *image.captions] for key, image in zip(keys, images, strict=True)))
    features = {side: reference.rows(names[feed], dim) for side, feed in feeds.items()}
    return Folder(reference.name, content, images, keys, features)
