"""Inception Score (Salimans et al., 2016) as torch-fidelity (tf) computes it: 10 splits, no bias in the classifier.

`bk-sdm` (Kim et al., 2024) is the same of images that PIL's default filter (bicubic) brought to 256 x 256.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

from eval.extractors import inception
from eval.features import FeatureSet
from eval.feed import Feed
from eval.maths.gaussian import Gaussian
from eval.maths.inception_score import inception_score
from eval.metric import Estimate, SetMetric, Setting
from eval.metrics.fid import at_256

if TYPE_CHECKING:
    from eval.networks import Networks

SPLITS, SEED = 10, 2020


class InceptionScore(SetMetric):
    """How sure the classifier is of each image and how many classes it finds; knows no reference."""

    higher_is_better = True
    needs_reference = False

    def __init__(self, feed: Feed):
        self.feed = feed

    def settings(self) -> Mapping[str, Setting]:
        """Splits, and the seed of their shuffle."""
        return {"splits": SPLITS, "seed": SEED}

    def load(self, networks: "Networks") -> None:
        """Take the classifier of the network that gives the features."""
        assert self.feed
        network = networks.extractor(self.feed.extractor, self.feed.dtype)
        assert isinstance(network, inception.Inception)
        self._logits = network.logits

    def compute(self, features: FeatureSet, reference: FeatureSet | Gaussian | None) -> Estimate:
        """Mean over the splits, at least 1, with their standard deviation beside it; without an interval."""
        mean, std = inception_score(self._logits(features.all()), SPLITS, SEED)
        return Estimate(mean, detail={"std_of_splits": std})


VARIANTS = {"tf": partial(InceptionScore, inception.FEEDS["tf"]), "bk-sdm": partial(InceptionScore, at_256("tf"))}
