"""FID (Heusel et al., 2017) as clean-fid, torch-fidelity (tf), pytorch-fid and torchmetrics compute it.

The variants differ by their resize and, for pytorch-fid, by its scale; on one set of images they print numbers up to a
third apart, so that none may be compared with another. `dmd2` (Yin et al., 2024) is clean-fid's of the centre squares,
brought to 512 x 512 by PIL's Lanczos first, as its code does for SDXL; `dmd2-256` the same at 256, as for SD 1.5.
`bk-sdm` (Kim et al., 2024) is pytorch-fid's of images that PIL's default filter (bicubic) brought to 256 x 256.
"""

from functools import partial

from eval.distances import FrechetDistance
from eval.extractors import inception
from eval.feed import Feed, Preparation
from eval.preparation import CenterSquare, PilResize


class Fid(FrechetDistance):
    """Frechet distance in Inception's features, prepared by one tool's convention."""

    def __init__(self, feed: Feed):
        self.feed = feed


def _dmd2(side: int) -> Feed:
    before = (CenterSquare(), PilResize(side, "lanczos"))
    return Feed(Preparation((*before, *inception.CONVENTIONS["clean"].steps)), "inception")


def at_256(convention: str) -> Feed:
    """A convention's feed on images that were brought to 256 x 256 first, as BK-SDM's code does."""
    return Feed(Preparation((PilResize(256, "bicubic"), *inception.CONVENTIONS[convention].steps)), "inception")


FEEDS = {**inception.FEEDS, "dmd2": _dmd2(512), "dmd2-256": _dmd2(256), "bk-sdm": at_256("pytorch-fid")}
VARIANTS = {name: partial(Fid, feed) for name, feed in FEEDS.items()}
