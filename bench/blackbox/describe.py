"""Any diffusers text-to-image pipeline, described from its configuration files; nothing of a folder is executed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Any

from bench.blackbox.classes import PipelineClass, read_class, shipped_with_pipelines
from bench.blackbox.places import INDEX, LAYOUTS, locate, named_parts
from koala.errors import KoalaError, first_few
from koala.harness.files import read_json
from koala.models.weights.files import CONFIG, choose

RANDOM, FOLDER = "random", "folder"
DENOISERS = ("unet", "transformer")
# Not part of drawing an image from a prompt, so not loaded where the class can do without.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
_WITHOUT_WEIGHTS = ("Tokenizer", "Scheduler", "Processor", "Extractor")  # in the names of their classes
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".h5")
_SAFE = ".safetensors"
_DEFAULT_SIDE = 1024  # of the pipelines whose code says `height or 1024`


@dataclass(frozen=True)
class Part:
    """A component of a pipeline: the library and class it is made by, and whether it has weights."""

    name: str
    library: str
    class_name: str

    @property
    def is_network(self) -> bool:
        """Whether the component has weights."""
        return not any(kind in self.class_name for kind in _WITHOUT_WEIGHTS)


@dataclass(frozen=True)
class BlackBox:
    """A pipeline that is timed as it comes; `name` is another one when a file of its folder has changed."""

    name: str  # "<folder or id>@<8 hex digits>"
    folder: str
    class_name: str
    resolution: int  # side in pixels that the pipeline is made for
    unit: int  # sides are multiples of this many pixels
    denoiser: str  # "unet" or "transformer"
    weights: str  # "random" where a network holds no weight file, else "folder"

    def check_side(self, side: int) -> None:
        """Raise a `KoalaError` unless the pipeline can draw images with a side of that many pixels."""
        if side < self.unit or side % self.unit:
            raise KoalaError(f"{self.name} draws multiples of {self.unit} pixels, which {side} is not")


def describe(dir_or_id: str) -> BlackBox:
    """The pipeline in a folder, or of an id of the hub; a `KoalaError` if it cannot be timed from prompt to image."""
    label, folder = locate(dir_or_id)
    known = _class_of(folder)
    parts = parts_of(folder)
    names = {part.name for part in parts}
    denoiser = next((name for name in DENOISERS if name in names), None)
    if denoiser is None or "vae" not in names:
        wanted = f"{' or '.join(DENOISERS)}, and vae"
        raise KoalaError(f"{folder}: {known.name} is not timed: of the components {wanted}, it has not both")
    networks = [part for part in parts if part.is_network]
    whole = [_has_weights(folder / part.name) for part in networks]
    if any(whole) and not all(whole):
        bare = [part.name for part, there in zip(networks, whole, strict=True) if not there]
        raise KoalaError(
            f"{folder}: {', '.join(bare)} has no weights while other components have: fetch them, or leave all weights "
            "out for random ones"
        )
    config, autoencoder = (read_json(folder / name / CONFIG) for name in (denoiser, "vae"))
    factor = _downscale(autoencoder)
    return BlackBox(
        name=f"{label}@{_digest(folder, sorted(names))}",
        folder=str(folder),
        class_name=known.name,
        resolution=_resolution(config, known, factor),
        unit=factor * (1 if denoiser == "unet" else _patch(config, autoencoder)),
        denoiser=denoiser,
        weights=FOLDER if all(whole) else RANDOM,
    )


def parts_of(folder: Path) -> list[Part]:
    """The components that are loaded, of which nothing is missing; a `KoalaError` if one is, or is the folder's own
    code, or is quantised.
    """
    known = _class_of(folder)
    named = named_parts(read_json(folder / INDEX))
    if absent := sorted(known.components - named.keys()):
        raise KoalaError(f"{folder / INDEX} names no {', '.join(absent)}, which {known.name} is made of")
    parts = [
        _part(folder, name, library, class_name)
        for name, (library, class_name) in named.items()
        if library is not None and class_name is not None and not (name in UNUSED and name in known.optional)
    ]
    if not any(part.name.startswith("text_encoder") for part in parts):
        raise KoalaError(f"{folder / INDEX} names no text encoder, so that no prompt can be drawn")
    if missing := [part.name for part in parts if not _is_there(folder, part)]:
        raise KoalaError(
            f"{folder} lacks what {INDEX} names: {', '.join(missing)}; fetch them, configurations at least"
        )
    return parts


def weight_files(folder: Path, dtype: str) -> tuple[str, ...]:
    """The safetensors in a network's folder that suit `dtype` best; none where it holds no weights at all.

    A `KoalaError` where they are not whole, or only of a kind that could run code when it is read.
    """
    names = sorted(entry.name for entry in folder.iterdir())
    if found := next((files for layout in LAYOUTS if (files := _safetensors(folder, names, layout, dtype))), ()):
        return found
    if torn := [name for name in names if name.endswith(_SAFE)]:
        raise KoalaError(f"{folder} holds no whole set of weights, only {first_few(torn)}; fetch the rest")
    if pickled := [name for name in names if name.endswith(_PICKLED)]:
        raise KoalaError(
            f"{folder} holds its weights only as {first_few(pickled)}, which could run code when read: "
            f"fetch them as {_SAFE}, or save them so (pipeline.save_pretrained)"
        )
    return ()


def _safetensors(folder: Path, names: list[str], layout: Any, dtype: str) -> tuple[str, ...]:
    """The whole set of a layout's safetensors; a link to a file that is gone is none."""
    there = [name for name in names if name.endswith(_SAFE) and (folder / name).is_file()]
    return choose(there, layout, dtype)


