"""FD-DINOv2 (Stein et al., 2023): Frechet distance in the features of DINOv2 ViT-L/14."""

from eval.distances import FrechetDistance
from eval.extractors import dinov2


class FdDinov2(FrechetDistance):
    """Agrees with people's judgement of realism better than FID does, its authors found."""

    feed = dinov2.FEED


METRIC = FdDinov2
