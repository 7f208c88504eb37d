"""One generator per image, on the CPU: neither batch size nor rank nor device changes the noise of an image."""

from collections.abc import Sequence

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    """The source of all noise of the image with that seed: its start and its stochastic steps.

    Those steps copy their noise to a GPU, which is the price of one image being the same on every device.
    """
    return torch.Generator("cpu").manual_seed(seed)


def noise(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal values on the CPU in fp32, [n, *shape]: row i comes from generator i."""
    return torch.stack([torch.randn(shape, generator=one) for one in generators])
