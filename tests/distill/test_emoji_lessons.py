"""The scripts that judge the emoji family and draw lessons from it: what they train, conclude and show."""

import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

import emoji_judging
import emoji_lessons
import emoji_results
from lesson_rows import TAUGHT_BY
from lesson_variants import LESSONS, Captions

from koala.distill import emoji_runs
from koala.distill.data.emoji.judged import PARTS as JUDGED
from koala.distill.data.emoji.judged import write_judged
from koala.distill.final import unet_digest
from koala.distill.matching import pairs
from koala.distill.model_card import LOSSES
from koala.models import zoo
from koala.models.load import load
from koala.models.zoo.local import CARD, Trained

FEATURES = LESSONS["features"]


@pytest.mark.parametrize(("lesson", "variant"), [(name, v) for name in LESSONS for v in LESSONS[name].names])
def test_every_variant_is_a_run_whose_features_its_networks_have(lesson, variant):
    run = emoji_lessons.variant_run(lesson, variant, 2, 400)
    networks = zoo.get(run.teacher).unet, zoo.get(run.student).unet
    assert bool(pairs(run.features, run.location, *networks)) == bool(run.features)
    assert (run.seed, run.steps, run.out.name[-2:]) == (2, 400, "-2")


@pytest.mark.parametrize("lesson", LESSONS)
def test_variants_have_folders_of_their_own(lesson):
    runs = [emoji_lessons.variant_run(lesson, name, seed, 9) for name in LESSONS[lesson].names for seed in (0, 1)]
    assert len({run.out for run in runs}) == len(runs)


def test_names_of_the_larger_size_are_those_that_a_variant_reads():
    assert emoji_lessons.variant_run("teacher", "teacher of 4 steps", 0, 9, "-64").teacher == "emoji-teacher-4step-64"
    assert emoji_lessons.variant_run("teacher", "teacher of 4 steps", 0, 9).teacher == "emoji-teacher-4step"
    assert emoji_lessons.variant_run("few-steps", "4 steps: all", 0, 9, "-64").student == "emoji-koala-4step-64"


@pytest.mark.parametrize("lesson", LESSONS)
def test_what_variants_read_beside_the_family_is_made_first(lesson):
    read = {emoji_lessons.variant_run(lesson, name, 0, 9).data for name in LESSONS[lesson].names}
    assert read - {emoji_runs.DATA} == set(LESSONS[lesson].caches)


