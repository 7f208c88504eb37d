"""What `--weights` means -> where each network's tensors lie."""

import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from koala.errors import KoalaError
from koala.harness.files import read_json
from koala.models import single_file
from koala.models.ldm_names import Section, sections
from koala.models.networks import meta_networks
from koala.models.spec import TOKENIZER, AutoencoderPlan, ModelSpec, PatchPlan, SentenceStates
from koala.models.weights.checkpoint import Checkpoint, Renamed, Tensors
from koala.models.weights.files import LAYOUTS, is_half
from koala.models.weights.fill import Misfit, fill, fit
from koala.models.weights.lora import Adapter
from koala.models.weights.places import Folder
from koala.models.weights.recognise import recognise
from koala.models.weights.released import ADAPTER, Finder, Found, file_dtype, in_folder

HUB = "hub"


@dataclass(frozen=True)
class Part:
    """Where one network lies: its tensors, named as diffusers names them or as the original file does."""

    checkpoint: Checkpoint
    original: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """Where the weights of one model lie, network by network, and the adapters that belong to them."""

    spec: ModelSpec
    parts: Mapping[str, Part]
    adapters: tuple[Adapter, ...] = ()
    tokenizer: Path | None = None  # of a sentence encoder

    def respec(self, spec: ModelSpec) -> ModelSpec:
        """`spec` with what the files say of themselves: the autoencoder's scale, and whether it decodes in fp32.

        diffusers' pipeline of Stable Diffusion v1 and v2 never decodes in fp32, whatever the config says.
        """
        self._warn_of_prediction(spec)
        config = self.parts["autoencoder"].config if "autoencoder" in self.parts else {}
        plan = spec.autoencoder
        if not config or not isinstance(plan, AutoencoderPlan):
            return spec
        upcast = config.get("force_upcast", True) if spec.unet.pooled_dim is not None else plan.upcast_to_fp32
        scale = float(config.get("scaling_factor", plan.scaling_factor))
        return replace(spec, autoencoder=replace(plan, scaling_factor=scale, upcast_to_fp32=bool(upcast)))

    def fill(self, name: str, skeleton: nn.Module, device: torch.device | str) -> nn.Module:
        """`skeleton`, the network `name` on the meta device, with its tensors from the files, on `device`."""
        return fill(skeleton, self.fitting(name, skeleton), device)

    def fitting(self, name: str, skeleton: nn.Module) -> Tensors:
        """The tensors of the network `name`, which fit `skeleton`; of which model they look like if they do not."""
        part = self.parts[name]
        try:
            tensors = self._converted(name) if part.original else part.checkpoint
            fit(skeleton, tensors)
        except Misfit as error:
            looks = f". {recognise(part.checkpoint.shapes, part.original)}" if name == "unet" else ""
            raise KoalaError(f"the {name} of {self.spec.name}: {error}{looks}") from error
        return tensors

    def _converted(self, name: str) -> Renamed:
        source = self.parts[name].checkpoint
        try:
            named = single_file.convert(source.shapes, source.tensor, _original(self.spec), (name,), str(source))
        except KoalaError as error:
            raise Misfit(str(error)) from error
        return Renamed(str(source), named[name])

    def _warn_of_prediction(self, spec: ModelSpec) -> None:
        said = self.parts["unet"].scheduler.get("prediction_type") if "unet" in self.parts else None
        if said not in (None, spec.prediction):
            warnings.warn(
                f"the scheduler beside these weights is for a U-Net that predicts {said}; {spec.name} is sampled as "
                f"one that predicts {spec.prediction}",
                stacklevel=3,
            )


def locate(spec: ModelSpec, weights: str, parts: Collection[str], dtype: str) -> Source:
    """Where `weights` are: "hub", a diffusers folder, the folder of a U-Net, or a checkpoint file.

    The hub stands for the folder of a model that was trained here, or for the copy that is attached. What a file or
    a U-Net's folder lacks is the entry's released one. All files are opened, none is read yet.
    """
    networks, finder = _networks(spec, parts), Finder(spec, dtype)
    if spec.home and weights in (HUB, spec.folder):  # until it is trained, what it is trained with is elsewhere
        weights = spec.home if "unet" in networks or Path(spec.home).expanduser().is_dir() else HUB
    if weights == HUB:
        adapted = spec.weights is not None and spec.weights.lora is not None and "unet" in networks
        return _source(spec, {}, finder.find([*networks, ADAPTER] if adapted else networks), dtype)
    path = Path(weights).expanduser()
    if path.is_dir():
        own = _of_folder(spec, path, networks, dtype)
    elif path.is_file():
        own = _of_file(spec, path, networks)
    elif weights == spec.folder:
        raise KoalaError(f"{spec.name} is trained here, and {weights} is not there yet: {spec.notes}")
    else:
        raise KoalaError(f"weights are random, {HUB}, or a folder or file; there is no {weights!r}")
    others = [network for network in networks if network not in own]
    if others and "unet" in own:  # a wrong file is named before anything is downloaded for it
        Source(spec, own).fitting("unet", meta_networks(spec, ("unet",))["unet"])
    return _source(spec, own, finder.find(others), dtype)


