"""What distilling the emoji family teaches, each lesson a table and a figure with several seeds.

python scripts/emoji_lessons.py features                    # after the teacher: scripts/emoji_family.py emoji-teacher
python scripts/emoji_lessons.py few-steps                   # after the family: scripts/emoji_family.py
python scripts/emoji_lessons.py features --seeds 5 --steps 2000
python scripts/emoji_lessons.py features --variants SA LF   # some of its lines (scripts/lesson_variants.py)
python scripts/emoji_lessons.py features --part train --scale gpu --packed runs/packed --minutes 9
python scripts/emoji_lessons.py features --part judge --scale gpu

Every variant is the family's own run with some fields changed, trained by the trainer of `python -m koala train` for
so many steps, and judged by what it draws (scripts/emoji_judging.py) and by how far its predictions are from the
teacher's on images and captions that neither has seen. The part `train` leaves what `judge` needs without the models:
the images and that distance. What is done is kept under runs/lessons and not done again. Results are
results/lessons/emoji-LESSON*.{csv,md,svg,png}; what is there of other variants, trained alike, stays, so that a lesson
may take several days. Exit code 75: it ran out of its minutes; the same line again goes on.
"""

import argparse
import json
import random
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import emoji_judging as judging
import lesson_tables as tables
import pandas as pd
import torch
from emoji_family import OUT_OF_TIME, SIZES
from lesson_rows import TAUGHT_BY, TEACHER, TRAINED, joined
from lesson_tables import Metric
from lesson_variants import LESSONS, Captions, Lesson
from matplotlib import pyplot as plt

from koala.distill import runs
from koala.distill.config import Run
from koala.distill.data.cache import Cache
from koala.distill.final import finished
from koala.distill.kd import Distillation, Weights
from koala.distill.training import train
from koala.errors import KoalaError
from koala.harness import figures
from koala.harness.files import write_folder, write_whole
from koala.harness.tables import to_csv, to_markdown
from koala.models import zoo
from koala.models.load import load
from koala.models.zoo import local

ROOT = judging.ROOT
WORKING, PUBLISHED = ROOT / "runs/lessons", ROOT / "results/lessons"
_DRAWS_S = 90.0  # which drawing may take after the last training
TABLE = "metadata.jsonl"
DRAWN, DRAWN_IN = (
    200,
    "drawn.json",
)  # captions that every student draws, every second one of those that are judged; where they are
BATCH = 32  # held-out images that are predicted together
STEPS = {"cpu": 250, "gpu": 2000}
OUTPUT = "output-KD loss"
METRICS = {
    OUTPUT: Metric("output-KD loss", higher=False),
    "kd_dinov2s_imgfocus": Metric("KD, DINOv2-S", higher=False),
    "kd_effnet_lite0": Metric("KD, EfficientNet-Lite0", higher=False),
    "toyclip_score": Metric("toyclip score", higher=True),
    "toyclip_accuracy:gender@held-out": Metric("gender right, unseen", higher=True),
    "toyclip_accuracy:tone@held-out": Metric("tone right, unseen", higher=True),
}


