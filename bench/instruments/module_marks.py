"""Marks around the calls of modules inside a network, taken by hooks while it runs as it always does."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Span:
    """One call of a module; `start` counts from the beginning of the network's call."""

    path: str
    start: float
    amount: float


class ModuleMarks:
    """Marks before and after each call of some modules of a network, in the order in which the calls end."""

    def __init__(self, network: nn.Module, paths: Iterable[str], mark: Callable[[], Any]):
        self._modules = {path: network.get_submodule(path) for path in paths}
        self._mark = mark
        self._open: list[Any] = []
        self._marks: list[tuple[str, Any, Any]] = []
        self._hooks: list[Any] = []

    def __enter__(self) -> "ModuleMarks":
        for path, module in self._modules.items():
            self._hooks.append(module.register_forward_pre_hook(lambda *_: self._open.append(self._mark())))
            self._hooks.append(module.register_forward_hook(lambda *_, path=path: self._end(path)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _end(self, path: str) -> None:
        end = self._mark()
        self._marks.append((path, self._open.pop(), end))

    def spans(self, between: Callable[[Any, Any], float]) -> list[Span]:
        """The calls, once their marks can be read; the last one is the network's own."""
        first = self._marks[-1][1]
        return [Span(path, between(first, begin), between(begin, end)) for path, begin, end in self._marks]


def by_path(spans: Iterable[Span]) -> dict[str, float]:
    """The amount of each module over all its calls."""
    sums: dict[str, float] = {}
    for span in spans:
        sums[span.path] = sums.get(span.path, 0) + span.amount
    return sums
