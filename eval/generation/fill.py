"""Galleries of a suite, filled by one process or several: what is there is kept, what is missing is drawn."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from eval.generation.processes import Processes
from eval.generation.variants import Variant
from koala.errors import KoalaError
from koala.harness import environment
from koala.harness.records import Row
from koala.sampling.contact_sheet import write_contact_sheet
from koala.sampling.filling import clean_warnings
from koala.sampling.gallery import Gallery
from koala.sampling.job import Model, Picture, Settings, batches, draw_batches, unfinished
from koala.sampling.progress import DrawingProgress


@dataclass(frozen=True)
class Job:
    """Galleries to fill, one a variant, each with all of `pictures`, as folders in `out`."""

    variants: Sequence[Variant]
    pictures: Sequence[Picture]
    batch_size: int
    out: Path

    def folder(self, variant: Variant) -> Path:
        """The gallery of a variant."""
        return self.out / variant.name


def fill(job: Job, us: Processes, console: Console) -> list[Path]:
    """Draw what is missing; the galleries. Each model is loaded once, and only if something of it is missing."""
    if job.batch_size < 1:
        raise KoalaError(f"--batch-size must be at least 1, not {job.batch_size}")
    here = environment.collect(us.device)
    model: Model | None = None
    for variant in job.variants:
        if model is None or _loaded_as(model.settings) != _loaded_as(variant.settings):
            model = Model(variant.settings, [picture.prompt for picture in job.pictures])
        with Gallery(job.folder(variant), us.writer) as gallery:
            _Filling(job, variant, gallery, us, console).run(model, here)
    return [job.folder(variant) for variant in job.variants]


def _loaded_as(settings: Settings) -> tuple[object, ...]:
    """What two settings share that can be drawn by one loaded model."""
    return settings.spec, settings.weights, settings.profile, settings.dtype


class _Filling:
    """One gallery on its way to being full."""

    def __init__(self, job: Job, variant: Variant, gallery: Gallery, us: Processes, console: Console):
        self._job, self._variant, self._gallery, self._us, self._console = job, variant, gallery, us, console

    def run(self, model: Model, here: Row) -> None:
        """Draw this process's share, and return when all of them have drawn theirs."""
        job, us, settings = self._job, self._us, self._variant.settings
        us.wait()  # nobody writes before everybody has seen what is there
        missing = unfinished(settings, job.pictures, self._gallery)
        us.wait()
        self._say_what_is_missing(missing)
        self._gallery.add_environment(here)
        facts = {"environment": here["id"], "device_name": here["device_name"]}
        todo = batches(job.pictures, missing, job.batch_size, us.rank, us.count)
        if todo:
            _ = model.encodings  # loads the model, which is no part of the rate
        started = time.perf_counter()
        bar = DrawingProgress(sum(map(len, todo)), self._console, self._variant.name)
        try:
            with clean_warnings(self._console), bar:
                for _path in draw_batches(model, settings, todo, missing, self._gallery, facts, None, bar.step):
                    pass
        except torch.OutOfMemoryError as error:
            raise KoalaError(
                f"out of GPU memory while drawing {self._variant.name}; what was drawn is in {self._gallery.folder}. "
                "Try a smaller --batch-size, --profile low-vram or lower --resolutions"
            ) from error
        us.wait()
        self._finish(missing, time.perf_counter() - started)

    def _say_what_is_missing(self, missing: Sequence[Picture]) -> None:
        if missing:
            kept = len(self._job.pictures) - len(missing)
            there = f", {kept} are there already" if kept else ""
            by = f" by {self._us.count} processes" if self._us.count > 1 else ""
            self._say(f"drawing {len(missing)} images{by}{there}")

    def _finish(self, missing: Sequence[Picture], took_s: float) -> None:
        if missing and self._us.first:
            write_contact_sheet(self._gallery)
        rate = f", {len(missing) / took_s:.3g} images/s" if missing else ""
        self._say(f"all {len(self._job.pictures)} images are in {self._gallery.folder}{rate}")

    def _say(self, text: str) -> None:
        self._console.print(f"{self._variant.name}: {text}", markup=False)
