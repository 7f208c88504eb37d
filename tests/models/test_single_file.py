from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from saved_models import (
    FAMILIES,
    FAMILY_TWINS,
    MODELS,
    SDM_V1,
    SDM_V2,
    SDXL,
    SHAPES,
    SPECS,
    assert_equal,
    meta_networks_of,
    meta_original,
    networks_of,
)

from koala import __version__
from koala.errors import KoalaError, UnknownName
from koala.models import single_file, zoo
from koala.models.ldm_names import names
from koala.models.spec import ClassLabels, HubFile, TinyAutoencoderPlan

EXTRAS = ("alphas_cumprod", "betas", "model_ema.decay", "model_ema.diffusion_modelout2bias")


def states(networks):
    return {name: network.state_dict() for name, network in networks.items()}


@pytest.mark.parametrize("name", FAMILY_TWINS)
def test_what_is_written_is_read_back_bit_by_bit(name, tmp_path):
    spec, path = zoo.get(name), tmp_path / "model.safetensors"
    networks = networks_of(spec)
    single_file.write(path, networks, spec)
    found = single_file.read(path, spec)
    assert found.keys() == networks.keys()
    for part, state in states(networks).items():
        assert_equal(found[part], state)


@pytest.mark.parametrize("name", SPECS)
def test_every_unet_that_is_written_is_read_back_bit_by_bit(name, tmp_path):
    spec, path = SPECS[name], tmp_path / "unet.safetensors"
    networks = networks_of(spec, ("unet",))
    single_file.write(path, networks, spec)
    assert_equal(single_file.read(path, spec, ("unet",))["unet"], networks["unet"].state_dict())


def assert_one_place_each(places, networks):
    assert places.keys() == networks.keys()
    for part, network in networks.items():
        assert places[part].keys() == network.state_dict().keys()
    found = [(place.key, place.third) for part in places.values() for place in part.values()]
    assert len(set(found)) == len(found)
    whole = {key for key, third in found if third is None}
    assert whole.isdisjoint(key for key, third in found if third is not None)


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_of_every_unet_has_a_place_of_its_own(name):
    spec = zoo.get(name)
    assert_one_place_each(names(spec, ("unet",)), meta_networks_of(spec, ("unet",)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_tensor_of_every_network_has_a_place_of_its_own(name):
    assert_one_place_each(names(zoo.get(name)), meta_networks_of(zoo.get(name)))


# What programs that tell SDXL from Stable Diffusion v1 by keys look for; diffusers reads both places of an upsampler.
@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (SDXL, ["input_blocks.3.0.op", "input_blocks.6.0.op", "output_blocks.2.2.conv", "output_blocks.5.2.conv"]),
        (
            SDM_V1,
            [f"input_blocks.{block}.0.op" for block in (3, 6, 9)]
            + [f"output_blocks.{block}.conv" for block in ("2.1", "5.2", "8.2")],
        ),
    ],
    ids=["sdxl", "sdm-v1"],
)
def test_changes_of_resolution_stand_where_the_original_ones_do(spec, expected):
    stored = meta_original(spec, ("unet",))
    ends = (".op.weight", ".conv.weight")
    found = [key.removeprefix("model.diffusion_model.").removesuffix(".weight") for key in stored if key.endswith(ends)]
    assert sorted(found) == expected


def official(spec, tmp_path):
    """A file as the authors' own: with everything that is in it beside the networks."""
    stored = single_file.original(networks_of(spec), spec)
    stored |= {key: torch.zeros(3) for key in EXTRAS}
    for key in [key for key in stored if key.endswith(("position_embedding.weight", "positional_embedding"))]:
        if key.endswith("positional_embedding"):
            stored[key.replace("positional_embedding", "logit_scale")] = torch.tensor(1.0)
        else:
            stored[key.replace("position_embedding.weight", "position_ids")] = torch.arange(77)[None]
    for key in [key for key in stored if "cond_stage_model.model.transformer.resblocks.1." in key]:
        stored[key.replace("resblocks.1.", "resblocks.2.")] = stored[key].clone()
    if "cond_stage_model.model.ln_final.weight" in stored:
        stored["cond_stage_model.model.text_projection"] = torch.zeros(32, 32)
    save_file(stored, tmp_path / "official.safetensors")
    return tmp_path / "official.safetensors", len(stored)


