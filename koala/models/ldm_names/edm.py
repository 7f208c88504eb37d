"""EDM's names of ADM's U-Net (Karras et al., NeurIPS 2022), which DMD2's checkpoints of ImageNet have too.

Its blocks are named after their side in pixels. The label map is a matrix for one-hot rows, ours a table; its query,
key and value take turns row by row; its resampling filters, which are saved, average 2 x 2 pixels.
"""

from koala.models.ldm_names.rules import Layout, Rule, renamed
from koala.models.spec import UNetPlan

PREFIX = "model."

_RESNET = {
    "norm1": "norm0",
    "conv1": "conv0",
    "time_emb_proj": "affine",
    "norm2": "norm1",
    "conv2": "conv1",
    "conv_shortcut": "skip",
}


def layout(plan: UNetPlan, side: int) -> Layout:
    """A U-Net of `plan` whose images have that many pixels along a side."""
    last = len(plan.channels) - 1
    sides = [side >> stage for stage in range(last + 1)]
    found = [
        Rule("time_embedding.linear_1", "map_layer0"),
        Rule("time_embedding.linear_2", "map_layer1"),
        Rule("class_embedding.weight", "map_label.weight", "transposed"),
        Rule("conv_in", f"enc.{side}x{side}_conv"),
        *_block("mid_block", 0, _named("dec", sides[last], "in0")),
        *_block("mid_block", 1, _named("dec", sides[last], "in1")),
        Rule("conv_norm_out", "out_norm"),
        Rule("conv_out", "out_conv"),
    ]
    for stage in range(last + 1):
        down, up, here = f"down_blocks.{stage}", f"up_blocks.{last - stage}", sides[stage]
        for layer in range(plan.layers_per_block):
            found += _block(down, layer, _named("enc", here, f"block{layer}"))
        for layer in range(plan.layers_per_block + 1):
            found += _block(up, layer, _named("dec", here, f"block{layer}"))
        if stage < last:
            found += renamed(f"{down}.downsamplers.0", _named("enc", sides[stage + 1], "down"), _RESNET)
        if stage > 0:
            found += renamed(f"{up}.upsamplers.0", _named("dec", sides[stage - 1], "up"), _RESNET)
    return Layout(PREFIX, found, ignored=r".+\.resample_filter$")


def _named(way: str, side: int, block: str) -> str:
    return f"{way}.{side}x{side}_{block}"


def _block(stage: str, layer: int, block: str) -> list[Rule]:
    """A residual block and the attention after it, which are one block of theirs."""
    attention = f"{stage}.attentions.{layer}"
    found = [*renamed(f"{stage}.resnets.{layer}", block, _RESNET), Rule(f"{attention}.group_norm", f"{block}.norm2")]
    thirds = {"to_q": 0, "to_k": 1, "to_v": 2}
    for ours, theirs in {**dict.fromkeys(thirds, "qkv"), "to_out.0": "proj"}.items():
        third = thirds.get(ours)
        for tensor, form in (("weight", "conv1x1"), ("bias", "same")):
            names = f"{attention}.{ours}.{tensor}", f"{block}.{theirs}.{tensor}"
            found.append(Rule(*names, form, third, interleaved=third is not None))
    return found