def _has_weights(folder: Path) -> bool:
    if "quantization_config" in read_json(folder / CONFIG):
        raise KoalaError(f"{folder} is quantised, which is not read: take the pipeline's unquantised weights")
    return bool(weight_files(folder, "fp32"))


def _class_of(folder: Path) -> PipelineClass:
    """The pipeline's class, which is diffusers' own and draws images from text."""
    if not (folder / INDEX).is_file():
        raise KoalaError(f"{folder} holds no {INDEX}: give the folder of a whole diffusers pipeline")
    named = read_json(folder / INDEX).get("_class_name")
    if not isinstance(named, str) or not named.isidentifier():
        raise KoalaError(f"{folder / INDEX}: the class {named!r} is not one of diffusers'; code of a folder is not run")
    known = read_class(named)
    known.check_text_to_image()
    return known


def _part(folder: Path, name: str, library: str, class_name: str) -> Part:
    own = library in ("diffusers", "transformers") or shipped_with_pipelines(library)
    if not (own and name.isidentifier() and class_name.isidentifier()):
        raise KoalaError(
            f"{folder / INDEX}: {name} is {library}.{class_name}, which neither diffusers nor transformers has; "
            "code of a folder is not run"
        )
    return Part(name, library, class_name)


def _is_there(folder: Path, part: Part) -> bool:
    """Whether a component's folder holds its configuration."""
    inside = folder / part.name
    return (inside / CONFIG).is_file() if part.is_network else inside.is_dir() and any(inside.iterdir())


def _digest(folder: Path, parts: list[str]) -> str:
    """Eight hex digits of what the pipeline's .json files hold, and of the names and sizes of its weights."""
    digest = hashlib.sha256()
    inside = [path for part in parts for path in sorted((folder / part).rglob("*")) if path.is_file()]
    for path in [folder / INDEX, *inside]:
        if path.suffix == ".json":
            content = path.read_bytes()
        elif path.suffix in (_SAFE, *_PICKLED):
            content = b""
        else:
            continue
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        digest.update(content)
    return digest.hexdigest()[:8]


def _resolution(config: Mapping[str, Any], known: PipelineClass, factor: int) -> int:
    """The side in pixels that the denoiser's configuration names, or else the pipeline's class."""
    side = _last(config.get("sample_size")) or known.default_sample_size
    if side:
        return side * factor
    height = known.defaults["height"]
    return height if isinstance(height, int) else _DEFAULT_SIDE


def _downscale(autoencoder: Mapping[str, Any]) -> int:
    """Pixels of a side for each pixel of the latents."""
    if factor := _last(autoencoder.get("scale_factor_spatial")):
        return factor
    for key, extra in (("block_out_channels", 1), ("encoder_block_out_channels", 1), ("temperal_downsample", 0)):
        if isinstance(levels := autoencoder.get(key), list):
            return 2 ** (len(levels) - extra)
    return 8


def _patch(config: Mapping[str, Any], autoencoder: Mapping[str, Any]) -> int:
    """Latent pixels of a side in one token: packed by the pipeline (FLUX: 2 x 2 in the channels) or by the network."""
    channels = _last(config.get("in_channels"))
    latent = _last(autoencoder.get("latent_channels", autoencoder.get("z_dim")))
    if channels and latent and channels > latent and isqrt(channels // latent) ** 2 * latent == channels:
        return isqrt(channels // latent)
    return _last(config.get("patch_size")) or 1


def _last(value: Any) -> int | None:
    """A number, or the last of a list of numbers; None for anything else."""
    found = value[-1] if isinstance(value, list) and value else value
    return found if isinstance(found, int) else None
