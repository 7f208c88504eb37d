"""`python -m eval run`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from eval.weights.option import Paths, by_name
from koala.errors import KoalaError
from koala.harness.cli import INTERRUPTED, stderr_console
from koala.harness.options import Names

if TYPE_CHECKING:
    from rich.console import Console

    from eval.generation.processes import Processes
    from eval.protocol_run import Run

DEFAULT_OUT = Path("runs/eval/protocols")
EXAMPLES = (
    "python -m eval run --protocol geneval --models koala-700m,sdxl",
    "python -m eval run --protocol bk-sdm --models bk-sdm-small --reference val2014/ --batch-size 8",
    "python -m eval run --protocol mlperf --models sdxl --reference val2014.npz",
    "python -m eval run --protocol emoji --models emoji-koala --reference runs/data/emoji/judged-32",
    "python -m eval run --protocol segmind --models tiny-segmind-tiny-sd --limit 8 --resolution 64 --also brightness",
)


@dataclass(frozen=True)
class Options:
    """Evaluate models as a paper or benchmark did: draw the images, score them, print published beside measured.

    The page goes to stdout and, with all rows, to OUT/PROTOCOL/. Stopped, the same command goes on where it was. Exit
    code 1 if an image could not be read or a metric not computed.
    """

    protocol: str = ""
    """koala, bk-sdm, segmind, dmd2-coco10k, dmd2-coco30k, mlperf, geneval, compbench, emoji."""
    models: Annotated[Names, tyro.conf.arg(aliases=["--model"])] = ()
    """Models of the zoo, a pattern such as 'koala-*', or folders of models that were trained here."""
    limit: int | None = None
    """A small trial: so many prompts of each suite."""
    resolution: int | None = None
    """A small trial: images of this side in the place of the protocol's."""
    also: Names = ()
    """More metrics than the protocol's (`python -m eval metrics`)."""
    reference: Path | None = None
    """The reference set: a folder of images, a gallery, or mean and covariance as .npz or .pt."""
    weights: str = ""
    """Weights of the models: hub, random, a diffusers folder or a checkpoint file; default: hub where released."""
    metric_weights: Paths = ()
    """Where a weight file of a metric is, if nowhere it would be found (`python -m eval weights`)."""
    profile: str = "eager"
    """Speed and memory profile (`python -m koala profiles`)."""
    dtype: str = ""
    """fp32, bf16 or fp16; default: the protocol's."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU if there is one."""
    batch_size: int = 1
    """Images that are drawn together."""
    workers: int | None = None
    """Processes that decode images for scoring. Default: one per processor but one."""
    out: Path = DEFAULT_OUT
    """Folder of images, rows and pages."""
    results: Path = Path("results")
    """Folder whose reference/ holds the published numbers."""


def run(options: Options) -> int:
    """Generate, score and print; the exit code is 130 after Ctrl-C."""
    from eval import protocols

    if not options.protocol:
        raise KoalaError(f"--protocol says how: {', '.join(protocols.PROTOCOLS)}")
    protocol = protocols.get(options.protocol)
    if protocol.obstacle:
        raise KoalaError(f"the protocol {options.protocol} cannot be run here: {protocol.obstacle}")
    if not options.models:
        raise KoalaError("--models says who draws, as in --models koala-700m,sdxl (`python -m koala models`)")

    from eval.generation.processes import processes
    from eval.protocol_run import Run
    from koala.commands.sample import chosen_device
    from koala.models import zoo

    job = Run(
        options.protocol,
        protocol,
        zoo.matching(options.models),
        options.out,
        options.limit,
        options.weights,
        options.profile,
        options.resolution,
        options.dtype,
        options.batch_size,
        options.also,
    )
    console = stderr_console()
    with processes(chosen_device(options.device)) as us:
        try:
            return _run(job, options, us, console)
        except KeyboardInterrupt:
            if us.first:
                console.print(
                    f"interrupted: what was made is kept in {job.folder}; the same command goes on from there"
                )
            return INTERRUPTED


def _run(job: "Run", options: Options, us: "Processes", console: "Console") -> int:
    from rich.console import Console

    from eval.progress import ScoreProgress
    from eval.protocol_run import Scoring, generate, render, score_all
    from eval.reader import default_workers
    from koala.harness.files import write_whole

    galleries = generate(job, us, console if us.first else Console(quiet=True))
    if not us.first:
        return 0  # one process scores
    workers = default_workers() if options.workers is None else options.workers
    how = Scoring(by_name(options.metric_weights), options.reference, us.device, 32, workers)
    with ScoreProgress(console) as progress:
        problems = score_all(job, galleries, how, progress)
    for problem in problems:
        console.print(f"warning: {problem}", markup=False)
    page = render(job, galleries, options.results / "reference")
    write_whole(job.folder / "report.md", page)
    print(page)
    console.print(f"page and rows: {job.folder}", markup=False)
    return 1 if problems else 0
