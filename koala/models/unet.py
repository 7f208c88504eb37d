"""UNetPlan -> diffusers U-Net, freshly built: no surgery on live modules."""

from typing import Any, TypeAlias

from diffusers import UNet2DConditionModel

from koala.models.edm import PreconditionedUNet
from koala.models.spec import ADM, UNetPlan

UNet: TypeAlias = UNet2DConditionModel | PreconditionedUNet


def build_unet(plan: UNetPlan, sample_size: int | None = None) -> UNet:
    """The U-Net of `plan` with torch's own initialisation; build it under `torch.device("meta")` to hold no weights."""
    if plan.blocks == ADM:
        return PreconditionedUNet(**adm_config(plan, sample_size))
    return UNet2DConditionModel(**unet_config(plan, sample_size))


def adm_config(plan: UNetPlan, sample_size: int | None = None) -> dict:
    """The arguments that diffusers' `UNet2DModel` takes for `plan`: ADM (Dhariwal and Nichol, 2021, table 11).

    Resolutions change in residual blocks, and the time embedding scales and shifts each second norm. Norms have the
    groups that EDM gives the narrowest stage: 4 channels a group, 32 groups at most.
    """
    attends = [depth > 0 for depth in plan.transformer_depths]
    stages = zip(plan.channels, plan.heads, attends, strict=True)
    (width,) = {channels // heads for channels, heads, here in stages if here}
    groups = min(32, plan.channels[0] // 4)
    return {
        "sample_size": sample_size,
        "in_channels": plan.sample_channels,
        "out_channels": plan.sample_channels,
        "block_out_channels": plan.channels,
        "layers_per_block": plan.layers_per_block,
        "attention_head_dim": width,
        "down_block_types": ["AttnDownBlock2D" if here else "ResnetDownsampleBlock2D" for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else "ResnetUpsampleBlock2D" for here in reversed(attends)],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "num_class_embeds": plan.class_labels,
    }


def unet_config(plan: UNetPlan, sample_size: int | None = None) -> dict:
    """The arguments that diffusers' `UNet2DConditionModel` takes for `plan`.

    diffusers' `attention_head_dim` counts heads, and its transformer depth of a stage without attention is unused.
    """
    down_depths = [max(1, depth) for depth in plan.transformer_depths]
    down_depths[-1] = max(down_depths[-1], plan.mid_depth or 0)
    config: dict[str, Any] = {
        "sample_size": sample_size,
        "in_channels": plan.sample_channels,
        "out_channels": plan.sample_channels,
        "block_out_channels": plan.channels,
        "layers_per_block": plan.layers_per_block,
        "transformer_layers_per_block": down_depths,
        "attention_head_dim": list(plan.heads),
        "use_linear_projection": plan.linear_projection,
        "upcast_attention": plan.upcast_attention,
        "down_block_types": [_block(depth > 0, "Down") for depth in plan.transformer_depths],
        "up_block_types": [_block(any(depths), "Up") for depths in up_depths(plan)],
        "mid_block_type": _mid_block(plan.mid_depth),
    }
    if plan.up_transformer_depths is not None:
        config["reverse_transformer_layers_per_block"] = [[max(1, d) for d in depths] for depths in up_depths(plan)]
    if plan.context_dim is not None:
        config["cross_attention_dim"] = plan.context_dim
    if plan.class_labels is not None:
        config["num_class_embeds"] = plan.class_labels
    if plan.pooled_dim is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": plan.time_id_dim,
            "projection_class_embeddings_input_dim": plan.pooled_dim + 6 * plan.time_id_dim,
        }
    return config


def up_depths(plan: UNetPlan) -> tuple[tuple[int, ...], ...]:
    """Transformer layers of each block of the up path, the lowest resolution first."""
    blocks = plan.layers_per_block + 1
    return plan.up_transformer_depths or tuple((depth,) * blocks for depth in reversed(plan.transformer_depths))


def _block(attention: bool, direction: str) -> str:
    return f"CrossAttn{direction}Block2D" if attention else f"{direction}Block2D"


def _mid_block(depth: int | None) -> str | None:
    if depth is None:
        return None
    return "UNetMidBlock2DCrossAttn" if depth else "UNetMidBlock2D"
