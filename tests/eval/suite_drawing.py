"""A small suite drawn by a tiny model, in this process or as one of several: `python suite_drawing.py OUT`."""

import os
import sys
from pathlib import Path

from rich.console import Console

from eval.generation.fill import Job, fill
from eval.generation.pictures import pictures
from eval.generation.processes import processes
from eval.generation.variants import Axes, variants
from eval.suite import Prompt, Suite

MODEL = "tiny-sdxl-turbo"
SUITE = Suite(
    name="toy",
    title="Toy",
    license=None,
    source=None,
    prompts=tuple(
        Prompt(
            f"a {colour} {thing}",
            {"colour": colour},
            {"include": [{"class": thing, "count": 1, "color": colour}]},
            id=f"{colour}-{thing}",
        )
        for colour in ("red", "green", "blue")
        for thing in ("cat", "cup")
    ),
)
QUIET = Console(quiet=True)


def draw(out, suite=SUITE, images_per_prompt=2, batch_size=3, console=QUIET, **axes):
    """The galleries."""
    with processes("cpu") as us:
        wanted = variants(Axes(**{"models": (MODEL,), "resolutions": (64,), **axes}), us.device, console.print)
        job = Job(wanted, pictures(suite, images_per_prompt, 0), batch_size, Path(out))
        return fill(job, us, console if us.first else QUIET)


def files(folder):
    """The bytes of each image by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("0*.png"))}


if __name__ == "__main__":
    if os.environ.get("DIES") == os.environ.get("RANK", "0"):
        from koala.sampling import gallery

        whole, written = gallery.Gallery.append, []

        def append(self, row):
            """Die in the middle, as if killed."""
            if len(written) == 2:
                os.kill(os.getpid(), 9)
            written.append(row)
            whole(self, row)

        gallery.Gallery.append = append
    draw(sys.argv[1], console=Console(stderr=True, soft_wrap=True))
