"""Text features on disk: encoded once, whole after a kill, shared between processes."""

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

from eval.features import Spool
from eval.texts import BATCH, TextFeatures
from koala.errors import KoalaError

IDENTITY = ("clip:some/tag", "fp32", "hash")


class Encoder:
    """Features that tell each caption from any other, and what was asked."""

    def __init__(self, dim=4):
        self.dim, self.batches = dim, []

    @property
    def asked(self):
        return [text for batch in self.batches for text in batch]

    def __call__(self, texts):
        self.batches.append(list(texts))
        digests = [sha256(text.encode()).digest()[: self.dim] for text in texts]
        return torch.tensor([list(digest) for digest in digests], dtype=torch.float32)


def cached(folder, encode, identity=IDENTITY):
    return TextFeatures(identity, encode.dim, encode, folder)


@settings(deadline=None, max_examples=30)
@given(asked=st.lists(st.lists(st.text(max_size=5), max_size=8), max_size=5))
def test_each_caption_is_encoded_once_and_comes_back_in_order(tmp_path_factory, asked):
    folder, encode = tmp_path_factory.mktemp("cache"), Encoder()
    features = cached(folder, encode)
    for texts in asked:
        assert torch.equal(features(texts), Encoder()(texts) if texts else torch.zeros(0, 4))
    every = {text for texts in asked for text in texts}
    assert sorted(encode.asked) == sorted(every)
    later = Encoder()
    assert torch.equal(cached(folder, later)(sorted(every)), Encoder()(sorted(every)) if every else torch.zeros(0, 4))
    assert later.asked == []


@pytest.mark.parametrize("other", [("clip:other/tag", "fp32", "hash"), ("clip:some/tag", "bf16", "hash"),
                                   ("clip:some/tag", "fp32", "other")])  # fmt: skip
def test_other_weights_extractors_and_dtypes_have_features_of_their_own(tmp_path, other):
    cached(tmp_path, Encoder())(["a cat"])
    encode = Encoder()
    cached(tmp_path, encode, other)(["a cat"])
    assert encode.asked == ["a cat"]


def test_captions_are_encoded_in_batches_that_are_kept_at_once(tmp_path):
    texts, encode = [f"caption {i}" for i in range(2 * BATCH + 3)], Encoder()

    def broken(batch):
        if len(encode.batches) == 2:
            raise InterruptedError
        return encode(batch)

    with pytest.raises(InterruptedError):
        TextFeatures(IDENTITY, 4, broken, tmp_path)(texts)
    assert [len(batch) for batch in encode.batches] == [BATCH, BATCH]
    rest = Encoder()
    cached(tmp_path, rest)(texts)
    assert rest.asked == texts[2 * BATCH :]


def test_features_that_are_no_numbers_are_refused_with_their_caption_and_not_kept(tmp_path):
    with pytest.raises(KoalaError, match="not finite for the caption 'two'"):
        TextFeatures(IDENTITY, 1, lambda texts: torch.tensor([[1.0], [float("nan")]]), tmp_path)(["one", "two"])
    encode = Encoder()
    cached(tmp_path, encode)(["one"])
    assert encode.asked == ["one"]


def test_a_cache_that_cannot_be_written_names_the_variable(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(KoalaError, match="KOALA_CACHE"):
        cached(tmp_path / "file", Encoder())


_ENCODING = """
import sys, time, torch
from hashlib import sha256
from pathlib import Path
from eval import texts
texts.BATCH = 2

def encode(batch):
    print("batch", flush=True)
    time.sleep(float(sys.argv[2]))
    return torch.tensor([list(sha256(text.encode()).digest()[:4]) for text in batch], dtype=torch.float32)

features = texts.TextFeatures(("clip:some/tag", "fp32", "hash"), 4, encode, Path(sys.argv[1]))
features([f"caption {i}" for i in range(int(sys.argv[3]), int(sys.argv[4]))])
"""


def encoding(folder, pause, first, last):
    command = [sys.executable, "-c", _ENCODING, *map(str, (folder, pause, first, last))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def spooled(folder):
    (keys,) = (folder / "texts").glob("*.keys")
    with Spool(keys.with_suffix(""), 4) as spool:
        assert len(keys.read_text().split()) == len(spool.index), "no caption twice"
        return set(spool.index)


def test_two_processes_at_once_leave_one_whole_cache(tmp_path):
    both = [encoding(tmp_path, 0.01, 0, 60), encoding(tmp_path, 0.01, 30, 90)]
    for process in both:
        process.communicate()
        assert process.returncode == 0
    texts, encode = [f"caption {i}" for i in range(90)], Encoder()
    assert spooled(tmp_path) == {sha256(text.encode()).hexdigest() for text in texts}
    assert torch.equal(cached(tmp_path, encode)(texts), Encoder()(texts)) and encode.asked == []


def test_a_killed_process_leaves_what_it_had_encoded(tmp_path):
    process = encoding(tmp_path, 0.02, 0, 1000)
    for _ in range(4):
        process.stdout.readline()
    time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = len(spooled(tmp_path))
    assert 6 <= kept < 1000
    texts, encode = [f"caption {i}" for i in range(kept + 5)], Encoder()
    assert torch.equal(cached(tmp_path, encode)(texts), Encoder()(texts))
    assert len(encode.asked) == 5
