"""Several processes train as one with the whole batch does, from one another's checkpoints too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toy_process import Faults, Job, error_of, tensors, train
from toy_training import kept, results, same_bits

from koala.distill.checkpoint import FOLDER

STEPS = 12
TOLERANCE = 1e-5
EIGHT = {"batch_size": 8}  # images per step, in one process and one pass
SPLITS = {  # the same eight otherwise
    "accumulated": Job(Path(), {"batch_size": 2, "accumulation": 4}),
    "two processes": Job(Path(), {"batch_size": 4}, world=2),
    "two processes, accumulated": Job(Path(), {"batch_size": 2, "global_batch": 8}, world=2),
    "sharded": Job(Path(), {"batch_size": 4}, world=2, fsdp=True),
    "sharded, accumulated": Job(Path(), {"batch_size": 2, "accumulation": 2}, world=2, fsdp=True),
}


def at(out: Path, job: Job, **changes) -> Job:
    return Job(out, {**job.run, **changes}, world=job.world, fsdp=job.fsdp)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert train(Job(out, EIGHT)) == [0]
    return out


def assert_close(out: Path, alone: Path) -> None:
    mine, theirs = results(out), results(alone)
    assert [row["step"] for row in mine] == list(range(1, STEPS + 1))
    for a, b in zip(mine, theirs, strict=True):
        assert a["images"] == b["images"] and a["learning_rate"] == b["learning_rate"]
        assert a["losses"]["unet"] == pytest.approx(b["losses"]["unet"], abs=TOLERANCE)
        assert a["gradient_norm"] == pytest.approx(b["gradient_norm"], abs=TOLERANCE)
    torch.testing.assert_close(tensors(out, STEPS), tensors(alone, STEPS), atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("split", SPLITS)
def test_however_a_batch_is_split_the_losses_are_those_of_the_whole(split, tmp_path, alone):
    assert train(at(tmp_path, SPLITS[split])) == [0], error_of(tmp_path)
    assert_close(tmp_path, alone)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("accumulated", "two processes"), ("two processes", "sharded")])
def test_a_training_goes_on_with_another_number_of_processes(first, then, tmp_path, alone):
    assert train(at(tmp_path, SPLITS[first], steps=6)) == [0]
    assert train(at(tmp_path, SPLITS[then])) == [0]
    assert_close(tmp_path, alone)


@pytest.mark.slow
def test_a_unet_learns_from_another_in_two_processes_and_sharded_as_in_one(tmp_path):
    run = {"steps": 2, "batch_size": 2, "learning_rate": 1e-4}
    halves = {**run, "batch_size": 1, "workers": 1, "gradient_checkpointing": True}
    one, two, sharded = (tmp_path / name for name in ("one", "two", "sharded"))
    jobs = [
        Job(two, halves, world=2, learns="kd"),
        Job(sharded, halves, world=2, learns="kd", fsdp=True),
    ]  # by fsdp.yaml
    assert train(Job(one, run, learns="kd"), *jobs) == [0, 0, 0]
    for out in (two, sharded):
        for a, b in zip(results(one), results(out), strict=True):
            assert {"task", "output", "feature", "feature/UP-1"} < a["losses"]["unet"].keys()
            assert b["losses"]["unet"] == pytest.approx(a["losses"]["unet"], rel=TOLERANCE)
            assert b["gradient_norm"] == pytest.approx(a["gradient_norm"], rel=10 * TOLERANCE)
        torch.testing.assert_close(kept(out, 2, "unet"), kept(one, 2, "unet"), atol=1e-3, rtol=0)


def test_a_generator_and_its_critic_train_in_two_processes_and_sharded_as_in_one(tmp_path):
    run = {"steps": 3, "batch_size": 2, "learning_rate": 1e-4, "ema_decay": 0.0}
    halves = {**run, "batch_size": 1, "workers": 1, "gradient_checkpointing": True}
    one, two, sharded = (tmp_path / name for name in ("one", "two", "sharded"))
    jobs = [Job(two, halves, world=2, learns="dmd2"), Job(sharded, halves, world=2, learns="dmd2", fsdp=True)]
    assert train(Job(one, run, learns="dmd2"), *jobs) == [0, 0, 0]
    for out in (two, sharded):
        for step, (a, b) in enumerate(zip(results(one), results(out), strict=True)):
            assert set(a["losses"]) == ({"unet", "critic"} if step % 2 == 0 else {"critic"})
            assert "regression" in a["losses"].get("unet", {"regression": 0})
            for network, losses in a["losses"].items():
                assert b["losses"][network] == pytest.approx(losses, rel=1e-4), (out.name, step)
                assert b["gradient_norm"][network] == pytest.approx(a["gradient_norm"][network], rel=1e-3)
        for name in ("unet", "critic"):
            torch.testing.assert_close(kept(out, 3, name), kept(one, 3, name), atol=1e-3, rtol=0)


def test_several_processes_go_on_to_the_bit_and_end_together(tmp_path):
    two = SPLITS["two processes"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert train(at(whole, two)) == [0]
    interrupted = Job(broken, two.run, Faults(signal_at_step=5), world=2)  # in one of them
    assert train(interrupted) == [130]
    assert [path.name for path in sorted((broken / FOLDER).iterdir())] == ["step-00000004", "step-00000006"]
    assert train(at(broken, two)) == [0]
    assert json.dumps(results(broken)) == json.dumps(results(whole))
    assert same_bits(tensors(broken, STEPS), tensors(whole, STEPS))


def test_processes_stop_together_for_a_number_that_is_none(tmp_path):
    job = Job(tmp_path, {"batch_size": 2}, n=40, broken=(7,), world=2)
    assert train(job) == [2]
    assert "image-7" in error_of(tmp_path)


def test_processes_stop_together_when_one_cannot_write_its_samples(tmp_path):
    job = Job(tmp_path, {"batch_size": 2, "sample_every": 2, "save_every": 3}, world=2, sampled_by=1)
    assert train(job) == [2]
    assert [row["step"] for row in results(tmp_path)] == [1, 2, 3]


def test_text_encoders_may_have_layers_that_nothing_depends_on(tmp_path):
    job = Job(tmp_path, {"lora_text": True, "steps": 3}, idle=True, world=2)
    assert train(job) == [0]


def test_a_global_batch_that_cannot_be_reached_is_an_error(tmp_path):
    assert train(Job(tmp_path, {"batch_size": 4, "global_batch": 12}, world=2)) == [2]
    assert "cannot make up --global-batch 12" in error_of(tmp_path)


def test_torchrun_starts_two_processes_that_find_each_other(tmp_path, alone):
    # `accelerate launch --cpu --num_processes 2` starts one, and tells it nothing of a second
    toy = Path(__file__).with_name("toy_process.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(toy)]
    done = subprocess.run([*launch, str(tmp_path)], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr
    assert_close(tmp_path, alone)
    assert done.stdout == ""
