"""The emoji family from nothing: the dataset, its cache, and the runs one after another.

python scripts/emoji_family.py                        # 32 px, on a processor
python scripts/emoji_family.py --scale gpu --minutes 9
python scripts/emoji_family.py emoji-teacher emoji-koala
python scripts/emoji_family.py --pack runs/packed     # all that a machine without a network needs, 60 MB
python scripts/emoji_family.py --packed runs/packed --scale gpu

Every step is a command of this project, which is printed before it runs; the same line again skips what is done and
goes on where it was stopped. `--minutes` stops in time, in the middle of a run if need be, with the exit code 75.
Models are left in runs/train/NAME/final; how long each took, and its hash, in results/lessons/emoji-family*.{csv,md}.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd

from koala.distill import emoji_runs, runs
from koala.harness.files import write_folder, write_whole
from koala.harness.tables import significant, to_csv, to_markdown
from koala.models import zoo
from koala.models.zoo.emoji import GPU

ROOT = Path(__file__).parents[1]
ART, EMOJI, WEIGHTS = "runs/data/emoji", "emoji", "weights"
PUBLISHED = ROOT / "results/lessons"
SIZES = {"cpu": "", "gpu": GPU}
PRETRAIN = "emoji-koala-1step-pretrain"
NAMES = (
    *("emoji-teacher", "emoji-koala", "emoji-bk"),
    *("emoji-teacher-4step", "emoji-koala-4step", PRETRAIN, "emoji-koala-1step"),
)
PAIRS = {"": 1024, GPU: 8192}  # of the teacher's noise and image
OUT_OF_TIME = 75  # of sysexits.h: try again
_SAVES_S = 60.0  # that a run which was told to stop may take to write its checkpoint


def main() -> int:
    """Run what is missing; the exit code is that of the command that failed."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("runs", nargs="*", metavar="RUN", help=f"of {', '.join(NAMES)}; default: all, in this order")
    options.add_argument("--scale", choices=SIZES, default="cpu", help="32 px, or 64 px and longer")
    options.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    options.add_argument("--pack", type=Path, metavar="DIR", help="write what a machine without a network needs")
    options.add_argument("--packed", type=Path, metavar="DIR", help="take dataset and sentence encoder from there")
    chosen = options.parse_args()
    if chosen.pack:
        return pack(chosen.pack)
    if chosen.packed:
        os.environ["KOALA_WEIGHTS"] = str(chosen.packed.resolve() / WEIGHTS)
    if unknown := sorted(set(chosen.runs) - set(NAMES)):
        options.error(f"unknown run {unknown[0]}; known: {', '.join(NAMES)}")
    deadline = time.monotonic() + 60 * chosen.minutes
    size = SIZES[chosen.scale]
    for command in commands(chosen.runs or NAMES, size, chosen.packed):
        if code := run(command, deadline):
            return code
    publish(size)
    return 0


def commands(names: Sequence[str], size: str, packed: Path | None) -> Iterator[list[str]]:
    """The arguments of `python -m koala`, in order; those of runs that came to their end are left out."""
    cache, art = emoji_runs.DATA + size, str(packed / EMOJI) if packed else ART
    if not packed:
        yield ["data", "emoji", "--out", art]
    yield [
        *("encode", f"{art}/train", "--model", f"emoji-teacher{size}", "--out", cache),
        *("--caption-columns", "text,rich", "--interpolation", "lanczos", "--batch-size", "64"),
    ]
    for name in names:
        if not (ROOT / runs.get(name + size).folder / "final").is_dir():
            if name == PRETRAIN:
                yield _pairs(f"{art}/train", size)
            yield ["train", name + size]


def _pairs(images: str, size: str) -> list[str]:
    """The arguments of the command that draws pairs, whose prompts are the captions of the images."""
    prompts = f"{emoji_runs.PAIRS}{size}.txt"
    rows = map(json.loads, (ROOT / images / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    write_folder((ROOT / prompts).parent)
    write_whole(ROOT / prompts, "".join(f"{row['text']}\n" for row in rows))
    return [
        *("pairs", f"emoji-teacher{size}", "--prompts", prompts, "--out", emoji_runs.PAIRS + size),
        *("--n", str(PAIRS[size]), "--batch-size", "64"),
    ]


def pack(folder: Path) -> int:
    """The dataset at 64 px, and the sentence encoder in half precision."""
    import torch
    from safetensors.torch import save_file

    from koala.models.load import load
    from koala.models.weights.source import locate

    if code := run(["data", "emoji", "--out", str(folder / EMOJI), "--size", "64", "--scenes", "0"], float("inf")):
        return code
    spec = zoo.get("emoji-teacher")
    conditioner = load(spec, "cpu", weights="hub", parts=("text",)).conditioner
    tokenizer = locate(spec, "hub", ("text",), "fp32").tokenizer
    assert conditioner is not None and tokenizer is not None
    tensors = {name: tensor.to(torch.float16) for name, tensor in conditioner.networks[0].state_dict().items()}
    place = folder / WEIGHTS / spec.conditioning.encoder.weights.repository
    place.mkdir(parents=True, exist_ok=True)
    save_file(tensors, place / "model.safetensors")
    (place / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    return 0


def publish(size: str) -> None:
    """Write the table of the models that are there."""
    rows = [row for name in NAMES if (row := told(name + size))]
    if len(rows) < len(NAMES):
        return  # a part of the family takes no place of the whole
    table = pd.DataFrame(rows)
    path = PUBLISHED / f"emoji-family{size}"
    head = f"# The emoji family{', 64 px' if size else ', 32 px'}\n\n{HEAD}\n\n"
    write_whole(path.with_suffix(".csv"), to_csv(table))
    formats = {"hours": significant(3), "parameters": "{:,}".format}
    write_whole(path.with_suffix(".md"), head + to_markdown(table, formats) + "\n")


def told(name: str) -> dict | None:
    """A row of the table: what the model's own folder says of it."""
    card = ROOT / runs.get(name).folder / "final/koala.json"
    if not card.is_file():
        return None
    facts = json.loads(card.read_text(encoding="utf-8"))
    return {
        "model": name,
        "parameters": zoo.get(runs.get(name).student).unet_params,
        "steps": facts["steps"],
        "batch": facts["global_batch"],
        "processes": facts["processes"],
        "hours": facts["hours"],
        "device": facts["device"],
        "sha256 of the U-Net": facts["digest"],
        "command": command_of(name, facts["processes"], facts["global_batch"]),
    }


def command_of(name: str, processes: int, batch: int) -> str:
    """How a run was started."""
    if processes == 1:
        return f"python -m koala train {name}"
    shared = f"--batch-size {batch // processes} --global-batch {batch}"
    return f"torchrun --nproc-per-node {processes} -m koala train {name} {shared}"


HEAD = """Made by `python scripts/emoji_family.py`, whose `--help` says how. Of the checkpoints `emoji-koala` alone is
in this repository, in half precision (emoji-koala/). Hours are of a machine that had other work beside."""


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
