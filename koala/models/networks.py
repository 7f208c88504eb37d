"""ModelSpec -> its networks without weights, on the meta device: nothing is allocated until weights come."""

from collections.abc import Collection

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import nn
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from koala.models.patches import Patches
from koala.models.spec import Coder, ModelSpec, PatchPlan, SentencePlan, TextEncoderPlan, TinyAutoencoderPlan
from koala.models.unet import build_unet

PARTS = ("unet", "text", "autoencoder")


def meta_networks(
    spec: ModelSpec, parts: Collection[str] = PARTS, dtype: torch.dtype = torch.float32
) -> dict[str, nn.Module]:
    """The networks of `spec` without weights: "unet", "text_encoder_0" ..., "autoencoder".

    The U-Net's parameter count is checked.
    """
    networks: dict[str, nn.Module] = {}
    with torch.device("meta"):
        if "unet" in parts:
            networks["unet"] = build_unet(spec.unet, spec.resolution // spec.downscale)
            _check_params(spec, networks["unet"])
        if "text" in parts:
            for i, plan in enumerate(spec.text_encoders):
                networks[f"text_encoder_{i}"] = _text_encoder(plan)
        if "autoencoder" in parts and spec.autoencoder is not None:
            networks["autoencoder"] = _autoencoder(spec.autoencoder, spec.resolution)
    return {name: nn.Module.to(network, dtype=dtype) for name, network in networks.items()}


def count_params(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def _check_params(spec: ModelSpec, unet: nn.Module) -> None:
    expected, found = spec.unet_params, count_params(unet)
    assert expected in (None, found), f"{spec.name}: {found:,} parameters in the U-Net, {expected:,} published"


def _text_encoder(plan: TextEncoderPlan | SentencePlan) -> nn.Module:
    if isinstance(plan, SentencePlan):
        return _sentence_encoder(plan)
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


def _sentence_encoder(plan: SentencePlan) -> nn.Module:
    config = BertConfig(
        vocab_size=plan.vocabulary,
        hidden_size=plan.width,
        intermediate_size=4 * plan.width,
        num_hidden_layers=plan.layers,
        num_attention_heads=plan.heads,
    )
    return BertModel(config)


def _autoencoder(plan: Coder, resolution: int) -> nn.Module:
    if isinstance(plan, PatchPlan):
        return Patches(plan.side)
    if isinstance(plan, TinyAutoencoderPlan):
        return AutoencoderTiny(encoder_block_out_channels=plan.channels, decoder_block_out_channels=plan.channels)
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
