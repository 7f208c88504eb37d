"""EDM's network and DMD2's of ImageNet: equal to the same spelled out, from files with EDM's own names too."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel
from edm_network import Network, Preconditioned
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from koala.errors import KoalaError
from koala.models import class_names, single_file, zoo
from koala.models.cost import unet_cost, unet_inputs
from koala.models.edm import preconditioning
from koala.models.load import load
from koala.models.networks import count_params
from koala.models.noising import EDM, NOISINGS, noising
from koala.models.spec import ClassLabels
from koala.models.unet import build_unet

REAL, TINY = zoo.get("dmd2-imagenet64"), zoo.get("tiny-dmd2-imagenet64")
# As wide as EDM's norms must be to have 32 groups everywhere.
TOY = replace(
    REAL,
    name="toy-edm",
    unet=replace(
        REAL.unet,
        channels=(128, 256),
        transformer_depths=(0, 1),
        layers_per_block=1,
        heads=(2, 4),
        class_labels=5,
    ),
    conditioning=ClassLabels(tuple("01234"), droppable=False),
    resolution=8,
    unet_params=None,
)


@pytest.fixture(scope="module")
def reference():
    torch.manual_seed(0)
    network = Preconditioned(8, (128, 256), (False, True), 1, 64, 5)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network.double().eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["safetensors", "bin", "bare"])
def file(request, reference, tmp_path_factory):
    """A checkpoint with EDM's names, its resampling filters among them."""
    network = reference.model if request.param == "bare" else reference
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    assert any("resample_filter" in key for key in state)
    path = tmp_path_factory.mktemp("edm") / f"model.{'bin' if request.param == 'bin' else 'safetensors'}"
    (torch.save if request.param == "bin" else save_file)(state, path)
    return path


def some_inputs(n=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    timesteps = torch.tensor([0.0, 456.7, 999.0])[:n]
    return torch.randn(n, 3, 8, 8, generator=generator, dtype=dtype), timesteps, torch.tensor([4, 0, 2])[:n]


def test_weights_under_edms_names_predict_what_edms_network_predicts(reference, file):
    unet = load(TOY, "cpu", "fp32", str(file), ("unet",)).unet.double()
    noise, timesteps, classes = some_inputs()
    sigma = EDM.sigma(timesteps)
    noisy = sigma[:, None, None, None] * noise
    expected = reference(noisy, sigma, classes)
    found = unet(noisy, timesteps, class_labels=classes).sample
    # diffusers' embedding of the time is fp32
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, reference(noisy, sigma, classes.flip(0)), atol=1e-3), "classes matter"


def test_what_is_exported_has_edms_names_and_is_edms_network_again(reference, tmp_path):
    unet = load(TOY, "cpu", "fp32", "random", ("unet",)).unet
    single_file.write(tmp_path / "edm.safetensors", {"unet": unet}, TOY)
    again = load(TOY, "cpu", "fp32", str(tmp_path / "edm.safetensors"), ("unet",)).unet
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in unet.state_dict().items())
    written = {key for key in reference.state_dict() if "resample_filter" not in key}
    assert single_file.original({"unet": unet}, TOY).keys() == written


def test_the_real_network_has_edms_tensors_and_no_others():
    with torch.device("meta"):
        theirs = Network(64, (192, 384, 576, 768), (False, True, True, True), 3, 64, 1000)
        ours = build_unet(REAL.unet, 64)
    shapes = {f"model.{key}": tuple(tensor.shape) for key, tensor in theirs.named_parameters()}
    assert sum(tensor.numel() for tensor in theirs.parameters()) == count_params(ours) == 295_899_267
    assert {key: tuple(tensor.shape) for key, tensor in single_file.original({"unet": ours}, REAL).items()} == shapes


def test_a_file_of_another_model_is_told_apart(file):
    with pytest.raises(KoalaError, match=r"tiny-sdm-v1.5\.? ?.*It is not the U-Net of any model here"):
        load(zoo.get("tiny-sdm-v1.5"), "cpu", "fp32", str(file), ("unet",))
    with pytest.raises(KoalaError, match=r"is not a checkpoint of tiny-dmd2-imagenet64: .* are missing"):
        load(TINY, "cpu", "fp32", str(file), ("unet",))


def test_released_tensors_of_the_real_size_are_recognised():
    from koala.models.weights.recognise import recognise

    with torch.device("meta"):
        state = Preconditioned(64, (192, 384, 576, 768), (False, True, True, True), 3, 64, 1000).state_dict()
    said = recognise({key: tuple(tensor.shape) for key, tensor in state.items()}, original=True)
    assert said == "It is the U-Net of edm-imagenet64 (and of dmd2-imagenet64)."


