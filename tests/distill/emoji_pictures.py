"""Pictures of emoji that are squares of one colour."""

import io

import numpy as np
from PIL import Image

from koala.distill.data.emoji.glyphs import Glyph


def picture(colour=(255, 0, 0), side=32, kind="WEBP"):
    """A disc of one colour on nothing."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    alpha = np.where(x**2 + y**2 < (side / 2) ** 2, 255, 0).astype(np.uint8)
    pixels = np.dstack([np.full((side, side, 3), colour, np.uint8), alpha])
    stream = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(stream, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return stream.getvalue()


def coloured(name, colour):
    return Glyph(name, name, "", "animals", (), picture(colour))
