"""A whole run of scoring: plan, reference, sets, rows."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from eval import extractors
from eval.features import Spool
from eval.feed import Feed
from eval.images import Picture, decode
from eval.metric import ImageMetric
from eval.networks import Networks
from eval.passes import prepare
from eval.plan import Planned, Situation, Unavailable, plan
from eval.precision_probe import score_difference
from eval.progress import ScoreProgress
from eval.reference import Reference
from eval.reference_pass import against
from eval.run import Run
from eval.score import SetPass
from eval.set_scores import score_set, set_row
from eval.sources import ImageSet
from koala.errors import first_few
from koala.harness import environment, records
from koala.harness.records import Row, Store

ROWS = "rows.jsonl"
SAMPLE = 16  # images whose scores are compared with those in fp32


@dataclass(frozen=True)
class Job:
    """What to score, with what, against what, and where the rows go."""

    sets: Sequence[ImageSet]
    metrics: Sequence[str]  # none: the standard ones and their substitutes, as far as they can be computed
    reference: Reference | None
    out: Path
    networks: Networks
    batch_size: int
    workers: int
    choose_dtype: Callable[[Feed], str] | None = None
    all_of_them: bool = True  # a metric that was named and cannot be computed is an error

    @property
    def situation(self) -> Situation:
        """What there is to score."""
        prompts = [(images.name, [item.prompt for item in images.items]) for images in self.sets]
        bare = [f"{of.count(None)} of the {len(of)} images of {name}" for name, of in prompts if None in of]
        single = [name for name, of in prompts if len({*of} - {None}) == len(of) - of.count(None)]
        aimless = [images.name for images in self.sets if not any(item.expects for item in images.items)]
        return Situation(
            without_prompt=first_few(bare),
            without_expectations=first_few(aimless),
            without_groups=first_few(single),
            reference=self.reference is not None,
            reference_images=bool(self.reference and self.reference.images),
            misfit=self.reference.misfit if self.reference else lambda feed, dim: None,
        )


def score(job: Job, progress: ScoreProgress) -> list[str]:
    """Score all sets; rows are on disk as they come. What could not be read or computed, a line each."""
    ready, unavailable = plan(job.metrics, job.situation, job.networks.weights, job.choose_dtype, job.all_of_them)
    with _opened(job, ready, progress) as run:
        _announce(job, ready, unavailable, run)
        compared, problems = against(job.reference, ready, run)
        for images in job.sets:
            scored = SetPass(images, ready, run).scored()
            run.note_set(set_row(images, scored))
            problems += [f"{images.path / bad['file']}: {bad['reason']}" for bad in scored.unreadable]
            problems += score_set(images, scored, ready, compared, run)
    return problems


@contextmanager
def _opened(job: Job, ready: Sequence[Planned], progress: ScoreProgress) -> Iterator[Run]:
    """The run with its store and feature files open and locked."""
    here = environment.collect(str(job.networks.device))
    with ExitStack() as stack:
        store = stack.enter_context(Store(job.out / ROWS))
        done = records.read([job.out / ROWS])
        spools = {
            feed: stack.enter_context(Spool(job.out / "features" / name, extractors.load(feed.extractor).dim))
            for feed, name in spooled(ready).items()
        }
        if here["id"] not in done.environments:
            store.append(here)
        yield Run(job.networks, store, done, spools, job.batch_size, job.workers, here["id"], progress)


def spooled(ready: Sequence[Planned]) -> dict[Feed, str]:
    """The feeds whose features are kept on disk, with the name of their file."""
    return {p.feed: p.spool for p in ready if p.feed and p.spool and p.row["level"] != "group"}


def _announce(job: Job, ready: Sequence[Planned], unavailable: Sequence[Unavailable], run: Run) -> None:
    """Write what is new: the metrics' identities, and which metrics cannot be computed here."""
    known = {row["id"] for row in run.done.of_kind("metric").rows}
    run.store.append(*[{**p.row, **_beside_fp32(p, job.sets[0], run)} for p in ready if p.id not in known])
    for images in job.sets:
        for metric in unavailable:
            run.note_unavailable(images.id, metric.name, metric.reason, metric.files)


def _beside_fp32(planned: Planned, images: ImageSet, run: Run) -> Row:
    """What another arithmetic than fp32 does to the scores of some images; empty where the scores are in fp32."""
    if planned.feed is None or planned.feed.dtype == "fp32" or not isinstance(planned.metric, ImageMetric):
        return {}
    items = images.items[:SAMPLE]
    read = [(item, decode(item.path)) for item in items]
    pictures = {item.file: picture for item, picture in read if isinstance(picture, Picture)}
    if not pictures:
        return {}
    run.progress.stage(f"{planned.row['label']} beside fp32")
    prepared = prepare(planned.feed.preparation, list(pictures.values()), list(pictures), run.networks.device)
    prompts = [item.prompt or "" for item in items if item.file in pictures]
    return {
        "beside_fp32": asdict(score_difference(planned.metric, prepared, prompts, run.networks, planned.feed.dtype))
    }
