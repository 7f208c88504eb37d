"""Image files as 8-bit RGB, decoded as the field's tools do; what cannot be read says why. Imports no torch.

The tools (pytorch-fid, clean-fid, torch-fidelity) take PIL's RGB: they ignore EXIF orientation and colour profiles, and
so do we. Two things differ: transparency is composited on white (they show whatever colour lies under it), and 16-bit
grey keeps its high byte, as 16-bit colour does in PIL (they clip it to white).
"""

import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from koala.errors import KoalaError
from koala.harness.image_files import DAMAGE, FORMATS, MAX_PIXELS

EXTENSIONS = (".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MAX_PIXELS_VARIABLE = "KOALA_MAX_PIXELS"

_ORIENTATION = 0x0112
_DEEP = re.compile(r";16[BLN]")  # PIL's raw modes of 16 bits per channel; BGR;16 has 5 or 6


@dataclass(frozen=True)
class Picture:
    """A decoded image, the sha256 of its file's bytes, and what was done to it beyond decoding."""

    pixels: UInt8[np.ndarray, "h w 3"]
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A file that gives no picture, and why, in one line."""

    path: Path
    reason: str


class _Refused(ValueError):
    """A file that is not read, for the reason given."""


def max_pixels() -> int:
    """The most pixels an image may have: `MAX_PIXELS`, or what KOALA_MAX_PIXELS says."""
    text = os.environ.get(MAX_PIXELS_VARIABLE) or str(MAX_PIXELS)
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise KoalaError(f"{MAX_PIXELS_VARIABLE} is {text!r}, which is no number of pixels; say {MAX_PIXELS}, for one")
    return int(text)


def decode(path: Path, limit: int | None = None) -> Picture | Unreadable:
    """The image at `path`, or why there is none; `limit` is the most pixels it may have (`max_pixels()`)."""
    limit = max_pixels() if limit is None else limit
    try:
        data = _bytes_of(path)
        with _pil_alone(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _refuse_huge(image, limit)
            pixels, notes = _rgb(image)
            return Picture(pixels, hashlib.sha256(data).hexdigest(), (*notes, *_ignored(image)))
    except _Refused as error:
        return Unreadable(path, str(error))
    except UnidentifiedImageError:
        return Unreadable(path, f"no image of a kind that is read ({', '.join(FORMATS)})")
    except DAMAGE as error:
        return Unreadable(path, f"damaged: {(str(error) or type(error).__name__).partition(chr(10))[0]}")


def _bytes_of(path: Path) -> bytes:
    """What is in a file that is not empty."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _Refused("a folder, not a file" if path.is_dir() else "not a regular file")
        data = path.read_bytes()
    except (OSError, MemoryError) as error:
        raise _Refused(getattr(error, "strerror", None) or "does not fit into memory") from error
    if not data:
        raise _Refused("the file is empty")
    return data


@contextmanager
def _pil_alone() -> Iterator[None]:
    """PIL without its warnings and without its limit of pixels, for which ours stands."""
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _refuse_huge(image: Image.Image, limit: int) -> None:
    width, height = image.size
    if width * height > limit:
        raise _Refused(
            f"{width} x {height} is more than {limit} pixels; set {MAX_PIXELS_VARIABLE}={width * height} to read it"
        )


def _rgb(image: Image.Image) -> tuple[UInt8[np.ndarray, "h w 3"], list[str]]:
    """The pixels of the first frame, and what was done to make them 8-bit RGB."""
    notes = ["16 bits per channel cut to 8"] if _is_deep(image) else []
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _grey16(image), notes
    if image.mode == "F":
        raise _Refused("float pixels, whose range the file does not say; save it with 8 or 16 bits per channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        if rgba.getextrema()[3] != (255, 255):
            rgba = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            notes.append("transparency composited on white")
        return np.array(rgba.convert("RGB")), notes
    if image.mode == "CMYK":
        notes.append("CMYK converted to RGB")
    return np.array(image if image.mode == "RGB" else image.convert("RGB")), notes


def _is_deep(image: Image.Image) -> bool:
    """Whether channels have 16 bits; asked before the pixels are read, for PIL forgets it then."""
    raw = str([tile[3] for tile in getattr(image, "tile", [])])
    return image.mode == "I" or image.mode.startswith("I;16") or bool(_DEEP.search(raw))


def _grey16(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode == "I" and image.format not in ("PNG", "PPM"):
        raise _Refused("32-bit pixels, whose range the file does not say; save it with 8 or 16 bits per channel")
    values = np.array(image)
    grey = (values >> 8).astype(np.uint8)
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey[values == clear] = 255
    return np.repeat(grey[:, :, None], 3, axis=2)


def _ignored(image: Image.Image) -> Iterator[str]:
    """What the file says and the pixels do not show; a damaged remark is none."""
    try:
        if getattr(image, "is_animated", False):
            yield "first of several frames"
        if image.getexif().get(_ORIENTATION, 1) != 1:
            yield "EXIF orientation ignored"
        if image.info.get("icc_profile"):
            yield "colour profile ignored"
    except DAMAGE:
        return
