"""CMMD (Jayasumana et al., 2024): Gaussian MMD of CLIP ViT-L-14-336 features, x 1000; images need not be Gaussian.

Images are cut to their centre square and brought to 336 x 336 by PIL's antialiased bicubic, as the authors' code does
(google-research, cmmd/io_util.py). Ports that resize without antialias print other values. Features have length 1, and
the estimate keeps the kernel's diagonals: it is never below 0, and a little above it for two sets of one distribution.
"""

from collections.abc import Mapping

import torch.nn.functional as F

from eval.extractors import clip
from eval.features import FeatureSet
from eval.feed import Feed, Preparation
from eval.maths.gaussian import Gaussian
from eval.maths.kernel_intervals import gaussian_mmd_estimate
from eval.metric import Estimate, SetMetric, Setting
from eval.preparation import CenterSquare, PilResize
from koala.errors import KoalaError

SIGMA, SCALE = 10.0, 1000.0  # the authors' values
*_, _NORMALISE = clip.preparation("ViT-L-14-336", "openai").steps
FEED = Feed(
    Preparation((CenterSquare(rounded_down=True), PilResize(336, "bicubic"), _NORMALISE)), "clip:ViT-L-14-336/openai"
)


class Cmmd(SetMetric):
    """Needs the features of the reference; a mean and a covariance are not enough."""

    higher_is_better = False
    feed = FEED
    needs_reference_images = True

    def settings(self) -> Mapping[str, Setting]:
        """The kernel's width and the factor."""
        return {"sigma": SIGMA, "scale": SCALE, "estimator": "biased"}

    def compute(self, features: FeatureSet, reference: FeatureSet | Gaussian | None) -> Estimate:
        """The distance, at least 0, with an interval around its unbiased estimate."""
        if not isinstance(reference, FeatureSet):
            raise KoalaError("CMMD compares features with features: give the reference as images, not as statistics")
        ours, theirs = (F.normalize(rows.all(), dim=1) for rows in (features, reference))
        return gaussian_mmd_estimate(ours, theirs, SIGMA, SCALE)


METRIC = Cmmd
