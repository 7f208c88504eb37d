"""Toy trainings within the test's own process, and what they leave."""

from pathlib import Path

import pytest
import torch
from toy import ToyExamples, ToyObjective, toy_run

from koala.distill import log
from koala.distill.checkpoint import FOLDER, Checkpoint, newest, path_of
from koala.distill.distributed import processes
from koala.distill.trainer import Trainer


def trained(out: Path, objective=None, examples=None, scaler=None, sample=None, identity=None, **changes) -> Trainer:
    """A trainer that has trained the toy, by a run with these changes; `summary` is what it said."""
    run = toy_run(**changes)
    objective, examples = objective or ToyObjective(), ToyExamples() if examples is None else examples
    with processes(run, out) as accelerator:
        accelerator.scaler = scaler
        trainer = Trainer(run, objective, examples, out, accelerator, sample=sample, identity=identity)
        trainer.summary = trainer.train()
        return trainer


def results(out: Path) -> list[dict]:
    """What may depend on neither kills nor the clock, of every row, bit by bit."""
    names = ("step", "losses", "gradient_norm", "learning_rate", "skipped", "images")
    return [{name: row[name] for name in names} for row in log.read(out / log.FILE)]


def losses(out: Path) -> list[float | None]:
    return [row["losses"]["unet"]["total"] for row in results(out)]


def newest_in(out: Path) -> Checkpoint:
    return newest(out / FOLDER, pytest.fail)


def kept(out: Path, step: int, name: str) -> dict[str, torch.Tensor]:
    """A file of a checkpoint."""
    return Checkpoint(path_of(out / FOLDER, step)).tensors(name)


def same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
