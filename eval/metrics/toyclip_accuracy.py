"""Whether the prompt is the nearest to the image of the captions that a head file was trained beside, 1 or 0.

`toyclip_accuracy:PART` asks only among the captions that differ from the prompt in that part of a combination: whether
the tone is right, say, of a role and a gender that are taken for granted. A prompt that is none of the captions, or
that no other differs from so, has no score. It is the accuracy of the images times that of the judge: beside it belongs
what `python -m eval toyclip` says of real images, at the size of the images that are judged.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from eval.extractors import effnet_lite0
from eval.metric import ImageMetric, Setting
from eval.networks import Networks
from eval.toyclip import head_file
from eval.toyclip.captions import PARTS
from eval.toyclip.features import TEXT_FILES
from eval.toyclip.judge import Judge
from eval.toyclip.retrieval import own_is_nearest, told_apart
from koala.types import Features, Images, Scores


class ToyclipAccuracy(ImageMetric):
    """Right or wrong, among all captions or those that differ in one part."""

    higher_is_better = True
    feed = effnet_lite0.FEED
    weights = (head_file.NAME, *TEXT_FILES)
    substitute = True
    needs_prompts = partial = True

    def __init__(self, part: str | None = None):
        self._part = part

    def settings(self) -> Mapping[str, Setting]:
        """The part that captions may differ in."""
        return {"part": self._part}

    def load(self, networks: Networks) -> None:
        """Read the heads, and place the captions."""
        self._judge = Judge(networks)
        self._captions = self._judge.captions
        self._places = {caption.text: place for place, caption in enumerate(self._captions)}
        self._texts = self._judge.texts(list(self._places))

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """1 or 0 per image; NaN where there is nothing to choose among."""
        cosines = self._judge.images(images) @ self._texts.T
        own = [self._places.get(prompt, -1) for prompt in prompts]
        if self._part is not None:
            return told_apart(cosines, own, self._part, self._captions)
        return own_is_nearest(cosines, torch.tensor(own))


METRIC = ToyclipAccuracy
VARIANTS = {part: partial(ToyclipAccuracy, part) for part in PARTS}
