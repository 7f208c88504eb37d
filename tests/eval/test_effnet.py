import pytest
import timm
import torch
from open_clip import IMAGENET_CLASSNAMES
from photographs import blurred, compressed, crops, noisy, photograph, weight_files

from eval import extractors, metrics
from eval.extractors import effnet_lite0
from eval.features import FeatureSet
from eval.feed import Preparation
from eval.preparation import CenterCrop, PilResize
from koala.errors import KoalaError
from koala.models.weights.fill import Misfit

CPU = torch.device("cpu")
# How ImageNet's accuracy is measured, which the published posteriors are of; metrics take the whole picture.
IMAGENET = Preparation((PilResize(256, "bicubic", shortest=True), CenterCrop(224), effnet_lite0.NORMALISE))


def loaded(path, dtype=torch.float32):
    extractor = extractors.load("effnet_lite0")
    extractor.load({"effnet-lite0": path}, CPU, dtype)
    return extractor


@pytest.fixture(scope="module")
def effnet():
    return loaded(weight_files("effnet-lite0")["effnet-lite0"])


@pytest.fixture(scope="module")
def random_network():
    torch.manual_seed(0)
    return timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()


def top(effnet, name, preparation=IMAGENET):
    with torch.inference_mode():
        found, classes = effnet.posteriors(effnet.features(preparation(photograph(name))))[0].topk(2)
    named = [IMAGENET_CLASSNAMES[index] for index in classes]
    return {name: pytest.approx(value, abs=0.03) for name, value in zip(named, found.tolist(), strict=True)}


@pytest.mark.proves("extractor", name="effnet_lite0", weights="real")
def test_photographs_are_what_the_weights_are_known_to_say(effnet):
    # Measured with another implementation of the network and the same file.
    assert top(effnet, "coffee")["espresso"] == 0.95
    assert top(effnet, "chelsea") == {"tiger cat": 0.38, "Egyptian Mau": 0.36}


def test_the_whole_picture_is_what_metrics_see(effnet):
    assert str(effnet_lite0.FEED.preparation).startswith("float antialiased bicubic to 224x224")
    assert top(effnet, "coffee", effnet_lite0.FEED.preparation)["espresso"] == 0.89


@pytest.mark.parametrize("named", ["as timm", "as the original release"])
def test_a_file_fits_under_either_naming(tmp_path, random_network, named):
    state = random_network.state_dict()
    if named != "as timm":
        state = {f"_{i}.weight": tensor for i, tensor in enumerate(state.values())}
    torch.save(state, tmp_path / "a.pth")
    extractor, images = loaded(tmp_path / "a.pth"), torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        features = extractor.features(images)
        torch.testing.assert_close(extractor.posteriors(features), random_network(images).softmax(dim=1))
    assert features.shape == (2, extractor.dim) and features.dtype == torch.float32


def test_features_are_fp32_and_close_where_the_network_is_bf16(tmp_path, random_network):
    torch.save(random_network.state_dict(), tmp_path / "a.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        half, full = (loaded(tmp_path / "a.pth", dtype).features(images) for dtype in (torch.bfloat16, torch.float32))
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(half, full).item() > 0.999


def test_another_network_is_refused(tmp_path, random_network):
    state = random_network.state_dict()
    torch.save(dict(list(state.items())[:-1]), tmp_path / "fewer.pth")
    torch.save({**state, "classifier.bias": torch.zeros(10)}, tmp_path / "reshaped.pth")
    for name in ("fewer", "reshaped"):
        with pytest.raises(Misfit, match=f"{name}.pth does not hold EfficientNet-Lite0"):
            loaded(tmp_path / f"{name}.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK torn")
    with pytest.raises(KoalaError, match=r"torn\.pth is not a whole torch checkpoint"):
        loaded(tmp_path / "torn.pth")


@pytest.fixture(scope="module")
def features(effnet):
    clean = crops(12, 160, seed=0)
    # Mirrored, the crops have the same contents, so that few of them are enough to see a difference.
    sets = {"reference": clean.flip(3), "clean": clean, "blur 1": blurred(clean, 1), "blur 3": blurred(clean, 3)}
    sets |= {"noise 15": noisy(clean, 15), "noise 40": noisy(clean, 40)}
    sets |= {"JPEG 30": compressed(clean, 30), "JPEG 8": compressed(clean, 8)}
    with torch.inference_mode():
        return {name: FeatureSet.of(effnet.features(effnet_lite0.FEED.preparation(s))) for name, s in sets.items()}


@pytest.mark.proves("metric", param="metric", weights="real")
@pytest.mark.parametrize("metric", ["fd_effnet_lite0", "kd_effnet_lite0"])
@pytest.mark.parametrize(("mild", "strong"), [("blur 1", "blur 3"), ("noise 15", "noise 40"), ("JPEG 30", "JPEG 8")])
def test_distances_grow_as_photographs_get_worse(features, metric, mild, strong):
    distance = metrics.load(metric)
    clean, less, more = (
        distance.compute(features[name], features["reference"]).value for name in ("clean", mild, strong)
    )
    assert clean < less < more


@pytest.mark.parametrize("name", ["fd_effnet_lite0", "kd_effnet_lite0"])
def test_substitutes_say_so_and_bear_no_standard_name(name):
    assert metrics.load(name).substitute
    assert "fid" not in name and "kid" not in name
