import json
import os
import random
import signal
import socket
import time
from pathlib import Path

import captioned
import pytest
from encode_server import Server

from koala.distill.data.cache import Cache, read_index

IMAGES = 24


@pytest.fixture(scope="module")
def server():
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Four units of six images, of which one is broken."""
    folder = captioned.tars(tmp_path_factory.mktemp("source") / "tars", IMAGES - 1, shards=4, side=40)
    captioned.tar(folder / "train-0004.tar", {"000000.png": b"no image", "000000.txt": b"a caption"})
    return folder


def command(source: Path, out: Path, *options: str) -> dict:
    words = ["--model", "tiny-koala-700m", "--resolution", "32", "--batch-size", "2", "--device", "cpu", *options]
    return {"argv": [str(source), "--out", str(out), *words], "log": str(out) + ".log"}


def encode(server: Server, *runs: dict) -> list[int]:
    server.start(runs)
    return server.wait()


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a cache that is not hidden, and each row of its indices once."""
    files = {
        path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "." and "index" not in path.name
    }
    rows = {line for path in folder.glob("index*.jsonl") for line in path.read_bytes().split(b"\n") if line}
    return files | {"rows": b"\n".join(sorted(rows))}


@pytest.fixture(scope="module")
def whole(server, source, tmp_path_factory) -> Path:
    """A cache that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "cache"
    assert encode(server, command(source, folder)) == [0], (folder.parent / "cache.log").read_text()
    return folder


def test_the_datasets_library_is_imported_only_where_it_is_needed(server, source, whole):
    assert (whole.parent / "cache.log").read_text().endswith("imported: []\n")
    log = whole.parent / "parquet.log"
    table = captioned.parquet(whole.parent / "t.parquet", 1, side=40)
    assert encode(server, command(table, whole.parent / "parquet", "--dry-run")) == [0]
    assert log.read_text().endswith("imported: ['pyarrow.parquet']\n")


def test_a_run_killed_at_any_moment_goes_on_to_the_same_bytes(server, source, whole, tmp_path):
    moments, kills, attempt = random.Random(0), 0, 0
    while kills < 3 and attempt < 20:  # a run that ends before it is killed proves nothing
        folder = tmp_path / f"cache-{attempt}"
        for _ in range(3):
            before = units_of(folder)
            server.start([command(source, folder)])
            until_working(folder)
            time.sleep(moments.uniform(0, 0.5))
            server.kill()
            (code,) = server.wait()
            assert code in (0, -signal.SIGKILL)
            assert units_of(folder) >= before  # what was finished stays
            if code == 0:
                break
            kills += 1
        assert encode(server, command(source, folder)) == [0]
        assert content(folder) == content(whole)
        assert not [path.name for path in folder.iterdir() if path.name[0] == "."]
        attempt += 1
    assert kills >= 3


def units_of(folder: Path) -> int:
    return len(read_index(folder).units) if (folder / "index.jsonl").exists() and settled(folder) else 0


def settled(folder: Path) -> bool:
    return b"\n" in (folder / "index.jsonl").read_bytes()


def until_working(folder: Path) -> None:
    deadline = time.monotonic() + 60
    while not (folder / "index.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.002)


def test_a_kill_while_a_shard_is_written_leaves_no_half_shard_under_its_name(server, source, whole, tmp_path):
    folder = tmp_path / "cache"
    server.start([command(source, folder)])
    deadline = time.monotonic() + 60
    while not any(folder.glob(".train*.part")) and time.monotonic() < deadline:
        pass
    server.kill()
    server.wait()
    sizes = {path.name: path.stat().st_size for path in whole.glob("train-*")}
    assert all(sizes[path.name] == path.stat().st_size for path in folder.glob("train-*"))
    assert encode(server, command(source, folder)) == [0]
    assert content(folder) == content(whole)


def test_files_that_went_missing_or_short_are_made_again(server, source, whole, tmp_path):
    folder = tmp_path / "cache"
    assert encode(server, command(source, folder)) == [0]
    (folder / "train-0001-000.safetensors").unlink()
    os.truncate(folder / "train-0003-000.jsonl", 10)
    (folder / "empty.safetensors").unlink()
    assert encode(server, command(source, folder)) == [0]
    assert content(folder) == content(whole)
    assert len(Cache(folder)) == IMAGES - 1


def test_two_processes_make_the_shards_of_one(server, source, whole, tmp_path):
    folder = tmp_path / "cache"
    assert encode(server, *processes(2, command(source, folder))) == [0, 0], Path(f"{folder}.log").read_text()
    assert content(folder) == content(whole)
    units = {
        path.name: [row["unit"] for row in map(json.loads, path.read_text().splitlines()) if row["kind"] == "unit"]
        for path in folder.glob("index*.jsonl")
    }
    assert units == {"index.jsonl": [0, 2, 4], "index.rank-1.jsonl": [1, 3]}  # the world had two
    assert len(Cache(folder)) == IMAGES - 1
    assert "images: 23\n" in Path(f"{folder}.log").read_text()


def test_two_processes_go_on_where_one_was_killed_and_one_where_two_were(server, source, whole, tmp_path):
    for first, then in ((1, 2), (2, 1)):
        folder = tmp_path / f"cache-{first}"
        server.start(processes(first, command(source, folder)))
        until_working(folder)
        time.sleep(0.1)
        server.kill()
        server.wait()
        assert encode(server, *processes(then, command(source, folder))) == [0] * then
        assert content(folder) == content(whole)


def test_a_process_whose_neighbour_was_killed_says_so_and_one_alone_finishes_the_work_of_both(
    server, source, whole, tmp_path
):
    folder, log = tmp_path / "cache", tmp_path / "cache.log"
    server.start(processes(2, command(source, folder)))
    until_working(folder)
    server.kill(first=1)
    assert server.wait() == [2, -signal.SIGKILL]
    assert "another process ended before its share was done" in log.read_text() and "Traceback" not in log.read_text()
    assert encode(server, command(source, folder)) == [0]
    assert content(folder) == content(whole)


def processes(number: int, run: dict) -> list[dict]:
    """The same run as each of several processes, as torchrun and accelerate start them."""
    if number == 1:
        return [run]
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    world = {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [run | {"env": {**world, "RANK": str(i), "LOCAL_RANK": str(i)}} for i in range(number)]


def test_other_settings_into_the_same_folder_are_refused_and_change_nothing(server, source, whole, tmp_path):
    before = content(whole)
    log = tmp_path / "log"
    for options, message in (
        (("--seed", "1"), "seed: 0 there, 1 here"),
        (("--crops", "2"), "crops: 1 there, 2 here"),
        (("--limit", "3"), "limit: 0 there, 3 here"),
        (("--caption-columns", "llava"), "captions: {'columns': ['text'], 'mode': 'each'} there"),
    ):
        log.write_text("")
        assert encode(server, command(source, whole, *options) | {"log": str(log)}) == [2]
        assert message in log.read_text() and "choose another --out" in log.read_text()
    assert content(whole) == before
