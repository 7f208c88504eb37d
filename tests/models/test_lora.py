from dataclasses import replace

import pytest
import torch
from lora_files import ALPHA, RANK, SPECS, adapted, as_diffusers, as_kohya, as_peft
from pipeline_folders import REPOSITORY, SDM_V1, SDXL, as_mirror, on_hub, saved
from safetensors.torch import load_file, save_file

from koala.errors import KoalaError
from koala.models.cost import unet_inputs
from koala.models.load import DTYPES, load
from koala.models.spec import HubFile
from koala.models.weights.lora import Adapter, adapt


def write(kind, spec, networks, folder):
    """The adapter in one of the formats, and the networks that it adapts."""
    everything = tuple(networks)
    folder.mkdir()
    if kind == "diffusers":
        return as_diffusers(spec, networks, folder / "lora", everything), everything
    if kind == "diffusers, only the U-Net":
        return as_diffusers(spec, networks, folder / "lora", ("unet",)), ("unet",)
    if kind == "diffusers, the U-Net by itself":
        networks["unet"].save_lora_adapter(folder / "lora", adapter_name="trained")
        return folder / "lora", ("unet",)
    if kind == "peft":
        return as_peft(networks, folder / "lora"), ("unet",)
    if kind == "kohya":
        return as_kohya(networks, folder / "kohya.safetensors", everything), everything
    torch.save(load_file(as_kohya(networks, folder / "kohya.safetensors", ("unet",))), folder / "kohya.pt")
    return folder / "kohya.pt", ("unet",)


KINDS = (
    "diffusers",
    "diffusers, only the U-Net",
    "diffusers, the U-Net by itself",
    "peft",
    "kohya",
    "kohya, only the U-Net, torch",
)


def outputs(components):
    torch.manual_seed(1)
    inputs = unet_inputs(components.spec, 64, 1, components.dtype, torch.device("cpu"))
    with torch.inference_mode():
        found = {"unet": components.unet(**inputs).sample}
        if components.conditioner is not None:
            condition = components.conditioner.encode(["a red apple"])
            found |= {"text": condition.context}
    return found


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def family(request, tmp_path_factory):
    """A spec, outputs without and with its adapter, and a function that writes the adapter."""
    spec = request.param
    components, networks = adapted(spec)
    root = tmp_path_factory.mktemp("lora")
    paths = {kind: write(kind, spec, networks, root / str(i)) for i, kind in enumerate(KINDS)}
    return spec, outputs(load(spec, "cpu")), outputs(components), paths


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    _, networks = adapted(SDXL)
    root = tmp_path_factory.mktemp("sdxl")
    return as_diffusers(SDXL, networks, root / "lora", tuple(networks)), networks


def close(found, expected, atol=1e-5):
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


@pytest.mark.proves("loader", name="lora", weights="random", size="toy")
@pytest.mark.parametrize("kind", KINDS)
def test_fused_and_attached_adapters_of_every_format_give_what_was_trained(kind, family):
    spec, without, trained, paths = family
    path, adapts = paths[kind]
    fused = outputs(load(spec, "cpu", adapters=[Adapter(path)]))
    attached = outputs(load(spec, "cpu", adapters=[Adapter(path, fused=False)]))
    for name in without:
        changed = name == "unet" or len(adapts) > 1
        assert (without[name] - trained[name]).abs().max() > 1e-2
        close(fused[name], trained[name] if changed else without[name])
        close(attached[name], fused[name])


def test_a_fused_adapter_leaves_nothing_behind_but_other_weights(sdxl):
    path, _ = sdxl
    plain, fused = load(SDXL, "cpu"), load(SDXL, "cpu", adapters=[Adapter(path)])
    for before, after in zip(plain.networks, fused.networks, strict=True):
        assert before.state_dict().keys() == after.state_dict().keys()
        assert [type(m) for m in before.modules()] == [type(m) for m in after.modules()]
        assert not after.training
    key = "down_blocks.0.resnets.0.conv1.weight"
    assert not torch.equal(plain.unet.state_dict()[key], fused.unet.state_dict()[key])


