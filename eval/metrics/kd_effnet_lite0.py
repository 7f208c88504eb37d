"""Kernel distance in the features of EfficientNet-Lite0; not KID, whose features are Inception's."""

from eval.distances import KernelDistance
from eval.extractors import effnet_lite0


class KdEffnetLite0(KernelDistance):
    """Reacts to damaged pixels more than to wrong contents."""

    feed = effnet_lite0.FEED
    substitute = True


METRIC = KdEffnetLite0
