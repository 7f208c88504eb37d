"""Our FID, KID and Inception Score against what other tools printed for the same images and the same random weights.

`KOALA_WRITE_GOLDEN=1 tox -e agreement` runs those tools and keeps their numbers.
"""

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from fid_numbers import features_of, networks, our_numbers, relative
from PIL import Image
from random_networks import SLOPES, pictures, write_inception
from torchvision.transforms.functional import center_crop

from eval import metrics
from eval.extractors import inception
from eval.features import FeatureSet
from eval.maths.frechet import frechet_distance_of_features
from eval.metric import SetMetric
from koala.errors import KoalaError

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fid_agreement.json").read_text())["numbers"]
N = min(GOLDEN, key=int)
THEIRS = {name: value for name, value in GOLDEN[N].items() if not name.startswith(("precision", "recall"))}
FIDS = [name for name in THEIRS if name.startswith("fid")]
OURS = [
    *(f"fid:{name}" for name in (*inception.FEEDS, "dmd2", "dmd2-256")),
    "kid:tf",
    "kid:clean",
    "inception_score:tf",
    "precision:tf",
    "recall:tf",
    "density",
    "coverage",
    "fid_infinity:clean",
    "patch_fid:clean",
]
OF_IMAGES = [name for name in OURS if metrics.load(name).needs_reference_images]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    yield networks(inception_v3_fid=write_inception(path))
    path.unlink()


@pytest.fixture(scope="module")
def ours(loaded):
    """Our numbers under the golden ones' names."""
    return our_numbers(*(pictures(kind, int(N)) for kind in SLOPES), loaded)


def random_set(n, seed=0, dim=32):
    return FeatureSet.of(torch.rand(n, dim, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.proves("metric", name=("kid:tf", "kid:clean", "inception_score:tf"), weights="random")
@pytest.mark.proves("metric", name=("fid:clean", "fid:tf", "fid:pytorch-fid", "fid:torchmetrics"), weights="random")
@pytest.mark.parametrize("name", THEIRS)
def test_our_number_is_that_of_the_tool(name, ours):
    assert relative(ours[name], THEIRS[name]) <= 1e-4


@pytest.mark.parametrize("n", GOLDEN)
def test_the_tools_themselves_disagree_so_that_each_convention_is_told_apart(n):
    for one, other in combinations(FIDS, 2):
        assert relative(GOLDEN[n][one], GOLDEN[n][other]) > 0.01


def test_features_do_not_depend_on_batches_nor_fid_on_order(loaded):
    feed = metrics.load("fid:clean").feed
    one, other = (pictures(kind, 3) for kind in SLOPES)
    sets = [features_of(feed, images, loaded) for images in (one, other)]
    shuffled = [features_of(feed, images.flip(0), loaded, batch_size=2) for images in (one, other)]
    distances = [frechet_distance_of_features(*(side.all() for side in pair)) for pair in (shuffled, sets)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-5)


def test_patch_fid_sees_the_middle_pixels_as_they_are_and_small_images_whole_as_dmd2s_code():
    prepare, whole = (metrics.load(name).feed.preparation for name in ("patch_fid:clean", "fid:clean"))
    images = pictures("one", 1)
    top, left = (images.shape[2] - 299) // 2, (images.shape[3] - 299) // 2  # 50.5 is rounded to even, as torchvision
    wanted = (images[:, :, top : top + 299, left : left + 299].float() - 128) / 128
    assert torch.equal(prepare(images), wanted)
    assert torch.equal(prepare(images[:, :, :298]), whole(images[:, :, :298]))


@pytest.mark.parametrize(("name", "side"), [("fid:dmd2", 512), ("fid:dmd2-256", 256)])
def test_dmd2s_fid_is_clean_fids_of_centre_squares_that_pil_resized_first(name, side):
    """As DMD2's main/coco_eval/coco_evaluator.py does before clean-fid, for SDXL and for SD 1.5."""
    images = pictures("one", 2)
    square = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in center_crop(images, min(images.shape[2:]))]
    resized = [np.array(image.resize((side, side), Image.Resampling.LANCZOS)) for image in square]
    wanted = metrics.load("fid:clean").feed.preparation(torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2))
    assert torch.equal(metrics.load(name).feed.preparation(images), wanted)


@pytest.mark.proves("metric", name=("fid:dmd2", "fid:dmd2-256"), weights="random")
def test_dmd2s_fids_go_from_images_to_values_of_their_own(loaded):
    sets = [pictures(kind, 2) for kind in SLOPES]
    values = []
    for name in ("fid:clean", "fid:dmd2", "fid:dmd2-256"):
        metric = metrics.load(name)
        values.append(metric.compute(*(features_of(metric.feed, images, loaded) for images in sets)).value)
    assert min(relative(a, b) for a, b in combinations(values, 2)) > 1e-3


@pytest.mark.parametrize("name", OURS)
def test_metrics_of_sets_say_what_they_read_and_their_settings_are_plain(name):
    metric = metrics.load(name)
    assert isinstance(metric, SetMetric)
    assert metric.feed.extractor in {"inception", "vgg16"}
    assert json.loads(json.dumps(metric.settings())) == metric.settings()
    assert metric.higher_is_better == name.startswith(("inception_score", "precision", "recall", "density", "coverage"))
    assert metric.needs_reference == (name != "inception_score:tf")
    metric.feed = replace(metric.feed, dtype="bf16")  # as a run may wish


def test_no_two_fids_share_a_preparation_and_each_says_its_own():
    said = {name: str(metrics.load(name).feed.preparation) for name in OURS if "fid" in name}
    assert said["fid:tf"] == "TensorFlow 1 bilinear to 299x299; (x - 128) / 128"
    assert said["fid:pytorch-fid"] == "bilinear without antialias to 299x299; (x - 127.5) / 127.5"
    assert said["fid_infinity:clean"] == said["fid:clean"]
    assert len(set(said.values())) == len(said) - 1


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_mean_and_a_covariance_are_not_enough_for_metrics_of_images(name):
    with pytest.raises(KoalaError, match="as images, not as statistics"):
        metrics.load(name).compute(random_set(9), random_set(9, 1).gaussian)


@pytest.mark.parametrize("name", [name for name in OURS if name != "inception_score:tf"])
def test_one_image_is_too_few_and_nan_is_no_feature(name):
    with pytest.raises(KoalaError):
        metrics.load(name).compute(random_set(1), random_set(40, 1))
    with pytest.raises(KoalaError):
        metrics.load(name).compute(random_set(40), random_set(1, 1))
    broken = random_set(40).all()
    broken[3, 5] = float("nan")
    with pytest.raises(KoalaError, match="NaN"):
        metrics.load(name).compute(FeatureSet.of(broken), random_set(40, 1))


def test_inception_score_needs_as_many_images_as_splits(loaded):
    metric = metrics.load("inception_score:tf")
    metric.load(loaded)
    with pytest.raises(KoalaError, match="10 splits"):
        metric.compute(random_set(9, dim=2048), None)


def test_kid_says_how_large_its_subsets_were():
    few = metrics.load("kid:tf").compute(random_set(30), random_set(50, 1))
    many = metrics.load("kid:tf").compute(random_set(1100), random_set(1200, 1))
    assert (few.detail["subset_size"], many.detail["subset_size"]) == (30, 1000)
    assert few.low < few.value < few.high and few.detail["std_of_subsets"] > 0
    whole = metrics.load("kid:clean").compute(random_set(30), random_set(30, 1))
    assert whole.value == whole.detail["over_all_images"] and whole.detail["std_of_subsets"] == 0
