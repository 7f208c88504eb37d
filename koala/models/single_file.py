"""One-file checkpoints under the original key names, which ComfyUI and diffusers' `from_single_file` read.

diffusers' `from_single_file` builds its networks from a folder with their configs: without `config=FOLDER` it takes
those of the released model that a file resembles, which a compressed U-Net does not fit.
"""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from koala import __version__
from koala.errors import KoalaError, first_few
from koala.models.ldm_names import Section, names, sections
from koala.models.ldm_names.edm import PREFIX as EDM_PREFIX
from koala.models.ldm_names.rules import Place, stored
from koala.models.ldm_names.unet import PREFIX as UNET_PREFIX
from koala.models.spec import ModelSpec

_UNETS = (f"{UNET_PREFIX}input_blocks.", "input_blocks.", f"{EDM_PREFIX}enc.", "enc.")
_ORIGINAL = (*_UNETS, "first_stage_model.", "cond_stage_model.", "conditioner.")
_DIFFUSERS_UNET = ("conv_in.", "down_blocks.", "up_blocks.", "conv_out.")


@dataclass(frozen=True)
class Difference:
    """What a file lacks of the networks asked for, and what it holds in their places that they do not have."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected)

    def __str__(self) -> str:
        kinds = {"missing": self.missing, "unexpected": self.unexpected}
        return "; ".join(f"{len(keys)} tensors are {kind}: {first_few(keys)}" for kind, keys in kinds.items() if keys)


def layout(keys: Iterable[str]) -> Literal["original", "diffusers-unet"] | None:
    """Which naming a file with these keys uses; None if neither."""
    keys = list(keys)
    if any(key.startswith(_ORIGINAL) for key in keys):
        return "original"
    if all(any(key.startswith(module) for key in keys) for module in _DIFFUSERS_UNET):
        return "diffusers-unet"
    return None


def compare(keys: Collection[str], spec: ModelSpec, parts: Collection[str] | None = None) -> Difference:
    """What is wrong with original `keys` as those of `parts` of `spec`, by default of all; empty if nothing is."""
    return _compare(keys, _found(keys, sections(spec, parts)).values())


def read(path: Path, spec: ModelSpec, parts: Collection[str] | None = None) -> dict[str, dict[str, Tensor]]:
    """State dicts of `parts` ("unet", "text_encoder_0" ..., "autoencoder"; by default all) of an original file.

    Tensors are mapped from the file, not copied. A file with one network only may leave its prefix out. What
    official files hold beside the networks is ignored; other missing or unexpected tensors are an error.
    """
    if not path.is_file():
        raise KoalaError(f"there is no file {path}")
    try:
        with safe_open(path, "pt") as file:
            return convert(file.keys(), file.get_tensor, spec, parts, str(path))
    except SafetensorError as error:
        raise KoalaError(f"{path} is not a whole safetensors file: {error}") from error


def convert(
    keys: Collection[str],
    take: Callable[[str], Tensor],
    spec: ModelSpec,
    parts: Collection[str] | None = None,
    source: str = "this checkpoint",
) -> dict[str, dict[str, Tensor]]:
    """What `read` returns, of any source of original tensors: its `keys` and what takes the tensor of a key."""
    found = _found(keys, sections(spec, parts))
    if difference := _compare(keys, found.values()):
        raise KoalaError(f"{source} is not a checkpoint of {spec.name}: {difference}")
    return {part: _tensors(take, section, source, spec) for part, section in found.items()}


def write(path: Path, networks: Mapping[str, nn.Module], spec: ModelSpec, dtype: torch.dtype | None = None) -> None:
    """Write `networks`, named as `koala.models.networks.meta_networks` does, into the safetensors file `path`.

    It is written aside and renamed. An existing file is refused; `dtype` None keeps each tensor's own.
    """
    if path.exists():
        raise KoalaError(f"{path} exists; choose another name or remove it")
    tensors = {key: t.to("cpu", dtype).contiguous() for key, t in original(networks, spec).items()}
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, aside, {"format": "pt", "koala_model": spec.name, "koala_version": __version__})
        aside.replace(path)
    except (OSError, SafetensorError) as error:
        raise KoalaError(f"cannot write {path}: {error}") from error
    finally:
        with suppress(OSError):
            aside.unlink()


def original(networks: Mapping[str, nn.Module], spec: ModelSpec) -> dict[str, Tensor]:
    """The tensors of `networks` under their original keys and in their original form."""
    places: dict[str, list[Place]] = defaultdict(list)
    tensors: dict[str, list[Tensor]] = defaultdict(list)
    known = names(spec, networks)
    for part, network in networks.items():
        state = network.state_dict()
        if wrong := sorted(known[part].keys() ^ state.keys()):
            raise KoalaError(f"this {part} is not that of {spec.name}; {len(wrong)} tensors differ: {first_few(wrong)}")
        for key, tensor in state.items():
            found = known[part][key]
            places[found.key].append(found)
            tensors[found.key].append(tensor)
    return {key: stored(found, tensors[key]) for key, found in places.items()}


def _found(keys: Collection[str], wanted: Mapping[str, Section]) -> dict[str, Section]:
    """The sections as they lie in this file: a file of one network may leave its prefix out."""
    return {part: replace(section, prefix="") if _bare(keys, section) else section for part, section in wanted.items()}


def _bare(keys: Collection[str], section: Section) -> bool:
    own = {place.key for place in section.places.values()}
    return not any(key.startswith(section.prefix) for key in keys) and any(key in own for key in keys)


def _compare(keys: Collection[str], found: Iterable[Section]) -> Difference:
    missing: list[str] = []
    unexpected: list[str] = []
    for section in found:
        expected = {section.prefix + place.key for place in section.places.values()}
        own = {key for key in keys if key.startswith(section.prefix)}
        missing += sorted(expected - own)
        unexpected += sorted(
            key for key in own - expected if not re.match(section.ignored, key.removeprefix(section.prefix))
        )
    return Difference(tuple(missing), tuple(unexpected))


def _tensors(take: Callable[[str], Tensor], section: Section, source: str, spec: ModelSpec) -> dict[str, Tensor]:
    tensors = {key: place.read(take(section.prefix + place.key)) for key, place in section.places.items()}
    wrong = [
        f"{section.prefix}{section.places[key].key} {tuple(tensor.shape)}, not {section.shapes[key]}"
        for key, tensor in tensors.items()
        if tensor.shape != section.shapes[key]
    ]
    if wrong:
        raise KoalaError(f"{source} is not a checkpoint of {spec.name}: {len(wrong)} shapes differ: {first_few(wrong)}")
    return tensors
