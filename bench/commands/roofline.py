"""`python -m bench roofline`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from bench.sweep import DEFAULT_STORE
from koala.harness.cli import stderr_console

EXAMPLES = ("python -m bench roofline", "python -m bench roofline results/*/rows.jsonl --out results")


@dataclass(frozen=True)
class Options:
    """Show how near measured models come to their device's limits: a markdown table, and one figure a device.

    Rows of one denoising step (`unet`) have a place there; what another row lacks is said on stderr.
    """

    files: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="[FILES...]")] = (DEFAULT_STORE,)
    """Files of rows (.jsonl), or this project's own JSON of pytest-benchmark."""
    out: Path = DEFAULT_STORE.parent
    """Folder for the figures: <device>/roofline.svg and .png."""


def run(options: Options) -> int:
    """Print the table and the paths of the figures; lines and rows that had to be left out are named on stderr."""
    from bench.report.measured import measured_frame
    from bench.report.roofline import left_out, render_markdown
    from bench.report.roofline_figure import draw

    frame, console = measured_frame(options.files), stderr_console()
    for remark in left_out(frame):
        console.print(f"left out: {remark}", markup=False, soft_wrap=True)
    print(render_markdown(frame), end="")
    for path in draw(frame, options.out):
        print(path)
    return 0
