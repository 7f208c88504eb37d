"""Mean pixel value in [0, 1]; the smallest complete metric."""

from collections.abc import Sequence

from eval.metric import ImageMetric
from koala.types import Images, Scores


class Brightness(ImageMetric):
    """Describes a set of images: a drift of brightness is the first sign of a distillation going wrong."""

    higher_is_better = None

    def score(self, images: Images, prompts: Sequence[str]) -> Scores:
        """Mean of all pixels and channels of each image, in [0, 1]."""
        return images.float().mean(dim=(1, 2, 3)) / 255


METRIC = Brightness
