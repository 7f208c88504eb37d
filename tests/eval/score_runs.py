"""Folders of small images, and a run of `python -m eval score` over them."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from eval.commands import score as command
from koala.harness import records

METRICS = ("brightness", "kd_effnet_lite0")


def picture(seed: int, size: tuple[int, int] = (40, 48)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def folder(path: Path, seeds, size=(40, 48), prompts: bool = False) -> Path:
    path.mkdir(parents=True)
    for seed in seeds:
        picture(seed, size).save(path / f"{seed:03d}.png")
    if prompts:
        with open(path / "metadata.csv", "w", newline="") as file:
            csv.writer(file).writerows([("file_name", "text"), *((f"{s:03d}.png", f"prompt {s // 2}") for s in seeds)])
    return path


def score_options(tmp_path: Path) -> command.Options:
    """Eight images against eight others, decoded in this process."""
    return command.Options(
        paths=(folder(tmp_path / "ours", range(8)),),
        metrics=METRICS,
        reference=folder(tmp_path / "real", range(100, 108)),
        out=tmp_path / "out",
        device="cpu",
        batch_size=3,
        workers=0,
    )


def rows_of(options, level: str) -> list[dict]:
    return [row for row in records.read([options.out / "rows.jsonl"]).of_kind("eval").rows if row["level"] == level]


def value(options, metric: str = "kd_effnet_lite0") -> float:
    names = {row["id"]: row["metric"] for row in records.read([options.out / "rows.jsonl"]).of_kind("metric").rows}
    return next(row["value"] for row in reversed(rows_of(options, "set")) if names[row["metric"]] == metric)
