"""A paper's protocol from prompts to published beside measured: generate, score, report."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console

from eval import suites
from eval.generation.fill import Job as Drawing
from eval.generation.fill import fill
from eval.generation.pictures import pictures
from eval.generation.processes import Processes
from eval.generation.variants import Axes, variants
from eval.networks import Networks
from eval.prompts.load import start_latents
from eval.protocols import Part, Protocol
from eval.reference import Reference
from eval.report.markdown import not_computed, render_markdown
from eval.report.published import read_published, render_published
from eval.session import ROWS, Job, score
from eval.sources import read_sets
from eval.suite import Suite
from eval.weights import Weights
from koala.errors import KoalaError
from koala.harness.records import read
from koala.harness.scores.collect import collect
from koala.harness.scores.headings import lines_of, value_text
from koala.harness.scores.table import frame_of
from koala.harness.tables import escape, to_markdown
from koala.models.spec import Recipe
from koala.sampling.start import StartLatents


@dataclass(frozen=True)
class Run:
    """Models to be evaluated as a protocol says, `limit` prompts of each suite or all of them, under `out`."""

    name: str
    protocol: Protocol
    models: tuple[str, ...]
    out: Path
    limit: int | None = None
    weights: str = ""
    profile: str = "eager"
    resolution: int | None = None  # of a smaller trial than the protocol's
    dtype: str = ""
    batch_size: int = 1
    also: tuple[str, ...] = ()  # metrics beyond the protocol's

    @property
    def folder(self) -> Path:
        """Where images and rows go; a smaller trial never mixes with the whole."""
        small = f"-limit{self.limit}" if self.limit is not None else ""
        return self.out / (self.name + small + (f"-{self.resolution}px" if self.resolution else ""))

    @property
    def is_trial(self) -> bool:
        """Whether it is smaller than the protocol."""
        return self.limit is not None or self.resolution is not None

    def suite(self, part: Part) -> Suite:
        """The prompts of a part."""
        suite = suites.load(part.suite)
        return suite if self.limit is None else suites.limited(suite, self.limit)

    def recipe(self, own: Recipe) -> Recipe:
        """What the protocol makes of a model's recipe."""
        return replace(own, **self.protocol.recipe)


def generate(run: Run, us: Processes, console: Console) -> dict[Part, list[Path]]:
    """The galleries of each part, filled."""
    protocol = run.protocol
    loaded = [(part, run.suite(part)) for part in protocol.parts]  # a missing file is an error before anything is drawn
    galleries: dict[Part, list[Path]] = {}
    for part, suite in loaded:
        start = start_latents(part.suite) if protocol.start_latents else None
        axes = Axes(
            run.models,
            resolutions=_sides(run),
            profile=run.profile,
            weights=run.weights,
            dtype=run.dtype or protocol.dtype,
            recipe=run.recipe,
            start=StartLatents(start) if start else None,
        )
        todo = pictures(suite, part.images_per_prompt, protocol.seed)
        with us.first_before_others():
            wanted = variants(axes, us.device, console.print)
        galleries[part] = fill(Drawing(wanted, todo, run.batch_size, run.folder / part.suite), us, console)
    return galleries


def _sides(run: Run) -> tuple[int, ...]:
    side = run.resolution or run.protocol.resolution
    return (side,) if side else ()


@dataclass(frozen=True)
class Scoring:
    """With what images are scored."""

    weights: dict[str, Path]
    reference: Path | None
    device: str
    batch_size: int
    workers: int


def score_all(run: Run, galleries: dict[Part, list[Path]], how: Scoring, progress: Any) -> list[str]:
    """Score each part by its metrics, as far as they can be computed; problems, a line each."""
    problems = []
    reference = Reference(how.reference) if how.reference else None
    networks = Networks(Weights(how.weights), torch.device(how.device))  # loaded once for all parts
    for part, folders in galleries.items():
        sets = [images for folder in folders for images in read_sets(folder)]
        job = Job(
            sets=sets,
            metrics=(*part.metrics, *run.also),
            reference=reference,
            out=run.folder,
            networks=networks,
            batch_size=how.batch_size,
            workers=how.workers,
            all_of_them=False,
        )
        try:
            problems += score(job, progress)
        except KoalaError as error:
            problems.append(f"{part.suite}: {error}")
    return problems


def render(run: Run, galleries: dict[Part, list[Path]], reference: Path) -> str:
    """The page: what the protocol is, scores, published beside measured, what is valid, what could not be computed."""
    parts = [_heading(run)]
    if (run.folder / ROWS).exists():
        records = read([run.folder / ROWS])
        scored = collect(records)
        wanted = {images.id for folders in galleries.values() for folder in folders for images in read_sets(folder)}
        frame = frame_of(scored, records)
        frame = frame[frame["set"].isin(wanted)] if len(frame) else frame
        published = read_published(reference)
        published = published[published["benchmark"] == run.protocol.benchmark]
        parts += [render_markdown(frame), "### Published beside measured\n", render_published(published, frame)]
        parts += _accepted(run, frame)
        missing = [row for row in scored.unavailable if row["set"] in wanted]
        parts += ["### Not computed here\n", not_computed(missing, frame)] if missing else []
    return "\n".join(parts)


def _heading(run: Run) -> str:
    protocol = run.protocol
    lines = [f"## {protocol.title}", "", f"Source: {protocol.source}", ""]
    for part in protocol.parts:
        suite = run.suite(part)
        lines.append(
            f"- {len(suite.prompts)} prompts of {suite.title} x {part.images_per_prompt} images, "
            f"scored by {', '.join(part.metrics)}"
        )
    lines += ["", _trial(run)] if run.is_trial else []
    lines += ["", f"Reference set: {protocol.reference}."] if protocol.reference else []
    lines += ["", "Left open, and what is done here:", *(f"- {open}." for open in protocol.left_open)]
    return "\n".join([*lines, ""])


def _trial(run: Run) -> str:
    whole = f"{run.protocol.images} images of each model"
    whole += f" at {run.protocol.resolution} px" if run.protocol.resolution else ""
    said = [f"{run.limit} prompts of each suite"] if run.limit is not None else []
    said += [f"images of {run.resolution} px"] if run.resolution else []
    return f"**A trial with {' and '.join(said)}: not the protocol's numbers**, which are of {whole}."


def _accepted(run: Run, frame: pd.DataFrame) -> Sequence[str]:
    """Whether each measured value lies where the benchmark accepts it; only the bare standard metrics may."""
    rows = []
    for line in lines_of(frame) if len(frame) else []:
        if (band := run.protocol.accepts.get(line["metric"])) and line["value"] is not None:
            reasons = [
                *(["a trial"] if run.is_trial else []),
                *(["random weights"] if line["random_weights"] else []),
                *(["not the standard weights"] if line["label"] != line["metric"] else []),
            ]
            inside = band[0] <= line["value"] <= band[1]
            verdict = f"does not count: {', '.join(reasons)}" if reasons else "valid" if inside else "not valid"
            name = escape(str(line["name"]))
            rows.append(
                {
                    "images of": name,
                    "metric": escape(line["label"]),
                    "accepted": f"{band[0]} to {band[1]}",
                    "measured": value_text(line),
                    "": verdict,
                }
            )
    return ["### Accepted range\n", to_markdown(pd.DataFrame(rows)), ""] if rows else []
