"""The files that an entry of the zoo names on a hub, from the nearest place that holds them."""

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from koala.errors import KoalaError
from koala.models.spec import HubFile, ModelSpec
from koala.models.weights.checkpoint import ENDINGS
from koala.models.weights.files import CONFIG, LAYOUTS, Layout, choose
from koala.models.weights.missing import ways_to_supply
from koala.models.weights.packaged import packaged
from koala.models.weights.places import (
    Place,
    Unavailable,
    Unreachable,
    cached,
    mirror,
    online,
)

ADAPTER = "adapter"  # stands among the networks for an adapter that belongs to an entry
_TOKENIZERS = ".json"
_SCHEDULER = PurePosixPath("scheduler/scheduler_config.json")


@dataclass(frozen=True)
class Found:
    """The files of one network, and those beside them that say more of it, where there are any."""

    paths: tuple[Path, ...]
    config: Path | None = None
    scheduler: Path | None = None


def in_folder(place: Place, folder: str, layout: Layout, dtype: str) -> Found | None:
    """The network in `folder` of `place`, with the files whose precision suits `dtype` best; None if none is whole."""
    names = place.names(folder)
    chosen = choose(names, layout, dtype)
    if not chosen:
        return None

    def fetched(name: str) -> Path:
        return place.fetch(str(PurePosixPath(folder, name)))

    config = fetched(CONFIG) if layout is LAYOUTS["autoencoder"] and CONFIG in names else None
    scheduler = _scheduler(place, folder) if layout is LAYOUTS["unet"] else None
    return Found(tuple(map(fetched, chosen)), config, scheduler)


def file_dtype(spec: ModelSpec, network: str, dtype: str) -> str:
    """The precision to read `network` in: an autoencoder that decodes in fp32 whatever the rest has is read in full."""
    upcast = network == "autoencoder" and spec.autoencoder is not None and spec.autoencoder.upcast_to_fp32
    return "fp32" if upcast else dtype


@dataclass
class Finder:
    """Looks for the released files of `spec`; the hub is asked once for each repository."""

    spec: ModelSpec
    dtype: str
    _hubs: dict[HubFile, Place | Unavailable] = field(default_factory=dict)
    _refused: dict[HubFile, str] = field(default_factory=dict)  # files that a package holds: why it is not to be had

    def find(self, networks: Collection[str]) -> dict[str, Found]:
        """The files of each of `networks`; a `KoalaError` says of all that are not found how to supply them."""
        wanted = {network: self._wanted(network) for network in networks}
        found: dict[str, Found] = {}
        missing: dict[str, HubFile] = {}
        for network, file in wanted.items():
            files = self._search(file, network)
            if files is None:
                missing[network] = file
            else:
                found[network] = files
        if missing:
            raise KoalaError(ways_to_supply(self.spec, wanted, missing, self._reasons(missing.values())))
        return found

    def _wanted(self, network: str) -> HubFile:
        """What the entry names for `network`: a file, or a folder of its pipeline."""
        if own := self.spec.apart(network):
            return own
        if network == ADAPTER and self.spec.weights and self.spec.weights.lora:
            return self.spec.weights.lora
        if self.spec.weights is None:
            raise KoalaError(
                f"no weights of {self.spec.name} were released, its {network} neither: give a diffusers folder that "
                "holds all of it (--weights DIR), or take random ones (--weights random)"
            )
        if network == "unet" and self.spec.weights.unet:
            return self.spec.weights.unet
        pipeline = self.spec.weights.pipeline
        return replace(pipeline, path=str(PurePosixPath(pipeline.path, LAYOUTS[network].folder)))

    def _search(self, file: HubFile, network: str) -> Found | None:
        for place in (mirror(file), cached(file)):
            if place is not None and (found := self._pick(place, file, network)):
                return found
        try:
            if package := packaged(file):
                return self._pick(package, file, network)
        except Unavailable as error:
            self._refused[file] = str(error)
        try:
            return self._pick(self._hub(file), file, network)
        except Unavailable as error:
            self._hubs[_repository(file)] = error
            return None

    def _hub(self, file: HubFile) -> Place:
        repository = _repository(file)
        if repository not in self._hubs:
            silent = [answer for answer in self._hubs.values() if isinstance(answer, Unreachable)]
            self._hubs[repository] = silent[0] if silent else online(file)
        answer = self._hubs[repository]
        if isinstance(answer, Unavailable):
            raise answer
        return answer

    def _pick(self, place: Place, file: HubFile, network: str) -> Found | None:
        path = PurePosixPath(file.path)
        if path.suffix in (*ENDINGS, _TOKENIZERS):
            return Found((place.fetch(file.path),)) if path.name in place.names(str(path.parent)) else None
        return in_folder(place, file.path, LAYOUTS[network], file_dtype(self.spec, network, self.dtype))

    def _reasons(self, files: Collection[HubFile]) -> dict[HubFile, str]:
        """Why the hub gave no file of each repository."""
        answers = {repository: self._hubs[repository] for repository in map(_repository, files)}
        said = {
            repository: str(answer) if isinstance(answer, Unavailable) else "the hub's repository lacks these files"
            for repository, answer in answers.items()
        }
        for file in files:
            if file in self._refused:
                said[_repository(file)] += f"; {self._refused[file]}"
        return said


def _repository(file: HubFile) -> HubFile:
    return replace(file, path="", package=None)


def _scheduler(place: Place, folder: str) -> Path | None:
    path = PurePosixPath(folder).parent / _SCHEDULER
    return place.fetch(str(path)) if path.name in place.names(str(path.parent)) else None
