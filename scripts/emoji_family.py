"""The emoji family from nothing: the dataset, its cache, and the runs one after another.

python scripts/emoji_family.py                        # 32 px, on a processor
python scripts/emoji_family.py --scale gpu --minutes 9
python scripts/emoji_family.py emoji-teacher emoji-koala

Every step is a command of this project, which is printed before it runs; the same line again skips what is done and
goes on where it was stopped. `--minutes` stops in time, in the middle of a run if need be, with the exit code 75.
Models are left in runs/train/NAME/final. Hours it takes: results/lessons/family.md.
"""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from koala.distill import emoji_runs, runs

ROOT = Path(__file__).parents[1]
ART = "runs/data/emoji"
SIZES = {"cpu": "", "gpu": emoji_runs.GPU}
NAMES = ("emoji-teacher", "emoji-koala", "emoji-bk", "emoji-teacher-4step", "emoji-koala-4step", "emoji-koala-1step")
OUT_OF_TIME = 75  # of sysexits.h: try again
_SAVES_S = 60.0  # that a run which was told to stop may take to write its checkpoint


def main() -> int:
    """Run what is missing; the exit code is that of the command that failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(NAMES)}; default: all, in this order")
    options.add_argument("--scale", choices=SIZES, default="cpu", help="32 px, or 64 px and longer")
    options.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    chosen = options.parse_args()
    if unknown := sorted(set(chosen.runs) - set(NAMES)):
        options.error(f"unknown run {unknown[0]}; known: {', '.join(NAMES)}")
    deadline = time.monotonic() + 60 * chosen.minutes
    for command in commands(chosen.runs or NAMES, SIZES[chosen.scale]):
        if code := run(command, deadline):
            return code
    return 0


def commands(names: Sequence[str], size: str) -> Iterator[list[str]]:
    """The arguments of `python -m koala`, in order; those of runs that came to their end are left out."""
    cache = emoji_runs.DATA + size
    yield ["data", "emoji", "--out", ART]
    yield [
        *("encode", f"{ART}/train", "--model", f"emoji-teacher{size}", "--out", cache),
        *("--caption-columns", "text,rich", "--interpolation", "lanczos", "--batch-size", "64"),
    ]
    for name in names:
        if not (ROOT / runs.get(name + size).folder / "final").is_dir():
            yield ["train", name + size]


def run(arguments: Sequence[str], deadline: float) -> int:
    """The exit code of a command, which is interrupted at the deadline as by Ctrl-C."""
    print(f"python -m koala {' '.join(arguments)}", file=sys.stderr, flush=True)
    with subprocess.Popen([sys.executable, "-m", "koala", *arguments], cwd=ROOT) as process:
        try:
            return process.wait(timeout=left if (left := deadline - time.monotonic()) < float("inf") else None)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=_SAVES_S)
            return OUT_OF_TIME
        except KeyboardInterrupt:  # the command has had it too
            return process.wait(timeout=_SAVES_S)


if __name__ == "__main__":
    raise SystemExit(main())
