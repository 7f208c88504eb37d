import json
import os

import encoded_images
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from koala.distill.data import shards
from koala.distill.data.shards import Shard, problem_with, write_shard
from koala.errors import KoalaError

counts = st.lists(st.integers(1, 4), min_size=1, max_size=5)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts, st.integers(1, 3), st.booleans())
def test_what_is_written_is_read_again_row_by_row(tmp_path, captions, variants, pooled):
    images = [encoded_images.image(i, n, variants, pooled) for i, n in enumerate(captions)]
    write_shard(tmp_path, "some", images)
    shard = Shard(tmp_path, "some")
    assert (len(shard), shard.variants) == (len(images), variants)
    for row, image in enumerate(images):
        assert shard.num_captions(row) == len(image.captions)
        for caption, text in enumerate(image.captions):
            drawn = shard.draw(row, caption, variants - 1)
            assert (drawn.key, drawn.caption) == (image.key, text)
            assert torch.equal(drawn.clean, image.clean[-1]) and torch.equal(drawn.sizes, image.sizes[-1])
            assert torch.equal(drawn.condition.context[0], image.condition.context[caption])
            assert (drawn.condition.pooled is None) == (not pooled) and drawn.condition.labels is None


def test_a_shard_is_a_plain_safetensors_file_and_plain_lines_of_json(tmp_path):
    images = [encoded_images.image(0, captions=2, variants=3), encoded_images.image(1)]
    write_shard(tmp_path, "some", [encoded_images.image(0, 2), images[1]])
    tensors = load_file(tmp_path / "some.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "clean": (2, 1, 4, 4, 4),
        "sizes": (2, 1, 6),
        "context": (3, 5, 8),
        "pooled": (3, 3),
        "captions": (3,),
        "lines": (3,),
    }
    assert tensors["captions"].tolist() == [0, 2, 3]
    assert (tensors["clean"].dtype, tensors["sizes"].dtype) == (torch.float16, torch.int32)
    lines = (tmp_path / "some.jsonl").read_bytes().split(b"\n")[:-1]
    assert [json.loads(line)["key"] for line in lines] == ["folder/00000", "folder/00001"]
    assert json.loads(lines[1]) == {"key": images[1].key, "captions": [*images[1].captions], "original": [101, 200]}


def test_equal_images_give_equal_bytes_and_digests(tmp_path):
    entries = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        entries.append(write_shard(tmp_path / name, "some", [encoded_images.image(i) for i in range(3)]))
    assert entries[0] == entries[1]
    assert problem_with(tmp_path / "first", entries[0], digest=True) == ""


def test_whoever_may_read_the_folder_may_read_its_files(tmp_path):
    write_shard(tmp_path, "some", [encoded_images.image(0)])
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}


def test_an_image_takes_the_bytes_that_it_says(tmp_path):
    images = [encoded_images.image(i, captions=2, variants=2, side=16) for i in range(20)]
    entry = write_shard(tmp_path, "some", images)
    size = entry["files"]["some.safetensors"]["bytes"]
    assert 0 <= size - sum(image.num_bytes for image in images) < 1000


def test_reading_a_row_does_not_touch_the_others(tmp_path, monkeypatch):
    write_shard(tmp_path, "some", [encoded_images.image(i) for i in range(9)])
    whole = []

    class Watched:
        def __init__(self, *arguments):
            self._file = safe_open(*arguments)

        def __getattr__(self, name):
            return getattr(self._file, name)

        def get_tensor(self, name):
            whole.append(name)
            return self._file.get_tensor(name)

    monkeypatch.setattr(shards, "safe_open", Watched)
    Shard(tmp_path, "some").draw(4, 0, 0)
    assert sorted(whole) == ["captions", "lines"]  # two numbers a row


@pytest.mark.parametrize("name", ["some.safetensors", "some.jsonl"])
def test_missing_shortened_and_damaged_files_are_told_apart(tmp_path, name):
    entry = write_shard(tmp_path, "some", [encoded_images.image(0)])
    path = tmp_path / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert problem_with(tmp_path, entry) == ""
    assert problem_with(tmp_path, entry, digest=True).startswith(f"{path} is damaged: its sha256 is not the one")
    path.write_bytes(data[:-1])
    assert problem_with(tmp_path, entry).startswith(f"{path} has {len(data) - 1:,} bytes, and {len(data):,} were")
    path.unlink()
    assert problem_with(tmp_path, entry) == f"{path} is missing"


def test_a_file_whose_header_is_damaged_is_a_users_error(tmp_path):
    write_shard(tmp_path, "some", [encoded_images.image(0)])
    path = tmp_path / "some.safetensors"
    path.write_bytes(b"\xff" * 20 + path.read_bytes()[20:])
    with pytest.raises(KoalaError, match=r"cannot read .*some.safetensors: .*--check"):
        Shard(tmp_path, "some")


def test_words_that_are_damaged_are_a_users_error(tmp_path):
    write_shard(tmp_path, "some", [encoded_images.image(0)])
    (tmp_path / "some.jsonl").write_bytes(b"{")
    with pytest.raises(KoalaError, match=r"cannot read .*some.jsonl"):
        Shard(tmp_path, "some").draw(0, 0, 0)


def test_what_a_killed_writer_left_is_written_over_and_nothing_else_stays(tmp_path):
    (tmp_path / ".some.safetensors.part").write_bytes(b"half a shard")
    write_shard(tmp_path, "some", [encoded_images.image(0)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["some.jsonl", "some.safetensors"]


def test_a_full_disk_is_a_users_error_and_leaves_no_file(tmp_path, monkeypatch):
    def full(file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KoalaError, match=r"cannot write .*some.safetensors: .*No space left"):
        write_shard(tmp_path, "some", [encoded_images.image(0)])
    assert not any(tmp_path.iterdir())
