"""FID without its bias in the number of images (Chong and Forsyth, 2020), extrapolated from growing subsets.

The features are clean-fid's; the authors' own code takes those of torchvision's Inception, which give other numbers.
"""

from collections.abc import Mapping

from eval.extractors import inception
from eval.features import FeatureSet
from eval.maths.gaussian import Gaussian
from eval.maths.intervals import fid_infinity
from eval.metric import Estimate, SetMetric, Setting

SEED, POINTS = 0, 15


class FidInfinity(SetMetric):
    """clean-fid's FID at infinitely many images."""

    higher_is_better = False
    feed = inception.FEEDS["clean"]

    def settings(self) -> Mapping[str, Setting]:
        """How many subsets, and their seed."""
        return {"points": POINTS, "seed": SEED}

    def compute(self, features: FeatureSet, reference: FeatureSet | Gaussian | None) -> Estimate:
        """The intercept of the line through the FIDs of the subsets over 1 / n."""
        assert reference is not None
        return fid_infinity(features, reference, SEED, POINTS)


VARIANTS = {"clean": FidInfinity}
