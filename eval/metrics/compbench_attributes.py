"""T2I-CompBench's BLIP-VQA score (Huang et al., 2023): are the attributes that a prompt names in the image, 0 to 1.

BLIP is asked "{noun phrase}?" for each noun phrase of the prompt, eight at most, and the score is the product of its
P(yes) / (P(yes) + P(no)). The benchmark reports it for its prompts of colour, shape and texture, and takes it into the
score of its complex ones: read it by the suite's tags. Its code rounds answers and products to four digits, nothing
is rounded here; a prompt without noun phrases, of which the benchmark has none, has no score here and 1 there.
"""

from collections.abc import Mapping, Sequence

from eval.answers import attributes, phrases
from eval.metric import ImageMetric, Setting
from eval.networks import Networks
from koala.types import Features, Images, Scores


class CompbenchAttributes(ImageMetric):
    """How sure BLIP is of all noun phrases."""

    higher_is_better = True
    needs_prompts = partial = True
    weights = attributes.WEIGHTS
    packages = attributes.PACKAGES
    extra, extra_step = attributes.EXTRA, attributes.EXTRA_STEP

    def settings(self) -> Mapping[str, Setting]:
        """How images are prepared and what cuts prompts into phrases."""
        return attributes.settings()

    def load(self, networks: Networks) -> None:
        """Build BLIP."""
        self._network = attributes.load(networks)

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One score per image."""
        return attributes.attribute_scores(self._network, images, prompts)

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts have more noun phrases than are asked about."""
        return sum(len(found) > phrases.MOST for found in phrases.noun_phrases(prompts))


METRIC = CompbenchAttributes
