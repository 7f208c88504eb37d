"""Which module of a teacher's U-Net each compared module of a student's is compared with: pure rules over two plans.

A student's block is compared with the block that it inherits from (koala/models/inherit.py), its transformer layers
with those of that block by a rule of location (KOALA, NeurIPS 2024, section 3.1.2 and Table 11c).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from koala.distill.config import Location
from koala.distill.taps import Taps, named_modules, unknown_module
from koala.errors import KoalaError, UnknownName
from koala.models.anatomy import KINDS, LAYER_PARTS, Stage, layer_part, stage_of, stages
from koala.models.inherit import teacher_key
from koala.models.spec import UNetPlan
from koala.models.unet import build_unet

EXPLICIT = "module"
_SIDE = 64  # of the sample whose shapes are compared: several halvings leave whole numbers

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Pair:
    """Two modules whose outputs are compared."""

    kind: str  # SA, CA, FFN, Res, LF, PO, or EXPLICIT for modules that were named
    stage: str  # the student's
    student: str
    teacher: str


def pairs(features: Sequence[str], location: Location, teacher: UNetPlan, student: UNetPlan) -> tuple[Pair, ...]:
    """What `Run.features` stands for, each pair once, all of them of like shapes.

    KIND takes every stage of the student that has such features, KIND@STAGE one of them, KIND@DW and KIND@UP those of
    one way; STUDENT=TEACHER names two modules. A `KoalaError` says what is not there or differs in shape.
    """
    if not features:
        return ()
    found = dict.fromkeys(pair for text in features for pair in _pairs_of(text, location, teacher, student))
    own, theirs = output_shapes(student), output_shapes(teacher)
    for pair in found:
        _check(pair, own, theirs)
    return tuple(found)


def layers(location: Location, kept: int, depth: int) -> tuple[int, ...]:
    """Which of `depth` layers of a teacher's block the `kept` of a student's are compared with, all counted from 0.

    interleave takes every k-th, k = ceil(depth / kept), until only as many are left as are needed: of 10 it takes
    1, 3, 5, 7, 9, 10 for six (as the paper prints) and 1, 3, 5, 7, 9 for five; k is read from this one example.
    """
    assert 1 <= kept <= depth, (kept, depth)
    skipped = depth - kept
    step = {"bottom": 1, "interleave": -(-depth // kept), "up": depth}[location]
    first = skipped if location == "up" else 0
    return tuple(min(first + step * i, skipped + i) for i in range(kept))


def _pairs_of(text: str, location: Location, teacher: UNetPlan, student: UNetPlan) -> Iterator[Pair]:
    """The pairs of one entry of `Run.features`."""
    own, equals, their = text.partition("=")
    if equals:
        yield Pair(EXPLICIT, stage_of(own, student), own, their)
        return
    kind, at, where = text.partition("@")
    if kind not in KINDS:
        raise UnknownName("feature kind", kind, KINDS)
    chosen = _chosen(where, student) if at else stages(student)
    having = [stage for stage in chosen if stage.modules(kind)]
    if not having:
        there = "; ".join(f"{stage.name} has {', '.join(stage.kinds)}" for stage in chosen)
        raise KoalaError(f"{text}: the student has no such features: {there}")
    for stage in having:
        counterparts = _counterparts(kind, stage, location, teacher, student)
        yield from (Pair(kind, stage.name, *paths) for paths in zip(stage.modules(kind), counterparts, strict=True))


def _chosen(where: str, student: UNetPlan) -> list[Stage]:
    """The stages that `where` names: one of them, or all of the way DW or UP."""
    of_name = {stage.name: (stage.name, stage.name.partition("-")[0]) for stage in stages(student)}
    chosen = [stage for stage in stages(student) if where in of_name[stage.name]]
    if not chosen:
        raise UnknownName("stage", where, {name for names in of_name.values() for name in names})
    return chosen


def _counterparts(kind: str, stage: Stage, location: Location, teacher: UNetPlan, student: UNetPlan) -> Iterator[str]:
    """The teacher's modules that those of a student's stage are compared with, in their order."""
    place = partial(teacher_key, teacher=teacher, student=student)
    theirs = {other.path: other for other in stages(teacher)}.get(place(stage.path))
    if theirs is None or not theirs.modules(kind):
        raise KoalaError(f"{kind} at {stage.name}: the teacher has no such features in its {place(stage.path)}")
    if kind == "PO":  # the last block stands for its stage, whatever its number
        yield from theirs.modules(kind)
    elif kind not in LAYER_PARTS:
        yield from map(place, stage.modules(kind))
    else:
        for block, kept in stage.attentions.items():
            depth = theirs.attentions.get(place(block), 0)
            if kept > depth:
                counts = f"{block} has {kept} transformer layers and the teacher's {place(block)} {depth}"
                raise KoalaError(f"{kind} at {stage.name}: {counts}")
            if stage.bare:
                yield place(block)
            else:
                yield from (layer_part(place(block), layer, kind) for layer in layers(location, kept, depth))


def output_shapes(plan: UNetPlan) -> Shapes:
    """The shape of what each module of the plan's U-Net gives for one sample, by path."""
    shapes = dict(_measured(_shallow(plan)))
    for block, depth in ((block, depth) for stage in stages(plan) for block, depth in stage.attentions.items()):
        first = f"{block}.transformer_blocks.0"
        parts = {
            path.removeprefix(first): shape for path, shape in shapes.items() if f"{path}.".startswith(f"{first}.")
        }
        for i in range(1, depth):
            shapes |= {f"{block}.transformer_blocks.{i}{part}": shape for part, shape in parts.items()}
    return shapes