@pytest.mark.parametrize("fused", [True, False])
def test_no_weight_of_an_adapted_network_is_trained(fused, sdxl):
    components = load(SDXL, "cpu", adapters=[Adapter(sdxl[0], fused=fused)])
    assert not any(p.requires_grad for network in components.networks for p in network.parameters())


@pytest.mark.parametrize("fused", [True, False])
def test_the_scale_weighs_the_adapter(fused, sdxl):
    without = outputs(load(SDXL, "cpu"))
    nothing = outputs(load(SDXL, "cpu", adapters=[Adapter(sdxl[0], 0.0, fused)]))
    close(nothing, without)
    half = outputs(load(SDXL, "cpu", adapters=[Adapter(sdxl[0], 0.5, fused)]))
    assert (half["unet"] - without["unet"]).abs().max() > 1e-3
    close(half, outputs(load(SDXL, "cpu", adapters=[Adapter(sdxl[0], 0.5, not fused)])))


def test_without_metadata_the_rank_is_taken_for_alpha_as_diffusers_does(sdxl, tmp_path):
    bare = as_diffusers(SDXL, sdxl[1], tmp_path, ("unet",), metadata=False)
    found = outputs(load(SDXL, "cpu", parts=("unet",), adapters=[Adapter(bare, ALPHA / RANK)]))
    close(found, outputs(load(SDXL, "cpu", parts=("unet",), adapters=[Adapter(sdxl[0])])))


def test_several_adapters_add_up_whether_fused_or_attached(sdxl):
    path, _ = sdxl
    fused = outputs(load(SDXL, "cpu", adapters=[Adapter(path, 0.3), Adapter(path, 0.5)]))
    attached = outputs(load(SDXL, "cpu", adapters=[Adapter(path, 0.3, False), Adapter(path, 0.5, False)]))
    mixed = outputs(load(SDXL, "cpu", adapters=[Adapter(path, 0.3), Adapter(path, 0.5, False)]))
    once = outputs(load(SDXL, "cpu", adapters=[Adapter(path, 0.8)]))
    for found in (fused, attached, mixed):
        close(found, once)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_adapted_network_stays_in_its_dtype(dtype, fused, sdxl):
    unet = load(SDXL, "cpu", dtype, parts=("unet",), adapters=[Adapter(sdxl[0], fused=fused)]).unet
    assert {parameter.dtype for parameter in unet.parameters()} == {DTYPES[dtype]}


def test_parts_that_were_not_loaded_are_left_out(sdxl):
    whole = load(SDXL, "cpu", adapters=[Adapter(sdxl[0])])
    unet = load(SDXL, "cpu", parts=("unet",), adapters=[Adapter(sdxl[0])])
    text = load(SDXL, "cpu", parts=("text",), adapters=[Adapter(sdxl[0])])
    load(SDXL, "cpu", parts=("text",), adapters=[Adapter(sdxl[0], fused=False)] * 2)
    assert torch.equal(outputs(unet)["unet"], outputs(whole)["unet"])
    for found, expected in zip(text.conditioner.networks, whole.conditioner.networks, strict=True):
        for key, tensor in expected.state_dict().items():
            assert torch.equal(found.state_dict()[key], tensor)


def test_the_adapter_that_belongs_to_an_entry_is_fused(sdxl, tmp_path, monkeypatch):
    saved(SDXL, tmp_path / "folder", seed=0)
    mirror = as_mirror(tmp_path / "folder", tmp_path / "mirror")
    (mirror / "other" / "loras").mkdir(parents=True)
    tensors = load_file(sdxl[0] / "pytorch_lora_weights.safetensors")
    save_file(tensors, mirror / "other" / "loras" / "four_steps.safetensors")
    monkeypatch.setenv("KOALA_WEIGHTS", str(mirror))
    spec = on_hub(SDXL, lora=HubFile("other/loras", "four_steps.safetensors"))
    found = load(spec, "cpu", weights="hub", parts=("unet",))
    expected = load(SDXL, "cpu", parts=("unet",), adapters=[Adapter(mirror / "other/loras/four_steps.safetensors")])
    assert torch.equal(outputs(found)["unet"], outputs(expected)["unet"])
    plain = load(replace(spec, weights=on_hub(SDXL).weights), "cpu", weights="hub", parts=("unet",))
    assert not torch.equal(outputs(found)["unet"], outputs(plain)["unet"])
    load(spec, "cpu", weights="hub", parts=("autoencoder",))


