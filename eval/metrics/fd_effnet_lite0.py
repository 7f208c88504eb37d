"""Frechet distance in the features of EfficientNet-Lite0; not FID, whose features are Inception's."""

from eval.distances import FrechetDistance
from eval.extractors import effnet_lite0


class FdEffnetLite0(FrechetDistance):
    """Reacts to damaged pixels more than to wrong contents."""

    feed = effnet_lite0.FEED
    substitute = True


METRIC = FdEffnetLite0
