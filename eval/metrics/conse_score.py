"""Image and prompt compared through ImageNet's class names (ConSE, Norouzi et al., 2014), -1 to 1; not CLIP score."""

from collections.abc import Mapping, Sequence

from eval.extractors import effnet_lite0, minilm
from eval.identity import digest
from eval.metric import ImageMetric, Setting
from eval.networks import Networks
from koala.types import Features, Images, Scores

TOP = 10  # the paper's T, equation 4


class ConseScore(ImageMetric):
    """Places an image among sentences by the classes that EfficientNet-Lite0 sees in it; nothing was trained for it."""

    higher_is_better = True
    feed = effnet_lite0.FEED
    weights = ("minilm", "minilm-tokenizer")
    substitute = True
    needs_prompts = True

    def settings(self) -> Mapping[str, Setting]:
        """How many classes speak for an image, and what they are called, which depends on open_clip's version."""
        from open_clip import IMAGENET_CLASSNAMES

        return {"top": TOP, "class_names": f"open_clip.IMAGENET_CLASSNAMES {digest(IMAGENET_CLASSNAMES)}"}

    def load(self, networks: Networks) -> None:
        """Fetch the classifier, and embed the names of its classes."""
        from open_clip import IMAGENET_CLASSNAMES

        network = networks.extractor(effnet_lite0.FEED.extractor)
        assert isinstance(network, effnet_lite0.EffnetLite0)
        self._classifier, self._networks = network, networks
        self._tokenizer = networks.weights.find("minilm-tokenizer").path
        self._classes = networks.texts("minilm", IMAGENET_CLASSNAMES)

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """Cosine of the prompt with the mean of the top classes' names, weighted by their posteriors."""
        weights, classes = self._classifier.posteriors(images).topk(TOP, dim=1)
        named = self._classes.to(classes.device)[classes]
        seen = (weights.unsqueeze(2) * named).sum(dim=1)
        said = self._networks.texts("minilm", prompts).to(seen.device)
        return (seen * said).sum(dim=1) / (seen.norm(dim=1) * said.norm(dim=1))

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are too long for the sentence encoder."""
        return minilm.cut(prompts, self._tokenizer)


METRIC = ConseScore
