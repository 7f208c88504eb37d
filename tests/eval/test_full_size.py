"""Metrics at the real size of their networks, from a weight file to a value; all weights are random."""

import os
from math import prod

import pytest
import torch
from clip_files import random_file
from fid_numbers import features_of
from random_networks import pictures, write_inception, write_vgg16
from safetensors.torch import save_file
from torchvision.models import alexnet
from transformers import Dinov2Config, Dinov2Model

from eval import extractors, metrics
from eval.features import FeatureSet
from eval.maths.gaussian import Gaussian
from eval.networks import Networks
from eval.weights import Weights

GATED = pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="gigabytes: set KOALA_FULLSIZE=1")
CPU = torch.device("cpu")
CLIP_SCORES = [
    ("clip_score:compbench", 151_277_313),
    ("clip_score:geneval", 427_616_513),
    pytest.param("clip_score:dmd2", 1_366_678_273, marks=GATED),
]
HEAD_CHANNELS = (64, 192, 384, 256, 256)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KOALA_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("KOALA_WEIGHTS", raising=False)
        yield


def networks(**files):
    """Networks of files that the user names, `inception_v3_fid=path`."""
    return Networks(Weights({name.replace("_", "-"): path for name, path in files.items()}), CPU)


def random_tensors(network, dtype=torch.float32):
    """Of the shapes of `network`; matrices keep the size of what they multiply, biases are 0, other vectors 1."""
    noise, found = torch.randn(5_000_011, generator=torch.Generator().manual_seed(0)), {}
    for key, shape in ((key, tuple(tensor.shape)) for key, tensor in network.state_dict().items()):
        repeated = noise.repeat(-(-prod(shape) // len(noise)))[: prod(shape)].view(shape)
        one = torch.zeros(shape) if key.endswith("bias") else torch.ones(shape)
        found[key] = (repeated * prod(shape[1:]) ** -0.5 if len(shape) > 1 else one).to(dtype)
    return found


def params_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    path = write_inception(tmp_path_factory.mktemp("inception") / "inception.pth")
    yield networks(inception_v3_fid=path)
    path.unlink()


@pytest.mark.proves("loader", name="eval-path", weights="random")
@pytest.mark.proves("metric", name="patch_fid:clean", weights="random")
@pytest.mark.fullsize
@pytest.mark.slow
def test_patch_fid_goes_from_inceptions_file_to_a_value(inception):
    metric = metrics.load("patch_fid:clean")
    one, other = (features_of(metric.feed, pictures(kind, 2), inception) for kind in ("one", "other"))
    assert one.dim == 2048
    assert metric.compute(one, other).value > 10 * abs(metric.compute(one, one).value)


@pytest.mark.proves("metric", name="fid_infinity:clean", weights="random")
@pytest.mark.fullsize
@pytest.mark.slow
def test_fid_infinity_goes_from_inceptions_file_to_a_value_below_that_at_n(inception):
    metric = metrics.load("fid_infinity:clean")
    one, other = (features_of(metric.feed, pictures(*of), inception) for of in (("one", 30), ("other", 2)))
    spread = other.gaussian.covariance + 1e-3 * torch.eye(2048, dtype=torch.float64)  # of full rank, as of many images
    found = metric.compute(one, Gaussian(other.gaussian.mean, spread, None))
    assert 0 < found.value < found.detail["at_n"]


@pytest.fixture(scope="module")
def in_vgg16(tmp_path_factory):
    """Features of six images, and of six others of which four are the same."""
    path = write_vgg16(tmp_path_factory.mktemp("vgg16") / "vgg16.pth")
    features = features_of(metrics.load("density").feed, pictures("one", 8), networks(vgg16=path)).all()
    path.unlink()
    return FeatureSet.of(features[:6]), FeatureSet.of(features[2:])


@pytest.mark.proves("metric", param="name", weights="random")
@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.parametrize("name", ["precision:tf", "recall:tf", "density", "coverage"])
def test_neighbours_are_found_in_the_features_of_vgg16(in_vgg16, name):
    metric, (ours, real) = metrics.load(name), in_vgg16
    assert real.dim == 4096 and real.all().std() > 0
    assert metric.compute(ours, real).value > 0.5, "four images are in both"
    assert metric.compute(real, real).value >= 1, "each image is in its own ball"


@pytest.mark.proves("metric", name="lpips_diversity", weights="random")
@pytest.mark.fullsize
def test_lpips_diversity_goes_from_alexnets_file_to_a_value(tmp_path):
    trunk = random_tensors(alexnet(weights=None))
    assert sum(tensor.numel() for tensor in trunk.values()) == 61_100_840  # torchvision's
    torch.save(trunk, tmp_path / "alexnet.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, width, 1, 1) for i, width in enumerate(HEAD_CHANNELS)}
    torch.save(heads, tmp_path / "heads.pth")
    loaded = networks(alexnet=tmp_path / "alexnet.pth", lpips_alex=tmp_path / "heads.pth")
    metric = metrics.load("lpips_diversity")
    features = features_of(metric.feed, pictures("one", 3), loaded).all()
    assert features.shape == (3, 640_128)
    assert metric.score_group(features) > 0 == pytest.approx(metric.score_group(features[:1].repeat(3, 1)), abs=1e-9)


@pytest.mark.proves("loader", name="eval-mirror", weights="random")
@pytest.mark.proves("metric", name="fd_dinov2", weights="random")
@pytest.mark.fullsize
@pytest.mark.slow
def test_fd_dinov2_goes_from_vit_ls_file_in_a_mirror_to_a_value(tmp_path, monkeypatch):
    with torch.device("meta"):
        config = Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518)
        network = Dinov2Model(config)
    path = tmp_path / "facebook" / "dinov2-large" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(random_tensors(network, torch.float16), path)
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path))
    metric, loaded = metrics.load("fd_dinov2"), networks()
    features = features_of(metric.feed, torch.cat([pictures("one", 1), pictures("other", 1)]), loaded).all()
    assert params_of(loaded.extractor("dinov2")._network) == 303_227_904  # with 257 positions, and no mask token
    one, other = FeatureSet.of(features), FeatureSet.of(features[:1].repeat(2, 1))
    assert metric.compute(one, other).value > 10 * abs(metric.compute(one, one).value)
    path.unlink()


