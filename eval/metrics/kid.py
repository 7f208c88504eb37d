"""KID (Binkowski et al., 2018): mean unbiased MMD over random subsets, as torch-fidelity (tf) and clean-fid compute it.

Both take 100 subsets of 1000 images. Where there are fewer images a subset is all of them: clean-fid does the same, and
torch-fidelity when it is told to.
"""

from collections.abc import Mapping
from functools import partial

from eval.extractors import inception
from eval.features import FeatureSet
from eval.maths.gaussian import Gaussian
from eval.maths.kernel_intervals import mmd_estimate
from eval.maths.mmd import subset_kid
from eval.metric import Estimate, SetMetric, Setting
from koala.errors import KoalaError

SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # torch-fidelity's; clean-fid has no seed of its own


class Kid(SetMetric):
    """Kernel distance in Inception's features; unbiased, so that it may be just below 0."""

    higher_is_better = False
    needs_reference_images = True

    def __init__(self, convention: str, subset_size: int = SUBSET_SIZE):
        self.feed = inception.FEEDS[convention]
        self._size = subset_size
        self._reference_first = convention == "clean"  # it draws from the second folder first

    def settings(self) -> Mapping[str, Setting]:
        """Kernel and subsets."""
        return {"kernel": "(<x, y> / d + 1)^3", "subsets": SUBSETS, "subset_size": self._size, "seed": SEED}

    def compute(self, features: FeatureSet, reference: FeatureSet | Gaussian | None) -> Estimate:
        """What the tool prints, with the interval of the estimate over all images; what the subsets were beside it."""
        if not isinstance(reference, FeatureSet):
            raise KoalaError("KID compares features with features: give the reference as images, not as statistics")
        whole = mmd_estimate(features, reference)
        size = min(self._size, len(features), len(reference))
        value, std = whole.value, 0.0
        if size < max(len(features), len(reference)):  # else every subset is everything
            sets = (reference, features) if self._reference_first else (features, reference)
            value, std = subset_kid(sets[0].all(), sets[1].all(), SUBSETS, size, SEED)
        detail = {"subset_size": size, "std_of_subsets": std, "over_all_images": whole.value, **whole.detail}
        return Estimate(value, whole.low, whole.high, whole.method, detail)


VARIANTS = {convention: partial(Kid, convention) for convention in ("tf", "clean")}
