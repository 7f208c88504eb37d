"""FID's Inception-v3 (Szegedy et al., 2016; TensorFlow's weights of 2015-12-05): the 2048 features of its last pool.

The network is torch-fidelity's own module, given its weights by us, and its layers run one after another from
normalised images of 299 pixels: every convention of FID is this network behind another preparation.
"""

import io
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch_fidelity import FeatureExtractorInceptionV3

from eval.extractor import Extractor
from eval.feed import Feed, Preparation
from eval.preparation import AntialiasedBilinear, Bicubic, Bilinear, Normalise, TensorFlowBilinear
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import Misfit, Shapes, difference, shapes_of
from koala.types import Features, FloatImages

WEIGHTS = "inception-v3-fid"
SIDE = 299
NORMALISE = Normalise(mean=(128.0, 128.0, 128.0), std=(128.0, 128.0, 128.0))  # as TensorFlow's graph does
# What each tool does to an image before the network; the tools' FIDs differ by nothing else.
CONVENTIONS = {
    "clean": Preparation((Bicubic(SIDE), NORMALISE)),
    "tf": Preparation((TensorFlowBilinear(SIDE), NORMALISE)),
    "pytorch-fid": Preparation((Bilinear(SIDE), Normalise(mean=(127.5, 127.5, 127.5), std=(127.5, 127.5, 127.5)))),
    "torchmetrics": Preparation((AntialiasedBilinear(SIDE), NORMALISE)),
}
FEEDS = {name: Feed(preparation, "inception") for name, preparation in CONVENTIONS.items()}
_COUNTER = "num_batches_tracked"  # of training; some files have it, some do not


class Inception(Extractor):
    """Inception-v3 as FID uses it; `fast` folds its batch norms and turns its memory layout, 2e-5 of a feature away."""

    weights = (WEIGHTS,)
    dim = 2048

    def __init__(self, fast: bool = True):
        self._fast, self._layout = fast, torch.channels_last if fast else torch.contiguous_format

    def load(self, files: Mapping[str, Path], device: torch.device, dtype: torch.dtype) -> None:
        """Build the network from torch-fidelity's or pytorch-fid's state dict; `Misfit` where the file is another."""
        network = inception_module(files[WEIGHTS])
        self._classifier: Float[Tensor, "1008 2048"] = network.fc.weight
        layers = layers_of(network)
        if self._fast:
            fold_batch_norms(layers)
        self._layers = layers.to(device, dtype, memory_format=self._layout)
        self._device, self._dtype = device, dtype

    def features(self, images: FloatImages) -> Features:
        """The average of the last activations."""
        images = images.to(self._device, self._dtype, memory_format=self._layout)
        return self._layers(images).float()

    def logits(self, features: Features) -> Float[Tensor, "n 1008"]:
        """What the Inception Score reads: the class scores of features, without the classifier's bias."""
        return features @ self._classifier.T.to(features.device)


class _Unloaded(FeatureExtractorInceptionV3):
    """torch-fidelity's network without the weights that it would fetch, and unpickle, as it is built."""

    def __init__(self) -> None:
        nothing = io.BytesIO()
        torch.save({}, nothing)
        nothing.seek(0)
        super().__init__("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)

    def load_state_dict(self, *_: object, **__: object) -> None:
        """Leave the layers as they are: weights come later."""


def inception_module(path: Path) -> nn.Module:
    """torch-fidelity's network with the weights in `path`, which are read as tensors only; for inference, in fp32."""
    with torch.device("meta"):
        skeleton = _Unloaded()
    checkpoint = Checkpoint((path,))
    own, found = (_without_counters(shapes) for shapes in (shapes_of(skeleton), checkpoint.shapes))
    if wrong := difference(own, found):
        raise Misfit(f"{checkpoint} is not FID's Inception-v3: {wrong}")
    nn.Module.load_state_dict(skeleton, {key: checkpoint.tensor(key).float() for key in found}, assign=True)
    return skeleton.eval().requires_grad_(False)


def layers_of(network: nn.Module) -> nn.Sequential:
    """The layers from normalised images to features, in the order in which torch-fidelity names and runs them."""
    return nn.Sequential(*(layer for name, layer in network.named_children() if name != "fc"), nn.Flatten())


def fold_batch_norms(network: nn.Module) -> None:
    """Put each batch norm into the convolution before it: the same function, up to rounding."""
    for module in network.modules():
        if isinstance(getattr(module, "bn", None), nn.BatchNorm2d):
            module.conv, module.bn = fuse_conv_bn_eval(module.conv, module.bn), nn.Identity()


def _without_counters(shapes: Shapes) -> Shapes:
    return {key: shape for key, shape in shapes.items() if not key.endswith(_COUNTER)}


EXTRACTOR = Inception
