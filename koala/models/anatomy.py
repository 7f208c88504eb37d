"""Stages and features of a U-Net under the names of KOALA's paper, as module paths of diffusers' U-Net.

DW-1 ... and UP-1 ... count stages along the way of a sample: DW-1 has the highest resolution, UP-1 the lowest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from koala.models.spec import ADM, UNetPlan
from koala.models.unet import up_depths

# Inside a transformer layer, before the residual sum (KOALA section 3.1.2): self-attention, cross-attention and
# feed-forward output.
LAYER_PARTS: Mapping[str, str] = {"SA": "attn1", "CA": "attn2", "FFN": "ff"}
# Then the outputs of residual blocks, of whole stages (the last feature), and of the last attention block of a stage
# without its residual sum, which BK-SDM-Tiny takes where the student's stage lost its downsampler.
KINDS = (*LAYER_PARTS, "Res", "LF", "PO")
# What a stage is made of, by the work that is done there; norms and projections of transformers come beside.
WORK: Mapping[str, str] = {
    "self-attention": "SA",
    "cross-attention": "CA",
    "feed-forward": "FFN",
    "residual": "Res",
    "resampling": "Sampler",
}


@dataclass(frozen=True)
class Stage:
    """A part of a U-Net at one resolution."""

    name: str  # DW-1 ..., Mid, UP-1 ...
    path: str  # of its module
    num_resnets: int
    depths: tuple[int, ...]  # transformer layers of each attention block
    sampler: str | None = None  # path of what changes the resolution at its end
    bare: bool = False  # its attention blocks are self-attention, residual sum included, and no transformers

    @property
    def attentions(self) -> dict[str, int]:
        """Transformer layers of each attention block by its path."""
        return {f"{self.path}.attentions.{i}": depth for i, depth in enumerate(self.depths)}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The features that it has."""
        return tuple(kind for kind in KINDS if self.modules(kind))

    @property
    def work(self) -> dict[str, tuple[str, ...]]:
        """Paths of its modules by the work that they do, one of `WORK`; no module is inside another."""
        return {work: self.modules(kind) for work, kind in WORK.items()}

    def modules(self, kind: str) -> tuple[str, ...]:
        """Paths of its modules of that kind (of features, or "Sampler"), in the order in which they run."""
        attentions = self.attentions
        if kind in LAYER_PARTS and self.bare:
            return tuple(attentions) if kind == "SA" else ()
        if kind in LAYER_PARTS:
            return tuple(layer_part(block, i, kind) for block, depth in attentions.items() for i in range(depth))
        return {
            "Res": tuple(f"{self.path}.resnets.{i}" for i in range(self.num_resnets)),
            "LF": (self.path,),
            "Sampler": (self.sampler,) if self.sampler else (),
            "PO": tuple(f"{block}.{'to_out.0' if self.bare else 'proj_out'}" for block in attentions)[-1:],
        }[kind]


def layer_part(attention: str, layer: int, kind: str) -> str:
    """Path of a transformer layer's SA, CA or FFN module."""
    return f"{attention}.transformer_blocks.{layer}.{LAYER_PARTS[kind]}"


def stages(plan: UNetPlan) -> tuple[Stage, ...]:
    """The stages in the order in which they run; `Mid` only where there is a mid block."""
    blocks, last = plan.layers_per_block, len(plan.channels) - 1
    down = [
        Stage(
            f"DW-{i + 1}",
            f"down_blocks.{i}",
            blocks,
            (depth,) * blocks if depth else (),
            f"down_blocks.{i}.downsamplers.0" if i < last else None,
        )
        for i, depth in enumerate(plan.transformer_depths)
    ]
    up = [
        Stage(
            f"UP-{i + 1}",
            f"up_blocks.{i}",
            blocks + 1,
            tuple(max(1, d) for d in depths) if any(depths) else (),
            f"up_blocks.{i}.upsamplers.0" if i < last else None,
        )
        for i, depths in enumerate(up_depths(plan))
    ]
    mid = []
    if plan.mid_depth is not None:
        mid = [Stage("Mid", "mid_block", 2, (plan.mid_depth,)) if plan.mid_depth else Stage("Mid", "mid_block", 1, ())]
    return tuple(replace(stage, bare=plan.blocks == ADM) for stage in (*down, *mid, *up))


def lowest_stages(plan: UNetPlan) -> tuple[str, ...]:
    """Names of the stages at the lowest resolution, in the order in which they run: DW-3, Mid and UP-1 in SDXL."""
    names = (f"DW-{len(plan.channels)}", "Mid", "UP-1")
    return tuple(stage.name for stage in stages(plan) if stage.name in names)


def stage_of(path: str, plan: UNetPlan) -> str:
    """The name of the stage that a module belongs to; of what belongs to none, the first part of its path."""
    names = (stage.name for stage in stages(plan) if f"{path}.".startswith(f"{stage.path}."))
    return next(names, path.partition(".")[0])
