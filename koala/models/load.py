"""ModelSpec -> components on a device and in a dtype."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from koala.errors import UnknownName
from koala.models.random_weights import materialise
from koala.models.spec import AutoencoderPlan, ModelSpec, TextEncoderPlan
from koala.models.tokenizers import clip_tokenizer
from koala.models.unet import build_unet

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
WEIGHTS = ("random",)
PARTS = ("unet", "text", "autoencoder")


@dataclass(frozen=True)
class Components:
    """The networks and tokenizers of one model; a part that was not asked for is empty."""

    spec: ModelSpec
    unet: UNet2DConditionModel | None
    text_encoders: tuple[nn.Module, ...]
    tokenizers: tuple[CLIPTokenizer, ...]
    autoencoder: AutoencoderKL | None

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Every network that was loaded."""
        return tuple(n for n in (self.unet, *self.text_encoders, self.autoencoder) if n is not None)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters that were loaded."""
        return sum(p.numel() * p.element_size() for network in self.networks for p in network.parameters())


def load(
    spec: ModelSpec,
    device: torch.device | str,
    dtype: str = "fp32",
    weights: str = "random",
    parts: Collection[str] = PARTS,
    seed: int = 0,
) -> Components:
    """The components of `spec` named by `parts` ("unet", "text", "autoencoder"), ready for inference."""
    for part in parts:
        if part not in PARTS:
            raise UnknownName("part", part, PARTS)
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    if weights not in WEIGHTS:
        raise UnknownName("kind of weights", weights, WEIGHTS)

    def network(skeleton: nn.Module, index: int) -> Any:
        return materialise(skeleton, device, seed + index)

    text = spec.text_encoders if "text" in parts else ()
    skeletons = meta_networks(spec, parts, DTYPES[dtype])
    return Components(
        spec=spec,
        unet=network(skeletons["unet"], 0) if "unet" in parts else None,
        text_encoders=tuple(network(skeletons[f"text_encoder_{i}"], 1 + i) for i in range(len(text))),
        tokenizers=tuple(clip_tokenizer(plan.pad_token, plan.max_tokens) for plan in text),
        autoencoder=network(skeletons["autoencoder"], 9) if "autoencoder" in parts else None,
    )


def meta_networks(
    spec: ModelSpec, parts: Collection[str] = PARTS, dtype: torch.dtype = torch.float32
) -> dict[str, nn.Module]:
    """The networks of `spec` without weights, on the meta device; the U-Net's parameter count is checked."""
    networks: dict[str, nn.Module] = {}
    with torch.device("meta"):
        if "unet" in parts:
            networks["unet"] = build_unet(spec.unet, spec.resolution // spec.autoencoder.downscale)
            _check_params(spec, networks["unet"])
        if "text" in parts:
            for i, plan in enumerate(spec.text_encoders):
                networks[f"text_encoder_{i}"] = _text_encoder(plan)
        if "autoencoder" in parts:
            networks["autoencoder"] = _autoencoder(spec.autoencoder, spec.resolution)
    return {name: nn.Module.to(network, dtype=dtype) for name, network in networks.items()}


def count_params(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _check_params(spec: ModelSpec, unet: nn.Module) -> None:
    expected, found = spec.unet_params, count_params(unet)
    assert expected in (None, found), f"{spec.name}: {found:,} parameters in the U-Net, {expected:,} published"


def _text_encoder(plan: TextEncoderPlan) -> nn.Module:
    config = CLIPTextConfig(
        vocab_size=49_408,
        hidden_size=plan.width,
        intermediate_size=4 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
        max_position_embeddings=plan.max_tokens,
        hidden_act=plan.activation,
        projection_dim=plan.width,
        bos_token_id=49_406,
        eos_token_id=49_407,
    )
    return (CLIPTextModelWithProjection if plan.projected else CLIPTextModel)(config)


def _autoencoder(plan: AutoencoderPlan, resolution: int) -> AutoencoderKL:
    stages = len(plan.channels)
    return AutoencoderKL(
        block_out_channels=plan.channels,
        down_block_types=("DownEncoderBlock2D",) * stages,
        up_block_types=("UpDecoderBlock2D",) * stages,
        layers_per_block=plan.layers_per_block,
        latent_channels=4,
        sample_size=resolution,
        scaling_factor=plan.scaling_factor,
        force_upcast=plan.upcast_to_fp32,
    )
