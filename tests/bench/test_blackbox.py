"""What a pipeline's configuration files say of it, without torch and without running anything of its folder."""

import json
import shutil
import subprocess
import sys
from math import lcm

import pytest
from box_folders import FAMILIES, SIDE, rewrite, save, without_weights
from hypothesis import given
from hypothesis import strategies as st

from bench.blackbox import places
from bench.blackbox.classes import read_class
from bench.blackbox.describe import BlackBox, describe
from koala.errors import KoalaError
from koala.models.weights.places import Folder

ID = "someone/a-pipeline"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each family's folder, saved once."""
    root = tmp_path_factory.mktemp("saved")
    return {family: save(family, root / family) for family in FAMILIES}


@pytest.fixture
def flux(saved, tmp_path):
    """FLUX's configurations, to be changed."""
    return without_weights(saved["flux"], tmp_path / "flux")


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No mirror, an empty cache and no hub; the value is the cache's home."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("KOALA_WEIGHTS", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


EXPECTED = {
    "pixart": ("PixArtAlphaPipeline", SIDE, 16, "transformer"),
    "sd3": ("StableDiffusion3Pipeline", SIDE, 16, "transformer"),
    "flux": ("FluxPipeline", 1024, 16, "transformer"),
    "sdxl": ("StableDiffusionXLPipeline", SIDE, 8, "unet"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_described_with_its_weights_and_without(saved, tmp_path, family):
    class_name, resolution, unit, denoiser = EXPECTED[family]
    for folder, weights in ((saved[family], "folder"), (without_weights(saved[family], tmp_path / family), "random")):
        box = describe(str(folder))
        assert box.name.partition("@")[0] == family
        assert (box.class_name, box.resolution, box.unit, box.denoiser) == (class_name, resolution, unit, denoiser)
        assert (box.folder, box.weights) == (str(folder), weights)


def test_describing_a_pipeline_imports_neither_torch_nor_diffusers(saved):
    code = (
        "import sys; from bench.blackbox.describe import describe; describe(sys.argv[1]); "
        "assert not {'torch', 'diffusers', 'transformers', 'numpy'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(saved["flux"])], check=True, timeout=60)


def test_the_name_is_of_what_the_pipeline_reads_wherever_it_lies(saved, flux, tmp_path):
    name = describe(str(flux)).name
    assert len(name.partition("@")[2]) == 8
    (flux / "README.md").write_text("changed")
    (flux / "samples").mkdir()
    (flux / "samples" / "prompts.json").write_text("{}")
    moved = shutil.copytree(flux, tmp_path / "elsewhere" / "flux")
    assert describe(str(moved)).name == name
    with_weights = describe(str(shutil.copytree(saved["flux"], tmp_path / "whole" / "flux"))).name
    rewrite(flux / "scheduler" / "scheduler_config.json", shift=2.0)
    assert len({name, with_weights, describe(str(flux)).name}) == 3


def test_one_network_without_weights_is_a_download_that_did_not_end(saved, tmp_path):
    folder = shutil.copytree(saved["flux"], tmp_path / "flux")
    (folder / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(KoalaError, match="text_encoder has no weights while other components have: fetch them"):
        describe(str(folder))


@pytest.mark.parametrize(
    ("denoiser", "autoencoder", "resolution", "unit"),
    [
        (
            {"sample_size": 32, "patch_size": 1},
            {"block_out_channels": None, "encoder_block_out_channels": [8] * 6},
            1024,
            64,
        ),
        ({"sample_size": [32, 64]}, {}, 512, 16),  # the last of a list
        ({"in_channels": 4, "patch_size": 2}, {}, 1024, 16),  # the network makes patches
        ({"in_channels": 4, "patch_size": None}, {}, 1024, 8),
        ({"in_channels": 64}, {}, 1024, 32),  # 4 x 4 latent pixels in a token
        ({}, {"block_out_channels": None, "temperal_downsample": [False, True, True]}, 1024, 16),
        ({}, {"block_out_channels": None, "scale_factor_spatial": 16}, 2048, 32),
    ],
)
def test_sides_follow_from_the_denoiser_and_the_autoencoder(flux, denoiser, autoencoder, resolution, unit):
    rewrite(flux / "transformer" / "config.json", **denoiser)
    rewrite(flux / "vae" / "config.json", **autoencoder)
    box = describe(str(flux))
    assert (box.resolution, box.unit) == (resolution, unit)


@given(unit=st.sampled_from([8, 16, 32]), side=st.integers(-64, 4096))
def test_sides_are_multiples_of_the_unit(unit, side):
    box = BlackBox("a@00000000", "a", "FluxPipeline", 1024, unit, "transformer", "random")
    if side > 0 and side == lcm(side, unit):
        box.check_side(side)
    else:
        with pytest.raises(KoalaError, match=f"draws multiples of {unit} pixels, which {side} is not"):
            box.check_side(side)


def pickled(flux):
    (flux / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"x")


def torn(flux):
    (flux / "transformer" / "diffusion_pytorch_model-00001-of-00002.safetensors").write_bytes(b"x")


def dangling(flux):
    (flux / "transformer" / "diffusion_pytorch_model.safetensors").symlink_to(flux / "gone")


def index(**changes):
    return lambda flux: rewrite(flux / "model_index.json", **changes)


def broken(flux):
    (flux / "vae" / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda flux: (flux / "model_index.json").unlink(), "holds no model_index.json"),
        (index(_class_name="FluxPipelines"), r"has no pipeline 'FluxPipelines' \(did you mean FluxPipeline\?\)"),
        (index(_class_name=["my_code", "MyPipeline"]), "code of a folder is not run"),
        (index(transformer=["my_code", "MyTransformer"]), "my_code.MyTransformer, .* code of a folder is not run"),
        (index(**{"../x": ["diffusers", "AutoencoderKL"]}), "code of a folder is not run"),
        (index(_class_name="FluxImg2ImgPipeline"), "no text-to-image pipeline"),
        (index(_class_name="FluxControlPipeline"), "no text-to-image pipeline: it takes control_image"),
        (index(_class_name="StableDiffusionControlNetPipeline"), "its controlnet needs an image"),
        (index(_class_name="QwenImageEditPipeline"), "no text-to-image pipeline: it takes an image"),
        (index(_class_name="WanPipeline"), "no text-to-image pipeline: it takes num_frames"),
        (index(scheduler=None), "names no scheduler, which FluxPipeline is made of"),
        (index(vae=[None, None]), "of the components unet or transformer, and vae, it has not both"),
        (index(text_encoder=[None, None], text_encoder_2=[None, None]), "names no text encoder"),
        (lambda flux: shutil.rmtree(flux / "tokenizer_2"), "lacks what model_index.json names: tokenizer_2"),
        (lambda flux: (flux / "vae" / "config.json").unlink(), "lacks what model_index.json names: vae"),
        (broken, "not readable as JSON"),
        (pickled, r"only as diffusion_pytorch_model.bin, which could run code .* as .safetensors"),
        (torn, "no whole set of weights, only diffusion_pytorch_model-00001-of-00002.safetensors"),
        (dangling, "no whole set of weights"),
        (
            lambda flux: rewrite(flux / "transformer" / "config.json", quantization_config={"quant_method": "gguf"}),
            "quantised",
        ),
    ],
)
def test_a_folder_that_cannot_be_timed_is_refused_with_the_reason(flux, spoil, message):
    spoil(flux)
    with pytest.raises(KoalaError, match=message):
        describe(str(flux))


def test_a_component_that_may_be_missing_may_be_missing(flux):
    rewrite(flux / "model_index.json", image_encoder=None, feature_extractor=None, tokenizer_2=[None, None])
    assert describe(str(flux)).weights == "random"


def test_pipelines_of_diffusers_list_that_take_an_image_only_if_given_one_are_text_to_image():
    for name in ("FluxKontextPipeline", "StableDiffusionPipeline", "SanaPipeline", "ChromaPipeline"):
        read_class(name).check_text_to_image()


def test_neither_a_folder_nor_an_id_is_refused(tmp_path):
    for name in (str(tmp_path / "none"), "nothing", "a/b/c"):
        with pytest.raises(KoalaError, match="neither a folder nor an id"):
            describe(name)


def test_an_id_is_looked_for_in_the_mirror_and_in_the_cache(saved, nowhere, tmp_path, monkeypatch):
    snapshots = nowhere / "hub" / "models--someone--a-pipeline" / "snapshots"
    cached = without_weights(saved["flux"], snapshots / "0123")
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("0123")
    box = describe(ID)
    assert box.folder == str(cached)
    assert box.name == f"{ID}@{describe(str(cached)).name.partition('@')[2]}"
    shutil.copytree(saved["flux"], tmp_path / "mirror" / ID)
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path / "mirror"))
    assert describe(ID).folder == str(tmp_path / "mirror" / ID)
    shutil.rmtree(tmp_path / "mirror" / ID / "vae")  # what is not whole is passed over
    assert describe(ID).folder == str(cached)