@pytest.mark.parametrize("spec", [SDXL, SDM_V1, SDM_V2], ids=lambda spec: spec.name)
def test_what_official_files_hold_beside_the_networks_is_ignored(spec, tmp_path):
    path, count = official(spec, tmp_path)
    assert count > len(single_file.original(networks_of(spec), spec)) + len(EXTRAS)
    for part, state in states(networks_of(spec)).items():
        assert_equal(single_file.read(path, spec)[part], state)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_file_may_hold_only_the_unet_and_leave_its_prefix_out(prefix, tmp_path):
    spec = zoo.get("tiny-koala-700m")
    unet = networks_of(spec, ("unet",))["unet"]
    stored = single_file.original({"unet": unet}, spec)
    path = tmp_path / "unet.safetensors"
    save_file({prefix + key.removeprefix("model.diffusion_model."): t for key, t in stored.items()}, path)
    assert single_file.layout(load_file(path)) == "original"
    found = single_file.read(path, spec, ("unet",))
    assert found.keys() == {"unet"}
    assert_equal(found["unet"], unet.state_dict())
    with pytest.raises(KoalaError, match=r"248|missing"):
        single_file.read(path, spec)


def test_an_autoencoder_file_may_leave_its_prefix_out(tmp_path):
    network = networks_of(SDXL, ("autoencoder",))["autoencoder"]
    stored = single_file.original({"autoencoder": network}, SDXL)
    save_file({key.removeprefix("first_stage_model."): t for key, t in stored.items()}, tmp_path / "vae.safetensors")
    found = single_file.read(tmp_path / "vae.safetensors", SDXL, ("autoencoder",))
    assert_equal(found["autoencoder"], network.state_dict())


@pytest.mark.parametrize("spec", [*map(zoo.get, FAMILIES)], ids=FAMILIES)
def test_the_layout_of_a_file_is_told_by_its_keys(spec):
    networks = meta_networks_of(spec)
    assert single_file.layout(networks["unet"].state_dict()) == "diffusers-unet"
    assert single_file.layout(networks["autoencoder"].state_dict()) is None
    for part, network in networks.items():
        assert single_file.layout(single_file.original({part: network}, spec)) == "original"
    assert single_file.layout([]) is None


def test_attention_of_the_autoencoder_is_stored_as_1x1_convolutions():
    stored = meta_original(SDXL)
    for half in ("encoder", "decoder"):
        for name in ("q", "k", "v", "proj_out"):
            assert stored[f"first_stage_model.{half}.mid.attn_1.{name}.weight"].shape == (32, 32, 1, 1)


def test_a_wrong_checkpoint_is_told_by_counts_and_by_five_names(tmp_path):
    path = tmp_path / "sdxl.safetensors"
    single_file.write(path, networks_of(SDXL, ("unet",)), SDXL)
    koala = zoo.get("tiny-koala-700m")
    difference = single_file.compare(load_file(path).keys(), koala, ("unet",))
    assert len(difference.missing) > 5
    assert difference
    with pytest.raises(KoalaError) as error:
        single_file.read(path, koala, ("unet",))
    message = str(error.value)
    assert f"{len(difference.missing)} tensors are missing" in message
    assert f"{len(difference.unexpected)} tensors are unexpected" in message
    assert message.count("model.diffusion_model.") == 10
    assert not single_file.compare(load_file(path).keys(), SDXL, ("unet",))


