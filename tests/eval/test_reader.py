import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bad_images import every_kind, good

from eval.images import Picture, Unreadable, decode
from eval.reader import default_workers, read
from koala.errors import KoalaError


@pytest.fixture(scope="module")
def paths(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    readable, bad = every_kind(folder)
    return [
        *readable,
        *(good(folder, f"{i}.png", seed=i, size=(i + 1, 40 - i)) for i in range(8)),
        *bad,
        folder / "none",
    ]


@pytest.mark.parametrize("workers", (0, 1, 2))
def test_images_come_in_order_and_bad_ones_where_they_stand(paths, workers):
    found = list(read(paths, workers))
    assert len(found) == len(paths)
    for path, picture in zip(paths[:20], found, strict=False):
        expected = decode(path)
        assert isinstance(picture, Picture) and picture.sha256 == expected.sha256
        np.testing.assert_array_equal(picture.pixels, expected.pixels)
    assert [bad.path for bad in found[20:] if isinstance(bad, Unreadable)] == paths[20:]


def test_no_paths_give_nothing():
    assert list(read([], 2)) == []


def test_workers_cannot_be_fewer_than_none(paths):
    with pytest.raises(KoalaError, match="--workers 0 or more"):
        next(read(paths, -1))
    assert 1 <= default_workers() <= 16


class Watched(list):
    taken = 0

    def __iter__(self) -> Iterator[Path]:
        for path in super().__iter__():
            self.taken += 1
            yield path


def test_only_a_few_images_are_decoded_ahead(paths):
    watched = Watched(paths * 20)
    pictures = read(watched, 2)
    for given in range(1, 6):
        next(pictures)
        time.sleep(0.02)
        assert watched.taken <= given + 4
    pictures.close()


def test_closing_the_iterator_ends_its_workers(paths):
    pictures = read(paths * 20, 2)
    next(pictures)
    workers = multiprocessing.active_children()
    pictures.close()
    assert workers and not any(worker.is_alive() for worker in workers)


def test_a_worker_that_dies_is_one_clear_error_and_ends_the_others(paths):
    pictures = read(paths * 20, 2)
    next(pictures)
    workers = multiprocessing.active_children()
    os.kill(workers[0].pid, signal.SIGKILL)
    with pytest.raises(KoalaError, match=r"died at .* or one of the \d images after it.*--workers 0 finds the file"):
        list(pictures)
    for worker in workers:
        worker.join(10)
    assert not any(worker.is_alive() for worker in workers)


READS_FOREVER = """
import multiprocessing, sys, time
from pathlib import Path
from eval.reader import read
if __name__ == "__main__":
    for number, picture in enumerate(read([Path(sys.argv[1])] * 1_000_000, 2)):
        if number == 5:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks /proc which processes run")
@pytest.mark.parametrize("ending", (signal.SIGINT, signal.SIGKILL))
def test_no_worker_outlives_its_parent(tmp_path, ending):
    script = tmp_path / "reads.py"
    script.write_text(READS_FOREVER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, str(script), str(good(tmp_path))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, start_new_session=True
    ) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        if ending == signal.SIGINT:  # the terminal's Ctrl-C goes to all of them
            os.killpg(parent.pid, ending)
        else:
            parent.kill()
        complaints = parent.communicate(timeout=30)[1].decode()
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))
    chained = complaints.count("During handling of the above")  # of the parent's own, should Ctrl-C hit it in a lock
    assert complaints.count("Traceback") - chained <= (1 if ending == signal.SIGINT else 0), complaints
