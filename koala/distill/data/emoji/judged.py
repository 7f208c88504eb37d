"""What models of the emoji family are judged by: captions as a suite, and their real images at the family's sizes."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from koala.harness.files import write_folder

SUITE, SIDES = "judged.jsonl", (32, 64)
PARTS = {"held-out": None, "train": 239}  # how many captions of each: all 161, and as many as make 400
_UNTOLD = {"rich", "file_name", "code"}  # columns that are no tags of a prompt


def write_judged(folder: Path) -> None:
    """Write into a dataset of captions `judged.jsonl`, and `judged-SIDE` with the real images shrunk to that side."""
    rows = [row | {"part": part} for part, count in PARTS.items() for row in _by_lot(folder / part, count)]
    told = [{name: value for name, value in row.items() if name not in _UNTOLD} for row in rows]
    asked = ({"id": row["code"]} | words for row, words in zip(rows, told, strict=True))
    (folder / SUITE).write_text(_lines(asked), encoding="utf-8")
    for side in SIDES:
        write_folder(place := folder / f"judged-{side}")
        for row in rows:
            with Image.open(folder / row["part"] / row["file_name"]) as image:
                small = image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
            small.save(place / f"{row['code']}.png")
        named = ({"file_name": f"{row['code']}.png"} | words for row, words in zip(rows, told, strict=True))
        (place / "metadata.jsonl").write_text(_lines(named), encoding="utf-8")


def _by_lot(part: Path, count: int | None) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (part / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    return random.Random(0).sample(rows, min(count or len(rows), len(rows)))


def _lines(rows: Iterable[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
