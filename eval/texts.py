"""Text features on disk, so that the captions of a suite are encoded once for all models, seeds and resolutions."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from eval.features import Spool
from eval.identity import digest
from koala.errors import KoalaError
from koala.harness.cache import cache_folder, made
from koala.types import Features

BATCH = 64  # captions encoded at a time; what a killed process loses


class TextFeatures:
    """The text features of one network, whatever asks for them; `encode` is called for captions never seen.

    `identity` is what decides them beside the caption: extractor, dtype, version, hashes of weights. Several processes
    may share `folder`: it is locked only while a batch is written or read.
    """

    def __init__(
        self, identity: Sequence[str], dim: int, encode: Callable[[list[str]], Features], folder: Path | None = None
    ):
        self._name, self.dim, self._encode = identity[0], dim, encode
        self._base = made((folder or cache_folder()) / "texts") / digest(list(identity))
        self._seen: dict[str, Tensor] = {}  # a run asks for the same captions batch after batch

    def __call__(self, texts: Sequence[str]) -> Features:
        """One fp32 row per text, in order, on the CPU."""
        new = [text for text in dict.fromkeys(texts) if text not in self._seen]
        if new:
            missing = self._read(new)
            for start in range(0, len(missing), BATCH):
                self._add(missing[start : start + BATCH])
        return torch.stack([self._seen[text] for text in texts]) if texts else torch.zeros(0, self.dim)

    def _read(self, texts: Sequence[str]) -> list[str]:
        """Take those on disk, and return the others."""
        with Spool(self._base, self.dim) as spool:
            found = [text for text in texts if _key(text) in spool]
            self._seen.update(zip(found, spool.rows([_key(text) for text in found]), strict=True))
        return [text for text in texts if text not in self._seen]

    def _add(self, texts: list[str]) -> None:
        rows = self._encode(texts).cpu()
        if not torch.isfinite(rows).all():
            bad = texts[int((~torch.isfinite(rows).all(dim=1)).nonzero()[0])]
            raise KoalaError(f"{self._name} gives features that are not finite for the caption {bad[:80]!r}")
        with Spool(self._base, self.dim) as spool:
            ours = [i for i, text in enumerate(texts) if _key(text) not in spool]  # another process may have been here
            spool.append([_key(texts[i]) for i in ours], rows[ours])
        self._seen.update(zip(texts, rows, strict=True))


def _key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
