"""VGG-16 (Simonyan and Zisserman, 2015) trained on ImageNet: the second hidden layer after its ReLU, 4096 numbers.

What torch-fidelity compares for precision and recall (its feature `fc2_relu` of images of 224 pixels).
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torchvision.models import vgg16

from eval.extractor import Extractor
from eval.feed import Feed, Preparation
from eval.preparation import Normalise, TensorFlowBilinear
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import fill
from koala.types import Features, FloatImages

NORMALISE = Normalise(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
FEED = Feed(Preparation((TensorFlowBilinear(224), NORMALISE)), "vgg16")
_LAYERS = 5  # of the classifier: two hidden layers with their ReLUs and the dropout between


class Vgg16(Extractor):
    """The network of torchvision up to its second hidden layer."""

    weights = ("vgg16",)
    dim = 4096

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network from torchvision's state dict; `Misfit` where the file holds another one."""
        with torch.device("meta"):
            skeleton = vgg16().to(dtype)
        self._network = fill(skeleton, Checkpoint((files["vgg16"],)), device)
        self._network.classifier = self._network.classifier[:_LAYERS]
        self._device, self._dtype = device, dtype

    def features(self, images: FloatImages) -> Features:
        """The second hidden layer, none of it below 0."""
        return self._network(images.to(self._device, self._dtype)).float()


EXTRACTOR = Vgg16
