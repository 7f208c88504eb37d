"""PickScore (Kirstain et al., 2023): the logit of image and prompt in a CLIP tuned on what people picked.

About 20: the model's own scale, near 100, times the cosine. The authors compare images of one prompt by a softmax of
these; as they stand they are averaged over prompts in others' tables.
"""

from collections.abc import Sequence

import torch.nn.functional as F

from eval.extractors import pick_score
from eval.feed import Feed
from eval.metric import ImageMetric
from eval.networks import Networks
from koala.types import Features, Images, Scores


class PickScore(ImageMetric):
    """The model's own scale times the cosine, as the model card's example has it before the softmax."""

    higher_is_better = True
    needs_prompts = True
    feed = Feed(pick_score.preparation(), "pick_score")

    def load(self, networks: Networks) -> None:
        """Keep the networks for the captions, and the model's scale."""
        self._networks = networks
        network = networks.extractor(self.feed.extractor, self.feed.dtype)
        assert isinstance(network, pick_score.PickScore)
        self._scale = network.scale

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One score per image; captions are encoded once and cut short at 77 tokens."""
        captions = self._networks.texts(self.feed.extractor, prompts, self.feed.dtype)
        return self._scale * F.cosine_similarity(images, captions.to(images.device), dim=1)

    def cut(self, prompts: Sequence[str]) -> int:
        """How many of the prompts are too long for the text tower."""
        return pick_score.cut(prompts)


METRIC = PickScore
