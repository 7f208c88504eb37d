"""Python's search for cycles, kept out of the way of work that makes millions of small objects and no cycles."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """No search for cycles inside: it costs more than the reading of rows itself. Nested, the outermost counts."""
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
