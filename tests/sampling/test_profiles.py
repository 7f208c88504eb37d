import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from drawing import CPU, RECIPE, draw

from koala.errors import KoalaError, UnknownName
from koala.models import zoo
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.spec import Recipe
from koala.sampling import profiles
from koala.sampling.residency import resident
from koala.sampling.sampler import Sampler


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_every_profile_says_what_it_saves_and_costs(name):
    profile = profiles.get(name)
    assert profile.name == name
    assert profile.saves
    assert profile.costs
    assert all(name in profiles.PROFILES[other].excludes for other in profile.excludes)


def test_profiles_compose_in_one_order_whatever_order_is_asked():
    assert profiles.get("tiny-vae+int8").name == profiles.get("int8 + tiny-vae").name == "tiny-vae+int8"
    assert profiles.get("eager+int8").name == "int8"
    assert profiles.get("eager") is profiles.EAGER
    assert "decoding" in profiles.get("tiny-vae+int8").saves


@pytest.mark.parametrize("pair", ["fp16-fix+tiny-vae", "int8+fp8", "low-vram+compiled", "int8+low-vram"])
def test_profiles_that_do_not_go_together_say_why(pair):
    with pytest.raises(KoalaError, match="do not go together: "):
        profiles.get(pair)


def test_an_unknown_profile_is_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"did you mean 'compiled'.*eager.*tiny-vae"):
        profiles.get("compile")


@pytest.mark.parametrize(
    ("profile", "model", "reason"),
    [
        ("fp8", "sdxl", "compute capability 8.9 or newer, not cpu"),
        ("fp16-fix", "sdm-v1.4", "no fp16-proof autoencoder is known for sdm-v1.4"),
        ("fp16-fix", "sdxl", "sdxl decodes in fp32 already"),
    ],
)
def test_a_profile_that_cannot_work_here_says_why(profile, model, reason):
    with pytest.raises(KoalaError, match=f"the profile {profile} cannot work here: .*{reason}"):
        profiles.get(profile).check(zoo.get(model), CPU, "fp32")


def test_fp16_fix_is_for_models_that_decode_in_fp32_in_an_fp16_pipeline():
    profile = profiles.get("fp16-fix")
    profile.check(zoo.get("sdxl"), CPU, "fp16")
    for name, dtype in (("sdxl", "bf16"), ("koala-700m", "fp16")):
        with pytest.raises(KoalaError, match=f"{name} decodes in {dtype} already"):
            profile.check(zoo.get(name), CPU, dtype)


