"""Where the time of a denoising step goes: the U-Net's layers by kind and by stage, text and decoding beside it.

Hooks take marks around every module of a kind and every stage while a step runs as it always does; what a mark reads,
a clock or a counter of operations, is an argument. Runs in a process of its own.
"""

import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bench.case import Case
from bench.instruments.clock import Clock, clock_for
from bench.instruments.module_marks import ModuleMarks, Span, by_path
from bench.instruments.phases import Phases
from bench.isolate import Message, Send
from bench.measure import Workload
from bench.worker import current_device, is_out_of_memory
from bench.workloads import PROMPT, build_workload
from koala.errors import KoalaError
from koala.models.anatomy import lowest_stages, stages
from koala.models.cost import unet_inputs
from koala.models.load import DTYPES, load
from koala.models.networks import count_params, meta_networks
from koala.models.spec import ModelSpec, UNetPlan
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import build_scheduler, set_timesteps

WHOLE = ""  # path of the U-Net itself
IN_OUT = "in/out"  # the "stage" of what belongs to none: first and last convolution, time and added embeddings
OTHER = "other"  # the kind of what is left: norms and projections of transformers, concatenations
_LEAST, _MOST, _BUDGET_S = 3, 21, 20.0  # turns, and seconds for them, unless the user says how many

Cell = tuple[str, str]  # stage and kind
Say = Callable[[str], None]  # hears what is being done


@dataclass(frozen=True)
class Spot:
    """A module with marks around it; a stage and the whole U-Net have no kind, for they do all kinds of work."""

    path: str
    stage: str
    kind: str | None = None


def spots(plan: UNetPlan) -> tuple[Spot, ...]:
    """The U-Net, its stages in running order and, after each, its modules kind by kind."""
    found = [Spot(WHOLE, IN_OUT)]
    for stage in stages(plan):
        found.append(Spot(stage.path, stage.name))
        found += [Spot(path, stage.name, kind) for kind, paths in stage.work.items() for path in paths]
    return tuple(found)


def cells(places: Iterable[Spot], amounts: Mapping[str, float]) -> dict[Cell, float]:
    """What each cell has to itself, of amounts by path that hold for a module with all that is inside it.

    "other" of a stage is the stage without its kinds, and that of "in/out" is the U-Net without its stages: the cells
    add up to the U-Net's amount.
    """
    own: dict[Cell, float] = {}
    whole = 0.0
    for place in places:
        amount = amounts[place.path]
        if place.path == WHOLE:
            whole = amount
        elif place.kind is None:
            own[place.stage, OTHER] = own.get((place.stage, OTHER), 0) + amount
            whole -= amount
        else:
            own[place.stage, place.kind] = own.get((place.stage, place.kind), 0) + amount
            own[place.stage, OTHER] -= amount
    return own | {(IN_OUT, OTHER): whole}


def count_flops(spec: ModelSpec, resolution: int, rows: int, paths: Iterable[str]) -> dict[str, int]:
    """Floating-point operations, 2 a multiply-add, of each module in one U-Net call on that many rows.

    Matrix products, convolutions and attention are counted, on the meta device; norms and activations are not.
    """
    unet = meta_networks(spec, ("unet",))["unet"]
    flops = FlopCounterMode(display=False)
    inputs = unet_inputs(spec, resolution, rows, torch.float32, torch.device("meta"))
    with torch.device("meta"), torch.no_grad(), flops, ModuleMarks(unet, paths, flops.get_total_flops) as marks:
        unet(**inputs)
    return {path: int(amount) for path, amount in by_path(marks.spans(lambda begin, end: end - begin)).items()}


def measure_breakdown(send: Send, case_fields: dict[str, Any], repeats: int | None) -> Message:
    """The breakdown of a case of the target `unet`: `status` "ok" with every sample in seconds, "oom", or "mistake".

    The parts are loaded one after the other, so that only the largest has to fit.
    """
    case = Case(**case_fields)
    device = current_device(case.device)
    clock = clock_for(device)
    measured: Message = {"status": "ok", "threads": torch.get_num_threads(), "parts": []}
    doing = ""

    def say(text: str) -> None:
        nonlocal doing
        doing = text
        send({"doing": text})

    try:
        measured |= _unet(say, case, clock, repeats)
        for measure in (_text, _decoding):
            _let_go(device)
            measured["parts"] += measure(say, case, clock, repeats)
    except KoalaError as error:
        measured |= {"status": "mistake", "reason": str(error)}
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = (str(error).splitlines() or ["out of memory"])[0]
        measured |= {"status": "oom", "reason": f"{doing}: {said}"}
    return measured


