"""PNG files that say how they were made, written whole or not at all."""

import io
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from koala import __version__
from koala.harness.records import Row

_TEXT_FIELDS = ("prompt", "negative", "seed", "model", "weights", "recipe", "profile")


def text_chunks(row: Row) -> dict[str, str]:
    """What a PNG says of itself: the fields of its row that a reader of the picture asks for; null ones are left out.

    Fields that are no text are JSON.
    """
    fields = {name: row[name] for name in _TEXT_FIELDS if row.get(name) is not None}
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    return {**texts, "Software": f"koala-bench {__version__}"}


def encode_png(image: UInt8[np.ndarray, "h w 3"], text: Mapping[str, str]) -> bytes:
    """The bytes of a PNG file with `text` in UTF-8 (iTXt) chunks; touches nothing else, so any thread may call it."""
    chunks = PngImagePlugin.PngInfo()
    for keyword, value in text.items():
        chunks.add_itxt(keyword, value)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "png", pnginfo=chunks)
    return buffer.getvalue()


def png_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG; empty for a file that is none."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            image.load()  # text may stand behind the pixels
            return {str(keyword): str(value) for keyword, value in getattr(image, "text", {}).items()}
    except (OSError, SyntaxError, ValueError):
        return {}
