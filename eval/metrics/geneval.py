"""GenEval (Ghosh et al., 2023) with a detector of transformers: whether an image shows the objects that it should.

`geneval:DETECTOR` is 1 or 0 for each image; the mean over the six tasks' means is the overall score. The rules are
those of GenEval's code: scores above 0.3 (0.9 where it counts), 16 objects of a class at most, a margin of a tenth of
both sizes for relations, colours by CLIP ViT-L-14 of openai on each object cut out on grey. Its own detector is mmdet's
Mask2Former, which installs beside no current torch: so nothing here bears the bare name, and another detector is
another number. Suites whose prompts expect objects in the same form (koala-core) are judged by the same rules.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from eval.extractors import clip
from eval.metric import ExpectationMetric
from eval.networks import Networks
from eval.objects.detection import Detection, Detector
from eval.objects.geneval_rules import THRESHOLD, correct
from eval.objects.mask2former import Mask2Former
from koala.types import Features, Images, Scores

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
TEMPLATES = ("a photo of a {colour} {label}", "a photo of a {colour}-colored {label}", "a photo of a {colour} object")
_MODEL, _TAG = "ViT-L-14", "openai"
_CLIP = f"clip:{_MODEL}/{_TAG}"
_GREY = 0x99  # what is not the object


class GenEval(ExpectationMetric):
    """Right or wrong, by one detector."""

    higher_is_better = True
    needs_prompts = True
    balanced_over = "task"

    def __init__(self, detector: Callable[[], Detector]):
        self._detector = detector()
        self.weights = (self._detector.weights, f"clip/{_MODEL}/{_TAG}")

    def settings(self) -> Mapping[str, Any]:
        """How the detector prepares images."""
        return dict(self._detector.settings())

    def load(self, networks: Networks) -> None:
        """Load the detector; CLIP is loaded where a colour is first asked for."""
        self._detector.load(networks.weights.find(self._detector.weights).path, networks.device)
        self._networks = networks
        self._prepare = clip.preparation(_MODEL, _TAG)

    def score_expected(
        self, images: Images | Features, prompts: Sequence[str], expects: Sequence[Mapping[str, Any]]
    ) -> Scores:
        """1 or 0 for each image; NaN where no object is asked for."""
        scores = torch.full((len(expects),), float("nan"))
        asked = [place for place, expected in enumerate(expects) if expected.get("include") or expected.get("exclude")]
        if not asked:
            return scores
        for place, found in zip(asked, self._detector.find(images[asked], THRESHOLD), strict=True):
            scores[place] = float(correct(found, expects[place], partial(self._colours, images[place])))
        return scores

    def _colours(self, image: torch.Tensor, objects: Sequence[Detection], label: str) -> list[str]:
        """The colour of each object of a class, as CLIP tells it."""
        cut = torch.cat([self._prepare(_cut_out(image, one)) for one in objects])
        extractor = self._networks.extractor(_CLIP)
        assert isinstance(extractor, clip.Clip)
        with torch.inference_mode():
            seen = F.normalize(extractor.features(cut.to(self._networks.device)), dim=1).cpu()
        return [COLOURS[place] for place in (seen @ self._classifier(label).T).argmax(dim=1).tolist()]

    def _classifier(self, label: str) -> torch.Tensor:
        """A direction for each colour: the mean of its templates' texts, of length 1."""
        texts = [template.format(colour=colour, label=label) for colour in COLOURS for template in TEMPLATES]
        features = F.normalize(self._networks.texts(_CLIP, texts), dim=1)
        return F.normalize(features.unflatten(0, (len(COLOURS), len(TEMPLATES))).mean(dim=1), dim=1)


def _cut_out(image: torch.Tensor, one: Detection) -> torch.Tensor:
    """The box of an object, grey where its mask is not: uint8 [1 3 h w]."""
    pixels = image.cpu()
    if one.mask is not None:
        pixels = torch.where(one.mask.unsqueeze(-1), pixels, torch.full_like(pixels, _GREY))
    left, top, right, bottom = (round(side) for side in one.box)
    box = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
    return box.permute(2, 0, 1).unsqueeze(0)


VARIANTS = {"mask2former-swin-s": partial(GenEval, Mask2Former)}