def _shallow(plan: UNetPlan) -> UNetPlan:
    """The plan with one transformer layer where there are several, which are all alike and take time to run."""
    up = plan.up_transformer_depths
    return replace(
        plan,
        transformer_depths=tuple(min(1, depth) for depth in plan.transformer_depths),
        mid_depth=plan.mid_depth and 1,
        up_transformer_depths=up and tuple(tuple(min(1, depth) for depth in depths) for depths in up),
    )


@lru_cache(maxsize=32)
@torch.no_grad()
def _measured(plan: UNetPlan) -> Shapes:
    """The shape of what each module gives, from one forward pass without numbers; not to be changed."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str, output: Tensor) -> None:
        shapes[name] = tuple(output.shape)

    with torch.device("meta"):
        unet = build_unet(plan)
        sample, timestep = torch.empty(1, plan.sample_channels, _SIDE, _SIDE), torch.zeros(1, dtype=torch.long)
        context = None if plan.context_dim is None else torch.empty(1, 1, plan.context_dim)
        arguments: dict[str, Any] = {"class_labels": None if plan.class_labels is None else timestep}
        if plan.pooled_dim is not None:
            embeds, sizes = torch.empty(1, plan.pooled_dim), torch.empty(1, 6)
            arguments["added_cond_kwargs"] = {"text_embeds": embeds, "time_ids": sizes}
        with Taps(unet, filter(None, named_modules(unet)), note) as taps, taps.collecting():
            unet(sample, timestep, context, **arguments)
    return shapes


def _check(pair: Pair, own: Shapes, theirs: Shapes) -> None:
    for owner, path, known in (("student", pair.student, own), ("teacher", pair.teacher, theirs)):
        if path not in known:
            raise unknown_module(owner, path, known)
    if own[pair.student] != theirs[pair.teacher]:
        raise KoalaError(
            f"{pair.kind} at {pair.stage}: the student's {pair.student} gives {own[pair.student]} and the teacher's "
            f"{pair.teacher} {theirs[pair.teacher]} for a sample of {_SIDE} x {_SIDE}; name other stages or modules"
        )
