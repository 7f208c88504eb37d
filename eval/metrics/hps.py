"""Human Preference Score v2 (Wu et al., 2023): 100 x cosine of image and prompt in a CLIP tuned on people's choices.

A benchmark's score is the mean over its prompts, in HPSv2's own for each of four styles; the authors' function for a
single image gives the cosine itself. v2.0 and v2.1 are two networks, whose scores do not compare.

The authors' package (hpsv2 1.2.0) leaves it to torchvision how a tensor is made smaller: antialiased since 0.17 of
January 2024, not so before. `hps:v2.1` is what it computes today; `hps:v2.1-aliased` what it computed before, and so
what the paper of 2023 reports for v2.0. The two differ: of the authors' own images of SDXL 0.9, their table of v2.1
says 30.63, and two users of 2024 got 28.71 (tgxs002/HPSv2, issue 43). Whether the resize is all of that is not known.
Networks run in fp32, theirs in fp16.
"""

from collections.abc import Mapping
from functools import partial

from eval.extractors import hps
from eval.feed import Feed
from eval.metric import Setting
from eval.metrics.clip_score import ClipScore

_ALIASED = "-aliased"


class Hps(ClipScore):
    """The score of one version, of images resized with or without antialias."""

    def __init__(self, version: str, antialias: bool = True):
        super().__init__(hps.TAG)
        self.feed = Feed(hps.preparation(antialias), f"hps:{version}")

    def settings(self) -> Mapping[str, Setting]:
        """The scale; all else is in the feed."""
        return {"scale": self.scale}


VARIANTS = {version: partial(Hps, version) for version in hps.VARIANTS} | {
    version + _ALIASED: partial(Hps, version, antialias=False) for version in hps.VARIANTS
}