def test_diffusers_reads_the_folder_and_its_layers_are_those_inside(tmp_path):
    unet = load(TINY, "cpu", "fp32", "random", ("unet",)).unet
    unet.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["resnet_time_scale_shift"] == "scale_shift"
    plain = UNet2DModel.from_pretrained(tmp_path).eval()
    sample, classes = torch.randn(2, 3, 8, 8), torch.tensor([7, 207])
    sigma = EDM.sigma(torch.tensor([999, 500]))
    skip, out, into = (factor.float()[:, None, None, None] for factor in preconditioning(sigma))
    layers = plain(into * sample, (sigma.log() / 4).float(), classes).sample
    found = unet(sample, torch.tensor([999, 500]), class_labels=classes).sample
    torch.testing.assert_close(found, skip * sample + out * layers, atol=1e-6, rtol=1e-6)


@given(st.floats(0, 999))
def test_preconditioning_keeps_inputs_and_what_is_learnt_at_power_one(timestep):
    # EDM's appendix B.6: of samples of power sigma_data^2, both have variance 1, and c_out is as small as can be.
    sigma = EDM.sigma(torch.tensor([timestep]))
    skip, out, into = preconditioning(sigma)
    torch.testing.assert_close(into**2 * (sigma**2 + 0.25), torch.ones(1).double())
    torch.testing.assert_close(((1 - skip) ** 2 * 0.25 + skip**2 * sigma**2) / out**2, torch.ones(1).double())


def test_noise_levels_are_karrass_from_the_least_to_the_most():
    sigma = EDM.sigma(torch.arange(1000))
    spelled_out = [(80 ** (1 / 7) + i / 999 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(1000)]
    torch.testing.assert_close(sigma, torch.tensor(spelled_out[::-1]).double(), rtol=1e-6, atol=0)
    assert sigma[0].item() == pytest.approx(0.002, rel=1e-12)
    assert sigma[999].item() == pytest.approx(80, rel=1e-12)
    assert (sigma.diff() > 0).all()


@pytest.mark.parametrize("name", NOISINGS)
def test_every_noising_gives_a_level_a_weight_and_a_start(name):
    one, timesteps = noising(name), torch.tensor([3, 999])
    noise = torch.randn(2, 3, 4, 4)
    signal, spread = one.levels(timesteps, noise)
    assert signal.shape == spread.shape == (2, 1, 1, 1)
    assert one.start(noise, 999).shape == noise.shape
    weights = one.weights(timesteps)
    assert weights is None or weights.shape == (2,)
    torch.testing.assert_close(one.signal_to_noise(timesteps), (signal / spread).flatten() ** 2, rtol=1e-3, atol=1e-6)
    assert one.sample_dtype(torch.float32) == torch.float32


def test_an_unknown_noising_is_told():
    with pytest.raises(KoalaError, match="unknown noising 'flow'; known: edm, sd"):
        noising("flow")


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_low_precision_keeps_what_passes_the_network_by(dtype):
    unet = load(TINY, "cpu", dtype, "random", ("unet",)).unet
    whole = load(TINY, "cpu", "fp32", "random", ("unet",)).unet
    noisy = torch.randn(2, 3, 8, 8)
    found = unet(noisy, torch.tensor([0, 0]), class_labels=torch.tensor([1, 2])).sample
    expected = whole(noisy, torch.tensor([0, 0]), class_labels=torch.tensor([1, 2])).sample
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-3 * 0.5  # c_out is 0.002


def test_sides_are_those_that_halve_three_times():
    REAL.check_side(72)
    with pytest.raises(KoalaError, match="multiples of 8 pixels, which 60 is not"):
        REAL.check_side(60)


def test_imagenets_classes_are_known_in_words():
    words = [class_names.shown("imagenet", number) for number in range(1000)]
    assert (words[207], words[0], words[999]) == ("golden retriever", "tench, Tinca tinca", words[999])
    assert all(words)
    assert class_names.shown("imagenet", 1000) is class_names.shown("", 3) is None


def test_the_real_network_runs_once_and_costs_what_is_counted():
    unet = load(REAL, "cpu", "fp32", "random", ("unet",)).unet
    inputs = unet_inputs(REAL, 64, 1, torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        clean = unet(**inputs).sample
    assert clean.shape == (1, 3, 64, 64) and clean.isfinite().all()
    assert round(unet_cost(REAL, 64, 1).flops / 2e9, 1) == 109.7  # counted here: about 5 s on one core of a CPU
