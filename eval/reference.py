"""What a set is compared with: images, whose features are kept in the cache by their content, or a file of statistics.

`references/<content>/<feed>.*` in the cache hold what one feed gives for one set of images.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from eval.features import FeatureSet, Spool
from eval.folder_hashes import file_hashes
from eval.maths.gaussian import Gaussian
from eval.sources import ImageSet, Item, read_sets
from eval.statistics_files import Statistics, read_statistics, write_statistics
from koala.errors import KoalaError
from koala.harness.cache import cache_folder, made
from koala.harness.files import sha256_of
from koala.types import Features


class Reference:
    """A set of images or a file of statistics; `content` is a digest of what is in it, wherever it lies."""

    def __init__(self, path: Path):
        self.path = path
        self.images: ImageSet | None = None
        self.statistics: Statistics | None = None
        if not path.exists():
            raise KoalaError(f"{path} does not exist; a reference is a folder of images or a file of statistics")
        if path.is_file():
            self.statistics = read_statistics(path)
            self.name, self.content = path.name, sha256_of(path)
            return
        sets = read_sets(path)
        if len(sets) > 1:
            names = ", ".join(each.name for each in sets)
            raise KoalaError(f"{path} holds {len(sets)} sets ({names}); a reference is one set in a folder of its own")
        self.images, self.name = sets[0], sets[0].name
        self._hashes = file_hashes(path, self.images.items)
        self.content = _digest(self._hashes.values())

    @property
    def items(self) -> Sequence[Item]:
        """The images; none where there are only statistics."""
        return self.images.items if self.images else ()

    def missing(self, feed: str, dim: int) -> list[Item]:
        """The images whose features of the feed with that digest are not there, each picture once.

        Images that cannot be read are always among them.
        """
        first = {self._hashes.get(item.file, item.file): item for item in reversed(self.items)}
        with self.spool(feed, dim) as spool:
            lacking = {item.file for key, item in first.items() if key not in spool}
        return [item for item in self.items if item.file in lacking]

    def spool(self, feed: str, dim: int) -> Spool:
        """Where features of the images go, by the digest of their file; locked until it is closed."""
        assert self.images, "statistics have no images"
        return Spool(self._folder() / feed, dim)

    def features(self, feed: str, dim: int, unreadable: Collection[Path] = ()) -> FeatureSet | Gaussian:
        """The features of all images but the unreadable ones, or the Gaussian of a file of statistics.

        A `KoalaError` where features are missing, or where the file is of another width or, as far as it says, of
        another feed. No spool of the same feed may be open. Neither names nor order of the files change the result.
        """
        if self.statistics:
            if reason := self.misfit(feed, dim):
                raise KoalaError(reason)
            return self.statistics.gaussian
        bad = {self._hashes.get(item.file) for item in self.items if item.path in unreadable}
        keys = sorted(key for key in self._hashes.values() if key not in bad)
        with self.spool(feed, dim) as spool:
            if lost := sum(key not in spool for key in keys):
                raise KoalaError(f"{self.path} has {lost} images without features: they changed meanwhile; run again")
            return _Kept(spool.select(keys), self._folder() / f"{feed}.{_digest(keys)[:16]}.npz")

    def rows(self, feed: str, dim: int) -> Features:
        """The features of the images, in the order of `items`; all of them are there."""
        with self.spool(feed, dim) as spool:
            return spool.rows([self.hash_of(item) for item in self.items])

    def hash_of(self, item: Item) -> str:
        """The sha256 of the file of an image that can be read."""
        return self._hashes[item.file]

    def _folder(self) -> Path:
        return made(cache_folder() / "references" / self.content)

    def misfit(self, feed: str, dim: int) -> str | None:
        """Why a file of statistics is not of that feed, as far as it says; None where it may be, and for images."""
        if not self.statistics:
            return None
        there, origin = len(self.statistics.gaussian.mean), self.statistics.origin
        made = f" (it says: {json.dumps(origin)[:300]})" if origin else ""
        if there != dim:
            return f"{self.path} holds statistics of {there} features and {dim} are asked for{made}"
        if origin.get("feed", feed) != feed:
            return f"{self.path} holds statistics of other features than are asked for{made}"
        return None


class _Kept(FeatureSet):
    """Features whose mean and covariance are kept in a file beside them once they were asked for."""

    def __init__(self, features: FeatureSet, file: Path):
        self.__dict__.update(vars(features))
        self._file = file

    @cached_property
    def gaussian(self) -> Gaussian:
        """Mean and covariance; a damaged file of them is made anew."""
        try:
            return read_statistics(self._file).gaussian
        except KoalaError:
            gaussian = super().gaussian
            write_statistics(self._file, gaussian)
            return gaussian


def _digest(keys: Iterable[str]) -> str:
    """A digest of files by the digests of each, in whatever order."""
    return hashlib.sha256("".join(sorted(keys)).encode()).hexdigest()
