"""What our metrics say of two sets of images, by the names under which the golden numbers of other tools stand."""

import numpy as np
import torch

from eval.extractors import inception
from eval.extractors.inception import CONVENTIONS
from eval.features import FeatureSet
from eval.metrics.fid import VARIANTS as FID
from eval.metrics.inception_score import InceptionScore
from eval.metrics.kid import Kid
from eval.metrics.precision import VARIANTS as PRECISION
from eval.metrics.recall import VARIANTS as RECALL
from eval.networks import Networks
from eval.weights import Found, Weights


class Files(Weights):
    """Weights that are where the test wrote them, and not the standard ones."""

    def find(self, name):
        return Found(self.user[name], "0" * 64, verified=False)


def networks(**files):
    """Networks that find `inception-v3-fid` and `vgg16` in these files."""
    named = {name.replace("_", "-"): path for name, path in files.items()}
    return Networks(Files(named), torch.device("cpu"))


def features_of(feed, images, loaded, batch_size=8):
    """Features of uint8 images."""
    return FeatureSet.of(
        torch.cat([loaded.features(feed, feed.preparation(part)) for part in images.split(batch_size)])
    )


def first(features, n):
    return FeatureSet.of(features.all()[:n])


def our_numbers(one, other, loaded):
    """Every number of another tool that stands on Inception; `other` is the reference."""
    feeds = {name: FID[name]().feed for name in CONVENTIONS}
    sets = {name: [features_of(feed, images, loaded) for images in (one, other)] for name, feed in feeds.items()}
    numbers = {f"fid:{name}": FID[name]().compute(*sets[name]).value for name in CONVENTIONS}
    n = len(one)
    numbers["kid:tf, all images"] = Kid("tf").compute(*sets["tf"]).value
    numbers["kid:tf, subsets of half"] = Kid("tf", subset_size=n // 2).compute(*sets["tf"]).value
    fewer = first(sets["clean"][1], 2 * n // 3)  # then it draws at random
    numbers["kid:clean, two thirds"] = Kid("clean").compute(sets["clean"][0], fewer).value
    score = InceptionScore(inception.FEEDS["tf"])
    score.load(loaded)
    numbers["inception_score:tf"] = score.compute(sets["tf"][0], None).value
    return numbers


def our_shares(one, other, loaded):
    """Precision and recall, which stand on VGG-16."""
    feed = PRECISION["tf"]().feed
    sets = [features_of(feed, images, loaded) for images in (one, other)]
    return {
        "precision:tf": PRECISION["tf"]().compute(*sets).value,
        "recall:tf": RECALL["tf"]().compute(*sets).value,
    }


def relative(ours, theirs):
    return abs(ours - theirs) / abs(theirs) if theirs else float(not np.isclose(ours, 0))
