"""How models of the emoji family are judged: the images, the commands, the numbers. Used by the scripts beside it."""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import pandas as pd
from emoji_family import EMOJI, WEIGHTS
from PIL import Image

from koala.harness.files import write_folder, write_whole

ROOT = Path(__file__).parents[1]
ART, HEADS = ROOT / "runs/data/emoji", ROOT / "runs/toyclip-emoji.safetensors"
OUT = ROOT / "runs/eval-emoji"
PARTS = {"held-out": None, "train": 239}  # how many captions of each: all 161, and as many as make 400
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
    """A folder of the real images at that size whose captions are drawn, made where it is missing.

    All held-out combinations, and as many captions of train as make 400; `FOLDER.jsonl` is the suite of them.
    """
    folder = ROOT / f"runs/data/emoji-judged-{side}"
    if (suite := suite_of(side)).is_file() and folder.is_dir():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    write_folder(folder)
    rows = []
    for part, count in PARTS.items():
        lines = (ART / part / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
        for row in random.Random(0).sample(found, count or len(found)):
            with Image.open(ART / part / row["file_name"]) as image:
                image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(folder / f"{row['code']}.png")
            rows.append(row | {"file_name": f"{row['code']}.png", "part": part, "id": row["code"]})
    lines = [json.dumps({name: value for name, value in row.items() if name != "rich"}) for row in rows]
    write_whole(folder / "metadata.jsonl", "\n".join(lines) + "\n")
    asked = [json.loads(line) for line in lines]
    for row in asked:
        del row["file_name"], row["code"]
    write_whole(suite, "".join(json.dumps(row) + "\n" for row in asked))
    return folder


def suite_of(side: int) -> Path:
    """The suite of the captions."""
    return ROOT / f"runs/data/emoji-judged-{side}.jsonl"


def heads() -> Path:
    """The text-image score of this domain, trained where it is missing."""
    if not HEADS.is_file():
        run("eval", "toyclip", str(ART / "train"), "--beside", str(ART / "held-out"), "--out", str(HEADS))
    return HEADS


def draw(models: Iterable[str], side: int, *options: str, limit: int | None = None) -> list[Path]:
    """The galleries of what models draw of the captions."""
    reference(side)
    command = ["generate", "--models", ",".join(models), "--suite", str(suite_of(side)), "--batch-size", "50", *options]
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
