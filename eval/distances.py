"""What metrics share that are a distance between two sets of features: only the features differ."""

from collections.abc import Mapping

from eval.features import FeatureSet
from eval.maths.gaussian import Gaussian
from eval.maths.intervals import frechet_estimate, self_distance_floor
from eval.maths.kernel_intervals import mmd_estimate
from eval.metric import Estimate, SetMetric, Setting
from koala.errors import KoalaError


class FrechetDistance(SetMetric):
    """Frechet distance of two Gaussians (Dowson and Landau, 1982); biased upwards, the more the fewer images."""

    higher_is_better = False

    def compute(self, features: FeatureSet, reference: FeatureSet | Gaussian | None) -> Estimate:
        """What all tools print at this n, with an interval.

        Where there are too few images to know the bias, `detail` has the distance of the reference to itself.
        """
        assert reference is not None
        estimate = frechet_estimate(features, reference)
        if isinstance(reference, Gaussian) or estimate.detail.get("debiased") is not None:
            return estimate
        n = min(len(features), len(reference) // 2)
        if n < 2:
            return estimate
        floor = {"self_distance": self_distance_floor(reference, n), "self_distance_n": n}
        return Estimate(estimate.value, estimate.low, estimate.high, estimate.method, {**estimate.detail, **floor})


class KernelDistance(SetMetric):
    """KID's squared maximum mean discrepancy (Binkowski et al., 2018) over all images, not over random subsets."""

    higher_is_better = False
    needs_reference_images = True

    def settings(self) -> Mapping[str, Setting]:
        """The kernel."""
        return {"kernel": "(<x, y> / d + 1)^3", "subsets": None}

    def compute(self, features: FeatureSet, reference: FeatureSet | Gaussian | None) -> Estimate:
        """Unbiased, so that it says more than a Frechet distance where images are few, and may be just below 0."""
        if not isinstance(reference, FeatureSet):
            raise KoalaError("a kernel distance compares images with images: give the reference as images")
        return mmd_estimate(features, reference)
