"""Rules that rename a tensor, and the forms in which the original file holds it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

# form -> (our tensor -> the file's, the file's -> ours)
_FORMS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "same": (lambda t: t, lambda t: t),
    "conv1x1": (lambda t: t[:, :, None, None], lambda t: t.flatten(1)),  # [o, i] <-> [o, i, 1, 1]
    "transposed": (lambda t: t.T.contiguous(), lambda t: t.T.contiguous()),
}
_FUSED = 3  # query, key and value lie in one tensor, in this order, one after the other or row by row


@dataclass(frozen=True)
class Place:
    """The file's tensor `key` holds ours in this form; `third` says which third of its rows, if it is a fused one.

    `interleaved`: every third row from that one on.
    """

    key: str
    form: str = "same"
    third: int | None = None
    interleaved: bool = False

    def under(self, prefix: str) -> "Place":
        """The same place with `prefix` before its key."""
        return replace(self, key=prefix + self.key)

    def read(self, stored: Tensor) -> Tensor:
        """Our tensor out of the file's; it shares no memory with another one."""
        if self.third is not None:
            stored = (stored[self.third :: _FUSED] if self.interleaved else stored.chunk(_FUSED)[self.third]).clone()
        return _FORMS[self.form][1](stored)


@dataclass(frozen=True)
class Rule:
    """The tensor `ours`, or every tensor of the module `ours`, is called `original` in the file."""

    ours: str
    original: str
    form: str = "same"
    third: int | None = None
    interleaved: bool = False


@dataclass(frozen=True)
class Layout:
    """How the file holds one network: a prefix and the rules for what follows it.

    `ignored` matches, after the prefix, what official files hold beside the network.
    """

    prefix: str
    rules: Sequence[Rule]
    ignored: str = r"(?!)"  # nothing


def same(*modules: str) -> list[Rule]:
    """Modules that have one name in both."""
    return [Rule(module, module) for module in modules]


def renamed(ours: str, original: str, parts: dict[str, str]) -> list[Rule]:
    """The `parts` of the module `ours`, which is called `original`."""
    return [Rule(f"{ours}.{a}", f"{original}.{b}") for a, b in parts.items()]


def places(keys: Iterable[str], rules: Iterable[Rule]) -> dict[str, Place]:
    """Where each tensor lies by the rule of the longest module name that contains it."""
    by_name = {rule.ours: rule for rule in rules}
    return {key: _place(key, by_name) for key in keys}


def _place(key: str, rules: Mapping[str, Rule]) -> Place:
    name = key
    while name not in rules:
        name, dot, _ = name.rpartition(".")
        assert dot, f"no rule names {key}"
    rule = rules[name]
    return Place(rule.original + key.removeprefix(name), rule.form, rule.third, rule.interleaved)


def stored(places: Sequence[Place], tensors: Sequence[Tensor]) -> Tensor:
    """The file's tensor that holds `tensors`, whose places have one key: a single one, or all parts of a fused one."""
    parts = {place.third: _FORMS[place.form][0](tensor) for place, tensor in zip(places, tensors, strict=True)}
    if None in parts:
        assert len(tensors) == 1, f"{len(tensors)} tensors are called {places[0].key}"
        return parts[None]
    thirds = [parts[third] for third in range(_FUSED)]
    return torch.stack(thirds, dim=1).flatten(0, 1) if places[0].interleaved else torch.cat(thirds)
