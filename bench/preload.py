"""Imports that every measuring process needs; the fork server does them once, before any GPU context exists.

transformers imports torchao where that is installed, and torchao asks CUDA for the GPU, which would spoil it for every
forked child. So torchao is hidden meanwhile; a case that quantises imports it in its own process.
"""

import atexit
import gc
import sys
from importlib import import_module

HIDDEN = "torchao"
MODULES = ("transformers.models.clip.modeling_clip", "bench.worker")


def preload() -> None:
    """Import `MODULES` as if torchao were not installed, unless it has been imported already."""
    hide = HIDDEN not in sys.modules
    if hide:
        sys.modules[HIDDEN] = None  # type: ignore[assignment]  # to Python and find_spec: there is no such module
    try:
        for module in MODULES:
            import_module(module)
    finally:
        if hide:
            del sys.modules[HIDDEN]


# Nearly all that imports make lives as long as the server: looking for garbage in it takes a quarter of their time.
gc.disable()
preload()
gc.freeze()  # nor need a child look through it when it collects its own
gc.enable()
atexit.register(gc.unfreeze)  # or torch's compiler complains of leaks when the server ends
