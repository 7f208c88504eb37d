"""Registries that are folders: the file's name is the entry's name, variants follow a colon.

A file holds `ENTRY` (a class) where there are no variants, or `VARIANTS`, a mapping from a variant's name to a function
without arguments, and where the variants are open-ended also `variant(name)`, which builds any other one.
"""

import pkgutil
from collections.abc import Iterable
from importlib import import_module
from types import ModuleType
from typing import Any

from koala.errors import KoalaError, UnknownName


class Registry:
    """The entries of the package `package`; `kind` is what errors call one, `entry` the file's attribute."""

    def __init__(self, package: str, path: Iterable[str], kind: str, entry: str):
        self.package, self.kind, self.entry = package, kind, entry
        self.files = sorted(module.name for module in pkgutil.iter_modules(path))

    def names(self) -> list[str]:
        """Every entry and variant: "brightness", "fid:clean"; imports the files."""
        return [name for file in self.files for name in self._of_file(file)]

    def load(self, name: str) -> Any:
        """A fresh instance of the entry called `name`."""
        file, colon, variant = name.partition(":")
        module = self.module(file)
        variants = getattr(module, "VARIANTS", {})
        if not colon and hasattr(module, self.entry):
            return getattr(module, self.entry)()
        if variant in variants:
            return variants[variant]()
        if variant and hasattr(module, "variant"):
            return module.variant(variant)
        if not colon:
            raise KoalaError(f"{self.kind} {file!r} has several variants; say which: {', '.join(self._of_file(file))}")
        raise UnknownName(self.kind, name, self._of_file(file))

    def summary(self, name: str) -> str:
        """The first line of the file's docstring."""
        return (self.module(name.partition(":")[0]).__doc__ or "").strip().splitlines()[0]

    def module(self, file: str) -> ModuleType:
        """The module of a file."""
        if file not in self.files:
            raise UnknownName(self.kind, file, self.files)
        return import_module(f"{self.package}.{file}")

    def _of_file(self, file: str) -> list[str]:
        module = self.module(file)
        plain = [file] if hasattr(module, self.entry) else []
        return plain + [f"{file}:{variant}" for variant in getattr(module, "VARIANTS", {})]