def test_images_by_lot_are_the_same_each_time_and_have_their_captions(root):
    lot = Captions("text", images=3)
    folder = emoji_lessons.images_of(lot)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 3 and all((folder / row["file_name"]).read_bytes() for row in rows)
    before = (folder / "metadata.jsonl").read_bytes()
    assert (emoji_lessons.images_of(lot) / "metadata.jsonl").read_bytes() == before
    assert emoji_lessons.images_of(Captions("text")) == root / "train"


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A dataset of eight images of train and three that are held out."""
    for part, count in (("train", 8), ("held-out", 3)):
        (tmp_path / part / "images").mkdir(parents=True)
        lines = []
        for i in range(count):
            name = f"images/{part}{i}.png"
            Image.new("RGB", (64, 64), (20 * i, 99, 0)).save(tmp_path / part / name)
            lines.append(
                {"file_name": name, "text": f"{part} {i}", "rich": "long", "code": f"{part}{i}", "tone": "dark"}
            )
        (tmp_path / part / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.setattr(emoji_judging, "ROOT", tmp_path)
    monkeypatch.setattr(emoji_lessons, "ROOT", tmp_path)
    monkeypatch.setattr(emoji_judging, "ART", tmp_path)
    write_judged(tmp_path)
    return tmp_path


def test_a_packed_dataset_stands_in_where_there_is_none(root, tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_WEIGHTS", "")
    monkeypatch.setattr(emoji_judging, "ART", tmp_path / "runs/data/emoji")
    packed = tmp_path / "packed"
    (packed / "emoji").mkdir(parents=True)
    emoji_judging.unpack(packed)
    assert emoji_judging.ART.resolve() == packed / "emoji" and os.environ["KOALA_WEIGHTS"] == str(packed / "weights")
    emoji_judging.unpack(tmp_path / "other")
    assert emoji_judging.ART.resolve() == packed / "emoji", "a dataset that is there stays"


def runs_of(folder, n):
    return [replace(emoji_lessons.variant_run("features", "SA", seed, 9), out=folder / str(seed)) for seed in range(n)]


def quick(run):
    """In the place of a training."""
    run.folder.mkdir(parents=True)
    time.sleep(0.3)
    return run.folder


@pytest.mark.parametrize("processes", [1, 2])
def test_trainings_are_not_begun_that_would_end_after_the_deadline(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(emoji_lessons, "train_one", quick)
    monkeypatch.setattr(emoji_lessons, "ProcessPoolExecutor", lambda n, context: ThreadPoolExecutor(n))
    todo = runs_of(tmp_path, 5)
    assert not emoji_lessons.train_all(todo, processes, time.monotonic() + 0.7)
    begun = len(list(tmp_path.iterdir()))
    assert processes <= begun < 5
    assert emoji_lessons.train_all(todo[begun:], processes, float("inf"))
    assert len(list(tmp_path.iterdir())) == 5


def test_a_lesson_is_judged_by_what_training_left_without_the_models(tmp_path, monkeypatch):
    jobs = {("SA", seed): run for seed, run in enumerate(runs_of(tmp_path, 2))}
    lines = []
    for seed, run in enumerate(jobs.values()):
        run.folder.mkdir()
        kept = {"galleries": {10: f"gallery-{seed}"}, emoji_lessons.OUTPUT: 0.1 + seed, TAUGHT_BY: "4b"}
        (run.folder / emoji_lessons.DRAWN_IN).write_text(json.dumps(kept))
        path = str(emoji_lessons.ROOT / f"gallery-{seed}")
        lines += [{"path": path, "metric": "toyclip_score", "value": 0.5 + seed}]
    scored = []
    monkeypatch.setattr(emoji_judging, "score", lambda galleries, side: scored.extend([*galleries, side]))
    monkeypatch.setattr(emoji_judging, "numbers", lambda: pd.DataFrame(lines))
    found = emoji_lessons.judged(jobs, FEATURES)
    assert {*zip(found["trained"], found["teacher"], found[TAUGHT_BY], strict=True)} == {(9, "emoji-teacher", "4b")}
    assert scored == [emoji_lessons.ROOT / "gallery-0", emoji_lessons.ROOT / "gallery-1", 32]
    assert found.pivot(index="seed", columns="metric", values="value").to_dict() == {
        emoji_lessons.OUTPUT: {0: 0.1, 1: 1.1},
        "toyclip_score": {0: 0.5, 1: 1.5},
    }


@pytest.fixture
def numbers(root, monkeypatch):
    """Scores of two models and of the real images, as a report has them."""
    monkeypatch.setattr(emoji_results, "ROOT", root)
    real, lines = emoji_judging.reference(32), []
    texts = {part: emoji_results.part_of(real, part) for part in JUDGED}
    for model, steps in (("emoji-teacher", 25), ("emoji-teacher", 4), ("emoji-koala-4step", 4), (None, None)):
        path = real if model is None else root / f"{model}-{steps}"
        if model is not None:
            path.mkdir()
            manifest = [{"prompt": text, "file": f"{i}.png"} for i, text in enumerate(chain(*texts.values()))]
            for row in manifest:
                Image.fromarray(np.full((32, 32, 3), 50, np.uint8)).save(path / row["file"])
            monkeypatch.setattr(emoji_results, "Gallery", lambda folder, rows=manifest: Rows(folder, rows))
        for metric in emoji_results.COLUMNS:
            lines.append(
                {"model": model, "steps": steps, "metric": metric, "value": 0.5, "low": -0.0004, "high": 0.61234}
            )
            lines[-1] |= dict.fromkeys(emoji_results.KEPT[5:], "x") | {"path": str(path), "label": metric}
    return pd.DataFrame(lines)


class Rows:
    """A gallery."""

    def __init__(self, folder, rows):
        self._rows = rows

    def rows(self):
        return self._rows


def test_the_table_of_the_family_has_a_line_a_gallery_with_intervals(numbers):
    scores = emoji_results.of([Path(path) for path in numbers["path"].unique()], numbers)
    frame, _ = emoji_results.table(scores)
    assert list(frame["model"]) == ["emoji-teacher", "emoji-teacher", "emoji-koala-4step", emoji_results.REAL]
    assert list(frame["steps"][:2]) == [4, 25] and not Path(scores["path"].iloc[0]).is_absolute()
    assert (
        frame["KD, DINOv2-S [lower]"][0] == "0.500 [-0.000400, 0.612]"
        and frame["the same, unseen [%]"][0] == "50.0 [0.0, 61.2]"
    )
    assert len(emoji_results.against_steps(scores).axes) == 4


def test_sheets_show_the_same_captions_of_every_gallery_beside_the_real_images(numbers, tmp_path):
    scores = emoji_results.of([Path(path) for path in numbers["path"].unique()], numbers)
    own = emoji_results.columns(scores, lambda line: line["own"])
    assert [*own] == [emoji_results.REAL, "emoji-teacher, 25 steps", "emoji-koala-4step, 4 steps"]
    emoji_results.write_sheet(tmp_path / "sheet.png", own)
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.width > 3 * 256 and image.height > 8 * 256, "three columns, all three and five captions"


def test_the_student_that_is_attached_is_the_trained_one_in_half_precision(tmp_path, monkeypatch):
    base, own = zoo.get("emoji-koala"), tmp_path / "own"
    load(base, "cpu", weights="random", parts=("unet",)).unet.save_pretrained(own)
    card = Trained("emoji-koala", "emoji-koala", unet_digest(own), "emoji-koala", base.recipe, 32, {"steps": 6})
    (own / CARD).write_text(card.text())
    (own / "README.md").write_text("its card\n")
    (own / LOSSES).write_bytes(b"curves")
    spec = replace(base, folder=str(own), attached=str(tmp_path / "attached"))
    monkeypatch.setattr(emoji_results.zoo, "get", lambda name: spec)
    emoji_results.attach()
    size = (tmp_path / "attached/diffusion_pytorch_model.safetensors").stat().st_size
    assert size < 8 * 2**20 and (tmp_path / "attached/README.md").read_text().startswith("its card\n")
    half, whole = (
        load(spec, "cpu", weights=str(place), parts=("unet",)).unet for place in (tmp_path / "attached", own)
    )
    for ours, theirs in zip(half.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
    before = (tmp_path / "attached" / CARD).stat().st_mtime_ns
    emoji_results.attach()
    assert (tmp_path / "attached" / CARD).stat().st_mtime_ns == before, "it is there already"
