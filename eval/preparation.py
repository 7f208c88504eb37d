"""Steps from decoded images to what a network takes: the resizes of the tools that the field quotes, crops, scales.

Every step takes equally large images (n 3 h w, uint8 or float, 0 to 255) on any device; its `str` stands beside scores.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Num, UInt8
from PIL import Image
from torch import Tensor

from koala.errors import KoalaError
from koala.types import FloatImages

AnyImages: TypeAlias = Num[Tensor, "n 3 _ _"]
UInt8Images: TypeAlias = UInt8[Tensor, "n 3 _ _"]
_RADIUS = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}


@dataclass(frozen=True)
class Bicubic:
    """clean-fid's resize (Parmar et al., 2022): PIL's bicubic of each channel as floats, to 0.005 of 255."""

    side: int

    def __call__(self, images: AnyImages) -> FloatImages:
        """Square images, clipped to 0..255; those of that size as they are."""
        size, floats = (self.side, self.side), images.float()
        if images.shape[2:] == size:
            return floats
        return F.interpolate(floats, size, mode="bicubic", antialias=True, align_corners=False).clamp_(0, 255)

    def __str__(self) -> str:
        return f"float antialiased bicubic to {self.side}x{self.side}"


@dataclass(frozen=True)
class TensorFlowBilinear:
    """TensorFlow 1's resize, torch-fidelity's to the bit: bilinear without half-pixel centres and without antialias."""

    side: int

    def __call__(self, images: AnyImages) -> FloatImages:
        """Square images, 0 to 255."""
        for axis in (3, 2):
            images = self._along(images, axis)
        return images

    def _along(self, images: Tensor, axis: int) -> Tensor:
        size = images.shape[axis]
        place = torch.arange(self.side, dtype=torch.float32) * torch.tensor(size / self.side, dtype=torch.float32)
        low = place.long()
        share = (place - low).view((-1, 1)[: 4 - axis]).to(images.device)
        first = images.index_select(axis, low.to(images.device)).float()
        second = images.index_select(axis, (low + 1).clamp_max(size - 1).to(images.device)).float()
        return second.sub_(first).mul_(share).add_(first)

    def __str__(self) -> str:
        return f"TensorFlow 1 bilinear to {self.side}x{self.side}"


@dataclass(frozen=True)
class Bilinear:
    """pytorch-fid's resize: bilinear with half-pixel centres, without antialias."""

    side: int

    def __call__(self, images: AnyImages) -> FloatImages:
        """Square images, 0 to 255."""
        return F.interpolate(images.float(), (self.side, self.side), mode="bilinear", align_corners=False)

    def __str__(self) -> str:
        return f"bilinear without antialias to {self.side}x{self.side}"


@dataclass(frozen=True)
class AntialiasedBilinear:
    """The resize of torchmetrics since 1.8: antialiased bilinear on floats."""

    side: int

    def __call__(self, images: AnyImages) -> FloatImages:
        """Square images, 0 to 255."""
        size = (self.side, self.side)
        return F.interpolate(images.float(), size, mode="bilinear", antialias=True, align_corners=False)

    def __str__(self) -> str:
        return f"float antialiased bilinear to {self.side}x{self.side}"


