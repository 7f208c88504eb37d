"""`python -m koala inherit`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from koala.errors import UnknownName
from koala.harness.cli import stderr_console
from koala.models import zoo
from koala.models.new_folder import refuse_to_overwrite
from koala.models.spec import UNetPlan

if TYPE_CHECKING:
    from koala.models.inherit import Inheritance
    from koala.models.student import Written

EXAMPLES = (
    "python -m koala inherit sdxl koala-700m --weights sdxl-folder --out koala-700m-init",
    "python -m koala inherit sdm-v1.4 bk-sdm-tiny --weights unet.safetensors --dtype fp32 --out bk-tiny-init",
    "python -m koala inherit tiny-sdxl tiny-koala-1b --weights random --out try-it-out",
)


@dataclass(frozen=True)
class Options:
    """Make a student's U-Net out of its teacher's weights, block by block: where distillation starts.

    Blocks and transformer layers are kept as KOALA and BK-SDM keep them. The result is a folder that diffusers'
    `UNet2DConditionModel.from_pretrained` loads. Weights are read and written one tensor at a time.
    """

    teacher: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TEACHER")]
    """Model of the zoo (`python -m koala models`) whose weights are given."""
    student: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="STUDENT")]
    """Model of the zoo whose U-Net is made."""
    weights: str
    """The teacher's: a diffusers folder, its unet folder, a checkpoint file, hub, or random to try it out."""
    out: Path
    """Folder to write; a folder with anything in it is refused."""
    dtype: str = ""
    """fp32, bf16 or fp16; default: that of the teacher's files."""
    seed: int = 0
    """Of what cannot be inherited, and of random weights."""


def run(options: Options) -> int:
    """Write the student."""
    console = stderr_console()
    teacher, student = zoo.get(options.teacher), zoo.get(options.student)
    refuse_to_overwrite(options.out)

    from koala.models.inherit import inherit  # torch, which the mistakes above need not wait for
    from koala.models.load import DTYPES
    from koala.models.student import unet_weights, write_student

    if options.dtype and options.dtype not in DTYPES:
        raise UnknownName("dtype", options.dtype, DTYPES)
    inheritance = inherit(teacher.unet, student.unet)
    report_fresh(inheritance, console)
    source = unet_weights(teacher, options.weights, options.dtype or "fp32", options.seed)
    dtype = DTYPES[options.dtype] if options.dtype else None
    with progress(student.unet, console) as on_tensor:
        written = write_student(teacher, student, source, options.out, dtype, options.seed, on_tensor)
    print(summary(options, written))
    return 0


def report_fresh(inheritance: "Inheritance", console: Console) -> None:
    """Say on stderr which tensors the teacher has no place for."""
    if inheritance.fresh:
        console.print(f"{len(inheritance.fresh)} tensors have no place in the teacher and start at random:")
        for key in inheritance.fresh:
            console.print(f"  {key}", markup=False)


@contextmanager
def progress(plan: UNetPlan, console: Console) -> Iterator[Callable[[str], None]]:
    """A bar on stderr over the student's parameters, only on a terminal."""
    from koala.models.inherit import unet_shapes

    sizes = {key: prod(shape) for key, shape in unet_shapes(plan).items()}
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("writing", total=sum(sizes.values()))
        yield lambda key: bar.advance(task, sizes[key])


def summary(options: Options, written: "Written") -> str:
    """What was written, in lines."""
    dtypes = ", ".join(str(dtype).removeprefix("torch.") for dtype in written.dtypes)
    lines = {
        "student": f"{options.student}, from {options.teacher}",
        "tensors": f"{len(written.inheritance.inherited)} inherited, {len(written.inheritance.fresh)} fresh",
        "parameters": f"{written.num_params:,} ({dtypes})",
        "bytes": f"{written.num_bytes:,}",
        "folder": str(options.out),
    }
    return "\n".join(f"{name}: {text}" for name, text in lines.items())
