"""The probe that chooses bf16 where it is faster, and what bf16 does to scores."""

from itertools import cycle

import pytest
import torch
from clip_files import TINY, TINY_NAME, SomeWeights, network, safetensors, tiny_model

from eval import metrics
from eval.extractors import clip, effnet_lite0
from eval.feed import Feed
from eval.metrics.clip_score import ClipScore
from eval.networks import Networks
from eval.precision_probe import Probed, choose_dtype, score_difference

CPU = torch.device("cpu")


class SlowIn:
    """A clock on which fp32 takes `fp32_s` and bf16 `bf16_s` for a forward."""

    def __init__(self, fp32_s, bf16_s, forwards=5):
        steps = [step for seconds_s in (fp32_s, bf16_s) for step in (0.0, seconds_s) * forwards]
        self.now_s, self.steps = 0.0, cycle(steps)

    def __call__(self):
        self.now_s += next(self.steps)
        return self.now_s


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    with tiny_model(tmp_path):
        yield tmp_path


@pytest.mark.parametrize(
    ("fp32_s", "bf16_s", "chosen"), [(1.0, 0.2, "bf16"), (1.0, 0.9, "fp32"), (1.0, 1.0, "fp32"), (1.0, 5.0, "fp32")]
)
def test_bf16_is_chosen_only_where_it_is_clearly_faster(tiny, fp32_s, bf16_s, chosen):
    assert choose_dtype(ClipScore(TINY_NAME).feed, CPU, SlowIn(fp32_s, bf16_s)) == chosen


def test_a_network_is_probed_once_however_many_metrics_read_it(tiny):
    clock, feed = SlowIn(1.0, 0.2), ClipScore(TINY_NAME).feed
    choose_dtype(feed, CPU, clock)
    read = clock.now_s
    assert choose_dtype(ClipScore(TINY_NAME, prefix="A ").feed, CPU, clock) == "bf16" and clock.now_s == read


def test_networks_without_blocks_to_time_stay_in_fp32(tiny):
    resnet = clip.variant("RN50/openai")
    assert isinstance(resnet, Probed) and resnet.probe(CPU, torch.float32, 1) is None
    assert choose_dtype(Feed(clip.preparation("RN50", "openai"), "clip:RN50/openai"), CPU, SlowIn(1.0, 0.1)) == "fp32"
    assert choose_dtype(effnet_lite0.FEED, CPU, SlowIn(1.0, 0.1)) == "fp32"


@pytest.mark.parametrize("name", clip.PRESETS)
def test_what_is_timed_is_one_of_the_networks_own_blocks_on_as_many_tokens(name):
    forward = clip.variant(name).probe(CPU, torch.bfloat16, 1)
    tower = clip._network(*name.rsplit("/", 1), torch.bfloat16).visual
    shapes = [{key: (t.shape, t.dtype) for key, t in block.state_dict().items()}
              for block in (forward.func, tower.transformer.resblocks[0])]  # fmt: skip
    assert shapes[0] == shapes[1]
    result = forward()
    assert result.shape == (1, *tower.positional_embedding.shape) and result.isfinite().all()


def test_the_standard_metrics_are_in_fp32_unless_asked_otherwise():
    assert {metrics.load(f"clip_score:{name}").feed.dtype for name in ("mlperf", "bk-sdm", "dmd2")} == {"fp32"}
    assert metrics.load("cmmd").feed.dtype == metrics.load("aesthetic").feed.dtype == "fp32"


def test_the_difference_is_that_of_scores_computed_in_both_dtypes(tiny):
    path = safetensors(network(TINY), tiny / "weights.safetensors")
    networks = Networks(SomeWeights({f"clip/{TINY_NAME}": path}), CPU)
    metric, prompts = ClipScore(TINY_NAME), ["a cat", "a dog", "a house", ""]
    prepared = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = score_difference(metric, prepared, prompts, networks)
    scores = {}
    for dtype in ("fp32", "bf16"):
        images = networks.extractor(metric.feed.extractor, dtype).features(prepared)
        texts = networks.extractor(metric.feed.extractor, dtype).texts(prompts)
        scores[dtype] = 100 * torch.cosine_similarity(images, texts)
    change = scores["bf16"] - scores["fp32"]
    assert (found.n, metric.feed.dtype) == (4, "fp32")
    assert found.mean == pytest.approx(change.mean().item(), abs=1e-4)
    assert found.largest == pytest.approx(change.abs().max().item(), abs=1e-4) and found.largest > 0
    same = score_difference(metric, prepared, prompts, networks, "fp32")
    assert (same.mean, same.largest) == (0, 0)