@dataclass(frozen=True)
class PilResize:
    """What PIL makes of uint8 images, square or with their shortest side `side`; `kernel` is one of PIL's names."""

    side: int
    kernel: str
    shortest: bool = False

    def __post_init__(self) -> None:
        assert self.kernel in _RADIUS, self.kernel

    def __call__(self, images: UInt8Images) -> UInt8Images:
        """uint8 images: on a CPU PIL's, or torch's kernels where those are at most 1 of 255 away."""
        old = (images.shape[2], images.shape[3])
        new = self.size(*old)
        if old == new:
            return images
        if images.device.type != "cpu":
            return resize_like_pil(images, new, self.kernel)
        # Squares alone: else PIL's order of passes hangs on sizes and version. Halved at least: else
        # torch's coarser weights may be 2 away. A result of one pixel is one that torch cannot lay out.
        square = old[0] == old[1] and new[0] == new[1]
        if self.kernel in {"bilinear", "bicubic"} and square and 1 < new[0] <= old[0] / 2:
            return F.interpolate(images, new, mode=self.kernel, antialias=True, align_corners=False)
        return _resize_by_pil(images, new, self.kernel)

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the result; the longer side is cut to whole pixels as torchvision does."""
        if not self.shortest:
            return self.side, self.side
        short = min(height, width)
        return int(self.side * height / short), int(self.side * width / short)

    def __str__(self) -> str:
        size = f"a shortest side of {self.side}" if self.shortest else f"{self.side}x{self.side}"
        return f"PIL {self.kernel} to {size}"


@dataclass(frozen=True)
class CenterCrop:
    """The middle of each image, as torchvision places it; with `or_whole` all of an image that is smaller."""

    side: int
    or_whole: bool = False

    def __call__(self, images: AnyImages) -> AnyImages:
        """Square images; a `KoalaError` for images that are smaller, unless they are left whole."""
        height, width = images.shape[2:]
        if min(height, width) < self.side:
            if self.or_whole:
                return images
            raise KoalaError(
                f"an image of {width}x{height} pixels is smaller than the {self.side}x{self.side} centre crop; "
                f"leave such images out, or take a metric that resizes"
            )
        top, left = round((height - self.side) / 2), round((width - self.side) / 2)
        return images[:, :, top : top + self.side, left : left + self.side]

    def __str__(self) -> str:
        return f"centre crop {self.side}x{self.side}" + (" where there is one" if self.or_whole else "")


@dataclass(frozen=True)
class CenterSquare:
    """The largest square in the middle of each image, as torchvision places it, or with offsets `rounded_down`."""

    rounded_down: bool = False

    def __call__(self, images: AnyImages) -> AnyImages:
        """Square images as high as the shortest side."""
        height, width = images.shape[2:]
        side = min(height, width)
        if not self.rounded_down:
            return CenterCrop(side)(images)
        top, left = (height - side) // 2, (width - side) // 2
        return images[:, :, top : top + side, left : left + side]

    def __str__(self) -> str:
        return "centre square" + (", offsets rounded down" if self.rounded_down else "")


@dataclass(frozen=True)
class LongestSide:
    """The whole image in a square, black around it: its longest side by bicubic on floats, unclipped."""

    side: int
    antialias: bool = True

    def __call__(self, images: AnyImages) -> FloatImages:
        """Square images, 0 to 255 but for the overshoot of the filter."""
        height, width = images.shape[2:]
        scale = self.side / max(height, width)
        if scale == 1.0:
            return images.float()
        size = (round(height * scale), round(width * scale))
        resized = F.interpolate(images.float(), size, mode="bicubic", antialias=self.antialias, align_corners=False)
        down, right = self.side - size[0], self.side - size[1]
        return F.pad(resized, (right // 2, right - right // 2, down // 2, down - down // 2))

    def __str__(self) -> str:
        kernel = "antialiased bicubic" if self.antialias else "bicubic without antialias"
        return f"float {kernel} to a longest side of {self.side}, black around it"


@dataclass(frozen=True)
class Normalise:
    """Values of 0..255 less `mean`, over `std`, channel by channel."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: AnyImages) -> FloatImages:
        """Images as the network was trained on."""
        mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (self.mean, self.std))
        return images.sub(mean).div_(std)

    def __str__(self) -> str:
        return f"(x - {_numbers(self.mean)}) / {_numbers(self.std)}"


def resize_like_pil(images: UInt8Images, size: tuple[int, int], kernel: str) -> UInt8Images:
    """PIL's resize on any device: width first, each pass rounded and clipped; off by one where PIL rounds otherwise."""
    height, width = size
    across = _weights(kernel, images.shape[3], width).to(images.device)
    down = _weights(kernel, images.shape[2], height).to(images.device)
    return _rounded(down @ _rounded(images.float() @ across.T)).to(torch.uint8)


def _rounded(values: Tensor) -> Tensor:
    return values.add_(0.5).floor_().clamp_(0, 255)


@lru_cache(maxsize=64)
def _weights(kernel: str, old: int, new: int) -> Float[Tensor, "new old"]:
    """How much each old pixel adds to each new one: the kernel, widened to the ratio of sizes where that shrinks."""
    scale = old / new
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale
    away = (torch.arange(old, dtype=torch.float64) + 0.5 - centres[:, None]) / max(scale, 1.0)
    x = away.abs()
    if kernel == "box":
        weights = ((away > -0.5) & (away <= 0.5)).double()
    elif kernel == "bilinear":
        weights = 1 - x
    elif kernel == "bicubic":  # Keys (1981), a = -1/2
        weights = torch.where(x < 1, (1.5 * x - 2.5) * x**2 + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2)
    else:
        weights = torch.sinc(away) * torch.sinc(away / 3)
    weights = torch.where(x <= _RADIUS[kernel], weights, 0.0)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _resize_by_pil(images: UInt8Images, size: tuple[int, int], kernel: str) -> UInt8Images:
    resample = Image.Resampling[kernel.upper()]
    arrays = images.permute(0, 2, 3, 1).numpy()
    resized = [np.asarray(Image.fromarray(array).resize(size[::-1], resample)) for array in arrays]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2)


def _numbers(values: tuple[float, ...]) -> str:
    """In so many digits that unlike numbers differ: what a preparation says of itself tells it from others."""
    return f"{values[0]:.8g}" if len(set(values)) == 1 else f"({', '.join(f'{value:.8g}' for value in values)})"
