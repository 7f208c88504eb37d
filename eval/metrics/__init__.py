"""The registry of metrics: the files of this folder."""

import pkgutil
from importlib import import_module
from types import ModuleType

from eval.metric import ImageMetric
from koala.errors import UnknownName


def names() -> list[str]:
    """Every metric, by the name of its file."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ImageMetric:
    """A fresh instance of the metric called `name`."""
    return _module(name).METRIC()


def summary(name: str) -> str:
    """The first line of the metric's docstring."""
    return (_module(name).__doc__ or "").strip().splitlines()[0]


def _module(name: str) -> ModuleType:
    if name not in names():
        raise UnknownName("metric", name, names())
    return import_module(f"{__name__}.{name}")
