"""Students learn from a small frozen teacher: images in a folder, a cache of them, the objective, the trainer.

The teacher's weights are random but fixed, for no released ones are small enough to train on here. So there is no task
term, which such a teacher contradicts. What is shown is that the parts learn together, not how well a student draws.
"""

import os
import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
import torch

from koala.distill import distributed, runs
from koala.distill.assemble import inherited
from koala.distill.batch import Batch
from koala.distill.config import Run
from koala.distill.data.cache import Cache
from koala.distill.kd import Distillation, Weights
from koala.distill.trainer import Trainer
from koala.models import zoo
from koala.models.load import load
from koala.models.spec import ModelSpec

sys.path.append(str(Path(__file__).parent))

import captioned
from trained_runs import koala

IMAGES, EVERY = 24, 30
SEEDS = (0, 1, 2)
GATED = pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="10 minutes: set KOALA_FULLSIZE=1")


@dataclass(frozen=True)
class Lesson:
    """Who learns from whom, on what, and for how long."""

    run: str
    side: int
    steps: int  # of the long training
    compared: int  # steps of those with and without inheritance

    @property
    def models(self) -> tuple[ModelSpec, ModelSpec]:
        """The student and the teacher."""
        named = runs.get(f"tiny-{self.run}")
        return replace(zoo.get(named.student), resolution=self.side), zoo.get(named.teacher)


SHORT = Lesson("bk-sdm-tiny", 32, 120, 30)
LONG = Lesson("koala-700m-base", 64, 240, 120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("learning")


@pytest.fixture(scope="module")
def curve(folder):
    """Output-KD losses of a lesson by seed and by whether the student inherits; each is trained once."""

    @cache
    def of(lesson: Lesson, seed: int, inherit: bool) -> list[float]:
        longest = seed == SEEDS[0] and inherit
        return output_losses(lesson, folder, seed, inherit, lesson.steps if longest else lesson.compared)

    return of


def cache_of(lesson: Lesson, folder: Path) -> Cache:
    """The images of a lesson, encoded once."""
    path, (student, _) = folder / lesson.run, lesson.models
    if not path.exists():
        photos = captioned.folder(folder / f"{lesson.run}-photos", IMAGES)
        line = [photos, "--model", student.name, "--resolution", lesson.side, "--out", path, "--device", "cpu"]
        assert koala("encode", *line) == 0
    return Cache(path)


def output_losses(lesson: Lesson, folder: Path, seed: int, inherit: bool, steps: int) -> list[float]:
    """The output-KD loss on fixed noise before the training, and after every `EVERY` steps of it."""
    (student_spec, teacher_spec), images = lesson.models, cache_of(lesson, folder)
    teacher = load(teacher_spec, "cpu", parts=("unet",), seed=0).unet
    if inherit:
        student = inherited(teacher_spec, student_spec, "random", 0)
    else:
        student = load(student_spec, "cpu", parts=("unet",), seed=1000 + seed).unet
    objective = Distillation(
        student_spec,
        student,
        teacher_spec,
        teacher,
        runs.get(lesson.run).features,
        weights=Weights(task=0.0),
        seed=seed,
    )
    fixed = images.batch(range(IMAGES), range(10**6, 10**6 + IMAGES))
    losses = [output_loss(objective, fixed)]
    out = folder / f"{lesson.run}-{seed}-{inherit}-{steps}"
    run = Run(
        student=student_spec.name,
        teacher=teacher_spec.name,
        steps=steps,
        batch_size=4,
        learning_rate=1e-3,
        precision="fp32",
        seed=seed,
        save_every=steps,
        sample_every=EVERY,
        tracker="none",
        device="cpu",
        out=out,
    )
    with distributed.processes(run, out) as accelerator:
        Trainer(
            run, objective, images, out, accelerator, sample=lambda step: losses.append(output_loss(objective, fixed))
        ).train()
    return losses


@torch.no_grad()
def output_loss(objective: Distillation, batch: Batch) -> float:
    """How far the student's predictions are from its teacher's: mean squared difference."""
    return objective.terms("unet", batch).parts["output"].item()


def told(losses: list[float]) -> str:
    return " ".join(f"{loss:.4f}" for loss in losses)


def saying_nothing(lesson: Lesson, folder: Path) -> float:
    """The output-KD loss of a student that always predicts 0: the teacher's mean square."""
    (student_spec, teacher_spec), images = lesson.models, cache_of(lesson, folder)
    student = load(student_spec, "cpu", parts=("unet",)).unet
    for parameter in student.conv_out.parameters():
        parameter.data.zero_()
    teacher = load(teacher_spec, "cpu", parts=("unet",), seed=0).unet
    objective = Distillation(student_spec, student, teacher_spec, teacher)
    return output_loss(objective, images.batch(range(IMAGES), range(10**6, 10**6 + IMAGES)))


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lesson", [SHORT, pytest.param(LONG, marks=GATED)], ids=lambda lesson: lesson.run)
def test_the_difference_from_the_teacher_falls_at_least_by_half(lesson, folder, curve, capsys):
    losses = curve(lesson, SEEDS[0], True)
    trivial = saying_nothing(lesson, folder)
    with capsys.disabled():
        print(f"\n{lesson.run}, output-KD loss every {EVERY} of {lesson.steps} steps: {told(losses)}")
        print(f"of a student that predicts 0: {trivial:.4f}")
    assert losses[-1] <= 0.5 * losses[0]
    assert losses[-1] <= 0.6 * trivial, "more is learnt than to say nothing"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("lesson", [SHORT, pytest.param(LONG, marks=GATED)], ids=lambda lesson: lesson.run)
def test_a_student_that_inherits_ends_closer_to_its_teacher(lesson, curve, capsys):
    upto = lesson.compared // EVERY + 1
    for seed in SEEDS:
        with_it, without = (curve(lesson, seed, inherit)[:upto] for inherit in (True, False))
        with capsys.disabled():
            print(f"\n{lesson.run}, seed {seed}: {told(with_it)} with inheritance, {told(without)} without")
        assert with_it[-1] < without[-1]
