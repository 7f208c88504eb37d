"""Random weight files of real architectures, and synthetic images to calibrate and run them on.

numpy's RandomState, whose sequence is frozen, decides all of it: golden numbers stand on it.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import nn
from torchvision.models import vgg16

from eval.extractors.inception import CONVENTIONS, inception_module, layers_of

HEIGHT, WIDTH = 480, 560
SLOPES = {"one": 0.8, "other": 0.6}  # of the octaves: two sets of images that a network tells apart
_OCTAVES = (3, 6, 12, 25, 50, 100, 200, 400)


def pictures(kind, n):
    """The first `n` images of a set, uint8 (n 3 480 560): smooth noise of several octaves under a few discs."""
    return torch.from_numpy(np.stack([picture(kind, i) for i in range(n)])).permute(0, 3, 1, 2)


@lru_cache(maxsize=256)
def picture(kind, i):
    """One image, uint8 (480 560 3)."""
    slope = SLOPES[kind]
    random = np.random.RandomState(1000 * list(SLOPES).index(kind) + i)
    canvas = np.zeros((HEIGHT, WIDTH, 3))
    for octave in _OCTAVES:
        noise = (random.rand(3, octave, octave) - 0.5) * (octave / _OCTAVES[0]) ** -slope
        canvas += (_hats(HEIGHT, octave) @ noise @ _hats(WIDTH, octave).T).transpose(1, 2, 0)
    canvas = 128 + 180 * canvas + random.uniform(-40, 40, 3)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    for _ in range(random.randint(2, 7)):
        top, left, radius = random.uniform(0, HEIGHT), random.uniform(0, WIDTH), random.uniform(10, 90)
        canvas[(y - top) ** 2 + (x - left) ** 2 < radius**2] = random.uniform(0, 255, 3)
    return canvas.clip(0, 255).astype(np.uint8)


def write_inception(path):
    """A state dict of FID's Inception-v3 with random weights, its batch norms calibrated so that features are alive."""
    random = np.random.RandomState(0)
    with torch.device("meta"):
        shapes = {key: tuple(value.shape) for key, value in _inception_on_meta().state_dict().items()}
    torch.save({key: _first_value(random, key, shape) for key, shape in shapes.items()}, path)
    network = inception_module(path)
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = None  # the statistics of the only batch
    images = torch.cat([pictures(kind, 5) for kind in SLOPES])
    with torch.inference_mode():
        layers_of(network)(CONVENTIONS["tf"](images))
    torch.save({key: value.clone() for key, value in network.state_dict().items()}, path)
    return path


def write_vgg16(path):
    """torchvision's state dict of VGG-16 with random weights, made by repeating a few: 138 million are slow to draw."""
    random = np.random.RandomState(1)
    few = torch.from_numpy(random.standard_normal(2**20 + 7).astype(np.float32))
    with torch.device("meta"):
        shapes = {key: value.shape for key, value in vgg16().state_dict().items()}
    state = {}
    for key, shape in shapes.items():
        values = few.repeat(-(-shape.numel() // len(few)))[: shape.numel()].view(shape)
        state[key] = values * (2 / shape[1:].numel()) ** 0.5 if len(shape) > 1 else values * 0.01
    torch.save(state, path)
    return path


def _inception_on_meta():
    from eval.extractors.inception import _Unloaded

    return _Unloaded()


def _first_value(random, key, shape):
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith(("running_var", "bn.weight")):
        return torch.from_numpy(1 + 0.2 * random.rand(*shape).astype(np.float32))
    spread = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
    if key == "fc.weight":
        spread *= 10  # a classifier that prefers some classes
    return torch.from_numpy((spread * random.standard_normal(shape)).astype(np.float32))


@lru_cache(maxsize=32)
def _hats(size, octave):
    """Linear interpolation of `octave` values at `size` places."""
    places = np.linspace(0, octave - 1, size)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(octave)))
