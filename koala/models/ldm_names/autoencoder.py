"""The KL autoencoder: its attention is made of 1x1 convolutions, and its up stages are counted from the image."""

from koala.models.ldm_names.rules import Layout, Rule, renamed, same
from koala.models.spec import AutoencoderPlan

_ATTENTION = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"conv_shortcut": "nin_shortcut"}


def layout(plan: AutoencoderPlan) -> Layout:
    """An autoencoder of `plan`."""
    found = same("quant_conv", "post_quant_conv")
    for half in ("encoder", "decoder"):
        found += same(f"{half}.conv_in", f"{half}.conv_out")
        found.append(Rule(f"{half}.conv_norm_out", f"{half}.norm_out"))
        found += _middle(f"{half}.mid_block", f"{half}.mid")
    stages = len(plan.channels)
    for stage in range(stages):
        down, up = f"encoder.down_blocks.{stage}", f"decoder.up_blocks.{stage}"
        old_down, old_up = f"encoder.down.{stage}", f"decoder.up.{stages - 1 - stage}"
        for layer in range(plan.layers_per_block):
            found += renamed(f"{down}.resnets.{layer}", f"{old_down}.block.{layer}", _RESNET)
        for layer in range(plan.layers_per_block + 1):
            found += renamed(f"{up}.resnets.{layer}", f"{old_up}.block.{layer}", _RESNET)
        found.append(Rule(f"{down}.downsamplers.0.conv", f"{old_down}.downsample.conv"))
        found.append(Rule(f"{up}.upsamplers.0.conv", f"{old_up}.upsample.conv"))
    return Layout("first_stage_model.", found, ignored=r"(loss|model_ema)\.")  # what only training needs


def _middle(ours: str, original: str) -> list[Rule]:
    found = [Rule(f"{ours}.attentions.0.group_norm", f"{original}.attn_1.norm")]
    for a, b in _ATTENTION.items():
        projection, old = f"{ours}.attentions.0.{a}", f"{original}.attn_1.{b}"
        found += [Rule(projection, old), Rule(f"{projection}.weight", f"{old}.weight", "conv1x1")]
    for layer in range(2):
        found += renamed(f"{ours}.resnets.{layer}", f"{original}.block_{layer + 1}", _RESNET)
    return found
