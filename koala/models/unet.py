"""UNetPlan -> diffusers U-Net, freshly built: no surgery on live modules."""

from diffusers import UNet2DConditionModel

from koala.models.spec import UNetPlan

LATENT_CHANNELS = 4


def build_unet(plan: UNetPlan, latent_size: int | None = None) -> UNet2DConditionModel:
    """The U-Net of `plan` with torch's own initialisation; build it under `torch.device("meta")` to hold no weights."""
    return UNet2DConditionModel(**unet_config(plan, latent_size))


def unet_config(plan: UNetPlan, latent_size: int | None = None) -> dict:
    """The arguments that diffusers' `UNet2DConditionModel` takes for `plan`.

    diffusers' `attention_head_dim` counts heads, and its transformer depth of a stage without attention is unused.
    """
    config = {
        "sample_size": latent_size,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": plan.channels,
        "layers_per_block": plan.layers_per_block,
        "transformer_layers_per_block": [max(1, depth) for depth in plan.transformer_depths],
        "attention_head_dim": list(plan.heads),
        "cross_attention_dim": plan.context_dim,
        "use_linear_projection": plan.linear_projection,
        "down_block_types": [_block(depth, "Down") for depth in plan.transformer_depths],
        "up_block_types": [_block(depth, "Up") for depth in reversed(plan.transformer_depths)],
        "mid_block_type": "UNetMidBlock2DCrossAttn" if plan.mid_block else None,
    }
    if plan.pooled_dim is not None:
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": plan.time_id_dim,
            "projection_class_embeddings_input_dim": plan.pooled_dim + 6 * plan.time_id_dim,
        }
    return config


def _block(depth: int, direction: str) -> str:
    return f"CrossAttn{direction}Block2D" if depth else f"{direction}Block2D"
