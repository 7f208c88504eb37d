"""Our numbers against torch-fidelity's, clean-fid's, pytorch-fid's and torchmetrics' own: `tox -e agreement`.

Same images, same random weights. `KOALA_WRITE_GOLDEN=1` keeps the tools' numbers for the default tests.
"""

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

if "KOALA_AGREEMENT" not in os.environ:
    pytest.skip("tox -e agreement installs the other tools", allow_module_level=True)

import other_tools
from fid_numbers import networks, our_numbers, our_shares, relative
from PIL import Image
from random_networks import SLOPES, pictures, write_inception, write_vgg16

GOLDEN = Path(__file__).parents[1] / "golden" / "fid_agreement.json"
SIZES = (12, 96)
TOOL = {
    "fid:clean": "clean-fid",
    "fid:tf": "torch-fidelity",
    "fid:pytorch-fid": "pytorch-fid",
    "fid:torchmetrics": "torchmetrics",
    "kid:clean, two thirds": "clean-fid",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """One folder with the same Inception in every tool's form, and a VGG-16."""
    folder = tmp_path_factory.mktemp("weights")
    other_tools.write_torchscript(write_inception(folder / "inception.pth"), folder)
    write_vgg16(folder / "vgg16.pth")
    yield folder
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """n -> folders of the first n images of both sets, and of two thirds of the second."""
    made = {}
    for n in SIZES:
        for name, kind, count in (("one", "one", n), ("other", "other", n), ("fewer", "other", 2 * n // 3)):
            folder = made[n, name] = tmp_path_factory.mktemp(f"{name}-{n}")
            for i, image in enumerate(pictures(kind, count)):
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i:04}.png", compress_level=1)
    return made


def their_numbers(n, folders, weights):
    one, other, fewer = (folders[n, name] for name in ("one", "other", "fewer"))
    inception = weights / "inception.pth"
    whole, halves = (other_tools.torch_fidelity(one, other, inception, size) for size in (None, n // 2))
    return {
        "fid:clean": other_tools.clean_fid(one, other, weights),
        "fid:tf": whole["fid"],
        "fid:pytorch-fid": other_tools.pytorch_fid_of(one, other, inception, weights / "torch"),
        "fid:torchmetrics": other_tools.torchmetrics_fid(one, other, inception),
        "kid:tf, all images": whole["kid"],
        "kid:tf, subsets of half": halves["kid"],
        "kid:clean, two thirds": other_tools.clean_kid(one, fewer, weights),
        "inception_score:tf": whole["isc"],
        **other_tools.torch_fidelity_shares(one, other, weights / "vgg16.pth"),
    }


def table(n, theirs, ours):
    lines = [
        f"\n{n} against {n} images, random weights",
        f"{'number':26}{'tool':16}{'theirs':>16}{'ours':>16}{'off':>10}",
    ]
    for name, value in theirs.items():
        tool, off = TOOL.get(name, "torch-fidelity"), relative(ours[name], value)
        lines.append(f"{name:26}{tool:16}{value:16.8g}{ours[name]:16.8g}{off:10.1e}")
    return "\n".join(lines)


def keep(n, theirs):
    golden = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {"numbers": {}}
    golden["what"] = "numbers that other tools print for tests/eval/random_networks.py, by images in each set"
    golden["versions"] = {name: version(name) for name in other_tools.PACKAGES}
    golden["numbers"][str(n)] = theirs
    GOLDEN.write_text(json.dumps(golden, indent=2, sort_keys=True) + "\n")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("n", SIZES)
def test_our_numbers_are_those_of_the_tools(n, folders, weights, capsys):
    theirs = their_numbers(n, folders, weights)
    one, other = (pictures(kind, n) for kind in SLOPES)
    loaded = networks(inception_v3_fid=weights / "inception.pth", vgg16=weights / "vgg16.pth")
    ours = {**our_numbers(one, other, loaded), **our_shares(one, other, loaded)}
    with capsys.disabled():
        print(table(n, theirs, ours))
    assert theirs.keys() == ours.keys()
    assert {name for name in theirs if relative(ours[name], theirs[name]) > 1e-4} == set()
    if "KOALA_WRITE_GOLDEN" in os.environ:
        keep(n, theirs)
    golden = json.loads(GOLDEN.read_text())["numbers"][str(n)]
    assert {name for name in theirs if relative(theirs[name], golden[name]) > 1e-4} == set()