def test_compilation_without_a_compiler_says_what_is_missing(monkeypatch):
    profile, gpu = profiles.get("compiled"), torch.device("cuda")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(KoalaError, match=r"needs the C\+\+ compiler (clan)?g\+\+"):
        profile.check(zoo.get("sdxl"), CPU, "fp32")
    with pytest.raises(KoalaError, match="triton needs a C compiler"):
        profile.check(zoo.get("sdxl"), gpu, "fp16")
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(profiles.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    with pytest.raises(KoalaError, match=r"needs Python's headers; /nowhere/Python.h is missing"):
        profile.check(zoo.get("sdxl"), gpu, "fp16")
    monkeypatch.setattr(profiles, "find_spec", lambda name: None)
    with pytest.raises(KoalaError, match="pip install triton"):
        profile.check(zoo.get("sdxl"), gpu, "fp16")


def test_int8_without_torchao_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(profiles, "find_spec", lambda name: None)
    with pytest.raises(KoalaError, match="pip install torchao"):
        profiles.get("int8").check(zoo.get("sdxl"), CPU, "fp32")


def test_fp16_fix_decodes_sdxl_in_fp16_with_the_fixed_weights():
    spec = profiles.get("fp16-fix").respec(zoo.get("sdxl"))
    assert spec.autoencoder.weights.repository == "madebyollin/sdxl-vae-fp16-fix"
    assert not spec.autoencoder.upcast_to_fp32
    twin = profiles.get("fp16-fix").respec(zoo.get("tiny-sdxl"))
    assert load(twin, "cpu", "fp16", parts=("autoencoder",)).autoencoder.dtype == torch.float16
    assert load(zoo.get("tiny-sdxl"), "cpu", "fp16", parts=("autoencoder",)).autoencoder.dtype == torch.float32


@pytest.mark.proves("profile", name="tiny-vae", weights="random", size="toy", remark="that VAE at its real size")
def test_tiny_vae_takes_the_autoencoder_of_the_models_latent_space():
    assert profiles.get("tiny-vae").respec(zoo.get("koala-1b")).autoencoder.weights.repository == "madebyollin/taesdxl"
    assert profiles.get("tiny-vae").respec(zoo.get("bk-sdm-base")).autoencoder.weights.repository == "madebyollin/taesd"
    sampler, images = draw("tiny-bk-sdm-tiny", "tiny-vae")
    assert type(sampler.components.autoencoder).__name__ == "AutoencoderTiny"
    assert images.shape == (1, 64, 64, 3)


@pytest.mark.proves("profile", name="low-vram", weights="random", size="toy")
def test_low_vram_decodes_large_images_in_tiles():
    sampler, _ = draw("tiny-bk-sdm-tiny", "low-vram")
    tiles = []
    sampler.components.autoencoder.decoder.register_forward_pre_hook(lambda m, args: tiles.append(args[0].shape))
    latents = torch.randn(2, 4, 12, 12)
    eager, _ = draw("tiny-bk-sdm-tiny", "eager")
    small = torch.randn(2, 4, 8, 8)
    assert torch.allclose(sampler.decode(small), eager.decode(small), atol=1e-5)
    assert [shape[0] for shape in tiles] == [1, 1]
    tiles.clear()
    assert sampler.decode(latents).shape == (2, 3, 96, 96)
    assert len(tiles) > 2
    assert max(shape[-1] for shape in tiles) < 12


@pytest.mark.parametrize("name", ["sdxl", "koala-700m", "sdm-v2.0"])
def test_low_vram_tiles_at_the_native_size_of_every_model(name):
    with torch.device("meta"):
        autoencoder = meta_networks(zoo.get(name), ("autoencoder",))["autoencoder"]
    profiles.get("low-vram").tune(SimpleNamespace(autoencoder=autoencoder, spec=zoo.get(name)))
    assert (autoencoder.tile_sample_min_size, autoencoder.tile_latent_min_size) == (512, 64)
    assert autoencoder.use_tiling
    assert autoencoder.use_slicing


def test_quantisation_leaves_the_compilers_settings_alone():
    pytest.importorskip("torchao")
    before = torch._inductor.config.save_config()
    draw("tiny-bk-sdm-tiny", "int8")
    assert torch._inductor.config.save_config() == before


@pytest.mark.proves("profile", name="int8", weights="random", size="toy")
def test_int8_weights_take_fewer_bytes_and_draw_nearly_the_same():
    pytest.importorskip("torchao")
    sampler, images = draw("tiny-koala-700m", "int8")
    _, expected = draw("tiny-koala-700m", "eager")
    kinds = {type(layer.weight.data).__name__ for layer in sampler.components.unet.modules() if is_linear(layer)}
    assert any("Int8" in kind for kind in kinds)
    assert sampler.components.weight_bytes < load(zoo.get("tiny-koala-700m"), "cpu").weight_bytes
    assert 0 < (images.int() - expected.int()).abs().float().mean() < 20


def is_linear(layer):
    return isinstance(layer, torch.nn.Linear)


class Recorder(torch.nn.Module):
    """A network that notes where its weights are when it runs."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.register_buffer("table", torch.ones(3))


def test_weights_are_on_the_device_only_inside_the_block_and_are_not_copied_back():
    network = Recorder()
    kept = network.layer.weight, network.layer.bias, network.table
    with resident((network,), torch.device("meta")):
        assert all(tensor.is_meta for tensor in network.state_dict().values())
    for before, after in zip(kept, (network.layer.weight, network.layer.bias, network.table), strict=True):
        assert before is after


def test_weights_return_when_the_network_fails():
    network = Recorder()
    with pytest.raises(RuntimeError, match="broken"), resident((network,), torch.device("meta")):
        raise RuntimeError("broken")
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_weights_that_are_there_are_left_alone():
    network = Recorder()
    kept = [tensor.data_ptr() for tensor in network.state_dict().values()]
    with resident((network,), CPU):
        assert [tensor.data_ptr() for tensor in network.state_dict().values()] == kept


def test_one_network_at_a_time_is_on_the_device_under_low_vram():
    profile = profiles.get("low-vram")
    components = load(zoo.get("tiny-bk-sdm-tiny"), "cpu", storage=profile.storage)
    there = replace(components, device=torch.device("meta"))
    networks = {"text": there.conditioner.encoders[0], "unet": there.unet, "autoencoder": there.autoencoder}
    sampler = Sampler(there, profile)
    seen = []

    def look(name):
        seen.append((name, sorted(n for n, net in networks.items() if next(net.parameters()).is_meta)))

    for name, network in networks.items():
        target = network.decoder if name == "autoencoder" else network
        target.register_forward_pre_hook(lambda module, args, name=name: look(name))
    condition = sampler.encode(["a hat"], recipe=replace(RECIPE, guidance=0.0))
    sampler.denoise(condition, [1], Recipe("ddim", 2, 0.0))
    sampler.decode(torch.zeros(1, 4, 8, 8, device="meta"))
    assert seen == [("text", ["text"]), *[("unet", ["unet"])] * 2, ("autoencoder", ["autoencoder"])]
