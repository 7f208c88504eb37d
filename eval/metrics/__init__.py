"""The registry of metrics: the files of this folder, each with `METRIC` or `VARIANTS`."""

from eval.metric import Metric
from eval.registry import Registry

_REGISTRY = Registry(__name__, __path__, "metric", "METRIC")


def names() -> list[str]:
    """Every metric and variant, as `fid:clean`."""
    return _REGISTRY.names()


def load(name: str) -> Metric:
    """A fresh instance of the metric called `name`."""
    return _REGISTRY.load(name)


def summary(name: str) -> str:
    """The first line of the metric's docstring."""
    return _REGISTRY.summary(name)
