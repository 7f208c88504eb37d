"""The two networks of FID, KID, IS, precision and recall at their real architectures, with random weights."""

import pickle

import pytest
import torch
from random_networks import pictures, write_inception, write_vgg16
from torch_fidelity import FeatureExtractorInceptionV3, FeatureExtractorVGG16

from eval import extractors
from eval.extractor import Extractor
from eval.extractors import vgg16
from eval.extractors.inception import CONVENTIONS, WEIGHTS, Inception
from koala.errors import KoalaError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    yield write_inception(path)
    path.unlink()


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    yield write_vgg16(path)
    path.unlink()


@pytest.fixture(scope="module")
def images():
    return torch.cat([pictures("one", 2), pictures("other", 2)])


def loaded(path, **options):
    network = Inception(**options)
    network.load({WEIGHTS: path}, CPU, torch.float32)
    return network


def relative(a, b):
    """Root of the mean squared difference over that of the values."""
    return ((a - b).square().mean() / b.square().mean()).sqrt().item()


@pytest.mark.proves("extractor", name="inception", weights="random")
def test_features_and_logits_are_those_of_torch_fidelity(inception_file, images):
    layers = ["2048", "logits_unbiased"]
    wanted, logits = FeatureExtractorInceptionV3("x", layers, feature_extractor_weights_path=inception_file)(images)
    exact, fast = loaded(inception_file, fast=False), loaded(inception_file)
    with torch.inference_mode():
        features = exact.features(CONVENTIONS["tf"](images))
        faster = fast.features(CONVENTIONS["tf"](images))
        assert features.shape == (4, exact.dim) and (features.std(dim=0) > 0.01).float().mean() > 0.9  # they are alive
        assert torch.equal(features, wanted)
        assert torch.equal(exact.logits(features), logits)
        assert 0 < relative(faster, wanted) <= 5e-5
        assert relative(fast.logits(faster), logits) <= 1e-4


def test_features_of_an_image_do_not_depend_on_its_batch(inception_file, images):
    network, prepared = loaded(inception_file), CONVENTIONS["clean"](images)
    with torch.inference_mode():
        single = torch.cat([network.features(image[None]) for image in prepared])
        assert relative(single, network.features(prepared)) <= 1e-5


def test_a_file_without_the_counters_of_training_gives_the_same_network(inception_file, images, tmp_path):
    state = torch.load(inception_file, weights_only=True)
    fewer = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert len(fewer) < len(state)
    torch.save(fewer, tmp_path / "fewer.pth")
    prepared = CONVENTIONS["tf"](images[:1])
    with torch.inference_mode():
        one, other = (loaded(path).features(prepared) for path in (inception_file, tmp_path / "fewer.pth"))
    assert torch.equal(one, other)


def without_a_layer(state):
    return {key: value for key, value in state.items() if not key.startswith("Mixed_6b.branch_pool")}


def with_torchvisions_classifier(state):
    return {**state, "fc.weight": state["fc.weight"][:1000], "fc.bias": state["fc.bias"][:1000]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_a_layer, "5 tensors are missing: Mixed_6b.branch_pool.conv.weight"),
        (with_torchvisions_classifier, r"fc.weight \(1000, 2048\), not \(1008, 2048\)"),
        (lambda state: {"features.0.weight": state["fc.weight"]}, "1 tensor is unexpected: features.0.weight"),
        (lambda state: [1, 2], "holds no tensors by name"),
    ],
)
def test_a_file_of_another_network_is_an_error_that_names_it(inception_file, tmp_path, change, reason):
    torch.save(change(torch.load(inception_file, weights_only=True, mmap=True)), tmp_path / "other.pth")
    with pytest.raises(KoalaError, match=reason) as error:
        loaded(tmp_path / "other.pth")
    assert str(tmp_path / "other.pth") in str(error.value)


def test_a_truncated_file_and_one_that_would_run_code_are_not_opened(inception_file, tmp_path):
    (tmp_path / "half.pth").write_bytes(inception_file.read_bytes()[: 2**20])
    with pytest.raises(KoalaError, match=r"half.pth is not a whole torch checkpoint"):
        loaded(tmp_path / "half.pth")
    (tmp_path / "code.pth").write_bytes(pickle.dumps({"fc.weight": pytest.approx}, protocol=2))
    with pytest.raises(KoalaError, match=r"code.pth is damaged, or holds objects other than tensors"):
        loaded(tmp_path / "code.pth")


@pytest.mark.proves("extractor", name="vgg16", weights="random")
def test_vgg16_features_are_those_of_torch_fidelity(vgg16_file, images):
    network = extractors.load("vgg16")
    network.load({"vgg16": vgg16_file}, CPU, torch.float32)
    with torch.inference_mode():
        features = network.features(vgg16.FEED.preparation(images[:1]))
    theirs = FeatureExtractorVGG16("x", ["fc2_relu"], feature_extractor_weights_path=vgg16_file)
    (wanted,) = theirs(images[:1])
    assert features.shape == (1, network.dim) and (features > 0).float().mean() > 0.2
    assert relative(features, wanted) <= 1e-5


@pytest.mark.parametrize("name", ["inception", "vgg16"])
def test_both_are_extractors_that_name_their_file(name):
    extractor = extractors.load(name)
    assert isinstance(extractor, Extractor) and len(extractor.weights) == 1
