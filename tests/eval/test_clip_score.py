from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from clip_files import TAG_FACTS, TINY, TINY_NAME, SomeWeights, network, safetensors, tiny_model
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchmetrics.functional.multimodal import clip_score

from eval import metrics
from eval.features import FeatureSet
from eval.maths.gaussian import gaussian
from eval.metric import ImageMetric, SetMetric
from eval.metrics.aesthetic import HEAD, Head
from eval.metrics.clip_score import ClipScore
from eval.networks import Networks
from eval.preparation import CenterSquare, PilResize
from koala.errors import KoalaError, UnknownName

CPU = torch.device("cpu")
PROMPTS = ["a cat on a mat", "two red dogs", "cat " * 500]


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    with tiny_model(tmp_path):
        own = network(TINY)
        path = safetensors(own, tmp_path / "weights.safetensors")
        yield SimpleNamespace(own=own, networks=Networks(SomeWeights({f"clip/{TINY_NAME}": path}), CPU))


def pixels(n=3, height=70, width=90):
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def ours(metric, networks, images=None, prompts=PROMPTS):
    images = pixels() if images is None else images
    metric.load(networks)
    prepared = metric.feed.preparation(torch.from_numpy(images).permute(0, 3, 1, 2))
    return metric.score(networks.features(metric.feed, prepared), prompts)


def transform():
    return image_transform_v2(PreprocessCfg(size=32, **TAG_FACTS), is_train=False)


def by_open_clip(own, prefix="", first=lambda image: image):
    """The cosine as the papers' own scripts compute it."""
    x = torch.stack([transform()(first(Image.fromarray(image))) for image in pixels()])
    images = own.encode_image(x, normalize=True)
    texts = own.encode_text(open_clip.get_tokenizer(TINY)([prefix + prompt for prompt in PROMPTS]), normalize=True)
    return (images * texts).sum(dim=1)


def centre(image):
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


CONVENTIONS = {
    "mlperf": ({}, {}),
    "bk-sdm": ({"before": (PilResize(40, "bicubic"),)}, {"first": lambda image: image.resize((40, 40))}),
    "dmd2": (
        {"prefix": "A photo depicts ", "before": (CenterSquare(), PilResize(40, "lanczos"))},
        {
            "prefix": "A photo depicts ",
            "first": lambda image: centre(image).resize((40, 40), Image.Resampling.LANCZOS),
        },
    ),
}


@pytest.mark.parametrize("name", CONVENTIONS)
def test_scores_are_those_of_open_clip_on_images_that_pil_prepared(tiny, name):
    settings, theirs = CONVENTIONS[name]
    expected = 100 * by_open_clip(tiny.own, **theirs)
    # bicubic on a CPU may be 1 of 255 away from PIL's, which moves these random networks' scores a little
    torch.testing.assert_close(ours(ClipScore(TINY_NAME, **settings), tiny.networks), expected, rtol=0, atol=0.05)


def test_the_same_prepared_images_give_the_same_score_to_1e_3_of_100(tiny):
    metric = ClipScore(TINY_NAME)
    metric.load(tiny.networks)
    x = torch.stack([transform()(Image.fromarray(image)) for image in pixels()])
    scores = metric.score(tiny.networks.features(metric.feed, x), PROMPTS)
    torch.testing.assert_close(scores, 100 * by_open_clip(tiny.own), rtol=0, atol=1e-3)


class TorchmetricsModel(torch.nn.Module):
    """Our features behind the interface that torchmetrics asks for; it cannot read those of transformers 5."""

    config = SimpleNamespace()

    def __init__(self, own):
        super().__init__()
        self.own = own

    def get_image_features(self, x):
        return self.own.encode_image(x)

    def get_text_features(self, tokens, attention_mask):
        return self.own.encode_text(tokens)