def of_clip(name, folder):
    """The metric, loaded from a file of its tag's size, and its networks."""
    metric = metrics.load(name)
    extractor = extractors.load(metric.feed.extractor)
    path = random_file(extractor.model, folder / "clip.safetensors")
    loaded = Networks(Weights({extractor.weights[0]: path}), CPU)
    metric.load(loaded)
    return metric, loaded


@pytest.mark.proves("metric", param="name", weights="random")
@pytest.mark.fullsize
@pytest.mark.slow
@pytest.mark.parametrize(("name", "params"), CLIP_SCORES)
def test_clip_scores_go_from_file_to_value(tmp_path, name, params):
    metric, loaded = of_clip(name, tmp_path)
    features = features_of(metric.feed, pictures("one", 1), loaded)
    score = metric.score(features.all(), ["a koala that rests in a tree"])
    assert params_of(loaded.extractor(metric.feed.extractor)._network) == params
    assert score.shape == (1,) and 0 < score.abs().max() <= 1, "the cosine itself"
    (tmp_path / "clip.safetensors").unlink()


@pytest.mark.proves("metric", name="cmmd", weights="random")
@pytest.mark.fullsize
@pytest.mark.slow
def test_cmmd_goes_from_vit_l_at_336_pixels_to_a_value(tmp_path):
    metric, loaded = of_clip("cmmd", tmp_path)
    both = features_of(metric.feed, torch.cat([pictures("one", 1), pictures("other", 1)]), loaded, batch_size=1).all()
    assert params_of(loaded.extractor(metric.feed.extractor)._network) == 427_944_193
    mixed, same = FeatureSet.of(both[[0, 1, 0]]), FeatureSet.of(both[[0, 0, 0]])
    assert metric.compute(mixed, same).value > metric.compute(mixed, mixed).value == pytest.approx(0, abs=1e-6)
    (tmp_path / "clip.safetensors").unlink()
