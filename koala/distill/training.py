"""A run from its start to its final folder, on one process or on several."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from rich.console import Console

from koala.distill import distributed, final, grids, log
from koala.distill.assemble import Assembly, assemble, models_of, open_cache, open_others
from koala.distill.config import FILE, Run, read_run, write_run
from koala.distill.dmd2 import DistributionMatching
from koala.distill.model_card import Ending
from koala.distill.resuming import changes, settings
from koala.distill.trainer import Trainer
from koala.distill.watch import Watch
from koala.errors import KoalaError
from koala.harness import environment
from koala.harness.cli import INTERRUPTED, stderr_console

_UNET = "unet"


def train(run: Run) -> int:
    """Train from the newest checkpoint to the end and print the final folder; the exit code, 130 after Ctrl-C."""
    console = stderr_console()
    if folder := final.finished(run):
        done = read_run(folder / FILE)
        if told := changes(settings(done), settings(run)):
            raise KoalaError(f"{folder} is of another run: {told}. Give what it was, or another --out")
        console.print(f"{done.steps} steps are done on {done.data}; more of them: --steps", markup=False)
        print(folder)
        return 0
    models = models_of(run)  # mistakes cost no process group and no weights
    open_others(run, models, open_cache(run, models))
    with distributed.processes(run, run.folder) as accelerator:
        split = run.split(accelerator.num_processes)
        watch = Watch(accelerator.device)
        made = distributed.together(accelerator, lambda: assemble(split, accelerator.device, watch))
        if run.lora_rank and accelerator.distributed_type == DistributedType.FSDP:
            raise KoalaError("adapters are small enough for every GPU: train them without FSDP")
        main = accelerator.is_main_process
        trainer = Trainer(
            split,
            made.objective,
            made.examples,
            run.folder,
            accelerator,
            watch=watch,
            sample=_sampling(split, made, accelerator, console),
            identity=_identity(made),
            accepted=lambda: write_run(run, run.folder / FILE),
            console=console,
        )
        try:
            trainer.train()
        except KeyboardInterrupt:
            return INTERRUPTED
        folder = distributed.together(accelerator, lambda: _finish(split, made, trainer, accelerator))
        if main:
            print(folder)
    return 0


def _identity(made: Assembly) -> dict[str, Any]:
    """What the run's own fields do not tell: which weights a folder holds, and what is in the cache."""
    teacher = made.models.teacher
    return {
        "student model": made.models.student.name,
        "teacher model": teacher.name if teacher else None,
        "content of the data": made.data_digest,
    }


def _sampling(run: Run, made: Assembly, accelerator: Accelerator, console: Console) -> Callable[[int], None] | None:
    """What draws the sample grids, where the run wants some."""
    sharded = accelerator.distributed_type == DistributedType.FSDP  # then all processes must draw together
    main = accelerator.is_main_process
    if not (main or sharded):
        return None
    conditioner = made.conditioner
    matching = made.objective if isinstance(made.objective, DistributionMatching) else None

    def say(text: str) -> None:
        if main:
            console.print(text, markup=False)

    drawn = grids.open_grids(run, made.models, made.examples, say, conditioner)
    if drawn is None:
        return None

    first = range(min(grids.PROMPTS, len(made.examples)))
    few = made.examples.batch(first, first) if matching else None

    def sample(step: int) -> None:
        images = drawn.images(made.unet)
        if main:
            drawn.write(images, step, run.folder / grids.FOLDER)
            grids.track(accelerator.trackers, images, step)
        if matching and few:
            seen = matching.look(few.to(accelerator.device, torch.float32))
            if main:
                drawn.write_scores(seen, few.captions, step, run.folder / grids.FOLDER)

    return sample


def _finish(run: Run, made: Assembly, trainer: Trainer, accelerator: Accelerator) -> Path | None:
    """Write the final folder, in the first process."""
    weights = {} if run.lora_rank else trainer.weights(_UNET)  # which all processes gather together
    if not accelerator.is_main_process:
        return None
    rows = log.read(run.folder / log.FILE)
    ending = Ending(
        steps=trainer.step,
        global_batch=trainer.global_batch,
        processes=accelerator.num_processes,
        device=environment.device_facts(_device(accelerator.device))["device_name"],
        hours=sum(row["step_s"] * row["interval"] for row in rows) / 3600,
        images=len(made.examples),
        data_digest=made.data_digest,
        losses=log.latest(rows, _UNET),
        averaged=run.ema_decay > 0,
    )
    curve = (lambda path: log.plot(rows, path)) if log.curves(rows) else None
    with trainer.published():
        return final.write_final(run, made, weights, ending, curve)


def _device(device: torch.device) -> str:
    return "cpu" if device.type == "cpu" else str(device)
