"""A student's U-Net out of its teacher's weights, as a folder for diffusers; one tensor at a time is in memory."""

import zlib
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from koala import __version__
from koala.errors import KoalaError
from koala.models import safetensors_stream
from koala.models.inherit import Inheritance, inherit, unet_shapes
from koala.models.load import RANDOM, load
from koala.models.networks import count_params, meta_networks
from koala.models.new_folder import new_folder
from koala.models.safetensors_stream import Entry
from koala.models.spec import ModelSpec
from koala.models.weights.checkpoint import Renamed, Tensors
from koala.models.weights.fill import difference, own_names
from koala.models.weights.recognise import recognise
from koala.models.weights.source import locate

_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Written:
    """What was written: the file's bytes, and where each tensor came from."""

    inheritance: Inheritance
    num_params: int
    num_bytes: int
    dtypes: tuple[torch.dtype, ...]


def unet_weights(spec: ModelSpec, weights: str, dtype: str = "fp32", seed: int = 0) -> Tensors:
    """The U-Net of `spec` under diffusers' names, mapped from its files: a folder, a file, "hub"; or "random".

    `dtype` is that of random weights, and decides between files of two precisions.
    """
    if weights == RANDOM:
        unet = load(spec, "cpu", dtype, parts=("unet",), seed=seed).unet
        assert unet is not None
        return Renamed(f"random weights of {spec.name}", unet.state_dict())
    source = locate(spec, weights, ("unet",), dtype)
    if source.adapters:
        raise KoalaError(
            f"{spec.name} is an adapter; fuse it first (`python -m koala export {spec.name} --format diffusers "
            "--out DIR`) and give that folder"
        )
    return source.fitting("unet", meta_networks(spec, ("unet",))["unet"])


def write_student(
    teacher: ModelSpec,
    student: ModelSpec,
    source: Tensors,
    out: Path,
    dtype: torch.dtype | None = None,
    seed: int = 0,
    on_tensor: Callable[[str], None] = lambda _: None,
) -> Written:
    """Write the folder `out`, which diffusers' `UNet2DConditionModel.from_pretrained` loads.

    `source` is the teacher's U-Net; `dtype` None keeps each tensor's own. Fresh tensors are drawn by `seed` from the
    distributions of a newly built diffusers U-Net. `out` may be an empty folder; it appears when it is whole.
    """
    inheritance = inherit(teacher.unet, student.unet)
    names = _names(teacher, source)
    places = {key: names[place] for key, place in inheritance.inherited.items()}
    network = meta_networks(student, ("unet",))["unet"]
    tensors = _Tensors(network, source, places, dtype, seed)
    entries = {key: tensors.entry(key) for key in network.state_dict()}
    metadata = {
        "format": "pt",
        "koala_model": student.name,
        "koala_teacher": teacher.name,
        "koala_version": __version__,
    }
    with new_folder(out) as folder:
        num_bytes = safetensors_stream.write(folder / _FILE, entries, tensors.take, metadata, on_tensor)
        network.save_config(folder)
    dtypes = sorted({entry.dtype for entry in entries.values()}, key=str)
    return Written(inheritance, count_params(network), num_bytes, tuple(dtypes))


@dataclass(frozen=True)
class _Tensors:
    """The tensors of a student: those of `source` that `places` names, the others fresh."""

    network: nn.Module
    source: Tensors
    places: Mapping[str, str]
    dtype: torch.dtype | None
    seed: int

    def entry(self, key: str) -> Entry:
        """What the file's header says of the tensor `key`; no data is read."""
        place = self.places.get(key, next(iter(self.places.values())))  # a fresh one has the dtype of the first
        tensor = self.source.tensor(place)
        if not tensor.is_floating_point():
            raise KoalaError(f"{self.source}: {place} is {tensor.dtype}; quantised weights are not read")
        return Entry(self.dtype or tensor.dtype, tuple(self.network.get_parameter(key).shape))

    def take(self, key: str) -> Tensor:
        """The tensor `key`."""
        found = self.source.tensor(self.places[key]) if key in self.places else fresh(self.network, key, self.seed)
        return found.to(self.entry(key).dtype)


def fresh(network: nn.Module, key: str, seed: int) -> Tensor:
    """The parameter `key` of `network`, which may lie on the meta device, as its layer initialises it.

    Its values depend on `seed` and the layer's name alone; torch's global generator is left as it was.
    """
    path, _, name = key.rpartition(".")
    layer = deepcopy(network.get_submodule(path)).to_empty(device="cpu")
    with torch.random.fork_rng(devices=()), torch.no_grad():
        torch.default_generator.manual_seed(zlib.crc32(f"{seed} {path}".encode()))  # reads 32 bits
        layer.reset_parameters()
    return layer.get_parameter(name).detach()


def _names(teacher: ModelSpec, source: Tensors) -> dict[str, str]:
    """The name in `source` of every tensor of the teacher; a `KoalaError` if it is not the teacher's U-Net."""
    expected = unet_shapes(teacher.unet)
    names = own_names(expected, source.shapes)
    if wrong := difference(expected, {names.get(key, key): shape for key, shape in source.shapes.items()}):
        raise KoalaError(f"{source} is not the U-Net of {teacher.name}: {wrong}. {recognise(source.shapes)}")
    return {ours: theirs for theirs, ours in names.items()}
