"""Two things that give other numbers never share an id, a file of features or an entry of the text cache."""

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import open_clip
import pytest
import torch

from eval import feed as feeds
from eval import metrics
from eval.extractors import clip, effnet_lite0
from eval.feed import Preparation
from eval.identity import feed_digest, metric_row
from eval.metrics.brightness import Brightness
from eval.networks import Networks
from eval.preparation import Normalise
from eval.weights import Found, Weights

FOUND = {"effnet-lite0": Found(Path("file"), "0" * 64, verified=True)}


def test_a_metric_whose_code_gives_other_numbers_has_another_id():
    newer = Brightness()
    newer.version = 2
    assert metric_row("brightness", newer, {})["id"] != metric_row("brightness", Brightness(), {})["id"]


def test_features_that_code_gives_otherwise_have_another_file_and_their_metrics_another_id(monkeypatch):
    metric = metrics.load("fd_effnet_lite0")
    before = feed_digest(metric.feed, FOUND), metric_row("fd_effnet_lite0", metric, FOUND)["id"]
    monkeypatch.setattr(feeds, "VERSION", feeds.VERSION + 1)
    after = feed_digest(metric.feed, FOUND), metric_row("fd_effnet_lite0", metric, FOUND)["id"]
    assert before[0] != after[0] and before[1] != after[1]


def test_feeds_differ_by_network_dtype_preparation_and_weights():
    feed = effnet_lite0.FEED
    other = {"effnet-lite0": Found(Path("file"), "1" * 64, verified=True)}
    steps = feed.preparation.steps
    digests = {
        feed_digest(feed, FOUND),
        feed_digest(feed, other),
        feed_digest(replace(feed, dtype="bf16"), FOUND),
        feed_digest(replace(feed, extractor="inception"), FOUND),
        feed_digest(replace(feed, preparation=Preparation(steps[:1])), FOUND),
        feed_digest(
            replace(feed, preparation=Preparation((steps[0], Normalise((127.5001,) * 3, (127.5,) * 3)))), FOUND
        ),
    }
    assert len(digests) == 6


def test_unlike_preparations_of_all_metrics_and_all_clip_tags_say_different_things():
    said = {metric.feed.preparation for name in metrics.names() if (metric := metrics.load(name)).feed}
    for model, tag in open_clip.list_pretrained():
        if isinstance(open_clip.get_model_config(model)["vision_cfg"].get("image_size", 224), int):
            said.add(clip.preparation(model, tag))
    for one, other in combinations(said, 2):
        assert str(one) != str(other)


@pytest.mark.parametrize("name", metrics.names())
def test_settings_stay_the_same_from_one_instance_to_the_next(name):
    assert metrics.load(name).settings() == metrics.load(name).settings()


def test_fp32_is_no_tensorfloat_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    Networks(Weights(), torch.device("cpu"))
    assert not torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32  # torch's default


class _Weights(Weights):
    """A weight file that is somewhere, with this hash."""

    def __init__(self, sha256):
        self.found = Found(Path("file"), sha256, verified=True)

    def find(self, name):
        return self.found


def test_texts_are_kept_by_network_dtype_version_and_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path))
    monkeypatch.setattr(Networks, "_encode", lambda self, name, dtype, texts: torch.ones(len(texts), 384))

    def ask(sha256="0", dtype="fp32"):
        Networks(_Weights(sha256 * 64), torch.device("cpu")).texts("minilm", ["a cat"], dtype)
        return len(list((tmp_path / "texts").glob("*.keys")))

    assert [ask(), ask(), ask("1"), ask(dtype="bf16")] == [1, 1, 2, 3]
    monkeypatch.setattr("eval.networks.VERSION", feeds.VERSION + 1)
    assert ask() == 4
