"""Photographs that packages ship, crops of them, what degrades them, and the weight files that tests of them need."""

import io
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from eval.weights import MissingWeights, Weights


@cache
def weight_files(*names):
    """Name -> path, looked up before a test moves the cache; skips the test, saying which, where one is missing."""
    try:
        return {name: Weights().find(name).path for name in names}
    except MissingWeights as error:
        pytest.skip(str(error).splitlines()[0])


def photograph(name: str) -> Tensor:
    """One of scikit-image's photographs, or scikit-learn's "china" and "flower": uint8, (1 3 h w)."""
    if name in ("china", "flower"):
        array = pytest.importorskip("sklearn.datasets").load_sample_image(f"{name}.jpg")
    else:
        array = getattr(pytest.importorskip("skimage.data"), name)()
    return torch.from_numpy(np.array(array)).permute(2, 0, 1)[None]


def crops(n: int, side: int, seed: int) -> Tensor:
    """`n` squares of six photographs at random places: uint8, (n 3 side side)."""
    photographs = [photograph(name) for name in ("astronaut", "coffee", "chelsea", "rocket", "china", "flower")]
    random, found = np.random.default_rng(seed), []
    for i in range(n):
        image = photographs[i % len(photographs)]
        top, left = (random.integers(size - side + 1) for size in image.shape[2:])
        found.append(image[..., top : top + side, left : left + side])
    return torch.cat(found)


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Blurred by a Gaussian of `sigma` pixels."""
    radius = int(3 * sigma) + 1
    bell = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    bell = (bell / bell.sum()).expand(3, 1, 1, -1)
    padded = F.pad(images.float(), (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, bell, groups=3), bell.mT, groups=3).round().clamp(0, 255).byte()


def noisy(images: Tensor, sigma: float) -> Tensor:
    """With normal noise of `sigma` of 255."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + sigma * noise).round().clamp(0, 255).byte()


def compressed(images: Tensor, quality: int) -> Tensor:
    """Through JPEG at `quality` of 100."""
    found = []
    for image in images.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        found.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)
