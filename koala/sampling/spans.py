"""Named stretches of drawing an image, for whoever wants to time them."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

# Opens a stretch called "encode", "step" (a denoising step), "unet" (inside a step) or "decode".
SpanOf = Callable[[str], AbstractContextManager[Any]]
_NOTHING = nullcontext()


def untimed(name: str) -> AbstractContextManager[Any]:
    """A stretch that nobody times."""
    return _NOTHING
