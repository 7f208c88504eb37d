"""The registry of extractors: the files of this folder, each with `EXTRACTOR` or `VARIANTS`."""

from eval.extractor import Extractor, TextExtractor
from eval.registry import Registry

_REGISTRY = Registry(__name__, __path__, "extractor", "EXTRACTOR")


def names() -> list[str]:
    """Every extractor and variant, as `clip:ViT-B-32/openai`."""
    return _REGISTRY.names()


def load(name: str) -> Extractor | TextExtractor:
    """A fresh instance, its weights not loaded yet."""
    return _REGISTRY.load(name)
