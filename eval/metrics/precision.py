"""Precision (Kynkaanniemi et al., 2019) as torch-fidelity (tf) computes it: how many images look like some real one."""

from collections.abc import Callable, Mapping
from functools import partial

from eval.extractors import vgg16
from eval.features import FeatureSet
from eval.maths import manifold
from eval.maths.gaussian import Gaussian
from eval.metric import Estimate, SetMetric, Setting
from koala.errors import KoalaError
from koala.types import Features


class Neighbours(SetMetric):
    """A share of images, from the `k` nearest neighbours of each in VGG-16's features."""

    higher_is_better = True
    needs_reference_images = True
    feed = vgg16.FEED

    def __init__(self, measure: Callable[[Features, Features, int], float], k: int):
        self._measure, self._k = measure, k

    def settings(self) -> Mapping[str, Setting]:
        """How many neighbours make a ball."""
        return {"neighbours": self._k}

    def compute(self, features: FeatureSet, reference: FeatureSet | Gaussian | None) -> Estimate:
        """The share, without an interval."""
        if not isinstance(reference, FeatureSet):
            raise KoalaError("nearest neighbours are those of images: give the reference as images, not as statistics")
        return Estimate(self._measure(reference.all(), features.all(), self._k))


VARIANTS = {"tf": partial(Neighbours, manifold.precision, 3)}
