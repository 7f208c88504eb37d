import pytest
import torch
from open_clip import IMAGENET_CLASSNAMES
from photographs import photograph, weight_files

from eval import metrics
from eval.extractors import effnet_lite0
from eval.networks import Networks
from eval.weights import Weights

CAPTIONS = {
    "coffee": "a cup of espresso on a saucer with a spoon",
    "chelsea": "a close-up of a striped cat's face",
    "rocket": "a rocket on its launch pad next to a tower",
    "china": "a Chinese temple with curved roofs",
    "flower": "a red flower with a yellow centre",
}


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    files = weight_files("effnet-lite0", "minilm", "minilm-tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOALA_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield Networks(Weights(files), torch.device("cpu"))


@pytest.fixture(scope="module")
def conse(networks):
    metric = metrics.load("conse_score")
    metric.load(networks)
    return metric


@pytest.fixture(scope="module")
def features(networks):
    prepared = torch.cat([effnet_lite0.FEED.preparation(photograph(name)) for name in CAPTIONS])
    return networks.features(effnet_lite0.FEED, prepared)


@pytest.fixture(scope="module")
def scores(conse, features):
    """Photographs by captions."""
    return torch.stack([conse.score(features, [caption] * len(features)) for caption in CAPTIONS.values()], dim=1)


def test_captions_that_are_cut_are_counted(conse):
    words = "a red koala rests " * 125
    assert conse.cut([words, "a red koala", "a " * 254, "a " * 255, " " * 300]) == 2


@pytest.mark.proves("metric", name="conse_score", weights="real")
def test_photographs_prefer_their_own_captions(scores):
    own = scores.diagonal()
    others = (scores.sum(dim=1) - own) / (len(own) - 1)
    assert (own > others + 0.1).all()
    assert (scores.argmax(dim=1) == torch.arange(len(own))).sum() >= 4


def test_captions_find_their_photographs(scores):
    assert (scores.argmax(dim=0) == torch.arange(len(scores))).sum() >= 4


def test_scores_are_those_of_the_papers_equations(networks, features, scores):
    # Equations 3 and 4: the convex combination of the embeddings of the most probable labels; then the cosine.
    posteriors = networks.extractor("effnet_lite0").posteriors(features)
    texts = networks.texts("minilm", [*IMAGENET_CLASSNAMES, *CAPTIONS.values()])
    for image, row in zip(posteriors, scores, strict=True):
        best = sorted(range(1000), key=lambda label: -image[label])[:10]
        total = sum(image[label] for label in best)
        place = sum(image[label] / total * texts[label] for label in best)
        expected = torch.cosine_similarity(place[None], texts[1000:])
        torch.testing.assert_close(row, expected, atol=1e-5, rtol=0)


def test_every_image_is_compared_with_its_own_prompt(conse, features, scores):
    torch.testing.assert_close(conse.score(features, list(CAPTIONS.values())), scores.diagonal(), atol=1e-6, rtol=0)


def test_it_stands_in_for_clip_score_and_does_not_bear_its_name():
    metric = metrics.load("conse_score")
    assert metric.substitute and metric.needs_prompts and metric.higher_is_better
    settings = metric.settings()
    assert settings["top"] == 10
    names, digest = settings["class_names"].split()
    assert names == "open_clip.IMAGENET_CLASSNAMES" and len(digest) == 16  # other names, other scores