def come_apart(spec: ModelSpec, parts: Collection[str]) -> bool:
    """Whether the networks of `parts`, if there are any, are all of other places than the model's own weights."""
    return all(spec.apart(network) for network in _networks(spec, parts))


def _source(spec: ModelSpec, own: Mapping[str, Part], found: Mapping[str, Found], dtype: str) -> Source:
    """`own` networks, and those that were found beside them."""
    networks = {name: files for name, files in found.items() if name not in (ADAPTER, TOKENIZER)}
    adapters = tuple(Adapter(path) for path in (found[ADAPTER].paths if ADAPTER in found else ()))
    tokenizer = found[TOKENIZER].paths[0] if TOKENIZER in found else None
    return Source(spec, {**own, **_parts(networks, spec, dtype)}, adapters, tokenizer)


def _networks(spec: ModelSpec, parts: Collection[str]) -> list[str]:
    tokenizer = [TOKENIZER] if isinstance(spec.conditioning, SentenceStates) else []
    decoded = spec.autoencoder is not None and not isinstance(spec.autoencoder, PatchPlan)
    of_part = {
        "unet": ["unet"],
        "text": [f"text_encoder_{i}" for i in range(len(spec.text_encoders))] + tokenizer,
        "autoencoder": ["autoencoder"] if decoded else [],
    }
    return [network for part, networks in of_part.items() if part in parts for network in networks]


def _parts(found: Mapping[str, Found], spec: ModelSpec, dtype: str) -> dict[str, Part]:
    return {network: _part(network, files, spec, dtype) for network, files in found.items()}


def _of_folder(spec: ModelSpec, path: Path, networks: Collection[str], dtype: str) -> dict[str, Part]:
    """The networks of a pipeline's folder, which has all that it may have, or the U-Net whose own folder it is."""
    place = Folder(path)
    if not any((path / layout.folder).is_dir() for layout in LAYOUTS.values()):
        found = in_folder(place, "", LAYOUTS["unet"], dtype)
        if found is None:
            raise KoalaError(f"{path} is no diffusers folder: it has no unet/, and no {LAYOUTS['unet'].example} itself")
        return {"unet": _part("unet", found, spec, dtype)} if "unet" in networks else {}
    parts: dict[str, Part] = {}
    missing: list[str] = []
    for network in networks:
        if spec.apart(network):
            continue
        layout = LAYOUTS[network]
        found = in_folder(place, layout.folder, layout, file_dtype(spec, network, dtype))
        if found is None:
            missing.append(f"{layout.folder}/{layout.example}")
        else:
            parts[network] = _part(network, found, spec, dtype)
    if missing:
        raise KoalaError(
            f"{path} lacks {', '.join(missing)} (also looked for: .fp16 variants, whole sets of shards, .bin), "
            f"which {spec.name} needs"
        )
    return parts


def _of_file(spec: ModelSpec, path: Path, networks: Collection[str]) -> dict[str, Part]:
    """The networks that a file holds, by its keys."""
    checkpoint = Checkpoint([path])
    layout = single_file.layout(checkpoint.shapes)
    if layout == "diffusers-unet":
        return {"unet": Part(checkpoint)} if "unet" in networks else {}
    if layout == "original":
        known = [network for network in networks if not spec.apart(network)]
        places = sections(_original(spec))
        if not any(_holds(checkpoint, section) for section in places.values()):
            raise KoalaError(f"{path} holds no network of {spec.name}. {recognise(checkpoint.shapes, original=True)}")
        return {
            name: Part(checkpoint, original=True)
            for name in known
            if name in places and _holds(checkpoint, places[name])
        }
    if any("lora" in key for key in checkpoint.shapes):
        raise KoalaError(f"{path} is a LoRA adapter, which goes on top of weights: give it as an adapter")
    first = ", ".join(list(checkpoint.shapes)[:3])
    raise KoalaError(f"{path} is neither a U-Net nor a whole checkpoint; its first tensors are: {first}")


def _original(spec: ModelSpec) -> ModelSpec:
    """`spec` without a tiny autoencoder, for which a single file has no names."""
    return spec if isinstance(spec.autoencoder, AutoencoderPlan) else replace(spec, autoencoder=None)


def _holds(checkpoint: Checkpoint, section: Section) -> bool:
    bare = {place.key for place in section.places.values()}
    return any(key.startswith(section.prefix) or key in bare for key in checkpoint.shapes)


def _part(network: str, found: Found, spec: ModelSpec, dtype: str) -> Part:
    if is_half([path.name for path in found.paths]) and file_dtype(spec, network, dtype) != "fp16":
        warnings.warn(f"{found.paths[0]} is in fp16, and no file in full precision is beside it", stacklevel=4)
    checkpoint = Checkpoint(found.paths)
    return Part(
        checkpoint,
        single_file.layout(checkpoint.shapes) == "original",
        read_json(found.config) if found.config else {},
        read_json(found.scheduler) if found.scheduler else {},
    )
