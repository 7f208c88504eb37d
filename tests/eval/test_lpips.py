from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photographs import blurred, crops, photograph, weight_files
from torchvision.models import alexnet

from eval import extractors, metrics
from eval.extractors import lpips
from koala.models.weights.fill import Misfit

CPU = torch.device("cpu")
CHANNELS = (64, 192, 384, 256, 256)
RELUS = (1, 4, 7, 9, 11)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """AlexNet with random weights, as torchvision saves it less most of the classifier, and random heads."""
    folder = tmp_path_factory.mktemp("lpips")
    torch.manual_seed(0)
    trunk = {f"features.{name}": tensor for name, tensor in trunk_network().state_dict().items()}
    torch.save({**trunk, "classifier.6.bias": torch.zeros(1000)}, folder / "alexnet.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, channels, 1, 1) for i, channels in enumerate(CHANNELS)}
    torch.save(heads, folder / "heads.pth")
    return {"alexnet": folder / "alexnet.pth", "lpips-alex": folder / "heads.pth"}


def trunk_network(state=None):
    torch.manual_seed(0)
    network = alexnet(weights=None).features
    if state is not None:
        network.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    return network.eval()


def features_of(files, images):
    extractor = extractors.load("lpips")
    extractor.load(files, CPU, torch.float32)
    with torch.inference_mode():
        return extractor.features(lpips.NORMALISE(images))


def distances(features):
    """The squared distance of each pair, (i, j) with i < j."""
    return torch.stack([(features[i] - features[j]).square().sum() for i, j in combinations(range(len(features)), 2)])


def test_squared_distances_are_the_papers_equation_1(files):
    images, heads = crops(3, 64, seed=0), torch.load(files["lpips-alex"])
    maps, layers = lpips.NORMALISE(images), []
    with torch.inference_mode():
        for i, module in enumerate(trunk_network(torch.load(files["alexnet"]))):
            maps = module(maps)
            if i in RELUS:
                layers.append(torch.nn.functional.normalize(maps, dim=1))
    expected = torch.stack([
        sum((heads[f"lin{n}.model.1.weight"] * (layer[i] - layer[j]).square()).sum(dim=1).mean()
            for n, layer in enumerate(layers))
        for i, j in combinations(range(3), 2)
    ])  # fmt: skip
    torch.testing.assert_close(distances(features_of(files, images)), expected, rtol=1e-5, atol=0)


@pytest.mark.proves("extractor", name="lpips", weights="random", remark="its heads are real")
@pytest.mark.parametrize("side", [64, 256])
def test_squared_distances_equal_the_lpips_package(files, side):
    package = pytest.importorskip("lpips", reason="the package lpips is not installed")
    images = crops(3, side, seed=1)
    with pytest.warns(UserWarning, match="weights"):  # its call of torchvision is an older one's
        reference = package.LPIPS(net="alex", pnet_rand=True, verbose=False)  # its own heads, a random trunk
    state = torch.load(files["alexnet"])
    slices = [module for name, module in reference.net.named_modules() if isinstance(module, torch.nn.Conv2d)]
    for module, i in zip(slices, (0, 3, 6, 8, 10), strict=True):
        module.load_state_dict({kind: state[f"features.{i}.{kind}"] for kind in ("weight", "bias")})
    features = features_of(files | weight_files("lpips-alex"), images)
    scaled = images.float() / 127.5 - 1
    with torch.inference_mode():
        pairs = [reference(scaled[i : i + 1], scaled[j : j + 1]).flatten() for i, j in combinations(range(3), 2)]
    torch.testing.assert_close(distances(features), torch.cat(pairs), rtol=1e-5, atol=1e-7)


def test_features_of_the_metrics_own_size_have_the_width_that_is_told(files):
    features = features_of(files, lpips.FEED.preparation.steps[0](photograph("coffee")))
    assert features.shape == (1, extractors.load("lpips").dim)
    assert "256x256" in str(lpips.FEED.preparation)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 6), seed=st.integers(0, 2**31 - 1))
def test_diversity_is_the_mean_over_pairs(n, seed):
    features = torch.randn(n, 50, generator=torch.Generator().manual_seed(seed))
    score = metrics.load("lpips_diversity").score_group(features)
    assert score == pytest.approx(distances(features).mean().item(), rel=1e-5)


def test_diversity_is_zero_for_one_image_repeated_and_grows_with_difference(files):
    image = photograph("chelsea")[..., :256, :256]
    same, alike, unlike = (
        torch.cat(images)
        for images in ([image] * 2, [image, blurred(image, 1)], [image, photograph("coffee")[..., :256, :256]])
    )
    score = metrics.load("lpips_diversity").score_group
    found = [score(features_of(files, images)) for images in (same, alike, unlike)]
    assert found[0] == 0 < found[1] < found[2]


def test_files_of_other_networks_are_refused(files, tmp_path):
    heads = torch.load(files["lpips-alex"])
    torch.save({**heads, "lin0.model.1.weight": -torch.ones(1, 64, 1, 1)}, tmp_path / "negative.pth")
    with pytest.raises(Misfit, match="negative weights"):
        features_of(files | {"lpips-alex": tmp_path / "negative.pth"}, crops(1, 64, seed=0))
    with pytest.raises(Misfit, match=r"alexnet\.pth does not hold the heads of LPIPS"):
        features_of(files | {"lpips-alex": files["alexnet"]}, crops(1, 64, seed=0))
    with pytest.raises(Misfit, match=r"heads\.pth does not fit"):
        features_of(files | {"alexnet": files["lpips-alex"]}, crops(1, 64, seed=0))
