"""`python -m koala encode`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.console import Console

from koala.commands.sample import chosen_device
from koala.errors import KoalaError
from koala.harness.cli import stderr_console
from koala.harness.options import Names
from koala.models import zoo
from koala.models.spec import ModelSpec

if TYPE_CHECKING:
    from koala.distill.data.building import Job
    from koala.distill.data.cache import Index
    from koala.distill.data.encoding import Preparation

_ROWS_PER_UNIT = 1000  # before a unit has shown how many it has
EXAMPLES = (
    "python -m koala encode photos --model koala-700m --out runs/caches/photos",
    "python -m koala encode 'laion/{0000..0099}.tar' --model sdxl --min-side 512 --score-column aesthetic "
    "--min-score 6 --out runs/caches/laion",
    "python -m koala encode photos --model sdxl --caption-columns text,llava --captions append --dry-run",
    "python -m koala encode runs/caches/photos --check",
)


@dataclass(frozen=True)
class Options:
    """Encode captioned images once, into latents and text embeddings that training reads.

    A source is a folder of images with metadata.jsonl or metadata.csv, WebDataset tars, parquet files or a datasets id.
    The same command again goes on where it was stopped, and makes missing files anew. Images that are broken, filtered
    out or without caption are counted. Statistics go to stdout. Several GPUs: `accelerate launch -m koala encode ...`.
    """

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Captioned images; with --check a cache."""
    model: str = ""
    """Model of the zoo (`python -m koala models`) that will be trained, or its teacher."""
    out: Path | None = None
    """Folder of the cache."""
    weights: str = ""
    """hub, random, a diffusers folder or a checkpoint file; default: hub, or random where none are released."""
    resolution: int = 0
    """Side of the square crops in pixels; 0: the model's own."""
    caption_columns: Names = ("text",)
    """Columns of captions."""
    captions: Literal["each", "append", "replace"] = "each"
    """Several columns: each a caption of its own, all joined in order, or the last that is not empty."""
    min_side: int = 0
    """Pixels that the shorter side of an image must have."""
    score_column: str = ""
    """Column of a score, such as an aesthetic one."""
    min_score: float | None = None
    """Least value in that column."""
    min_words: int = 0
    """Least words of a caption."""
    max_words: int = 0
    """Most words of a caption; 0: any number."""
    crops: int = 1
    """Squares cut out of each image: the centre, then others at random."""
    flip: bool = False
    """As many again out of the mirrored image."""
    interpolation: Literal["bilinear", "bicubic", "lanczos"] = "bilinear"
    """How images are resized."""
    dtype: str = "auto"
    """fp32, bf16 or fp16, of the text encoders and the autoencoder; auto: fp16 on a GPU, else fp32."""
    batch_size: int = 8
    """Images or captions that are encoded together."""
    workers: int = 4
    """Threads that read, decode and crop ahead."""
    limit: int = 0
    """Take no more than this many examples from the beginning of the source; 0: all."""
    seed: int = 0
    """Of the crops, the autoencoder's samples and random weights."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU for each process if there is one."""
    dry_run: bool = False
    """Go through the source and say what the cache would hold and cost, without weights."""
    check: bool = False
    """Read every file of a cache and say which are missing or damaged."""


def run(options: Options) -> int:
    """Encode what is missing; the exit code is 1 for an empty or damaged cache, 130 after Ctrl-C."""
    console = stderr_console()
    if options.check:
        return check(options.out or Path(options.source))
    spec = chosen_model(options)
    if not options.dry_run and options.out is None:
        raise KoalaError("there is no --out: the folder of the cache")
    weights = options.weights or spec.own_weights
    device = chosen_device(options.device)

    from koala.distill.data.building import Job, build  # torch, which the mistakes above need not wait for
    from koala.distill.data.sources import open_source

    names = ("limit", "seed", "workers", "batch_size")
    choices = {name: getattr(options, name) for name in names}
    preparation = chosen_preparation(spec, options)
    job = Job(spec, weights, options.source, open_source(options.source), preparation, **choices)
    if options.dry_run:
        return dry_run(job, console)
    if weights == "random":
        console.print("random weights: good for trying things out, and for nothing else")
    assert options.out is not None
    index = build(job, options.out, device, options.dtype, partial(progress, console))
    return 0 if index is None else report(index)


