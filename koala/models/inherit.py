"""Which tensor of a teacher's U-Net each tensor of a student's starts from: pure rules over two plans.

The rules are those of BK-SDM (Kim et al., ECCV 2024), which KOALA (Lee et al., NeurIPS 2024, sections 3.1.1 and A.2)
and Segmind's distill-sd follow. Where the student has fewer

- blocks a stage: a down stage keeps its first ones, an up stage its first ones and its last, whose shape is its own;
- stages: the innermost ones go on both sides, so that an up stage is counted from the highest resolution;
- transformer layers: each block keeps its first ones.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from koala.errors import KoalaError, first_few
from koala.models.spec import UNetPlan
from koala.models.unet import build_unet, up_depths

_UP = re.compile(r"up_blocks\.(\d+)(?:\.(resnets|attentions)\.(\d+))?(\..+)?")
# What reads the conditioning: it has the conditioning's own width, and is not there without it.
_CONDITIONING = re.compile(r"(?:.+\.attn2\.to_[kv]|add_embedding\..+|class_embedding)\.(?:weight|bias)")
_NAMED_IN_ERRORS = 8

Shapes = Mapping[str, tuple[int, ...]]
Depths = tuple[int, ...]


@dataclass(frozen=True)
class Inheritance:
    """Every tensor of a student: the teacher's tensor that it starts from, or `fresh` where the teacher has none."""

    inherited: dict[str, str]
    fresh: tuple[str, ...]


def inherit(teacher: UNetPlan, student: UNetPlan) -> Inheritance:
    """Where each tensor of the student comes from, in the order of its state dict; all shapes are checked.

    Only what reads a conditioning that the teacher does not have, or has in another width, is fresh. A `KoalaError`
    says what keeps the student from being a part of the teacher.
    """
    if reasons := list(_obstacles(teacher, student)):
        raise KoalaError(f"this student cannot start from this teacher: {'; '.join(reasons)}")
    theirs, own = unet_shapes(teacher), unet_shapes(student)
    places = {key: teacher_key(key, teacher, student) for key in own}
    fits = {key: theirs.get(place) == own[key] for key, place in places.items()}
    wrong = [key for key, fit in fits.items() if not fit and not _CONDITIONING.fullmatch(key)]
    if wrong:
        raise KoalaError(_misfits(wrong, places, theirs, own))
    return Inheritance(
        {key: place for key, place in places.items() if fits[key]}, tuple(key for key, fit in fits.items() if not fit)
    )


def teacher_key(key: str, teacher: UNetPlan, student: UNetPlan) -> str:
    """The place in the teacher's U-Net of the student's tensor or module `key`; only the up path is counted otherwise.

    Transformer layers are counted alike.
    """
    if not (found := _UP.fullmatch(key)):
        return key
    stage, kind, block, rest = found.groups(default="")
    if kind:
        rest = f".{kind}.{_up_block(int(block), teacher, student)}{rest}"
    return f"up_blocks.{int(stage) + _dropped_stages(teacher, student)}{rest}"


@lru_cache(maxsize=32)
def unet_shapes(plan: UNetPlan) -> Shapes:
    """The shape of every tensor of the plan's U-Net, which is not to be changed."""
    with torch.device("meta"):
        return {key: tuple(tensor.shape) for key, tensor in build_unet(plan).state_dict().items()}


def _dropped_stages(teacher: UNetPlan, student: UNetPlan) -> int:
    return len(teacher.channels) - len(student.channels)


def _up_block(block: int, teacher: UNetPlan, student: UNetPlan) -> int:
    return teacher.layers_per_block if block == student.layers_per_block else block


def _obstacles(teacher: UNetPlan, student: UNetPlan) -> Iterator[str]:
    """What the two plans would have to have in common, or the teacher more of, in words."""
    stages = len(student.channels)
    same: dict[str, tuple[object, object, object]] = {  # what the student needs of it, all of the teacher's, its own
        "kinds of blocks": (teacher.blocks, teacher.blocks, student.blocks),
        "channels per stage": (teacher.channels[:stages], teacher.channels, student.channels),
        "heads per stage": (teacher.heads[:stages], teacher.heads, student.heads),
        "channels of what is denoised": (teacher.sample_channels, teacher.sample_channels, student.sample_channels),
        "linear projections": (teacher.linear_projection, teacher.linear_projection, student.linear_projection),
    }
    if student.mid_depth:
        same["heads in the mid block"] = (teacher.heads[-1], teacher.heads[-1], student.heads[-1])
    for what, (needed, theirs, own) in same.items():
        if needed != own:
            yield _differ(what, theirs, own)
    if student.layers_per_block > teacher.layers_per_block:
        yield _differ("blocks per down stage", teacher.layers_per_block, student.layers_per_block)
    elif stages <= len(teacher.channels):
        yield from _deeper(teacher, student)


def _deeper(teacher: UNetPlan, student: UNetPlan) -> Iterator[str]:
    """Where the student has more transformer layers than the places that it inherits from."""
    if student.mid_depth is not None and (teacher.mid_depth is None or student.mid_depth > teacher.mid_depth):
        yield _differ("transformer layers in the mid block", teacher.mid_depth, student.mid_depth)
    theirs, own = teacher.transformer_depths[: len(student.channels)], student.transformer_depths
    if _exceeds(own, theirs):
        yield _differ("transformer layers per down stage", theirs, own)
    kept = up_depths(teacher)[_dropped_stages(teacher, student) :]
    for i, (blocks, own) in enumerate(zip(kept, up_depths(student), strict=True)):
        theirs = tuple(blocks[_up_block(block, teacher, student)] for block in range(len(own)))
        if _exceeds(own, theirs):
            yield _differ(f"transformer layers of the blocks of up stage {i}", theirs, own)


def _exceeds(own: Depths, theirs: Depths) -> bool:
    return any(mine > other for mine, other in zip(own, theirs, strict=True))


def _differ(what: str, theirs: object, own: object) -> str:
    return f"{what}: the teacher has {_text(theirs)}, the student {_text(own)}"


def _text(value: object) -> str:
    words = {"None": "none", "True": "yes", "False": "no"}
    return ", ".join(map(str, value)) if isinstance(value, tuple) else words.get(str(value), str(value))


def _misfits(keys: list[str], places: Mapping[str, str], theirs: Shapes, own: Shapes) -> str:
    listed = [f"{key} {own[key]} from {places[key]} {theirs.get(places[key], '(none)')}" for key in keys]
    return f"{len(keys)} tensors do not fit their places in the teacher: {first_few(listed, _NAMED_IN_ERRORS)}"
