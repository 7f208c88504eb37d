"""Kills, signals and full disks, in real processes: what is left is whole, and training goes on as if nothing was."""

import json
import random
import signal
from pathlib import Path

import pytest
from toy_process import Faults, Job, error_of, tensors, train
from toy_training import newest_in, results, same_bits

from koala.distill.checkpoint import FOLDER, newest
from koala.errors import KoalaError
from koala.harness.records import Store

STEPS = 12
TOYS = {"n": 17, "dropout": 0.3}  # 12 steps of 4 images are almost three epochs


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert train(Job(out, **TOYS)) == [0]
    assert len(results(out)) == STEPS
    return out


def assert_same(out: Path, undisturbed: Path) -> None:
    assert json.dumps(results(out)) == json.dumps(results(undisturbed))
    assert same_bits(tensors(out, STEPS), tensors(undisturbed, STEPS))
    assert sorted(path.name for path in (out / FOLDER).iterdir()) == ["step-00000008", "step-00000012"]


@pytest.mark.parametrize("seed", range(3))
def test_a_training_that_is_killed_again_and_again_ends_as_the_undisturbed_one_to_the_bit(seed, tmp_path, undisturbed):
    chance, kills = random.Random(seed), 0
    for _ in range(40):
        faults = Faults(kill_at_operation=chance.randint(8, 30), after=chance.random() < 0.5)
        code = train(Job(tmp_path, faults=faults, **TOYS))[0]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert code == 0 and kills > 0
    assert_same(tmp_path, undisturbed)


def test_a_kill_at_any_moment_of_a_checkpoint_leaves_one_to_go_on_from(tmp_path, undisturbed):
    # The environment's row and those of steps 1 to 4 are five syncs, each checkpoint about a dozen operations.
    moments = [(n, after) for n in range(16, 36) for after in (False, True)][::4]
    jobs = [Job(tmp_path / f"{n}-{after}", faults=Faults(n, after), **TOYS) for n, after in moments]
    assert train(*jobs) == [-signal.SIGKILL] * len(jobs)
    left = [newest_in(job.out) for job in jobs]  # a kill never leaves a damaged one behind
    assert {found.step if found else 0 for found in left} == {4, 8}
    again = [Job(job.out, **TOYS) for job in jobs]
    assert train(*again) == [0] * len(jobs)
    for job in again:
        assert_same(job.out, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_finishes_the_step_and_writes_a_checkpoint(number, tmp_path, undisturbed):
    assert train(Job(tmp_path, faults=Faults(signal_at_step=5, number=number), **TOYS)) == [130]
    assert newest_in(tmp_path).step == 6
    assert train(Job(tmp_path, **TOYS)) == [0]
    assert_same(tmp_path, undisturbed)


def test_a_full_disk_is_an_error_that_leaves_the_earlier_checkpoint_whole(tmp_path):
    wide = {"width": 2000}  # 70 kB of weights, 140 kB of moments
    whole, full = tmp_path / "whole", tmp_path / "full"
    assert train(Job(whole, **wide), Job(full, faults=Faults(file_limit_at_step=6), **wide)) == [0, 2]
    assert "cannot write the checkpoint" in error_of(full) and "File too large" in error_of(full)
    assert [path.name for path in (full / FOLDER).iterdir()] == ["step-00000004"]
    assert newest_in(full).step == 4
    assert train(Job(full, **wide)) == [0]
    assert results(full) == results(whole) and same_bits(tensors(full, STEPS), tensors(whole, STEPS))


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / FOLDER).write_text("in the way")
    assert train(Job(tmp_path)) == [2]
    assert "cannot write the checkpoint" in error_of(tmp_path)


def test_a_second_training_in_a_folder_is_refused(tmp_path):
    with Store(tmp_path / "log.jsonl"):
        assert train(Job(tmp_path)) == [2]
    assert "another run is writing" in error_of(tmp_path)
    assert not (tmp_path / FOLDER).exists()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, undisturbed):
    assert train(Job(tmp_path, **TOYS)) == [0]
    weights = tmp_path / FOLDER / "step-00000012" / "unet.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    assert train(Job(tmp_path, **TOYS)) == [0]
    damaged = tmp_path / FOLDER / "damaged-step-00000012"
    assert (damaged / "unet.safetensors").read_bytes() == content
    damaged.rename(tmp_path / "aside")
    assert_same(tmp_path, undisturbed)


def test_without_a_whole_checkpoint_nothing_starts_all_over_unasked(tmp_path):
    assert train(Job(tmp_path, run={"keep": 1})) == [0]
    (tmp_path / FOLDER / "step-00000012" / "state.json").unlink()
    assert train(Job(tmp_path, run={"keep": 1})) == [2]
    assert "no checkpoint" in error_of(tmp_path) and "is whole" in error_of(tmp_path)
    with pytest.raises(KoalaError, match="start all over"):
        newest(tmp_path / FOLDER, lambda _: None)