def chosen_model(options: Options) -> ModelSpec:
    """The model, once the options are found to make sense."""
    for name, least in (("batch_size", 1), ("workers", 0), ("limit", 0), ("seed", 0), ("resolution", 0)):
        if (value := getattr(options, name)) < least:
            raise KoalaError(f"--{name.replace('_', '-')} must be at least {least}, not {value}")
    if not options.model:
        raise KoalaError("there is no --model: whose autoencoder and text encoders to use")
    spec = zoo.get(options.model)
    spec.check_side(options.resolution or spec.resolution)
    return spec


def chosen_preparation(spec: ModelSpec, options: Options) -> "Preparation":
    """Which images are let in and how they are cut."""
    from koala.distill.data.captions import Captions
    from koala.distill.data.encoding import preparation_for
    from koala.distill.data.filters import Filters

    names = ("min_side", "score_column", "min_score", "min_words", "max_words")
    return preparation_for(
        spec,
        options.resolution,
        captions=Captions(options.caption_columns, options.captions),
        filters=Filters(**{name: getattr(options, name) for name in names}),
        crops=options.crops,
        flip=options.flip,
        seed=options.seed,
        interpolation=options.interpolation,
    )


@contextmanager
def progress(console: Console, units: int) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """A bar over the units of this process on stderr, only on a terminal; what to call for each example and unit."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.fields[done]} of " + f"{units} units"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[images]} images, {task.fields[rate]:.3g}/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=units, done=0, images=0, rate=0.0)
        count = done = before = 0

        def on_example() -> None:
            nonlocal count
            count += 1
            part = (count - before) / (before / done if done else _ROWS_PER_UNIT)  # of a unit of the usual size
            rate = count / max(bar.tasks[0].elapsed or 0.0, 1e-9)
            bar.update(task, images=count, rate=rate, completed=done + min(part, 1.0))

        def on_unit() -> None:
            nonlocal done, before
            done, before = done + 1, count
            bar.update(task, done=done, completed=done)

        yield on_example, on_unit


def report(index: "Index") -> int:
    """Print what a cache holds."""
    from koala.distill.data.statistics import Tally

    units = list(index.units.values())
    tally = sum((Tally.of(unit["tally"]) for unit in units), Tally())
    lines = {
        "cache": str(index.folder),
        "model": f"{index.settings['model']}, {index.settings['weights']} weights, {index.settings['dtype']}",
        "resolution": index.settings["resolution"],
        "images": tally.images,
        "bytes": sum(file["bytes"] for shard in index.shards for file in shard["files"].values()),
        "captions longer than the text encoder reads": sum(unit["truncated_captions"] for unit in units),
    }
    return statistics(lines, tally)


def statistics(lines: dict[str, Any], tally: Any) -> int:
    """Print what there is in lines and tables; 1 where that is nothing."""
    print("\n".join(f"{name}: {value}" for name, value in lines.items()))
    print(f"\n{tally.table()}")
    return 0 if tally.images else 1


def dry_run(job: "Job", console: Console) -> int:
    """Print what the cache would hold and cost; every image is decoded, for only so is a broken one found."""
    from koala.distill.data.cost import bytes_per_image, survey

    tally, num_bytes = survey(job, partial(progress, console))
    one = bytes_per_image(job.spec, job.preparation.side, 1, job.preparation.variants)
    lines = {"model": job.spec.name, "resolution": job.preparation.side, "images": tally.images}
    return statistics({**lines, "bytes per image with one caption": one, "bytes": num_bytes}, tally)


def check(folder: Path) -> int:
    """Print what is wrong with the files of a cache, and what is missing of it."""
    from koala.distill.data.cache import read_index

    index = read_index(folder)
    problems = index.problems(digest=True)
    missing = index.settings["units"] - len(index.units)
    if missing:
        problems.append(f"{missing} of {index.settings['units']} units are not encoded yet")
    elif index.empty is None:
        problems.append("the condition of no caption is not encoded yet")
    print("\n".join(problems) or f"{folder}: {len(index.shards)} shards, all of them whole")
    if problems:
        stderr_console().print("remove damaged files, then run the encode command again: it makes what is missing")
    return 1 if problems else 0