def torchmetrics_processor(images=None, text=None, return_tensors="pt", padding=True):
    if text is not None:
        tokens = open_clip.get_tokenizer(TINY)(text)
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return {"pixel_values": torch.stack([transform()(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in images])}


def test_torchmetrics_prints_the_mean_where_it_is_not_negative_and_0_elsewhere(tiny):
    def model_and_processor():
        return TorchmetricsModel(tiny.own), torchmetrics_processor

    for i in range(3):
        images = pixels()[i : i + 1]
        mine = ours(ClipScore(TINY_NAME), tiny.networks, images, PROMPTS[i : i + 1])
        theirs = clip_score(torch.from_numpy(images).permute(0, 3, 1, 2), PROMPTS[i : i + 1], model_and_processor)
        torch.testing.assert_close(theirs, mine.mean().clamp(min=0), rtol=0, atol=0.05)


def test_each_preset_says_what_decides_it():
    said = {name: metrics.load(f"clip_score:{name}") for name in ("mlperf", "bk-sdm", "dmd2", "geneval", "compbench")}
    expected = {
        "mlperf": ("ViT-B-32", "openai", "", 100.0, None),
        "bk-sdm": ("ViT-g-14", "laion2b_s34b_b88k", "", 1.0, "PIL bicubic to 256x256"),
        "dmd2": ("ViT-g-14", "laion2b_s12b_b42k", "A photo depicts ", 1.0, "centre square; PIL lanczos to 256x256"),
        "geneval": ("ViT-L-14", "openai", "", 1.0, None),
        "compbench": ("ViT-B-32", "openai", "", 1.0, None),
    }
    assert {name: tuple(metric.settings().values()) for name, metric in said.items()} == expected
    assert said["mlperf"].feed == said["compbench"].feed, "one pass for both"
    for metric in said.values():
        assert isinstance(metric, ImageMetric) and metric.needs_prompts and metric.higher_is_better
        assert str(metric.feed.preparation).startswith(metric.settings()["resize"] or "PIL bicubic to a shortest side")


def test_any_tag_of_open_clip_is_a_metric():
    metric = metrics.load("clip_score:ViT-H-14/laion2b_s32b_b79k")
    assert metric.feed.extractor == "clip:ViT-H-14/laion2b_s32b_b79k" and metric.scale == 100
    with pytest.raises(UnknownName, match="ViT-H-14/laion2b_s32b_b79k"):
        metrics.load("clip_score:ViT-H-14/laion2b")


def test_captions_are_encoded_once_over_batches_and_models(tiny, monkeypatch):
    calls = []
    encode = tiny.networks._encode
    monkeypatch.setattr(tiny.networks, "_encode", lambda *to: calls.extend(to[2]) or encode(*to))
    first = ours(ClipScore(TINY_NAME), tiny.networks)
    assert torch.equal(ours(ClipScore(TINY_NAME), tiny.networks), first) and calls == PROMPTS
    other = Networks(tiny.networks.weights, CPU)  # another run
    monkeypatch.setattr(other, "_encode", lambda *to: pytest.fail("encoded again"))
    assert torch.equal(ours(ClipScore(TINY_NAME), other), first)


def test_captions_that_are_too_long_are_counted_with_their_prefix(tiny):
    nine = "cat " * 9  # 11 of 12 tokens; the prefix has three more
    assert ClipScore(TINY_NAME).cut([nine, *PROMPTS]) == 1
    assert ClipScore(TINY_NAME, prefix="A photo depicts ").cut([nine, *PROMPTS]) == 2


def test_the_aesthetic_score_is_the_heads_of_features_of_length_1(tmp_path):
    torch.manual_seed(0)
    head = Head().eval()
    assert sorted(head.state_dict()) == sorted(f"layers.{i}.{p}" for i in (0, 2, 4, 6, 7) for p in ("weight", "bias"))
    torch.save(head.state_dict(), tmp_path / "head.pth")
    metric = metrics.load("aesthetic")
    metric.load(Networks(SomeWeights({HEAD: tmp_path / "head.pth"}), CPU))
    features = torch.randn(4, 768)
    expected = head.layers(features / features.norm(dim=1, keepdim=True))[:, 0]
    torch.testing.assert_close(metric.score(features, [""] * 4), expected)
    torch.testing.assert_close(metric.score(3 * features, [""] * 4), expected)


def test_another_file_than_the_head_is_refused(tmp_path):
    torch.save({"layers.0.weight": torch.zeros(3, 3)}, tmp_path / "other.pth")
    with pytest.raises(KoalaError, match=r"other\.pth"):
        metrics.load("aesthetic").load(Networks(SomeWeights({HEAD: tmp_path / "other.pth"}), CPU))


def test_cmmd_is_the_biased_gaussian_mmd_of_features_of_length_1():
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(7, 768, generator=draw), 2 * torch.randn(9, 768, generator=draw) + 0.3
    a, b = (rows.double() / rows.double().norm(dim=1, keepdim=True) for rows in (x, y))

    def kernel(p, q):
        return torch.exp(-(torch.cdist(p, q) ** 2) / 200).mean()

    metric = metrics.load("cmmd")
    assert isinstance(metric, SetMetric) and metric.higher_is_better is False
    found = metric.compute(FeatureSet.of(x), FeatureSet.of(y)).value
    assert found == pytest.approx(1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b)).item(), rel=1e-4)
    assert metric.compute(FeatureSet.of(x), FeatureSet.of(x)).value == pytest.approx(0, abs=1e-6)


def test_cmmd_reads_the_centre_square_at_336_and_refuses_statistics():
    metric = metrics.load("cmmd")
    prepared = metric.feed.preparation(torch.zeros(1, 3, 400, 500, dtype=torch.uint8))
    assert prepared.shape == (1, 3, 336, 336)
    assert str(metric.feed.preparation).startswith("centre square, offsets rounded down; PIL bicubic to 336x336")
    with pytest.raises(KoalaError, match="give the reference as images"):
        metric.compute(FeatureSet.of(torch.randn(3, 768)), gaussian([torch.randn(5, 768)]))
