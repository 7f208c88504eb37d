"""HPS v2.0 and v2.1 (Wu et al., 2023): open_clip's ViT-H-14, tuned on what people preferred."""

from functools import partial

from eval.extractors.clip import Clip
from eval.feed import Preparation
from eval.preparation import LongestSide, Normalise

MODEL, ROOTS = "ViT-H-14", "laion2b_s32b_b79k"  # the tag that it was tuned from
TAG = f"{MODEL}/{ROOTS}"
SIDE = 224


class Hps(Clip):
    """Both towers, with the weights of one version."""

    def __init__(self, version: str):
        super().__init__(MODEL, ROOTS)
        self.weights = (f"hps-{version}",)


def preparation(antialias: bool = True) -> Preparation:
    """What the authors' package does: the longest side to 224, black around it, then CLIP's mean and deviation."""
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    red, green, blue = ((255 * m, 255 * s) for m, s in zip(mean, std, strict=True))
    normalise = Normalise((red[0], green[0], blue[0]), (red[1], green[1], blue[1]))
    return Preparation((LongestSide(SIDE, antialias), normalise))


VARIANTS = {version: partial(Hps, version) for version in ("v2.0", "v2.1")}
