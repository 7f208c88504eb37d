"""`python -m koala recaption`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from koala.commands.sample import chosen_device
from koala.errors import KoalaError, UnknownName
from koala.harness.cli import stderr_console

if TYPE_CHECKING:
    from koala.distill.data.recaption import Recaptioned

EXAMPLES = (
    "python -m koala recaption photos --model llava-hf/llava-1.5-7b-hf --column llava",
    "python -m koala recaption photos --model ~/models/llava --column short --instruction 'Name what you see.'",
)
# The paper asks for a very detailed description of image and style; its own words are not repeated here.
INSTRUCTION = (
    "Write a very detailed description of this image: everything that can be seen in it, where it is, how it looks, "
    "and the style in which the image is made."
)
_SHOWN = 20


@dataclass(frozen=True)
class Options:
    """Let a vision-language model caption every image of a folder, as one more column of its metadata.

    The folder holds images and a metadata.jsonl or metadata.csv, which keeps its other columns; a folder without one
    gets a metadata.jsonl. The same command again goes on where it was. `python -m koala encode` then trains on the new
    column in the place of the old one, or on both.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]
    """Folder of images."""
    model: str
    """Image-text-to-text model of transformers: a folder, or owner/name on the hub."""
    column: str
    """Column to write; one that something else wrote is refused."""
    instruction: str = INSTRUCTION
    """What the model is asked about each image."""
    max_new_tokens: int = 256
    """Longest caption."""
    batch_size: int = 8
    """Images that are captioned together."""
    limit: int | None = None
    """Caption at most so many images in this run; default: all."""
    dtype: str = "auto"
    """fp32, bf16 or fp16; auto: bf16 on a GPU, else fp32."""
    device: str = "auto"
    """cpu, cuda or cuda:N; auto: a GPU if there is one."""


def run(options: Options) -> int:
    """Caption what has no caption yet."""
    console = stderr_console()
    for name in ("max_new_tokens", "batch_size", "limit"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise KoalaError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    device = chosen_device(options.device)
    dtype = options.dtype if options.dtype != "auto" else ("fp32" if device == "cpu" else "bf16")

    from koala.distill.data.recaption import VisionLanguageModel, recaption  # torch, which mistakes need not wait for
    from koala.models.load import DTYPES

    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    settings = {
        "model": options.model,
        "instruction": options.instruction,
        "max_new_tokens": options.max_new_tokens,
        "dtype": dtype,
    }

    def load() -> VisionLanguageModel:
        asked = (options.instruction, options.max_new_tokens)
        return VisionLanguageModel(options.model, *asked, DTYPES[dtype], device)

    with progress(console) as on_images:
        done = recaption(options.folder, options.column, load, settings, options.batch_size, options.limit, on_images)
    report_without(done, console)
    print(summary(done))
    return 0


@contextmanager
def progress(console: Console) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr over the images of this run, only on a terminal."""
    ends = (TimeElapsedColumn(), TextColumn("to go"), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn())
    with Progress(*columns, *ends, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("captioning", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def report_without(done: "Recaptioned", console: Console) -> None:
    """Say on stderr which images got no caption, and why."""
    for name, why in list(done.without.items())[:_SHOWN]:
        console.print(f"no caption: {name}: {why}", markup=False)
    if len(done.without) > _SHOWN:
        console.print(f"no caption: {len(done.without) - _SHOWN} more images")


def summary(done: "Recaptioned") -> str:
    """What was done, in lines."""
    lines = {
        "captioned": f"{done.new:,}",
        "words per caption": f"{done.words / done.new:.1f}" if done.new else "-",
        "captioned before": f"{done.earlier:,}",
        "without a caption": f"{len(done.without):,}",
    }
    return "\n".join(f"{name}: {text}" for name, text in lines.items())
