"""Image and prompt compared by heads that were trained on captioned images of one domain, -1 to 1; not CLIP score."""

from collections.abc import Sequence

from eval.extractors import effnet_lite0, minilm
from eval.metric import ImageMetric
from eval.networks import Networks
from eval.toyclip import head_file
from eval.toyclip.features import TEXT_FILES
from eval.toyclip.judge import Judge
from koala.types import Features, Images, Scores


class ToyclipScore(ImageMetric):
    """Cosine in the joint space of a head file, which only judges images such as it was trained on."""

    higher_is_better = True
    feed = effnet_lite0.FEED
    weights = (head_file.NAME, *TEXT_FILES)
    substitute = True
    needs_prompts = True

    def load(self, networks: Networks) -> None:
        """Read the heads."""
        self._judge = Judge(networks)
        self._tokenizer = networks.weights.find("minilm-tokenizer").path

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One cosine per image."""
        return (self._judge.images(images) * self._judge.texts(prompts)).sum(dim=1)

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are too long for the sentence encoder."""
        return minilm.cut(prompts, self._tokenizer)


METRIC = ToyclipScore
