"""`python -m eval score`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from eval.weights.option import Paths, by_name
from koala.errors import KoalaError
from koala.harness.cli import INTERRUPTED, stderr_console
from koala.harness.options import Names

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from rich.console import Console

    from eval.feed import Feed
    from eval.session import Job

DEFAULT_OUT = Path("runs/eval")
EXAMPLES = (
    "python -m eval score runs/images/koala-700m --reference photos/",
    "python -m eval score A B --metrics fid:clean,clip_score:mlperf --reference coco_val2014.npz",
    "python -m eval score A --metrics fid:pytorch-fid --reference real/ --weights inception-v3-fid=inception.pth",
    "python -m eval score A --metrics toyclip_score,toyclip_accuracy --weights toyclip=toyclip.safetensors",
    "python -m eval score A --metrics clip_score:ViT-H-14/laion2b_s32b_b79k --clip-dtype auto",
)


@dataclass(frozen=True)
class Options:
    """Score images: galleries that `python -m koala sample` wrote, or plain folders.

    Each image is decoded once and each network sees it once, however many metrics read it. Rows are kept as they come:
    the same command goes on where it stopped. Exit code 1 if an image could not be read or a metric not computed.
    """

    paths: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN_OR_FOLDER...")]
    """Galleries or folders; metadata.csv (file_name, text, tags ...) gives a plain folder its prompts."""
    metrics: Names = ()
    """Metrics (`python -m eval metrics`); default: the standard ones whose weights are here, and their substitutes."""
    reference: Path | None = None
    """What sets are compared with: a folder of images, a gallery, or mean and covariance as .npz or .pt."""
    out: Path = DEFAULT_OUT
    """Folder of the rows and of the features."""
    device: str = ""
    """cpu, cuda or cuda:N; default: the GPU where there is one."""
    batch_size: int = 32
    """Images that go through a network together; never changes a score beyond rounding."""
    workers: int | None = None
    """Processes that decode images; 0: this one. Default: one per processor but one."""
    weights: Paths = ()
    """Where a weight file is, if nowhere it would be found (`python -m eval weights`)."""
    clip_dtype: Literal["fp32", "bf16", "auto"] = "fp32"
    """Arithmetic of CLIP networks; auto: bf16 where a probe finds it faster. bf16 scores have columns of their own."""
    fresh: bool = False
    """Set earlier rows aside and score everything again."""


def run(options: Options) -> int:
    """Score, and print the table of these sets; remarks and progress go to stderr."""
    from eval.progress import ScoreProgress
    from eval.session import score

    console = stderr_console()
    job = _job(options, console)
    if options.fresh:
        _set_aside(options.out)
    with ScoreProgress(console) as progress:
        try:
            problems = score(job, progress)
        except KeyboardInterrupt:
            kept = f"interrupted: what was scored is kept in {options.out}; the same command goes on from there"
            console.print(kept, markup=False)
            return INTERRUPTED
    for problem in problems:
        console.print(f"warning: {problem}", markup=False)
    _print_table(job)
    return 1 if problems else 0


def _job(options: Options, console: "Console") -> "Job":
    """The job that the flags describe; whatever would only come to light later is checked first."""
    import torch

    from eval.networks import Networks
    from eval.reader import default_workers
    from eval.reference import Reference
    from eval.session import Job
    from eval.sources import read_sets
    from eval.weights import Weights
    from koala.harness.environment import device_facts

    if not options.paths:
        raise KoalaError(f"say what to score: a gallery or a folder of images, as in `{EXAMPLES[0]}`")
    if options.batch_size < 1:
        raise KoalaError(f"--batch-size must be at least 1, not {options.batch_size}")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    device_facts(device)
    sets = {images.id: images for path in options.paths for images in read_sets(path)}
    reference = Reference(options.reference) if options.reference else None
    problems = [f"{images.path}: {problem}" for images in sets.values() for problem in images.problems]
    if reference and reference.images:
        problems += [f"reference {reference.path}: {problem}" for problem in reference.images.problems]
    for problem in dict.fromkeys(problems):
        console.print(f"warning: {problem}", markup=False)
    return Job(
        sets=list(sets.values()),
        metrics=options.metrics,
        reference=reference,
        out=options.out,
        networks=Networks(Weights(by_name(options.weights)), torch.device(device)),
        batch_size=options.batch_size,
        workers=default_workers() if options.workers is None else options.workers,
        choose_dtype=_dtype_rule(options.clip_dtype, torch.device(device)),
    )


def _dtype_rule(dtype: str, device: "torch.device") -> "Callable[[Feed], str] | None":
    """How the arithmetic of a feed is chosen; None: as the metric has it."""
    from eval import extractors
    from eval.precision_probe import Probed, choose_dtype

    if dtype == "auto":
        return lambda feed: choose_dtype(feed, device)
    if dtype == "bf16":
        return lambda feed: dtype if isinstance(extractors.load(feed.extractor), Probed) else feed.dtype
    return None


def _set_aside(out: Path) -> None:
    from eval.session import ROWS
    from koala.harness.records import set_aside

    if aside := set_aside(out / ROWS):
        print(f"earlier rows are in {aside}", file=sys.stderr)


def _print_table(job: "Job") -> None:
    """Print the scores of this job's sets, and what could not be computed."""
    from eval.report.markdown import not_computed, render_markdown
    from eval.session import ROWS
    from koala.harness.records import read
    from koala.harness.scores.collect import collect
    from koala.harness.scores.table import frame_of

    records = read([job.out / ROWS])
    scored, wanted = collect(records), {images.id for images in job.sets}
    frame = frame_of(scored, records)
    frame = frame[frame["set"].isin(wanted)] if len(frame) else frame
    print(render_markdown(frame))
    if missing := [row for row in scored.unavailable if row["set"] in wanted]:
        print("### Not computed here\n")
        print(not_computed(missing, frame))
    print(f"rows: {job.out / ROWS}; `python -m eval report` draws figures and sheets of them", file=sys.stderr)
