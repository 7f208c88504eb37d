"""What distilling the emoji family teaches, each lesson a table and a figure with several seeds.

python scripts/emoji_lessons.py features                    # after the teacher: scripts/emoji_family.py emoji-teacher
python scripts/emoji_lessons.py features --seeds 5 --steps 2000
python scripts/emoji_lessons.py features --variants SA LF   # some of its lines (scripts/lesson_variants.py)

Every variant is the family's own run with some fields changed, trained by the trainer of `python -m koala train` for
so many steps, and judged by what it draws (scripts/emoji_judging.py) and by how far its predictions are from the
teacher's on images and captions that neither has seen. What is done is kept under runs/lessons and not done again, and
goes on where it was stopped. Results are results/lessons/emoji-LESSON.{csv,md,svg,png}.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import emoji_judging as judging
import lesson_tables as tables
import pandas as pd
import torch
from lesson_variants import LESSONS, Lesson
from matplotlib import pyplot as plt

from koala.distill import runs
from koala.distill.config import Run
from koala.distill.data.cache import Cache
from koala.distill.kd import Distillation, Weights
from koala.distill.training import train
from koala.harness import figures
from koala.harness.files import write_whole
from koala.harness.tables import to_csv, to_markdown
from koala.models import zoo
from koala.models.load import load

ROOT = judging.ROOT
WORKING, PUBLISHED = ROOT / "runs/lessons", ROOT / "results/lessons"
HELD_OUT = ROOT / "runs/cache/emoji-held-out"
DRAWN = 200  # captions that every student draws
OUTPUT = "output-KD loss"
METRICS = {  # the columns: whether more is better
    OUTPUT: False,
    "kd_dinov2s_imgfocus": False,
    "kd_effnet_lite0": False,
    "toyclip_score": True,
    "toyclip_accuracy": True,
}


def main() -> int:
    """Train, draw and judge what is missing; write table and figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("lesson", choices=LESSONS)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--steps", type=int, default=400, help="optimisation steps of every variant")
    options.add_argument("--variants", nargs="+", metavar="NAME", help="some of the lesson's variants; default: all")
    options.add_argument("--processes", type=int, default=2, help="trainings at a time, of one thread each")
    chosen = options.parse_args()
    lesson = LESSONS[chosen.lesson]
    names = chosen.variants or list(lesson.names)
    if unknown := sorted(set(names) - set(lesson.names)):
        options.error(f"unknown variant {unknown[0]!r}; known: {', '.join(lesson.names)}")
    jobs = {
        (name, seed): variant_run(chosen.lesson, name, seed, chosen.steps)
        for seed in range(chosen.seeds)
        for name in names
    }
    train_all(list(jobs.values()), chosen.processes)
    publish(chosen.lesson, lesson, judged(jobs), chosen.steps)
    return 0


def variant_run(name: str, variant: str, seed: int, steps: int) -> Run:
    """The run of one line of a lesson."""
    lesson = LESSONS[name]
    slug = re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")
    own = {"steps": steps, "seed": seed, "warmup": steps // 10, "save_every": steps, "sample_every": 0}
    fixed = {"ema_decay": 0.99, "tracker": "none", "device": "auto", "out": WORKING / f"{name}-{steps}/{slug}-{seed}"}
    return replace(runs.get(lesson.run), **{**lesson.common, **own, **fixed, **lesson.names[variant].changes})


def train_all(todo: Sequence[Run], processes: int) -> None:
    """Train what has not come to its end."""
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for number, done in enumerate(as_completed([pool.submit(train_one, run) for run in todo]), start=1):
            print(f"{number} of {len(todo)}: {done.result()}", file=sys.stderr, flush=True)


def train_one(run: Run) -> Path:
    """Train in this process, on one thread where there is no GPU."""
    torch.set_num_threads(1)
    if code := train(run):
        sys.exit(code)
    return run.folder


def judged(jobs: dict[tuple[str, int], Run]) -> pd.DataFrame:
    """A row for each variant, seed and metric."""
    side = zoo.get(next(iter(jobs.values())).student).resolution
    finals = [str(run.folder / "final") for run in jobs.values()]
    galleries = judging.draw(finals, side, limit=DRAWN)
    judging.score(galleries, side, metrics=[name for name in METRICS if name != OUTPUT])
    numbers = judging.numbers()
    rows = []
    for (variant, seed), run, gallery in zip(jobs, jobs.values(), galleries, strict=True):
        own = numbers[numbers["path"] == str(gallery)].set_index("metric")["value"]
        values = {OUTPUT: output_loss(run)} | {name: own[name] for name in METRICS if name in own.index}
        rows += [{"variant": variant, "seed": seed, "metric": name, "value": value} for name, value in values.items()]
    return pd.DataFrame(rows)


def output_loss(run: Run) -> float:
    """Mean square between student's and teacher's predictions on held-out images, the same noise for all students."""
    kept = run.folder / "output-loss.json"
    if kept.is_file():
        return float(json.loads(kept.read_text(encoding="utf-8")))
    if not (HELD_OUT / "empty.safetensors").is_file():
        options = ("--model", run.teacher, "--caption-columns", "text", "--interpolation", "lanczos")
        judging.run("koala", "encode", str(judging.ART / "held-out"), *options, "--out", str(HELD_OUT))
    student, teacher = zoo.get(str(run.folder / "final")), zoo.get(run.teacher)
    networks = [load(spec, "cpu", "fp32", spec.own_weights, ("unet",)).unet for spec in (student, teacher)]
    objective = Distillation(student, networks[0], teacher, networks[1], weights=Weights(0, 1, 0))
    cache = Cache(HELD_OUT)
    whole = range(len(cache) // 32 * 32)
    with torch.no_grad():
        losses = [
            float(objective.terms("unet", cache.batch(part, part)).total)
            for part in (range(first, first + 32) for first in whole[::32])
        ]
    write_whole(kept, json.dumps(sum(losses) / len(losses)))
    return sum(losses) / len(losses)


def publish(name: str, lesson: Lesson, rows: pd.DataFrame, steps: int) -> None:
    """Write the rows, the page and the figure."""
    place = PUBLISHED / f"emoji-{name}"
    said = tables.claims(rows, lesson, METRICS)
    command = f"python scripts/emoji_lessons.py {name} --seeds {rows['seed'].nunique()} --steps {steps}"
    page = [
        f"# {lesson.title}",
        f"`{lesson.run}`, {steps} steps of a variant, {DRAWN} captions drawn; made by `{command}`. {lesson.about} "
        "Intervals are 95% over seeds (Student's t).",
        tables.table(rows, lesson, METRICS),
        "## What the papers say, and what came out here",
        "By the interval of the differences between the two variants over seeds, metric by metric; where it holds 0 "
        "the claim cannot be told at this size.",
        to_markdown(said),
    ]
    write_whole(place.with_suffix(".csv"), to_csv(rows))
    write_whole(place.with_suffix(".md"), "\n\n".join(page) + "\n")
    with plt.rc_context(figures.STYLE):
        figures.save(tables.figure(rows, lesson, METRICS), place)


if __name__ == "__main__":
    raise SystemExit(main())
