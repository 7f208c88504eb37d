"""Features on disk: appended, found again by content hash, whole after a kill."""

import os
import signal
import subprocess
import sys
import time
from hashlib import sha256

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.features import FeatureSet, Spool
from eval.maths.gaussian import gaussian
from koala.errors import KoalaError


def key(name: object) -> str:
    return sha256(str(name).encode()).hexdigest()


def rows(n: int, dim: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def test_features_come_back_by_their_keys_in_any_order(tmp_path):
    features = rows(5)
    with Spool(tmp_path / "f", 3) as spool:
        spool.append([key(i) for i in range(3)], features[:3])
        spool.append([key(3), key(4)], features[3:])
        assert key(4) in spool and key(9) not in spool
    with Spool(tmp_path / "f", 3) as spool:
        assert torch.equal(spool.rows([key(4), key(0), key(4)]), features[[4, 0, 4]])


@settings(deadline=None, max_examples=40)
@given(data=st.integers(0, 60), keys=st.integers(0, 300))
def test_whatever_a_kill_leaves_the_whole_rows_are_kept(tmp_path_factory, data, keys):
    folder = tmp_path_factory.mktemp("torn")
    features = rows(4)
    with Spool(folder / "f", 3) as spool:
        spool.append([key(i) for i in range(4)], features)
    os.truncate(folder / "f.f32", min(data, 48))
    os.truncate(folder / "f.keys", min(keys, 260))
    whole = min(data // 12, keys // 65, 4)
    with Spool(folder / "f", 3) as spool:
        assert len(spool.index) == whole
        spool.append([key("new")], features[:1])
    with Spool(folder / "f", 3) as spool:
        expected = torch.cat([features[:whole], features[:1]])
        assert torch.equal(spool.rows([*(key(i) for i in range(whole)), key("new")]), expected)


_APPENDING = """
import sys, torch
from hashlib import sha256
from pathlib import Path
from eval.features import Spool
with Spool(Path(sys.argv[1]), 64) as spool:
    print("open", flush=True)
    while True:
        i = len(spool.index)
        keys = [sha256(str(i + k).encode()).hexdigest() for k in range(7)]
        spool.append(keys, torch.arange(i, i + 7.0)[:, None].expand(7, 64))
"""


def test_a_killed_writer_leaves_only_whole_rows(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", _APPENDING, str(tmp_path / "f")], stdout=subprocess.PIPE)
    assert writer.stdout
    writer.stdout.readline()
    time.sleep(0.3)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    with Spool(tmp_path / "f", 64) as spool:
        n = len(spool.index)
        assert n > 7
        assert torch.equal(spool.rows([key(i) for i in range(n)])[:, 5], torch.arange(float(n)))


def test_damaged_keys_are_an_error_that_says_what_to_do(tmp_path):
    with Spool(tmp_path / "f", 3) as spool:
        spool.append([key(0), key(1)], rows(2))
    text = (tmp_path / "f.keys").read_bytes()
    (tmp_path / "f.keys").write_bytes(text[:30] + b"\n" + text[31:])
    with pytest.raises(KoalaError, match="delete"):
        Spool(tmp_path / "f", 3)


def test_chunks_are_the_rows_in_order():
    features = rows(10)
    chunks = list(FeatureSet.of(features).chunks(4))
    assert [len(chunk) for chunk in chunks] == [4, 4, 2] and torch.equal(torch.cat(chunks), features)


@given(n=st.integers(2, 40), dim=st.integers(1, 5), size=st.integers(1, 9), seed=st.integers(0, 5))
def test_mean_and_covariance_do_not_depend_on_the_chunks(n, dim, size, seed):
    features = rows(n, dim, seed) * 3 + 100
    found = gaussian(features.split(size))
    assert found.n == n
    torch.testing.assert_close(found.mean, features.double().mean(dim=0))
    torch.testing.assert_close(found.covariance, torch.cov(features.double().T).reshape(dim, dim), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("n", [0, 1])
def test_a_covariance_of_fewer_than_two_images_is_an_error(n):
    with pytest.raises(KoalaError, match="at least 2 images"):
        gaussian(iter([rows(n)]) if n else iter([]))
