"""The U-Net: diffusers counts layers within a stage, the original file counts blocks along the whole path."""

from koala.models.ldm_names.rules import Layout, Rule, renamed
from koala.models.spec import UNetPlan
from koala.models.unet import up_depths

PREFIX = "model.diffusion_model."

_OUTSIDE = (
    Rule("time_embedding.linear_1", "time_embed.0"),
    Rule("time_embedding.linear_2", "time_embed.2"),
    Rule("add_embedding.linear_1", "label_emb.0.0"),  # SDXL's sizes, crop and pooled text
    Rule("add_embedding.linear_2", "label_emb.0.2"),
    Rule("class_embedding", "label_emb"),
    Rule("conv_in", "input_blocks.0.0"),
    Rule("mid_block.attentions.0", "middle_block.1"),
    Rule("conv_norm_out", "out.0"),
    Rule("conv_out", "out.2"),
)
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def layout(plan: UNetPlan) -> Layout:
    """A U-Net of `plan`; a mid block of one residual layer has the first name of one of two."""
    found = [
        *_OUTSIDE,
        *_resnet("mid_block.resnets.0", "middle_block.0"),
        *_resnet("mid_block.resnets.1", "middle_block.2"),
    ]
    per_stage = plan.layers_per_block + 1  # a down stage ends in a downsampler, an up stage has one layer more
    for stage, depths in enumerate(up_depths(plan)):
        for layer in range(plan.layers_per_block):
            found += _layer(f"down_blocks.{stage}", layer, f"input_blocks.{1 + stage * per_stage + layer}")
        found.append(Rule(f"down_blocks.{stage}.downsamplers.0.conv", f"input_blocks.{(stage + 1) * per_stage}.0.op"))
        for layer in range(per_stage):
            found += _layer(f"up_blocks.{stage}", layer, f"output_blocks.{stage * per_stage + layer}")
        last, after_attention = (stage + 1) * per_stage - 1, 1 + any(depths)
        found.append(Rule(f"up_blocks.{stage}.upsamplers.0.conv", f"output_blocks.{last}.{after_attention}.conv"))
    return Layout(PREFIX, found)


def _layer(stage: str, layer: int, block: str) -> list[Rule]:
    return [*_resnet(f"{stage}.resnets.{layer}", f"{block}.0"), Rule(f"{stage}.attentions.{layer}", f"{block}.1")]


def _resnet(ours: str, original: str) -> list[Rule]:
    return renamed(ours, original, _RESNET)