def test_a_tensor_of_another_shape_is_an_error_that_names_it(tmp_path):
    stored = single_file.original(networks_of(SDXL, ("unet",)), SDXL)
    stored["model.diffusion_model.out.2.weight"] = torch.zeros(5, 32, 3, 3)
    save_file(stored, tmp_path / "odd.safetensors")
    with pytest.raises(KoalaError, match=r"1 shapes differ: model\.diffusion_model\.out\.2\.weight \(5, 32, 3, 3\)"):
        single_file.read(tmp_path / "odd.safetensors", SDXL, ("unet",))


def test_a_torn_or_missing_file_is_a_readable_error(tmp_path):
    path = tmp_path / "unet.safetensors"
    single_file.write(path, networks_of(SDXL, ("unet",)), SDXL)
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(KoalaError, match="not a whole safetensors file"):
        single_file.read(torn, SDXL, ("unet",))
    with pytest.raises(KoalaError, match="there is no file"):
        single_file.read(tmp_path / "absent.safetensors", SDXL)


def test_a_file_says_who_wrote_it_and_has_one_dtype(tmp_path):
    path = tmp_path / "folder" / "model.safetensors"
    single_file.write(path, networks_of(SDXL), SDXL, torch.float16)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt", "koala_model": "tiny-sdxl", "koala_version": __version__}
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_existing_file_is_refused_and_a_failed_one_leaves_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("mine")
    networks = networks_of(SDXL, ("unet",))
    with pytest.raises(KoalaError, match="exists"):
        single_file.write(path, networks, SDXL)
    assert path.read_text() == "mine"
    with pytest.raises(KoalaError, match="cannot write"):
        single_file.write(path / "below" / "a-file", networks, SDXL)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_network_of_another_model_is_not_written(tmp_path):
    unet = networks_of(SDXL, ("unet",))
    with pytest.raises(KoalaError, match=r"this unet is not that of tiny-koala-1b"):
        single_file.write(tmp_path / "model.safetensors", unet, zoo.get("tiny-koala-1b"))


def test_weights_on_another_memory_layout_are_written_alike(tmp_path):
    networks = {"unet": deepcopy(networks_of(SDXL, ("unet",))["unet"])}
    networks["unet"].to(memory_format=torch.channels_last)
    single_file.write(tmp_path / "model.safetensors", networks, SDXL)
    found = single_file.read(tmp_path / "model.safetensors", SDXL, ("unet",))
    assert_equal(found["unet"], networks["unet"].state_dict())


def test_a_model_without_an_autoencoder_or_text_is_written_as_what_it_has():
    unet = replace(
        SHAPES["classes"].unet, sample_channels=3, context_dim=None, transformer_depths=(0, 0, 0), mid_depth=0
    )
    classes = replace(SDXL, unet=unet, conditioning=ClassLabels(tuple("abcdefghij")), autoencoder=None)
    assert names(classes).keys() == {"unet"}
    stored = single_file.original(networks_of(classes), classes)
    assert stored["model.diffusion_model.label_emb.weight"].shape == (11, 128)


def test_a_tiny_autoencoder_has_no_place_in_a_file_and_leaves_the_other_networks_theirs(tmp_path):
    tiny = replace(SDXL, autoencoder=TinyAutoencoderPlan((32, 32, 32, 32), HubFile("someone/taesd")))
    with pytest.raises(KoalaError, match="tiny autoencoder"):
        single_file.write(tmp_path / "model.safetensors", networks_of(tiny), tiny)
    single_file.write(tmp_path / "sdxl.safetensors", networks_of(SDXL), SDXL)
    assert single_file.read(tmp_path / "sdxl.safetensors", tiny).keys() == {"unet", "text_encoder_0", "text_encoder_1"}


def test_a_part_that_a_model_lacks_is_an_error():
    with pytest.raises(UnknownName, match="text_encoder_1"):
        single_file.compare([], SDM_V1, ("text_encoder_1",))
