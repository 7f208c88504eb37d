"""Checkpoints on the disk: found whole or not at all, the newest kept, whatever lies between them."""

import errno
import json
import os
import shutil

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_training import kept, newest_in, trained

from koala.distill.checkpoint import FOLDER, MANIFEST, STATE, clean, newest, path_of, save
from koala.errors import KoalaError

STATE_OF = {"step": 0, "loss": 0.1 + 0.2}


def files(seed=0):
    generator = torch.Generator().manual_seed(seed)
    yield "unet", {"weight": torch.randn(3, 4, generator=generator), "scale": torch.randn((), generator=generator)}
    yield "unet.optimizer", {"weight/bytes": torch.arange(5, dtype=torch.uint8), "empty/m": torch.zeros(0)}


def saved(folder, *steps, keep=10):
    for step in steps:
        save(folder, step, STATE_OF, files(step), keep)
    return folder


def steps_in(folder):
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_what_is_read_is_what_was_written(tmp_path):
    found = newest(saved(tmp_path / "checkpoints", 7), pytest.fail)
    assert found.step == 7 and found.state() == STATE_OF
    for name, tensors in files(7):
        read = found.tensors(name)
        assert read.keys() == tensors.keys()
        assert all(torch.equal(read[key], tensors[key]) and read[key].dtype == tensors[key].dtype for key in tensors)


def test_no_file_is_a_pickle(tmp_path):
    folder = saved(tmp_path, 1) / "step-00000001"
    names = {path.name for path in folder.iterdir()}
    assert names == {"unet.safetensors", "unet.optimizer.safetensors", STATE, MANIFEST}
    assert set(json.loads((folder / MANIFEST).read_text())["files"]) == names - {MANIFEST}


