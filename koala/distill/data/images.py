"""Image files as upright 8-bit RGB, and the square crops of them that training sees.

As the datasets library does, EXIF orientation is applied. Transparency is composited on white, 16-bit grey keeps its
high byte, colour profiles are ignored and an animation is its first frame.
"""

import io
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from koala.errors import KoalaError
from koala.harness.image_files import DAMAGE, FORMATS, MAX_PIXELS

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
Interpolation = Literal["bilinear", "bicubic", "lanczos"]

_DAMAGE = (*DAMAGE, Image.DecompressionBombError)


class Broken(KoalaError):
    """An image that cannot be used, and why, in one line."""


class TooSmall(Broken):
    """An image with too few pixels."""


def decode(image: bytes | Path, least_side: int = 0) -> Image.Image:
    """The upright image in mode RGB; raises `Broken`, and, before it decodes, `TooSmall` for a side below the least."""
    data = image if isinstance(image, bytes) else _bytes_of(image)
    if not data:
        raise Broken("the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            _check_size(opened, least_side)
            return _upright(_rgb(opened), opened)
    except UnidentifiedImageError as error:
        raise Broken(f"no image of a kind that is read ({', '.join(FORMATS)})") from error
    except _DAMAGE as error:
        raise Broken(f"damaged: {(str(error) or type(error).__name__).partition(chr(10))[0]}") from error


def _bytes_of(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a named pipe would wait for ever
            raise Broken("not a regular file")
        return path.read_bytes()
    except (OSError, ValueError, MemoryError) as error:
        raise Broken(getattr(error, "strerror", None) or str(error) or "does not fit into memory") from error


def _check_size(image: Image.Image, least_side: int) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise Broken(f"{width} x {height} is more than {MAX_PIXELS} pixels")
    if min(width, height) < least_side:
        raise TooSmall(f"{width} x {height}")


def _rgb(image: Image.Image) -> Image.Image:
    """The first frame in 8-bit RGB."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16(image)
    if image.mode == "F":
        raise Broken("float pixels, whose range the file does not say")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")  # loads, and is a copy that outlives the file


def _grey16(image: Image.Image) -> Image.Image:
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise Broken("32-bit pixels, whose range the file does not say")
    values = np.array(image)
    grey = (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return Image.fromarray(grey).convert("RGB")


def _upright(image: Image.Image, opened: Image.Image) -> Image.Image:
    """`image` turned as the EXIF data of the file `opened` say; damaged data say nothing."""
    try:
        orientation = opened.getexif().get(0x0112, 1)
        image.getexif()[0x0112] = orientation
        ImageOps.exif_transpose(image, in_place=True)
    except _DAMAGE:
        pass
    return image


# ---- crops


@dataclass(frozen=True)
class Crop:
    """A square of an image and what SDXL is told of it (Podell et al., 2023, section 2.2), in pixels.

    The conventions are those of diffusers' SDXL training script: `original` is the upright image before any resizing,
    and `corner` lies in the resized image, which is mirrored before it is cropped. So the corner of a flipped crop is
    counted from the left of the flipped image: the resized width less the side and the left in the unflipped one.
    """

    pixels: UInt8[np.ndarray, "side side 3"]
    original: tuple[int, int]  # height, width
    corner: tuple[int, int]  # top, left

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """Original size, crop corner and target size, as `Batch.sizes` has them."""
        side = len(self.pixels)
        return (*self.original, *self.corner, side, side)


def crop(
    image: Image.Image,
    side: int,
    place: torch.Generator | None = None,
    flip: bool = False,
    interpolation: Interpolation = "bilinear",
) -> Crop:
    """A square of `side` pixels of an RGB image whose short side was resized to that, antialiased, and maybe mirrored.

    `place` draws where it lies; without, it is the centre. The default interpolation is that of BK-SDM's training.
    Raises `Broken` where the resized image would be enormous.
    """
    width, height = _resized(image.width, image.height, side)
    resized = image.resize((width, height), Image.Resampling[interpolation.upper()])
    if flip:
        resized = ImageOps.mirror(resized)
    if place:
        top, left = (int(torch.randint(0, long - side + 1, (), generator=place)) for long in (height, width))
    else:
        top, left = (round((long - side) / 2) for long in (height, width))
    pixels = np.array(resized.crop((left, top, left + side, top + side)))
    return Crop(pixels, (image.height, image.width), (top, left))


def _resized(width: int, height: int, side: int) -> tuple[int, int]:
    """Width and height of which the shorter is `side`, the longer rounded down as torchvision does."""
    short = min(width, height)
    wide, high = (side if length == short else int(side * length / short) for length in (width, height))
    if wide * high > MAX_PIXELS:
        raise Broken(f"{width} x {height} is too narrow: {wide} x {high} once resized")
    return wide, high