def test_a_missing_adapter_of_an_entry_is_told_like_its_other_files(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    spec = on_hub(SDXL, lora=HubFile("other/loras", "four_steps.safetensors"))
    with pytest.raises(KoalaError) as error:
        load(spec, "cpu", weights="hub")
    assert "\n  other/loras/four_steps.safetensors\n" in str(error.value)
    assert f"\n  {REPOSITORY}/unet/" in str(error.value)


# Errors --------------------------------------------------------------------------------------------------------------


def refused(path, match, spec=SDXL, **how):
    with pytest.raises(KoalaError, match=match):
        load(spec, "cpu", adapters=[Adapter(path)], **how)


def changed(sdxl, path, change):
    tensors = load_file(sdxl[0] / "pytorch_lora_weights.safetensors")
    save_file(dict(change(key, tensor) for key, tensor in tensors.items()), path)
    return path


def test_what_is_no_adapter_is_refused(tmp_path):
    refused(tmp_path / "nothing", "there is no adapter")
    refused(tmp_path, "holds no pytorch_lora_weights.safetensors; its weight files: none")
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "unet.safetensors")
    refused(tmp_path, r"is not a LoRA adapter \(1 of its tensors are none of one\): conv_in.weight")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    refused(tmp_path, "its weight files: other.safetensors, unet.safetensors. Name the file itself")
    (tmp_path / "text.safetensors").write_text("<html>")
    refused(tmp_path / "text.safetensors", "not a whole safetensors file")
    save_file(
        {"unet.x.lora_A.weight": torch.zeros(1), "unet.x.lora.dora_scale": torch.zeros(1)}, tmp_path / "d.safetensors"
    )
    refused(tmp_path / "d.safetensors", "is a DoRA adapter, which diffusers cannot load")


def test_the_only_file_of_a_folder_is_the_adapter(sdxl, tmp_path):
    changed(sdxl, tmp_path / "any_name.safetensors", lambda key, tensor: (key, tensor))
    found = outputs(load(SDXL, "cpu", parts=("unet",), adapters=[Adapter(tmp_path)]))
    assert (found["unet"] - outputs(load(SDXL, "cpu", parts=("unet",)))["unet"]).abs().max() > 1e-2


def test_layers_that_the_network_does_not_have_are_refused(sdxl, tmp_path):
    path = changed(sdxl, tmp_path / "all.safetensors", lambda key, t: (key.replace("_blocks", "_stages"), t))
    refused(path, "does not fit the unet of this model")
    path = changed(sdxl, tmp_path / "some.safetensors", lambda key, t: (key.replace("up_blocks.1", "up_blocks.7"), t))
    refused(path, "does not fit the unet of this model: .* of .* layers are in it")


def test_layers_of_other_widths_are_refused(sdxl, tmp_path):
    def wider(key, tensor):
        return key, torch.cat([tensor, tensor], 1) if key.endswith("attn1.to_q.lora_A.weight") else tensor

    refused(changed(sdxl, tmp_path / "wide.safetensors", wider), "does not fit the unet of this model")


def test_an_adapter_of_another_family_is_refused(sdxl):
    refused(sdxl[0], "adapts text_encoder_2, which .* does not have", spec=SDM_V1)
    refused(sdxl[0], "adapts text_encoder_2, which .* does not have", spec=SDM_V1, parts=("unet",))


def test_pefts_own_file_needs_its_config(sdxl, tmp_path):
    folder = as_peft(sdxl[1], tmp_path / "peft")
    (folder / "adapter_config.json").unlink()
    refused(folder, "in peft's own format, and there is no adapter_config.json beside it")


def test_fused_adapters_come_first_whatever_their_order(sdxl):
    attached, fused = Adapter(sdxl[0], fused=False), Adapter(sdxl[0])
    with pytest.raises(KoalaError, match="give the fused ones first"):
        adapt(load(SDXL, "cpu", adapters=[attached]), fused)
    states = [load(SDXL, "cpu", adapters=pair).unet.state_dict() for pair in ((attached, fused), (fused, attached))]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
