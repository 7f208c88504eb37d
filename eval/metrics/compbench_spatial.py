"""T2I-CompBench's 2-D spatial score (Huang et al., 2023) by an open detector: do objects stand where they should.

`compbench_spatial:DETECTOR` is 0 or 0.5 to 1 for each image, by the rules of the benchmark's code
(`eval/objects/compbench_rules.py`). Its own detector is UniDet at a threshold of 0.5, which installs beside no current
torch: so nothing here bears the bare name, and another detector, which is less sure of what it sees, is another number.
Prompts of another form than "a dog on the left of a cat" have no score.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from eval.metric import ImageMetric, Setting
from eval.networks import Networks
from eval.objects.compbench_rules import spatial_score, told
from eval.objects.owlv2 import Owlv2
from koala.types import Features, Images, Scores


class CompbenchSpatial(ImageMetric):
    """Where two objects stand, by one detector."""

    higher_is_better = True
    needs_prompts = partial = True

    def __init__(self, detector: type[Owlv2]):
        self._detector = detector()
        self.weights = (self._detector.weights,)

    def settings(self) -> Mapping[str, Setting]:
        """How the detector prepares images, and what counts as found."""
        return self._detector.settings()

    def load(self, networks: Networks) -> None:
        """Load the detector."""
        self._detector.load(networks.weights.find(self._detector.weights).path, networks.device)

    def score(self, images: Images | Features, prompts: Sequence[str]) -> Scores:
        """One score per image; NaN where the prompt says of no two objects where they stand."""
        scores = torch.full((len(prompts),), float("nan"))
        pairs = {place: pair for place, prompt in enumerate(prompts) if (pair := told(prompt))}
        if pairs:
            found = self._detector.find(images[list(pairs)], [pair.names for pair in pairs.values()])
            for (place, pair), there in zip(pairs.items(), found, strict=True):
                scores[place] = spatial_score(there, pair, *images.shape[1:3])
        return scores


VARIANTS = {"owlv2-base": partial(CompbenchSpatial, Owlv2)}
