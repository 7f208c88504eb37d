"""FID over crops of real photographs grows with what degrades them, whatever the convention; the weights are random."""

import os

import pytest

if "KOALA_AGREEMENT" not in os.environ:
    pytest.skip("tox -e agreement installs the photographs", allow_module_level=True)

from fid_numbers import features_of, networks
from photographs import blurred, compressed, crops, noisy
from random_networks import write_inception

from eval import metrics

DEGRADED = {
    "blur": lambda images, step: blurred(images, (1.0, 2.0, 4.0)[step]),
    "noise": lambda images, step: noisy(images, (10.0, 25.0, 60.0)[step]),
    "JPEG": lambda images, step: compressed(images, (50, 15, 4)[step]),
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return networks(inception_v3_fid=write_inception(tmp_path_factory.mktemp("weights") / "inception.pth"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["fid:clean", "fid:tf"])
def test_fid_of_photographs_grows_with_blur_noise_and_jpeg(name, loaded, capsys):
    metric, images = metrics.load(name), crops(24, 296, seed=0)
    reference = features_of(metric.feed, images, loaded)
    for what, degrade in DEGRADED.items():
        sets = [features_of(metric.feed, degrade(images, step), loaded) for step in range(3)]
        fids = [metric.compute(features, reference).value for features in (reference, *sets)]
        with capsys.disabled():
            print(f"\n{name} under {what}: {', '.join(f'{fid:.4g}' for fid in fids)}")
        assert fids == sorted(fids) and fids[0] < 1e-6 and fids[1] > 0.1