@given(keep=st.integers(1, 4), steps=st.lists(st.integers(1, 10**9), min_size=1, max_size=6, unique=True))
@settings(max_examples=15, deadline=None)
def test_the_newest_are_kept_in_the_order_of_their_steps(tmp_path_factory, keep, steps):
    folder = saved(tmp_path_factory.mktemp("kept"), *sorted(steps), keep=keep)
    assert steps_in(folder) == sorted(steps)[-keep:]
    assert newest(folder, pytest.fail).step == max(steps)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_one_of_a_later_step_than_training_is_at_does_not_count_as_kept(tmp_path):
    saved(tmp_path, 4, 8, 12)
    saved(tmp_path, 9, keep=2)  # 12 was left by a start that wrote at other steps
    assert steps_in(tmp_path) == [8, 9, 12]


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    saved(tmp_path, 3)
    save(tmp_path, 3, STATE_OF, files(99), 2)
    assert torch.equal(newest(tmp_path, pytest.fail).tensors("unet")["weight"], dict(files(99))["unet"]["weight"])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "a flipped bit in the weights": lambda folder: flip(folder / "unet.safetensors"),
    "a flipped bit in the state": lambda folder: flip(folder / STATE),
    "a file cut off": lambda folder: os.truncate(folder / "unet.optimizer.safetensors", 20),
    "a missing file": lambda folder: (folder / STATE).unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: os.truncate(folder / MANIFEST, 30),
    "an empty manifest": lambda folder: (folder / MANIFEST).write_text('{"schema": 1, "files": {}}'),
    "a manifest that is a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "a manifest that is no text": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe\x00"),
    "an empty folder": lambda folder: [path.unlink() for path in folder.iterdir()],
    "a folder in the place of a file": lambda folder: ((folder / STATE).unlink(), (folder / STATE).mkdir()),
    "a file in the place of the folder": lambda folder: (shutil.rmtree(folder), folder.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_with_a_remark_and_kept_aside(damage, tmp_path):
    saved(tmp_path, 1, 2)
    DAMAGES[damage](path_of(tmp_path, 2))
    remarks = []
    assert newest(tmp_path, remarks.append).step == 1
    assert len(remarks) == 1 and "step-00000002 is damaged" in remarks[0]
    assert (tmp_path / "damaged-step-00000002").exists() and steps_in(tmp_path) == [1]
    assert newest(tmp_path, pytest.fail).step == 1  # it is not complained of again
    saved(tmp_path, 2)
    assert newest(tmp_path, pytest.fail).step == 2


def test_where_all_are_damaged_none_is_touched(tmp_path):
    saved(tmp_path, 1, 2)
    for step in (1, 2):
        flip(path_of(tmp_path, step) / STATE)
    with pytest.raises(KoalaError, match=r"no checkpoint in .* is whole"):
        newest(tmp_path, lambda _: None)
    assert steps_in(tmp_path) == [1, 2]


def test_one_of_a_newer_version_is_an_error_and_not_damage(tmp_path):
    folder = path_of(saved(tmp_path, 1, 2), 2)
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(KoalaError, match="newer version"):
        newest(tmp_path, pytest.fail)


def test_leftovers_of_killed_writers_go_and_nothing_else(tmp_path):
    saved(tmp_path, 1)
    left = [tmp_path / ".step-00000002.4711", tmp_path / ".step-00000001.4711.old", tmp_path / ".damaged-step-3.1.old"]
    for folder in left:
        folder.mkdir()
        (folder / "unet.safetensors").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    clean(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "step-00000001"]
    clean(tmp_path / "not there")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
@pytest.mark.parametrize("at", range(8))
def test_a_disk_that_fails_at_any_moment_leaves_what_was_there(at, code, tmp_path, monkeypatch):
    folder = saved(tmp_path / "checkpoints", 1)
    calls = []

    def failing(handle):
        calls.append(handle)
        if len(calls) > at:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    if at < 7:  # four files and three folders are synced
        with pytest.raises(KoalaError, match=f"cannot write the checkpoint .*{os.strerror(code)}"):
            save(folder, 2, STATE_OF, files(), 1)
    else:
        save(folder, 2, STATE_OF, files(), 1)
    monkeypatch.undo()
    found = newest(folder, pytest.fail)
    assert found.step == (1 if at < 5 else 2)  # from then on it had its name already
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_of_a_network_only_what_trains_is_kept(tmp_path):
    trained(tmp_path, steps=1)
    found = newest_in(tmp_path)
    names = {"first.weight", "first.bias", "last.weight", "last.bias"}
    assert found.tensors("unet").keys() == found.tensors("unet.average").keys() == names
    entries = {f"{name}/{entry}" for name in names for entry in ("step", "exp_avg", "exp_avg_sq")}
    assert found.tensors("unet.optimizer").keys() == entries


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"learning_rate": 1e-3}, "--learning-rate was 0.01 and is 0.001"),
        ({"betas": (0.9, 0.95)}, "--betas was"),
        ({"seed": 1}, "--seed was 0 and is 1"),
        ({"ema_decay": 0.0}, "--ema-decay was"),
        ({"batch_size": 8}, "images per step was 4 and is 8"),
        ({"precision": "bf16"}, "--precision was 'fp32' and is 'bf16'"),
        ({"identity": {"content of the data": "b"}}, "content of the data was 'a' and is 'b'"),
    ],
)
def test_a_setting_that_changes_the_numbers_cannot_change_on_the_way(changes, named, tmp_path):
    trained(tmp_path, steps=2, identity={"content of the data": "a"})
    with pytest.raises(KoalaError, match="is of another run") as error:
        trained(tmp_path, **{"steps": 4, "identity": {"content of the data": "a"}, **changes})
    assert named in str(error.value)


def test_settings_that_change_no_number_may_change(tmp_path):
    whole, changed = tmp_path / "whole", tmp_path / "changed"
    trained(whole)
    trained(changed, steps=4)
    trained(changed, keep=5, save_every=7, log_every=3, workers=2, batch_size=2, accumulation=2, on_nan="skip")
    assert steps_in(changed / FOLDER) == [4, 7, 12]
    # sums in another order
    torch.testing.assert_close(kept(changed, 12, "unet"), kept(whole, 12, "unet"), atol=1e-6, rtol=1e-5)


def test_a_setting_that_an_older_version_did_not_have_was_its_default(tmp_path):
    trained(tmp_path, steps=2)
    found = newest_in(tmp_path)
    state = found.state()
    del state["settings"]["noise_offset"]
    files = [(name, found.tensors(name)) for name in ("unet", "unet.average", "unet.optimizer")]
    save(tmp_path / FOLDER, 2, state, files, 1)
    with pytest.raises(KoalaError, match=r"--noise-offset was 0\.0 and is 0\.1"):
        trained(tmp_path, steps=3, noise_offset=0.1)
    assert trained(tmp_path, steps=3).summary.steps == 3


def test_less_than_was_done_is_refused(tmp_path):
    trained(tmp_path, steps=3)
    with pytest.raises(KoalaError, match="is beyond --steps 2: --steps 3 ends there"):
        trained(tmp_path, steps=2)


def test_a_schedule_of_another_length_is_remarked_on(tmp_path, capsys):
    trained(tmp_path, steps=4, schedule="cosine")
    trained(tmp_path, steps=6, schedule="cosine")
    assert "the cosine schedule now ends at step 6, not 4" in capsys.readouterr().err