def test_where_no_place_has_it_the_error_says_where_to_put_which_files(nowhere):
    with pytest.raises(KoalaError) as error:
        describe(ID)
    for words in (
        "HF_HUB_OFFLINE is set",
        "--pipeline DIR",
        f"KOALA_WEIGHTS=DIR: DIR/{ID}/model_index.json",
        "HF_HOME=DIR: DIR/hub/models--someone--a-pipeline/snapshots/REVISION",
    ):
        assert words in str(error.value)


class Repository(Folder):
    """A repository on the hub that copies what is fetched into a cache."""

    cache = None

    def fetch(self, path):
        target = self.cache / path
        target.parent.mkdir(parents=True, exist_ok=True)
        return shutil.copy(self.root / path, target)


def test_from_the_hub_come_configurations_vocabularies_and_one_set_of_safe_weights(
    saved, nowhere, monkeypatch, tmp_path
):
    folder = shutil.copytree(saved["flux"], tmp_path / "hub")
    for extra in (
        "flux1-dev.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.bin",
    ):
        (folder / extra).write_bytes(b"never read")
    monkeypatch.setattr(Repository, "cache", tmp_path / "fetched")
    monkeypatch.setattr(places, "online", lambda file: Repository(folder))
    box = describe(ID)
    assert (box.folder, box.weights) == (str(tmp_path / "fetched"), "folder")
    fetched = {str(p.relative_to(tmp_path / "fetched")) for p in (tmp_path / "fetched").rglob("*") if p.is_file()}
    assert fetched == {str(p.relative_to(saved["flux"])) for p in saved["flux"].rglob("*") if p.is_file()}
    (folder / "model_index.json").unlink()
    with pytest.raises(KoalaError, match=r"on the hub has no model_index\.json: it is no diffusers pipeline"):
        describe(ID)


def test_an_index_that_names_other_things_than_components_is_read(flux):
    rewrite(flux / "model_index.json", requires_safety_checker=False, sizes=[1, 2], name_or_path="x")
    assert describe(str(flux)).class_name == "FluxPipeline"
    assert "sizes" in json.loads((flux / "model_index.json").read_text())
