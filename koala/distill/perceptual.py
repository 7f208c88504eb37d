"""A distance of latents as an eye would see it: LPIPS between the images that an autoencoder makes of them."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from koala.errors import KoalaError
from koala.models.load import DTYPES, load
from koala.models.spec import AutoencoderPlan, ModelSpec
from koala.models.weights.checkpoint import Checkpoint, Renamed
from koala.models.weights.fill import Misfit, difference, fill
from koala.sampling.profiles import get as get_profile
from koala.types import FloatImages, Latents

TRUNK, HEADS = "vgg16-397923af.pth", "vgg.pth"  # as torchvision and the package lpips call them
_READ = (3, 8, 15, 22, 29)  # modules of VGG-16's features whose outputs are compared: the last ReLU of each stage
_CHANNELS = (64, 128, 256, 512, 512)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_EPSILON = 1e-10


class Lpips(nn.Module):
    """LPIPS 0.1 with VGG-16 (Zhang et al., 2018, equation 1), from `folder` with its two files of weights."""

    def __init__(self, folder: Path, device: torch.device, dtype: torch.dtype):
        super().__init__()
        from torchvision.models import vgg16  # a second, which other runs need not wait for

        for name in (TRUNK, HEADS):
            if not (folder / name).is_file():
                raise KoalaError(
                    f"{folder / name} is missing: --lpips names a folder with {TRUNK} (torchvision's VGG-16) and "
                    f"{HEADS} (of the package lpips); `python -m eval weights vgg16 lpips-vgg --fetch` gets both"
                )
        trunk = Checkpoint((folder / TRUNK,))
        kept = {key: trunk.tensor(key) for key in trunk.shapes if not key.startswith("classifier.")}
        with torch.device("meta"):
            skeleton = nn.ModuleDict({"features": vgg16(weights=None).features[: _READ[-1] + 1]}).to(dtype)
        for module in skeleton.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # or it would overwrite what the gradient of the module before it needs
        self._layers = fill(skeleton, Renamed(str(trunk), kept), device)["features"]
        self._heads = [head.to(device) for head in _heads(folder / HEADS)]
        self._mean, self._std = (torch.tensor(v, device=device)[:, None, None] for v in (_MEAN, _STD))

    def forward(self, one: FloatImages, other: FloatImages) -> Tensor:
        """The distance of each pair of images [n, 3, h, w] in [0, 1], fp32, [n]."""
        features = zip(self._heads, self._features(one), self._features(other), strict=True)
        return torch.stack([(head * (a - b).square()).sum(1).mean((1, 2)) for head, a, b in features]).sum(0)

    def _features(self, images: FloatImages) -> Iterator[Tensor]:
        """Five layers' activations, fp32, of length 1 at each place."""
        maps = ((images.float() - self._mean) / self._std).to(next(self._layers.parameters()).dtype)
        for start, end in pairwise((0, *(index + 1 for index in _READ))):
            maps = self._layers[start:end](maps)
            yield maps.float() / (maps.float().square().sum(1, keepdim=True).sqrt() + _EPSILON)


class Perceptual:
    """LPIPS of decoded latents, averaged over images; its gradient goes to the first of two latents alone."""

    def __init__(self, autoencoder: Any, lpips: Lpips):
        self._autoencoder, self._lpips = autoencoder, lpips

    def __call__(self, drawn: Latents, wanted: Latents) -> Tensor:
        """The mean distance of the images of `drawn` and `wanted`, fp32."""
        with torch.no_grad():
            goal = self._images(wanted)
        return self._lpips(self._images(drawn), goal).mean()

    def _images(self, latents: Latents) -> FloatImages:
        coder = self._autoencoder
        if coder is None:  # a model in pixel space
            return latents.float() / 2 + 0.5
        scaled = latents.to(coder.dtype) / coder.config.scaling_factor
        return coder.decode(scaled, return_dict=False)[0].float() / 2 + 0.5  # unclamped: no pixel is without a gradient


def perceptual(
    spec: ModelSpec, folder: Path, device: torch.device, precision: str, weights: str, seed: int
) -> Perceptual:
    """The distance in the latent space of `spec`, by its tiny autoencoder where one is known (DMD2's appendix)."""
    lpips = Lpips(folder, device, DTYPES[precision])  # first, for its files may be missing
    if isinstance(spec.autoencoder, AutoencoderPlan) and spec.autoencoder.tiny:
        spec = get_profile("tiny-vae").respec(spec)
    return Perceptual(load(spec, device, precision, weights, ("autoencoder",), seed).autoencoder, lpips)


def _heads(path: Path) -> list[Tensor]:
    """The learnt weight of each channel of each layer, fp32, [1, channels, 1, 1]."""
    checkpoint = Checkpoint((path,))
    shapes = {f"lin{layer}.model.1.weight": (1, channels, 1, 1) for layer, channels in enumerate(_CHANNELS)}
    if wrong := difference(shapes, checkpoint.shapes):
        raise Misfit(f"{checkpoint} does not hold the heads of LPIPS with VGG-16: {wrong}")
    return [checkpoint.tensor(key).float() for key in shapes]