def _unet(say: Say, case: Case, clock: Clock, repeats: int | None) -> Message:
    """Cells, modules, the plain and the hooked calls, and the spans of the hooked call of middle length."""
    say("loading the U-Net")
    workload, components = build_workload(case.spec, case, Phases(clock))
    spec, unet = components.spec, cast(Any, components.unet)
    places = spots(spec.unet)
    rows = case.batch_size * (2 if spec.recipe.guided else 1)
    say("counting operations")
    paths = [place.path for place in places]
    flops = count_flops(spec, case.resolution, rows, paths)
    params = {path: count_params(unet.get_submodule(path)) for path in paths}
    turns = take_turns(workload, unet, paths, clock, repeats, say)
    seconds = [by_path(spans) for spans in turns.hooked]
    timesteps = set_timesteps(
        build_scheduler(spec.recipe, spec.prediction, spec.noising), spec.recipe, torch.device("cpu")
    )
    return {
        "rows": rows,
        "steps": len(timesteps),
        "lowest_stages": list(lowest_stages(spec.unet)),
        "plain_s": turns.plain,
        "hooked_s": [sample[WHOLE] for sample in seconds],
        "step_s": turns.steps,
        "warmup_s": turns.warmup,
        "cells": _cells(places, params, flops, seconds),
        "modules": [
            {"path": p.path, "stage": p.stage, "kind": p.kind, "params": params[p.path], "flops": flops[p.path]}
            | {"samples_s": [sample[p.path] for sample in seconds]}
            for p in places
        ],
        "spans": [
            {"path": span.path, "start_s": span.start, "seconds": span.amount}
            for span in sorted(turns.hooked, key=lambda spans: spans[-1].amount)[len(turns.hooked) // 2]
        ],
    }


def _cells(
    places: Sequence[Spot], params: Mapping[str, int], flops: Mapping[str, int], seconds: Sequence[Mapping[str, float]]
) -> list[Message]:
    """One record a cell, stages in running order, with all its samples."""
    of_params, of_flops = cells(places, params), cells(places, flops)
    samples = [cells(places, sample) for sample in seconds]
    return [
        {"stage": cell[0], "kind": cell[1], "params": int(of_params[cell]), "flops": int(of_flops[cell])}
        | {"samples_s": [sample[cell] for sample in samples]}
        for cell in of_params
    ]


@dataclass(frozen=True)
class Turns:
    """What was measured in turns: U-Net seconds of plain steps, the spans of hooked ones, wall seconds of the steps."""

    plain: list[float]
    hooked: list[list[Span]]
    steps: list[float]  # whole plain steps: U-Net, guidance and scheduler
    warmup: list[float]  # whole steps that were made first


def take_turns(
    workload: Workload,
    unet: nn.Module,
    paths: Sequence[str],
    clock: Clock,
    repeats: int | None,
    say: Say = lambda text: None,
) -> Turns:
    """Steps with marks around the U-Net alone and around all `paths`, in turns that change their order each time.

    One turn of both warms up; `repeats` turns follow, or as many as 20 s allow (3 to 21).
    """
    turns = Turns([], [], [], [])

    def step(watched: Sequence[str]) -> tuple[float, list[Span]]:
        workload.prepare()
        workload.phases.clear()
        with ModuleMarks(unet, watched, clock.mark) as marks:
            total = clock.time(workload.run)["total"]
        return total, marks.spans(clock.between)

    say("warming up")
    turns.warmup.extend(step(watched)[0] for watched in ((WHOLE,), paths))
    count = repeats or turns_for(2 * min(turns.warmup))
    for turn in range(count):
        say(f"turn {turn + 1} of {count}")
        for hooked in (False, True) if turn % 2 == 0 else (True, False):
            total, spans = step(paths if hooked else (WHOLE,))
            if hooked:
                turns.hooked.append(spans)
            else:
                turns.plain.append(spans[-1].amount)
                turns.steps.append(total)
    return turns


def turns_for(turn_s: float) -> int:
    """How many repeats of something that takes that many seconds: an odd number from 3 to 21, within about 20 s."""
    return min(_MOST, max(_LEAST, int(_BUDGET_S / turn_s) // 2 * 2 + 1))


def _text(say: Say, case: Case, clock: Clock, repeats: int | None) -> list[Message]:
    """Encoding one prompt an image, and what guidance contrasts it with; nothing where there are no text encoders."""
    if not case.spec.text_encoders:
        return []
    say("encoding text")
    components = load(case.spec, case.device, case.dtype, case.weights, ("text",))
    sampler = Sampler(components)
    timed = _repeated(lambda: sampler.encode([PROMPT] * case.batch_size), clock, repeats)
    return [
        {"name": "text encoding", "dtype": case.dtype, "params": sum(map(count_params, components.networks)), **timed}
    ]


def _decoding(say: Say, case: Case, clock: Clock, repeats: int | None) -> list[Message]:
    """Latents to float images, in the precision that the autoencoder is loaded in; nothing for a model of pixels."""
    spec = case.spec
    if spec.autoencoder is None:
        return []
    say("decoding latents")
    components = load(spec, case.device, case.dtype, case.weights, ("autoencoder",))
    sampler, autoencoder = Sampler(components), components.autoencoder
    side = case.resolution // spec.downscale
    torch.manual_seed(0)
    latents = torch.randn(case.batch_size, spec.unet.sample_channels, side, side).to(
        components.device, components.dtype
    )
    timed = _repeated(lambda: sampler.decode(latents), clock, repeats)
    dtype = next(name for name, known in DTYPES.items() if known == autoencoder.dtype)
    return [{"name": "VAE decoding", "dtype": dtype, "params": count_params(autoencoder), **timed}]


def _repeated(call: Callable[[], object], clock: Clock, repeats: int | None) -> Message:
    warmup = [clock.time(call)["total"] for _ in range(2)]
    count = repeats or turns_for(min(warmup))
    return {"warmup_s": warmup, "samples_s": [clock.time(call)["total"] for _ in range(count)]}


def _let_go(device: torch.device) -> None:
    """Free what the last part held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
