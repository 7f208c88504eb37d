"""LoRA adapters, through diffusers' and peft's own machinery: fused into a network's weights or attached to them."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from koala.errors import KoalaError
from koala.models.spec import ModelSpec
from koala.models.weights.checkpoint import ENDINGS, Checkpoint

_FILES = ("pytorch_lora_weights", "adapter_model")  # diffusers' name, and peft's
_PEFT_CONFIG = "adapter_config.json"
_PEFT_PREFIX = "base_model.model."
_LAYER = re.compile(r".*(lora_A|lora_down|lora\.down|lora_linear_layer\.down)\.weight$")  # one a LoRA layer
_PREFIXES = ("unet", "text_encoder", "text_encoder_2")
_DAMAGED = (ValueError, TypeError, RuntimeError, KeyError, IndexError, AttributeError)  # what diffusers and peft raise


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter, a file or a folder; fused into the weights, or attached beside them."""

    path: Path
    scale: float = 1.0
    fused: bool = True


@dataclass(frozen=True)
class _Read:
    """An adapter as diffusers names it: keys begin with "unet.", "text_encoder." or "text_encoder_2."."""

    tensors: Mapping[str, Tensor]
    alphas: Mapping[str, float] | None
    metadata: Mapping[str, Any] | None

    def of(self, prefix: str) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in self.tensors.items() if key.startswith(f"{prefix}.")}

    def metadata_of(self, prefix: str) -> dict[str, Any] | None:
        """None where the file says nothing of this network: diffusers then finds ranks from the tensors."""
        return {k: v for k, v in (self.metadata or {}).items() if k.startswith(f"{prefix}.")} or None


def adapt(components: Any, adapter: Adapter) -> None:
    """Fuse the adapter into the networks of `components`, or attach it; fused ones have to come first.

    What it holds for a network that was not loaded is left out; anything else that finds no place is an error.
    """
    pipeline = _pipeline(components)
    networks = {prefix: getattr(pipeline, prefix) for prefix in _prefixes(components.spec)}
    read = _read(adapter_file(adapter.path), pipeline, tuple(networks))
    if strange := sorted({key.partition(".")[0] for key in read.tensors} - networks.keys()):
        raise KoalaError(f"{adapter.path} adapts {', '.join(strange)}, which {components.spec.name} does not have")
    name = f"adapter_{max(len(getattr(network, 'peft_config', {})) for network in networks.values())}"
    loaded = [n for prefix, n in networks.items() if n is not None and _load(pipeline, prefix, n, read, name, adapter)]
    if adapter.fused:
        _fuse(pipeline, loaded, name, adapter)
    else:
        _attach(loaded, name, adapter.scale)
    for network in loaded:
        network.requires_grad_(False)


def _prefixes(spec: ModelSpec) -> tuple[str, ...]:
    """What diffusers calls the networks of `spec` that an adapter may change."""
    return _PREFIXES[: 1 + len(spec.text_encoders)]


