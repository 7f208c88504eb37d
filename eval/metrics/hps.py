"""Human Preference Score v2 (Wu et al., 2023): 100 x cosine of image and prompt in a CLIP tuned on people's choices.

A benchmark's score is the mean over its prompts, in HPSv2's own for each of four styles; the authors' function for a
single image gives the cosine itself. v2.0 and v2.1 are two networks, whose scores do not compare. Images are prepared
as the authors' package does with today's torchvision, whose resize of tensors is antialiased; in 2023 it was not, and
the paper does not say of which release its numbers are. The network runs in fp32, theirs in fp16.
"""

from functools import partial

from eval.extractors import hps
from eval.feed import Feed
from eval.metrics.clip_score import ClipScore


class Hps(ClipScore):
    """The score of one version."""

    def __init__(self, version: str):
        super().__init__(hps.TAG)
        self.feed = Feed(hps.preparation(), f"hps:{version}")


VARIANTS = {version: partial(Hps, version) for version in hps.VARIANTS}
