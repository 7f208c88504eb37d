"""LPIPS 0.1 with AlexNet (Zhang et al., 2018) as features: LPIPS(x, y) is the squared distance of two images' features.

At 256 pixels they are 640,128 numbers, 2.6 MB an image.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from eval.extractor import Extractor
from eval.extractors.dinov2 import NORMALISE
from eval.feed import Feed, Preparation
from eval.preparation import Bicubic
from koala.models.weights.checkpoint import Checkpoint, Renamed
from koala.models.weights.fill import Misfit, difference, fill
from koala.types import Features, FloatImages

# The package takes images in [-1, 1] and then scales each channel, which together is ImageNet's normalisation.
FEED = Feed(Preparation((Bicubic(256), NORMALISE)), "lpips")

_READ = (1, 4, 7, 9, 11)  # the modules of AlexNet's features whose outputs are compared: its five ReLUs
_CHANNELS = (64, 192, 384, 256, 256)
_EPSILON = 1e-10


class Lpips(Extractor):
    """Activations of five layers, of length 1 at each place, weighted by the root of the learned heads."""

    weights = ("alexnet", "lpips-alex")
    dim = 640_128  # of images of 256x256

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network; `Misfit` where a file holds another one."""
        from torchvision.models import alexnet

        trunk = Checkpoint((files["alexnet"],))
        tensors = {key: trunk.tensor(key) for key in trunk.shapes if not key.startswith("classifier.")}
        with torch.device("meta"):
            skeleton = nn.ModuleDict({"features": alexnet(weights=None).features[: _READ[-1] + 1]}).to(dtype)
        self._layers = fill(skeleton, Renamed(str(trunk), tensors), device)["features"]
        self._heads = [head.to(device) for head in _heads(files["lpips-alex"])]
        self._device, self._dtype = device, dtype

    def features(self, images: FloatImages) -> Features:
        """All layers' activations in a row, so scaled that squared distances are averages over places."""
        maps, parts = images.to(self._device, self._dtype), list[Tensor]()
        for index, layer in enumerate(self._layers):
            maps = layer(maps)
            if index in _READ:
                parts.append(_weighted(maps.float(), self._heads[len(parts)]))
        return torch.cat(parts, dim=1)


def _weighted(maps: Tensor, head: Tensor) -> Tensor:
    length = maps.square().sum(dim=1, keepdim=True).sqrt() + _EPSILON
    places = maps.shape[2] * maps.shape[3]
    return (maps / length * (head / places).sqrt()).flatten(1)


def _heads(path: Path) -> list[Tensor]:
    """The learned weight of each channel of each layer, fp32, (1 c 1 1)."""
    checkpoint = Checkpoint((path,))
    shapes = {f"lin{layer}.model.1.weight": (1, channels, 1, 1) for layer, channels in enumerate(_CHANNELS)}
    if wrong := difference(shapes, checkpoint.shapes):
        raise Misfit(f"{checkpoint} does not hold the heads of LPIPS with AlexNet: {wrong}")
    heads = [checkpoint.tensor(key).float() for key in shapes]
    if any(bool((head < 0).any()) for head in heads):
        raise Misfit(f"{checkpoint} holds negative weights, which LPIPS never has")
    return heads


EXTRACTOR = Lpips
