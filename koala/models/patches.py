"""Pixels as samples of fewer places and more channels: an autoencoder that loses nothing and learns nothing."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTinyOutput
from torch import Tensor, nn
from torch.nn import functional as F


class Patches(nn.Module):
    """Squares of `side` x `side` pixels in [-1, 1] as 3 x side x side channels, called as diffusers' autoencoders are.

    It has no weights, and the dtype that it was last moved to.
    """

    config = SimpleNamespace(scaling_factor=1.0)

    def __init__(self, side: int):
        super().__init__()
        self.side, self.dtype = side, torch.get_default_dtype()

    def encode(self, pixels: Tensor) -> AutoencoderTinyOutput:
        """Images [n, 3, h, w] -> samples [n, 3 side side, h / side, w / side]."""
        return AutoencoderTinyOutput(latents=F.pixel_unshuffle(pixels, self.side))

    def decode(self, samples: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Samples -> images."""
        return (F.pixel_shuffle(samples, self.side),)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.dtype = fn(torch.empty(0, dtype=self.dtype)).dtype
        return super()._apply(fn, recurse)
