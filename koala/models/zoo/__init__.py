"""Every model this project knows. A new one is one `ModelSpec` in a file of this folder; nothing else changes.

`tiny-NAME` is a twin of NAME with the same topology and few channels, derived and never written down. The folder of a
model that was trained here stands for it.
"""

import pkgutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import cache
from importlib import import_module

from koala import aliases
from koala.errors import UnknownName
from koala.models.spec import ModelSpec
from koala.models.twin import TWIN_PREFIX, tiny_twin
from koala.models.zoo import local


@cache
def _entries() -> dict[str, ModelSpec]:
    found: dict[str, ModelSpec] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, ModelSpec):
                assert found.setdefault(value.name, value) is value, f"two entries are called {value.name}"
    return found


def names() -> list[str]:
    """The models of the zoo, the largest U-Net first; without their twins."""
    return sorted(_entries(), key=lambda name: -(_entries()[name].unet_params or 0))


def known(name: str) -> bool:
    """Whether an entry, or a twin of one, is called `name`."""
    plain = name.removeprefix(TWIN_PREFIX)
    return aliases.MODELS.get(plain, plain) in _entries()


def matching(asked: Iterable[str]) -> tuple[str, ...]:
    """The models that are asked for, each once, a pattern such as `emoji-*` standing for those that it matches.

    Twins match where the pattern begins with `tiny-`. A `KoalaError` where it matches nothing; names stay as they are.
    """
    found: dict[str, None] = {}
    for name in asked:
        if known(name) or not set("*?[") & set(name) or local.is_path(name):
            found[name] = None
            continue
        everything = [TWIN_PREFIX + n for n in names()] if name.startswith(TWIN_PREFIX) else names()
        if not (those := [n for n in everything if fnmatchcase(n, name)]):
            raise UnknownName("model", name, everything)
        found |= dict.fromkeys(those)
    return tuple(found)


def get(name: str) -> ModelSpec:
    """The entry called `name`, by a published alias of it, the twin that `tiny-NAME` asks for, or a folder's model."""
    if not known(name) and local.is_path(name):
        return local.entry(name, get)
    if name.startswith(TWIN_PREFIX):
        return tiny_twin(get(name.removeprefix(TWIN_PREFIX)))
    canonical = aliases.MODELS.get(name, name)
    if canonical not in _entries():
        raise UnknownName("model", name, [*names(), *(TWIN_PREFIX + n for n in names())])
    return _entries()[canonical]
