import json
import shutil
import warnings
from dataclasses import replace

import pytest
import torch
from pipeline_folders import FAMILIES, SDM_V1, SDM_V2, SDXL, assert_same_networks, assert_same_state, networks_of, saved
from safetensors.torch import load_file, save_file

from koala.errors import KoalaError
from koala.models import single_file
from koala.models.load import DTYPES, load

UNET = "diffusion_pytorch_model"
DAMAGED = (".safetensors", ".bin", ".pt", ".ckpt")


@pytest.fixture(autouse=True)
def no_other_place(monkeypatch, tmp_path):
    monkeypatch.delenv("KOALA_WEIGHTS", raising=False)
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "no-home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipeline") / "sdxl"


@pytest.fixture(scope="module")
def original(folder):
    """The components that `folder` holds; a test that changes the folder copies it first."""
    return saved(SDXL, folder)


@pytest.fixture
def copy(original, folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


@pytest.fixture
def unet(original):
    return {key: tensor.clone() for key, tensor in original.unet.state_dict().items()}


def unet_only(spec, path, **how):
    return load(spec, "cpu", weights=str(path), parts=("unet",), **how).unet


# Folders


@pytest.mark.proves("loader", name=("diffusers-folder", "fp16-variant", "shards"), weights="random", size="toy")
@pytest.mark.parametrize(
    ("spec", "how"),
    [(SDXL, {"variant": "fp16"}), (SDXL, {"max_shard_size": "300KB"}), *((spec, {}) for spec in FAMILIES.values())],
    ids=lambda value: str(getattr(value, "name", value)),
)
def test_a_folder_that_diffusers_saved_is_loaded_bit_by_bit(spec, how, tmp_path):
    components = saved(spec, tmp_path, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an fp16 variant that is all there is
        found = load(spec, "cpu", weights=str(tmp_path))
    assert_same_networks(found, components)
    if "max_shard_size" in how:
        assert len(list((tmp_path / "unet").glob("*.safetensors"))) > 2


def as_torch_files(folder):
    for file in list(folder.rglob("*.safetensors")):
        name = "pytorch_model.bin" if file.stem == "model" else f"{UNET}.bin"
        torch.save(load_file(file), file.with_name(name))
        file.unlink()


@pytest.mark.proves("loader", name="bin", weights="random", size="toy")
@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_files_are_loaded_and_cast_to_the_dtype_asked_for(dtype, original, copy):
    as_torch_files(copy)
    assert_same_networks(load(SDXL, "cpu", dtype, weights=str(copy)), original, DTYPES[dtype])


def test_torch_files_of_before_2020_are_loaded(unet, tmp_path):
    torch.save(unet, tmp_path / f"{UNET}.bin", _use_new_zipfile_serialization=False)
    assert_same_state(unet_only(SDXL, tmp_path), unet)


def test_each_precision_comes_from_its_own_file(unet, tmp_path):
    save_file({key: tensor + 1 for key, tensor in unet.items()}, tmp_path / f"{UNET}.safetensors")
    save_file({key: tensor.half() for key, tensor in unet.items()}, tmp_path / f"{UNET}.fp16.safetensors")
    assert_same_state(unet_only(SDXL, tmp_path, dtype="fp16"), unet, torch.float16)
    assert_same_state(unet_only(SDXL, tmp_path), {key: tensor + 1 for key, tensor in unet.items()})


def test_half_precision_in_the_place_of_full_one_is_said(unet, tmp_path):
    save_file({key: tensor.half() for key, tensor in unet.items()}, tmp_path / f"{UNET}.fp16.safetensors")
    with pytest.warns(UserWarning, match="is in fp16, and no file in full precision is beside it"):
        unet_only(SDXL, tmp_path)


def test_a_pipeline_without_a_wanted_part_is_an_error_that_names_it(copy):
    (copy / "text_encoder_2" / "model.safetensors").unlink()
    (copy / "vae").rename(copy / "elsewhere")
    with pytest.raises(KoalaError, match=r"lacks text_encoder_2/model.safetensors, vae/diffusion_pytorch_model.safet"):
        load(SDXL, "cpu", weights=str(copy))
    unet_only(SDXL, copy)


def test_a_missing_shard_is_an_error(tmp_path):
    saved(SDXL, tmp_path, max_shard_size="300KB")
    next((tmp_path / "unet").glob("*-00002-of-*.safetensors")).unlink()
    with pytest.raises(KoalaError, match=r"lacks unet/diffusion_pytorch_model.safetensors .*whole sets of shards"):
        load(SDXL, "cpu", weights=str(tmp_path))


def test_a_folder_of_nothing_and_a_name_of_nothing_are_errors(tmp_path):
    (tmp_path / "unrelated.txt").touch()
    with pytest.raises(KoalaError, match="no diffusers folder"):
        load(SDXL, "cpu", weights=str(tmp_path))
    with pytest.raises(KoalaError, match="random, hub, or a folder or file; there is no 'hbu'"):
        load(SDXL, "cpu", weights="hbu")


@pytest.mark.proves("loader", name="unet-folder", weights="random", size="toy")
def test_a_unets_own_folder_says_that_the_rest_was_never_released(original, folder):
    assert_same_state(unet_only(SDXL, folder / "unet"), original.unet.state_dict())
    with pytest.raises(KoalaError, match="no weights of tiny-koala-700m were released, its text_encoder_0 neither"):
        load(SDXL, "cpu", weights=str(folder / "unet"))


# What the files say of themselves


def changed_config(folder, file, **changes):
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("upcast", [True, False])
def test_the_autoencoders_own_config_decides_its_scale_and_precision(upcast, copy):
    changed_config(copy, "vae/config.json", scaling_factor=0.5, force_upcast=upcast)
    found = load(SDXL, "cpu", "fp16", weights=str(copy))
    assert found.spec.autoencoder.scaling_factor == 0.5
    assert found.spec.autoencoder.upcast_to_fp32 is upcast
    assert found.autoencoder.dtype == (torch.float32 if upcast else torch.float16)
    assert found.unet.dtype == torch.float16


def test_an_autoencoder_of_stable_diffusion_is_never_upcast_as_in_diffusers(tmp_path):
    saved(SDM_V2, tmp_path)
    changed_config(tmp_path, "vae/config.json", force_upcast=True)
    found = load(SDM_V2, "cpu", "fp16", weights=str(tmp_path))
    assert not found.spec.autoencoder.upcast_to_fp32
    assert found.autoencoder.dtype == torch.float16


def test_another_prediction_than_the_entrys_is_warned_of(original, folder, recwarn):
    load(SDXL, "cpu", weights=str(folder))
    assert not [w for w in recwarn if "predicts" in str(w.message)]
    with pytest.warns(UserWarning, match="predicts epsilon; .* is sampled as one that predicts v_prediction"):
        load(replace(SDXL, prediction="v_prediction"), "cpu", weights=str(folder))


def test_a_damaged_config_is_an_error_that_names_it(copy):
    for text in ("{", "[]"):
        (copy / "vae" / "config.json").write_text(text)
        with pytest.raises(KoalaError, match=r"vae/config.json"):
            load(SDXL, "cpu", weights=str(copy))


# Files


def write_torch(tensors, path):
    torch.save({"state_dict": tensors, "epoch": 3} if path.suffix == ".ckpt" else tensors, path)


@pytest.mark.proves("loader", name="diffusers-file", weights="random", size="toy")
@pytest.mark.parametrize("ending", [".safetensors", ".bin", ".pt", ".ckpt"])
def test_a_file_in_diffusers_naming_is_a_unet(ending, unet, tmp_path):
    path = tmp_path / f"some{ending}"
    (save_file if ending == ".safetensors" else write_torch)(unet, path)
    assert_same_state(unet_only(SDXL, path), unet)


@pytest.mark.proves("loader", name="original-file", weights="random", size="toy")
@pytest.mark.parametrize("ending", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("spec", FAMILIES.values(), ids=FAMILIES)
def test_a_whole_checkpoint_in_original_naming_is_a_whole_model(spec, ending, tmp_path):
    components = load(spec, "cpu", seed=7)
    path = tmp_path / "model.safetensors"
    single_file.write(path, networks_of(components), spec)
    if ending == ".ckpt":
        write_torch(load_file(path), tmp_path / "model.ckpt")
    assert_same_networks(load(spec, "cpu", weights=str(path.with_suffix(ending))), components)


def test_an_original_file_of_a_unet_holds_no_more(unet, original, tmp_path):
    path = tmp_path / "model.safetensors"
    single_file.write(path, {"unet": original.unet}, SDXL)
    assert_same_state(unet_only(SDXL, path), unet)
    bare = {key.removeprefix("model.diffusion_model."): tensor for key, tensor in load_file(path).items()}
    save_file(bare, tmp_path / "bare.safetensors")
    assert_same_state(unet_only(SDXL, tmp_path / "bare.safetensors"), unet)
    with pytest.raises(KoalaError, match="its text_encoder_0 neither"):
        load(SDXL, "cpu", weights=str(path))


def test_v1_and_v2_files_are_not_taken_for_each_other(tmp_path):
    path = tmp_path / "model.safetensors"
    single_file.write(path, networks_of(load(SDM_V1, "cpu")), SDM_V1)
    with pytest.raises(KoalaError, match=r"is not a checkpoint of .* It is the U-Net of tiny-bk-sdm-tiny\b"):
        load(SDM_V2, "cpu", weights=str(path))