def main() -> int:
    """Train, draw and judge what is missing; write table and figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("lesson", choices=LESSONS)
    options.add_argument("--part", choices=("train", "judge", "both"), default="both")
    options.add_argument("--scale", choices=SIZES, default="cpu")
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, help=f"optimisation steps of every variant; default: {STEPS}")
    options.add_argument("--variants", nargs="+", metavar="NAME", help="some of the lesson's variants; default: all")
    options.add_argument("--processes", type=int, default=2, help="trainings at a time, of one thread each; 1 on a GPU")
    options.add_argument(
        "--minutes", type=float, default=float("inf"), help="begin no training that ends later, by the longest so far"
    )
    options.add_argument("--packed", type=Path, metavar="DIR", help="dataset and sentence encoder (emoji_family.py)")
    options.add_argument("--out", type=Path, default=PUBLISHED, metavar="DIR", help="default: results/lessons")
    chosen = options.parse_args()
    lesson, size = LESSONS[chosen.lesson], SIZES[chosen.scale]
    names = chosen.variants or list(lesson.names)
    if unknown := sorted(set(names) - set(lesson.names)):
        options.error(f"unknown variant {unknown[0]!r}; known: {', '.join(lesson.names)}")
    if chosen.packed:
        judging.unpack(chosen.packed)
    steps = chosen.steps or STEPS[chosen.scale]
    seeds = range(chosen.seeds)
    jobs = {(name, seed): variant_run(chosen.lesson, name, seed, steps, size) for seed in seeds for name in names}
    if chosen.part != "judge":
        deadline = time.monotonic() + 60 * chosen.minutes
        for name, captions in lesson.caches.items():
            encode(f"{name}{size}", images_of(captions), f"emoji-teacher{size}", captions.columns, captions.joined)
        done = train_all(list(jobs.values()), 1 if size else chosen.processes, deadline - _DRAWS_S)
        draw([run for run in jobs.values() if finished(run)], lesson)
        if not done:
            return OUT_OF_TIME
    if chosen.part != "train":
        place = chosen.out / f"emoji-{chosen.lesson}{size}"
        command = f"{chosen.lesson} --scale {chosen.scale} --seeds {chosen.seeds} --steps {steps}"
        publish(place, lesson, joined(place.with_suffix(".csv"), judged(jobs, lesson)), command)
    return 0


def variant_run(name: str, variant: str, seed: int, steps: int, size: str = "") -> Run:
    """The run of one line of a lesson."""
    lesson = LESSONS[name]
    slug = re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")
    own = {"steps": steps, "seed": seed, "warmup": steps // 10, "save_every": steps, "sample_every": 0}
    out = WORKING / f"{name}{size}-{steps}/{slug}-{seed}"
    line = lesson.names[variant]
    base = runs.get((line.run or lesson.run) + size)
    fixed = {"ema_decay": 0.99 if base.ema_decay else 0.0, "tracker": "none", "out": out}
    changes = {k: v.format(size=size) if isinstance(v, str) else v for k, v in line.changes.items()}
    return replace(base, **{**lesson.common, **own, **fixed, **changes})


def train_all(todo: Sequence[Run], processes: int, deadline: float) -> bool:
    """Train what has not come to its end; whether all did before the deadline, as far as the longest so far tells."""
    began: dict[Future[Path], float] = {}
    longest, left = 0.0, list(todo)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        while True:
            while left and len(began) < processes and time.monotonic() + longest <= deadline:
                began[pool.submit(train_one, left.pop(0))] = time.monotonic()
            if not began:
                return not left
            for ended in wait(began, return_when=FIRST_COMPLETED).done:
                print(f"{ended.result()} is trained", file=sys.stderr, flush=True)
                longest = max(longest, time.monotonic() - began.pop(ended))


def train_one(run: Run) -> Path:
    """Train in this process, on one thread where there is no GPU."""
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    if code := train(run):
        sys.exit(code)
    return run.folder


def draw(trained: Sequence[Run], lesson: Lesson) -> None:
    """Draw with every student, and keep where the images are and how far it is from its teacher."""
    missing = [run for run in trained if not (run.folder / DRAWN_IN).is_file()]
    if not missing:
        return
    models, places = [str(run.folder / "final") for run in missing], [dict[int, str]() for _ in missing]
    for steps in lesson.sampled or (0,):
        options = ("--steps", str(steps)) if steps else ()
        galleries = judging.draw(models, *options, limit=DRAWN)
        for place, gallery in zip(places, galleries, strict=True):
            place[steps] = str(gallery.relative_to(ROOT))
    for run, place in zip(missing, places, strict=True):
        kept = {"galleries": place, TAUGHT_BY: taught_by(run)} | ({OUTPUT: output_loss(run)} if lesson.compared else {})
        write_whole(run.folder / DRAWN_IN, json.dumps(kept) + "\n")


def judged(jobs: dict[tuple[str, int], Run], lesson: Lesson) -> pd.DataFrame:
    """A row for each line of the table, seed and metric."""
    kept = {job: json.loads((run.folder / DRAWN_IN).read_text(encoding="utf-8")) for job, run in jobs.items()}
    galleries = {
        (variant, seed, int(steps)): ROOT / place
        for (variant, seed), of_one in kept.items()
        for steps, place in of_one["galleries"].items()
    }
    judging.score(list(galleries.values()), side_of(jobs.values()))
    numbers, rows = judging.numbers(), []
    for (variant, seed, steps), gallery in galleries.items():
        own = numbers[numbers["path"] == str(gallery)].set_index("metric")["value"]
        values = {OUTPUT: kept[variant, seed].get(OUTPUT)} | {name: own[name] for name in METRICS if name in own.index}
        run = jobs[variant, seed]
        line = {"line": lesson.line(variant, steps), "variant": variant, "steps": steps, "seed": seed}
        line |= {TRAINED: run.steps, TEACHER: run.teacher, TAUGHT_BY: kept[variant, seed][TAUGHT_BY]}
        rows += [line | {"metric": name, "value": value} for name, value in values.items() if value is not None]
    return pd.DataFrame(rows)


def side_of(some: Iterable[Run]) -> int:
    """Pixels of what the runs' students draw."""
    return zoo.get(next(iter(some)).student).resolution


