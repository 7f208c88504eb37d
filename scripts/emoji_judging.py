"""How models of the emoji family are judged: the images, the commands, the numbers. Used by the scripts beside it."""

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
from emoji_family import EMOJI, WEIGHTS

from koala.harness.files import write_folder

ROOT = Path(__file__).parents[1]
ART, HEADS = ROOT / "runs/data/emoji", ROOT / "runs/toyclip-emoji.safetensors"
OUT = ROOT / "runs/eval-emoji"
SUITE = "emoji"
KD = ("kd_dinov2s_imgfocus", "kd_effnet_lite0")
TOLD = (
    "toyclip_score",
    *(f"toyclip_accuracy{part}" for part in ("", ":role", ":gender", ":tone", ":colour", ":shape")),
)


def unpack(folder: Path) -> None:
    """Take the sentence encoder, and the dataset where there is none, from what `emoji_family.py --pack` wrote."""
    os.environ["KOALA_WEIGHTS"] = str(folder.resolve() / WEIGHTS)
    if not ART.exists():
        write_folder(ART.parent)
        ART.symlink_to(folder.resolve() / EMOJI)


def reference(side: int) -> Path:
    """The real images at that size whose captions are drawn: all held-out combinations, and 239 captions of train."""
    return ART / f"judged-{side}"


def heads() -> Path:
    """The text-image score of this domain, trained where it is missing."""
    if not HEADS.is_file():
        run("eval", "toyclip", str(ART / "train"), "--beside", str(ART / "held-out"), "--out", str(HEADS))
    return HEADS


def draw(models: Iterable[str], *options: str, limit: int | None = None) -> list[Path]:
    """The galleries of what models draw of the captions."""
    command = ["generate", "--models", ",".join(models), "--suite", SUITE, "--batch-size", "50", *options]
    if limit:
        command += ["--limit", str(limit)]
    return [Path(line) for line in run("eval", *command, "--out", str(OUT / "images")).split()]


def score(galleries: Sequence[Path], side: int, metrics: Sequence[str] = (*KD, *TOLD)) -> None:
    """Score galleries against the real images, and write the tables of all that was ever scored here."""
    run(
        *("eval", "score", *map(str, galleries), "--metrics", ",".join(metrics), "--reference", str(reference(side))),
        *("--weights", f"toyclip={heads()}", "--out", str(OUT)),
    )
    run("eval", "report", str(OUT / "rows.jsonl"), "--out", str(OUT / "report"), "--tags")


def numbers() -> pd.DataFrame:
    """What was scored: a line for each gallery and metric, and of the captions of each part as METRIC@PART."""
    whole, by_tag = (pd.read_csv(OUT / "report" / name) for name in ("quality.csv", "tags.csv"))
    parts = by_tag[by_tag["tag"] == "part"].copy()
    parts["metric"] += "@" + parts["tag_value"]
    about = whole.drop_duplicates("set").set_index("set")
    found = pd.concat(
        [whole, parts.join(about[["path", "steps", "torch", "device_name"]], on="set")], ignore_index=True
    )
    return found.drop_duplicates(["path", "metric"], keep="last")  # by the heads that were trained last


def run(package: str, *arguments: str) -> str:
    """What a command of this project says on stdout; its exit code ends this script where it is not 0."""
    print(f"python -m {package} {' '.join(arguments)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", package, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout
