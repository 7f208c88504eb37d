"""`python -m koala train`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from koala.distill import config, runs
from koala.distill.config import Run
from koala.errors import KoalaError
from koala.harness.cli import parsed

EXAMPLES = (
    "python -m koala train koala-700m-base --data runs/cache --dry-run",
    "python -m koala train koala-700m-lightning --data runs/cache --batch-size 4 --out runs/train/mine",
    "python -m koala train bk-sdm-small --data runs/cache --sample-every 1000 --precision bf16",
    "python -m koala train tiny-koala-700m-base --data runs/tiny-cache",
    "python -m koala train runs/train/mine/run.json",
)
_HELP = ("-h", "--help")


@dataclass(frozen=True)
class Options:
    """Train a named run, whose every field is a flag; the same command again goes on where it stopped.

    The run's file of an earlier run, runs/train/NAME/run.json, stands for that run. The result is the folder
    OUT/final, which diffusers and every command here take. Several GPUs: `accelerate launch -m koala train RUN ...`.
    """

    run: Annotated[Run, tyro.conf.arg(name="")]
    dry_run: bool = False
    """Print the plan (sizes, inherited tensors, pairs, steps, memory) and train nothing; needs no weights."""


def parse(prog: str, argv: Sequence[str]) -> Options:
    """The options after the run's name, which decides their defaults."""
    if not argv or argv[0] in _HELP:
        listed = "\n".join(f"  {name:<{max(map(len, runs.names()))}}  {runs.summary(name)}" for name in runs.names())
        more = f"runs; tiny-NAME is the same on small random twins:\n{listed}"
        return parsed(Options, EXAMPLES, f"{prog} RUN", ["--help"], more=more)
    name, *flags = argv
    run = read(name)
    notes = "\n".join(("notes:", *(f"  {note}" for note in run.notes)))
    return parsed(Options, EXAMPLES, f"{prog} {name}", flags, Options(run), notes)


def read(name: str) -> Run:
    """The run called `name`, or the one in the file of that name, which is kept where it was."""
    path = Path(name).expanduser()
    if name.startswith("-"):
        raise KoalaError(f"the run comes first: python -m koala train RUN {name} ...; runs: {', '.join(runs.names())}")
    if path.suffix != ".json":
        return runs.get(name)
    run = config.read_run(path)
    folder = path.resolve().parent
    return replace(run, out=folder.parent if folder.name == "final" else folder)


def run(options: Options) -> int:
    """Train; the exit code is 130 after Ctrl-C."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if options.dry_run:
        from koala.distill.plan import plan

        print(plan(options.run, processes).text())
        return 0
    from koala.distill.training import train

    return train(options.run)
