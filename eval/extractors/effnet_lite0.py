"""EfficientNet-Lite0 trained on ImageNet-1k: 1280 pooled features, and the posteriors that ConSE reads."""

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from eval.extractor import Extractor
from eval.feed import Feed, Preparation
from eval.preparation import Bicubic, Normalise
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import Misfit, difference, shapes_of
from koala.types import Features, FloatImages

NORMALISE = Normalise(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5))
# The whole picture, where ImageNet's accuracy is measured on its centre: what a caption names may be at the border.
FEED = Feed(Preparation((Bicubic(224), NORMALISE)), "effnet_lite0")


class EffnetLite0(Extractor):
    """The network of timm, with the weights of the original release or of timm."""

    weights = ("effnet-lite0",)
    dim = 1280

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network; `Misfit` where the file holds another one."""
        import timm

        checkpoint = Checkpoint((files["effnet-lite0"],))
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval().requires_grad_(False)
        own, found = shapes_of(network), checkpoint.shapes
        # The original release calls its tensors otherwise, and has the same ones in the same order.
        names = dict(zip(own, own if own.keys() == found.keys() else found, strict=False))
        if len(own) != len(found) or difference(own, {ours: found[theirs] for ours, theirs in names.items()}):
            raise Misfit(f"{checkpoint} does not hold EfficientNet-Lite0: its tensors differ in number or in shapes")
        network.load_state_dict({ours: checkpoint.tensor(theirs) for ours, theirs in names.items()})
        self._network, self._device, self._dtype = network.to(device, dtype), device, dtype

    def features(self, images: FloatImages) -> Features:
        """What the classifier reads: the last activations, averaged over the picture."""
        maps = self._network.forward_features(images.to(self._device, self._dtype))
        return self._network.forward_head(maps, pre_logits=True).float()

    def posteriors(self, features: Features) -> Float[Tensor, "n 1000"]:
        """Probabilities of the classes of ImageNet-1k, in its order, fp32, on the network's device."""
        return self._network.classifier(features.to(self._device, self._dtype)).float().softmax(dim=1)


EXTRACTOR = EffnetLite0