def taught_by(run: Run) -> str:
    """The hash of the teacher's weights."""
    return local.read(ROOT / str(zoo.get(run.teacher).folder)).digest


def output_loss(run: Run) -> float:
    """Mean square between student's and teacher's predictions on held-out images, the same noise for all students."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    cache = Cache(held_out(run.teacher))
    student, teacher = zoo.get(str(run.folder / "final")), zoo.get(run.teacher)
    networks = [load(spec, device, "fp32", spec.own_weights, ("unet",)).unet for spec in (student, teacher)]
    objective = Distillation(student, networks[0], teacher, networks[1], weights=Weights(0, 1, 0))
    parts = [range(first, first + BATCH) for first in range(0, len(cache) // BATCH * BATCH, BATCH)]
    with torch.no_grad():
        batches = (cache.batch(part, part).to(device, torch.float32) for part in parts)
        losses = [float(objective.terms("unet", batch).total) for batch in batches]
    return sum(losses) / len(losses)


def held_out(teacher: str) -> Path:
    """The cache of held-out images at the size of a teacher."""
    return encode(f"{runs.get(teacher).data}-held-out", judging.ART / "held-out", teacher, "text")


def encode(cache: str, images: Path, model: str, columns: str, joined: str = "each") -> Path:
    """A cache of images and their captions, made where it is missing."""
    folder = ROOT / cache
    if not (folder / "empty.safetensors").is_file():
        options = ("--model", model, "--caption-columns", columns, "--captions", joined, "--interpolation", "lanczos")
        judging.run("koala", "encode", str(images), *options, "--batch-size", "64", "--out", str(folder))
    return folder


def images_of(captions: Captions) -> Path:
    """The training images, or a folder of so many of them by lot."""
    train = judging.ART / "train"
    if not captions.images:
        return train
    folder = ROOT / f"runs/data/emoji-{captions.images}"
    lines = (train / TABLE).read_text(encoding="utf-8").splitlines()
    for line in (some := random.Random(0).sample(lines, captions.images)):
        name = json.loads(line)["file_name"]
        write_folder((folder / name).parent)
        shutil.copyfile(train / name, folder / name)
    write_whole(folder / TABLE, "\n".join(some) + "\n")
    return folder


def publish(place: Path, lesson: Lesson, rows: pd.DataFrame, command: str) -> None:
    """Write the rows, the page and the figure."""
    metrics = {name: metric for name, metric in METRICS.items() if name in set(rows["metric"])}
    said = tables.claims(rows, lesson, metrics)
    lacking = [line for line in lesson.lines if line not in set(rows["line"])]
    page = [
        f"# {lesson.title}",
        f"`{lesson.run}`, {DRAWN} captions drawn; made by `python scripts/emoji_lessons.py {command}`. {lesson.about} "
        "Intervals are 95% over seeds (Student's t).",
        tables.table(rows, lesson, metrics),
        *([f"Not trained yet: {', '.join(lacking)}."] if lacking else []),
        "## What the papers say, and what came out here",
        "By the interval of the differences between the two variants over seeds, metric by metric; where it holds 0 "
        "the claim cannot be told at this size.",
        to_markdown(said),
    ]
    write_whole(place.with_suffix(".csv"), to_csv(rows))
    write_whole(place.with_suffix(".md"), "\n\n".join(page) + "\n")
    with plt.rc_context(figures.STYLE):
        figures.save(tables.figure(rows, lesson, metrics), place)


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except KoalaError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