def _pipeline(components: Any) -> Any:
    """diffusers' pipeline around the networks that an adapter may change, without the other components."""
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

    encoders = list(components.conditioner.networks) if components.conditioner else []
    first, second, *_ = [*encoders, None, None]
    common = {"vae": None, "unet": components.unet, "text_encoder": first, "tokenizer": None, "scheduler": None}
    if components.spec.unet.pooled_dim is not None:
        return StableDiffusionXLPipeline(**common, text_encoder_2=second, tokenizer_2=None, add_watermarker=False)
    return StableDiffusionPipeline(**common, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def adapter_file(path: Path) -> Path:
    """The adapter's file: `path`, or the one in that folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise KoalaError(f"there is no adapter {path}")
    files = [file for file in sorted(path.iterdir()) if file.suffix in ENDINGS and file.is_file()]
    known = [path / f"{stem}{ending}" for stem in _FILES for ending in ENDINGS if (path / f"{stem}{ending}") in files]
    if not known and len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise KoalaError(f"{path} holds no {_FILES[0]}.safetensors; its weight files: {found}. Name the file itself")
    return (known or files)[0]


def _read(file: Path, pipeline: Any, prefixes: tuple[str, ...]) -> _Read:
    checkpoint = Checkpoint([file])
    if other := [key for key in checkpoint.shapes if "lora" not in key]:
        more = f" ({len(other)} of its tensors are none of one): {', '.join(other[:5])}"
        raise KoalaError(f"{file} is not a LoRA adapter{more}")
    if any("dora_scale" in key for key in checkpoint.shapes):
        raise KoalaError(f"{file} is a DoRA adapter, which diffusers cannot load")
    # SDXL's files may count blocks as the original code does; diffusers tells them apart by the U-Net's config.
    config = {"unet_config": pipeline.unet.config} if pipeline.unet and "text_encoder_2" in prefixes else {}
    whole = str(file) if file.suffix == ".safetensors" else {k: checkpoint.tensor(k) for k in checkpoint.shapes}
    try:
        tensors, alphas, metadata = type(pipeline).lora_state_dict(whole, return_lora_metadata=True, **config)
        peft = _peft_metadata(file) if all(key.startswith(_PEFT_PREFIX) for key in tensors) else None
    except _DAMAGED as error:
        raise KoalaError(f"{file} is not an adapter that diffusers reads: {error}") from error
    tensors = {key.removeprefix(_PEFT_PREFIX): tensor for key, tensor in tensors.items()}
    if not any(key.startswith(f"{prefix}.") for prefix in _PREFIXES for key in tensors):
        tensors = {f"unet.{key}": tensor for key, tensor in tensors.items()}
        metadata = {f"unet.{key}": value for key, value in (peft or metadata or {}).items()}
    return _Read(tensors, alphas, metadata)


def _peft_metadata(file: Path) -> dict[str, Any]:
    """peft's own config beside its own file: without it the scale of the adapter is unknown."""
    from peft import LoraConfig

    if not (file.parent / _PEFT_CONFIG).is_file():
        raise KoalaError(f"{file} is in peft's own format, and there is no {_PEFT_CONFIG} beside it")
    return LoraConfig.from_pretrained(str(file.parent)).to_dict()


def _load(pipeline: Any, prefix: str, network: nn.Module, read: _Read, name: str, adapter: Adapter) -> bool:
    """Whether the adapter has layers for `network`, in which they are now."""
    tensors = read.of(prefix)
    if not tensors:
        return False
    try:
        own: dict[str, Any] = {"adapter_name": name, "metadata": read.metadata_of(prefix), "low_cpu_mem_usage": True}
        if prefix == "unet":
            pipeline.load_lora_into_unet(tensors, read.alphas, network, **own)
        else:
            pipeline.load_lora_into_text_encoder(tensors, read.alphas, network, prefix=prefix, **own)
    except _DAMAGED as error:
        raise KoalaError(f"{adapter.path} does not fit the {prefix} of this model: {error}") from error
    placed, there = len(list(_layers(network, name))), sum(bool(_LAYER.match(key)) for key in tensors)
    if placed != there:
        raise KoalaError(
            f"{adapter.path} does not fit the {prefix} of this model: {placed} of {there} layers are in it"
        )
    dtype = next(parameter.dtype for key, parameter in network.named_parameters() if "lora" not in key)
    nn.Module.to(network, dtype=dtype)
    return True


def _layers(network: nn.Module, name: str) -> Iterator[Any]:
    """The layers that the adapter called `name` changes."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in network.modules():
        if isinstance(module, BaseTunerLayer) and name in module.scaling:
            yield module


def _fuse(pipeline: Any, loaded: list[Any], name: str, adapter: Adapter) -> None:
    if any(len(network.peft_config) > 1 for network in loaded):
        raise KoalaError(f"{adapter.path} is to be fused after another was attached; give the fused ones first")
    pipeline.fuse_lora(lora_scale=adapter.scale, adapter_names=[name])
    pipeline.unload_lora_weights()


def _attach(loaded: list[Any], name: str, scale: float) -> None:
    """All attached adapters act together, each with its own scale."""
    for network in loaded:
        for layer in _layers(network, name):
            layer.set_adapter(list(layer.scaling))
            layer.set_scale(name, scale)
