"""ModelSpec -> components on a device and in a dtype."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from koala.errors import UnknownName
from koala.models.conditioning import Conditioner, build_conditioner
from koala.models.networks import PARTS, meta_networks
from koala.models.random_weights import materialise
from koala.models.spec import ModelSpec
from koala.models.unet import UNet
from koala.models.weights.lora import Adapter, adapt
from koala.models.weights.source import locate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
RANDOM = "random"
_SEEDS = {"unet": 0, "text_encoder_0": 1, "text_encoder_1": 2, "autoencoder": 9}  # added to the seed of random weights


@dataclass(frozen=True)
class Components:
    """The networks of one model; a part that was not asked for, or that the model lacks, is None.

    `device` is where the networks run; a profile may keep their weights elsewhere meanwhile.
    """

    spec: ModelSpec
    device: torch.device
    dtype: torch.dtype
    weights: str
    unet: UNet | None
    conditioner: Conditioner | None
    autoencoder: Any = None

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Every network that was loaded."""
        text = self.conditioner.networks if self.conditioner else ()
        return tuple(n for n in (self.unet, *text, self.autoencoder) if n is not None)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters that were loaded."""
        return sum(_held_bytes(p) for network in self.networks for p in network.parameters())


def load(
    spec: ModelSpec,
    device: torch.device | str,
    dtype: str = "fp32",
    weights: str = RANDOM,
    parts: Collection[str] = PARTS,
    seed: int = 0,
    storage: torch.device | str | None = None,
    adapters: Collection[Adapter] = (),
) -> Components:
    """The components of `spec` named by `parts` ("unet", "text", "autoencoder"), ready for inference.

    `weights`: "random" (by `seed`), "hub" (the entry's released files), a diffusers folder or a checkpoint file.
    Weights lie on `storage`, which is `device` unless told otherwise. An autoencoder that must decode in fp32
    (`upcast_to_fp32`) is loaded in fp32 where the rest is fp16.
    """
    for part in parts:
        if part not in PARTS:
            raise UnknownName("part", part, PARTS)
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    device, storage = torch.device(device), torch.device(storage or device)
    source = None if weights == RANDOM else locate(spec, weights, parts, dtype)
    if source is not None:
        spec = source.respec(spec)
    networks = meta_networks(spec, parts, DTYPES[dtype])
    if dtype == "fp16" and spec.autoencoder and spec.autoencoder.upcast_to_fp32 and "autoencoder" in networks:
        networks["autoencoder"] = networks["autoencoder"].float()
    for name, skeleton in networks.items():
        if source is None or not skeleton.state_dict():
            networks[name] = materialise(skeleton, storage, seed + _SEEDS[name])
        else:
            networks[name] = source.fill(name, skeleton, storage)
    tokenizer = source.tokenizer if source else None
    text = tuple(network for name, network in networks.items() if name.startswith("text_encoder"))
    components = Components(
        spec=spec,
        device=device,
        dtype=DTYPES[dtype],
        weights=weights,
        unet=networks.get("unet"),
        conditioner=build_conditioner(spec, text, device, tokenizer) if "text" in parts else None,
        autoencoder=networks.get("autoencoder"),
    )
    wanted = (*(source.adapters if source else ()), *adapters)
    for adapter in sorted(wanted, key=lambda adapter: not adapter.fused):  # nothing is fused beneath an attached one
        adapt(components, adapter)
    return components


def _held_bytes(tensor: torch.Tensor) -> int:
    """Bytes of a tensor; of the tensors inside a quantised one."""
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_held_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()
