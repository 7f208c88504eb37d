"""LPIPS of decoded latents: the package lpips gives the same distances, and a run learns by them."""

import os

import lpips
import pytest
import torch
import trained_runs
from few_steps import SDXL

from koala.distill import log
from koala.distill.perceptual import HEADS, TRUNK, Lpips, perceptual
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.load import load
from koala.sampling.profiles import get

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def reference():
    """The package's own network: its learnt heads on a random VGG-16, for ImageNet's is not to be had here."""
    torch.manual_seed(0)
    return lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(reference, tmp_path_factory):
    """The two files as torchvision and the package distribute them, less most of VGG-16's classifier."""
    path = tmp_path_factory.mktemp("lpips")
    stages = [getattr(reference.net, f"slice{n}") for n in range(1, 6)]
    trunk = {f"features.{key}": value for stage in stages for key, value in stage.state_dict().items()}
    torch.save({**trunk, "classifier.6.bias": torch.zeros(1000)}, path / TRUNK)
    heads = {f"lin{n}.model.1.weight": getattr(reference, f"lin{n}").model[1].weight for n in range(5)}
    torch.save(heads, path / HEADS)
    return path


def images(n, side=64, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_that_of_the_package(reference, folder):
    ours, one, other = Lpips(folder, CPU, torch.float32), images(2), images(2, seed=1)
    expected = reference(one, other, normalize=True).flatten()
    torch.testing.assert_close(ours(one, other), expected, rtol=1e-4, atol=1e-6)
    assert (ours(one, one) == 0).all() and (expected > 0).all()


def test_the_gradient_is_that_of_the_package_and_reaches_the_drawn_images_alone(reference, folder):
    distance, latents = perceptual(SDXL, folder, CPU, "fp32", "random", 3), torch.randn(2, 4, 8, 8)
    drawn, wanted = latents.clone().requires_grad_(), (latents + 0.1).requires_grad_()
    ours = distance(drawn, wanted)
    (gradient,) = torch.autograd.grad(ours, drawn, retain_graph=True)
    coder = load(get("tiny-vae").respec(SDXL), "cpu", "fp32", "random", ("autoencoder",), 3).autoencoder
    one, other = (coder.decode(x / coder.config.scaling_factor).sample for x in (drawn, wanted.detach()))
    theirs = reference(one, other).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, drawn)[0], rtol=1e-3, atol=1e-7)
    assert torch.autograd.grad(ours, wanted, allow_unused=True) == (None,)


def test_half_precision_is_near(folder):
    one, other = images(1), images(1, seed=1)
    half, full = Lpips(folder, CPU, torch.bfloat16)(one, other), Lpips(folder, CPU, torch.float32)(one, other)
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, full, rtol=0.02, atol=0)


@pytest.mark.fullsize
@pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="6 GiB: set KOALA_FULLSIZE=1")
def test_images_of_sdxl_are_compared_at_their_real_size(folder):
    distance, latents = perceptual(zoo.get("sdxl"), folder, CPU, "fp32", "random", 0), torch.randn(1, 4, 128, 128)
    drawn = latents.clone().requires_grad_()
    distance(drawn, latents + 0.1).backward()
    assert drawn.grad.isfinite().all() and drawn.grad.abs().max() > 0


def test_files_that_are_missing_or_others_are_named(folder, tmp_path):
    with pytest.raises(KoalaError, match=f"{TRUNK} is missing: --lpips names a folder .* eval weights vgg16 lpips-vgg"):
        Lpips(tmp_path, CPU, torch.float32)
    (tmp_path / TRUNK).symlink_to(folder / TRUNK)
    torch.save({"lin0.model.1.weight": torch.ones(1, 3, 1, 1)}, tmp_path / HEADS)
    with pytest.raises(KoalaError, match="does not hold the heads of LPIPS with VGG-16"):
        Lpips(tmp_path, CPU, torch.float32)


def test_a_run_learns_by_it(folder, tmp_path):
    data, prompts, out = tmp_path / "pairs", tmp_path / "prompts.txt", tmp_path / "out"
    prompts.write_text("a red apple\na blue cup\n")
    drawing = ("tiny-sdxl", "--prompts", prompts, "--out", data, "--n", 4, "--steps", 1, "--device", "cpu")
    assert trained_runs.koala("pairs", *drawing) == 0
    run = ("train", "tiny-dmd2-sdxl-1step-pretrain", "--data", data, "--workers", 0, "--device", "cpu")
    options = ("--steps", 2, "--batch-size", 2, "--tracker", "none", "--out", out)
    assert trained_runs.koala(*run, "--lpips", tmp_path, *options) == 2 and not (out / log.FILE).exists()
    assert trained_runs.koala(*run, "--lpips", folder, *options) == 0
    assert all(0 < row["losses"]["unet"]["regression"] < 10 for row in log.read(out / log.FILE))
