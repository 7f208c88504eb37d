"""FID of two folders of PNG files, from files to number, against four tools around one random network, in one run."""

import sys
import time
from pathlib import Path
from statistics import median

import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from eval import metrics
from eval.features import Spool
from eval.passes import FeaturePass, Reading

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("eval", "agreement"))

from fid_numbers import networks
from random_networks import SLOPES, pictures, write_inception

other_tools = pytest.importorskip("other_tools", reason="tox -e agreement installs the other tools")
ROUNDS = 3  # each tool once in every round, in rotating order, after one round to warm up
IMAGES = 48  # in each folder
BATCH = 32
SIDE = 512


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    other_tools.write_torchscript(write_inception(folder / "inception.pth"), folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders of 512 x 512 PNG files."""
    made = []
    for kind in SLOPES:
        folder = tmp_path_factory.mktemp(kind)
        images = interpolate(pictures(kind, IMAGES), (SIDE, SIDE), mode="bilinear", antialias=True)
        for i, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
            Image.fromarray(image).save(folder / f"{i:04}.png")
        made.append(folder)
    return made


def our_fid(name, folders, weights, spools):
    """FID as `python -m eval score` computes it: decode, prepare, network, spool, distance and its interval."""
    metric, loaded = metrics.load(name), networks(inception_v3_fid=weights / "inception.pth")
    sets = []
    for folder in folders:
        paths = sorted(folder.iterdir())
        with Spool(spools / folder.name, loaded.extractor("inception").dim) as spool:
            compute = FeaturePass(loaded, {metric.feed: spool})
            keys = []
            for batch in Reading(BATCH, workers=0).batches(paths, range(len(paths))):
                compute(batch.pictures, [paths[place].name for place in batch.places])
                keys += batch.keys
            sets.append(spool.select(keys))
    return metric.compute(*sets).value


@pytest.mark.fullsize
@pytest.mark.timeout(3600)
def test_fid_end_to_end_is_no_slower_than_the_fastest_tool(benchmark, folders, weights, tmp_path_factory, capsys):
    one, other = folders
    inception = weights / "inception.pth"
    ours = {f"ours {name}": name for name in ("fid:clean", "fid:tf", "fid:pytorch-fid", "fid:torchmetrics")}
    fids = {
        **{
            side: lambda name=name: our_fid(name, folders, weights, tmp_path_factory.mktemp("spools"))
            for side, name in ours.items()
        },
        "torch-fidelity": lambda: other_tools.torch_fidelity_fid(one, other, inception, BATCH),
        "clean-fid": lambda: other_tools.clean_fid(one, other, weights, BATCH),
        "pytorch-fid": lambda: other_tools.pytorch_fid_of(one, other, inception, weights / "torch", BATCH),
        "torchmetrics": lambda: other_tools.torchmetrics_fid(one, other, inception, BATCH),
    }
    seconds = {side: [] for side in fids}

    def one_round():
        turn = len(seconds["clean-fid"]) % len(fids)
        for side in [*fids][turn:] + [*fids][:turn]:
            start = time.perf_counter()
            fids[side]()
            seconds[side].append(time.perf_counter() - start)

    benchmark.pedantic(one_round, rounds=ROUNDS, warmup_rounds=1)
    rates = {side: 2 * IMAGES / median(values[1:]) for side, values in seconds.items()}
    fastest = max(rate for side, rate in rates.items() if side not in ours)
    benchmark.extra_info |= {"seconds": seconds, "images": 2 * IMAGES, "threads": torch.get_num_threads()}
    with capsys.disabled():
        print(f"\nFID of {IMAGES} against {IMAGES} PNG of {SIDE} px, {torch.get_num_threads()} threads, no workers:")
        for side, rate in rates.items():
            print(f"  {side:24} {rate:6.2f} images/s, {rate / fastest:5.2f} of the fastest tool")
    assert all(rates[side] >= fastest for side in ours)
