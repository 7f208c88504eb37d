import re
import shutil
import socket
import time
from dataclasses import replace

import huggingface_hub
import pytest
import torch
from hub_server import COMMIT, serve
from pipeline_folders import (
    REPOSITORY,
    SDXL,
    as_cache,
    as_mirror,
    assert_same_networks,
    assert_same_state,
    on_hub,
    saved,
)
from safetensors.torch import save_file

from koala.errors import KoalaError
from koala.models import single_file, zoo
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.random_weights import materialise
from koala.models.spec import HubFile, TinyAutoencoderPlan

RELEASED = on_hub(SDXL)
UNET = "diffusion_pytorch_model"
needs_client = pytest.mark.skipif(
    huggingface_hub.constants.HF_HUB_OFFLINE, reason="the hub's client is told not to ask"
)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    for name in ("KOALA_WEIGHTS", "HF_HUB_CACHE", "HF_ENDPOINT", "HF_HUB_ETAG_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pipeline") / "sdxl"


@pytest.fixture(scope="module")
def original(folder):
    return saved(SDXL, folder)


@pytest.fixture
def mirror(original, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path / "mirror"))
    return as_mirror(folder, tmp_path / "mirror")


def load_hub(spec=RELEASED, **how):
    return load(spec, "cpu", weights="hub", **how)


# Places --------------------------------------------------------------------------------------------------------------


@pytest.mark.proves("loader", name="mirror", weights="random", size="toy")
def test_a_folder_laid_out_as_the_hub_is_loaded(original, mirror):
    assert_same_networks(load_hub(), original)


@pytest.mark.proves("loader", name="hub-cache", weights="random", size="toy")
def test_the_cache_of_the_hub_is_loaded(original, folder, home):
    as_cache(folder, home)
    assert_same_networks(load_hub(), original)


def test_the_cache_may_be_named_by_itself(original, folder, home, monkeypatch, tmp_path):
    as_cache(folder, home)
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    assert_same_networks(load_hub(), original)


@pytest.mark.parametrize("by", ["commit", "name"])
def test_a_pinned_revision_is_found_by_its_commit_or_its_name(by, original, folder, home):
    commit = as_cache(folder, home, revision="v2").name
    assert_same_networks(load_hub(on_hub(SDXL, revision=commit if by == "commit" else "v2")), original)


def test_another_revision_in_the_cache_is_not_taken_but_named(original, folder, home):
    snapshot = as_cache(folder, home)
    with pytest.raises(KoalaError, match=re.escape(f"(another revision is here: {snapshot})")):
        load_hub(on_hub(SDXL, revision="a" * 40))


def test_the_folder_goes_before_the_cache(original, folder, mirror, home, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    tensors = {key: tensor + 1 for key, tensor in original.unet.state_dict().items()}
    save_file(tensors, other / "unet" / f"{UNET}.safetensors")
    as_cache(other, home)
    assert_same_networks(load_hub(), original)
    shutil.rmtree(mirror / REPOSITORY / "unet")
    assert_same_state(load_hub().unet, tensors)  # each part from the nearest place that has it


def test_a_cache_whose_download_was_broken_off_is_not_taken(original, folder, home):
    snapshot = as_cache(folder, home)
    (snapshot / "unet" / f"{UNET}.safetensors").resolve().unlink()
    with pytest.raises(KoalaError, match=f"{REPOSITORY}/unet/{UNET}.safetensors"):
        load_hub()


def test_a_folder_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setenv("KOALA_WEIGHTS", "/no/such/folder")
    with pytest.raises(KoalaError, match="KOALA_WEIGHTS is '/no/such/folder', which is not a folder"):
        load_hub()


# What entries name ---------------------------------------------------------------------------------------------------


def test_a_unet_of_its_own_replaces_the_pipelines(original, mirror):
    tensors = {key: (tensor + 1).half() for key, tensor in original.unet.state_dict().items()}
    (mirror / "other" / "unets").mkdir(parents=True)
    torch.save(tensors, mirror / "other" / "unets" / "four_steps.bin")
    found = load_hub(on_hub(SDXL, unet=HubFile("other/unets", "four_steps.bin")))
    assert_same_state(found.unet, tensors)
    assert_same_state(found.autoencoder, original.autoencoder.state_dict())


def test_a_unet_of_its_own_may_be_in_original_naming(original, mirror):
    single_file.write(mirror / "other" / "unets" / "whole.safetensors", {"unet": original.unet}, SDXL)
    found = load_hub(on_hub(SDXL, unet=HubFile("other/unets", "whole.safetensors")))
    assert_same_networks(found, original)


def test_an_autoencoder_of_its_own_replaces_the_pipelines(mirror):
    plan = TinyAutoencoderPlan((64, 64, 64, 64), weights=HubFile("other/tiny"))
    spec = replace(RELEASED, autoencoder=plan)
    tiny = materialise(meta_networks(spec, ("autoencoder",))["autoencoder"], "cpu", 3)
    tiny.save_pretrained(mirror / "other" / "tiny")
    assert_same_state(load_hub(spec).autoencoder, tiny.state_dict())
    given = load(spec, "cpu", weights=str(mirror / REPOSITORY))
    assert_same_state(given.autoencoder, tiny.state_dict())


def test_the_config_of_an_autoencoder_of_its_own_decides_its_precision(mirror, original):
    fixed = HubFile("other/fixed")
    original.autoencoder.save_pretrained(mirror / "other" / "fixed")  # its config says force_upcast: false
    spec = replace(RELEASED, autoencoder=replace(SDXL.autoencoder, upcast_to_fp32=True, weights=fixed))
    found = load_hub(spec, dtype="fp16")
    assert found.autoencoder.dtype == torch.float16
    assert not found.spec.autoencoder.upcast_to_fp32


def test_an_autoencoder_that_decodes_in_full_precision_is_read_in_it(tmp_path, monkeypatch):
    spec = zoo.get("tiny-bk-sdxl")
    assert spec.autoencoder.upcast_to_fp32
    components = saved(spec, tmp_path / "a" / REPOSITORY)
    saved(spec, tmp_path / "a" / REPOSITORY, seed=8, variant="fp16")
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path / "a"))
    found = load_hub(on_hub(spec), dtype="fp16")
    assert_same_state(found.autoencoder, components.autoencoder.state_dict())
    assert not torch.equal(found.unet.conv_in.weight, components.unet.conv_in.weight.half())


def test_parts_that_a_file_or_a_unets_folder_lacks_are_the_released_ones(original, mirror, folder, tmp_path):
    path = tmp_path / "unet.safetensors"
    tensors = {key: tensor + 1 for key, tensor in original.unet.state_dict().items()}
    save_file(tensors, path)
    found = load(RELEASED, "cpu", weights=str(path))
    assert_same_state(found.unet, tensors)
    assert_same_state(found.autoencoder, original.autoencoder.state_dict())
    assert_same_networks(load(RELEASED, "cpu", weights=str(folder / "unet")), original)


# The hub itself ------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(original, folder, monkeypatch):
    with serve(REPOSITORY, folder) as server:
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


@pytest.mark.proves("loader", name="hub", weights="random", size="toy", remark="a local server")
@needs_client
def test_what_is_missing_is_downloaded_once_and_only_what_is_needed(hub, original, home):
    assert_same_networks(load_hub(), original)
    downloads = {
        line.rpartition(f"/{'main'}/")[2] for line in hub.asked if line.startswith("GET") and "resolve" in line
    }
    assert downloads == {
        f"unet/{UNET}.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/model.safetensors",
        f"vae/{UNET}.safetensors",
        "vae/config.json",
    }
    assert (home / "hub" / f"models--{REPOSITORY.replace('/', '--')}" / "snapshots" / COMMIT).is_dir()
    asked = len(hub.asked)
    assert_same_networks(load_hub(), original)
    assert len(hub.asked) == asked


@needs_client
@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "the hub has no such repository, or shows it only to those logged in"),
        (403, "GatedRepo", "the repository is gated: accept its terms"),
        (404, "RevisionNotFound", "the repository has no such revision"),
        (400, "Strange", "the hub answered:"),
    ],
)
def test_a_refusal_of_the_hub_is_told_with_every_other_way(status, code, said, hub):
    hub.refusal = (status, code)
    with pytest.raises(KoalaError, match=f"{REPOSITORY}: {said}") as error:
        load_hub()
    assert "KOALA_WEIGHTS=DIR" in str(error.value)


@needs_client
def test_a_repository_that_lacks_a_part_says_so(hub, folder, tmp_path):
    hub.folder = shutil.copytree(folder, tmp_path / "less")
    shutil.rmtree(hub.folder / "vae")
    with pytest.raises(KoalaError, match=f"{REPOSITORY}: the hub's repository lacks these files") as error:
        load_hub()
    assert f"{REPOSITORY}/vae/{UNET}.safetensors" in str(error.value)
    assert f"{REPOSITORY}/unet/" not in str(error.value)


@needs_client
def test_a_hub_that_never_answers_is_given_up_within_seconds(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and stays silent
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.2")
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(KoalaError, match=r"the hub cannot be asked|no answer from the hub"):
            load_hub()
    assert time.monotonic() - start < 10


def test_a_resolver_that_hangs_is_given_up_within_its_time():
    from koala.models.weights.places import Unreachable, _within

    start = time.monotonic()
    with pytest.raises(Unreachable, match="no answer from the hub in 0 s"):
        _within(0.05, lambda: time.sleep(5))
    assert time.monotonic() - start < 2


# What cannot be had --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", zoo.names())
def test_every_model_that_is_not_here_says_what_is_wanted_and_every_way_to_supply_it(name, home, monkeypatch):
    spec = zoo.get(name)
    monkeypatch.chdir(home.parent)  # where nothing was trained
    with pytest.raises(KoalaError) as error:
        load_hub(spec)
    message = str(error.value)
    if spec.folder:
        assert message.endswith(f"is not there yet: {spec.notes}")
        return
    if spec.weights is None:
        assert f"no weights of {name} were released" in message
        return
    files = [spec.weights.unet or HubFile(spec.weights.pipeline.repository, f"unet/{UNET}.safetensors")]
    files += [spec.weights.lora] if spec.weights.lora else []
    for file in files:
        assert f"\n  {file}\n" in message
        assert f"{file.repository}: HF_HUB_OFFLINE is set" in message
    assert f"DIR/unet/{UNET}.safetensors, DIR/text_encoder/model.safetensors" in message
    assert f"KOALA_WEIGHTS=DIR: DIR/{files[0]}" in message
    assert f"HF_HOME=DIR: DIR/hub/models--{files[0].repository.replace('/', '--')}/snapshots/" in message
    assert str(home) in message


@pytest.mark.parametrize("way", ["mirror", "home"])
def test_the_way_that_the_error_names_works(way, original, folder, home, monkeypatch, tmp_path):
    with pytest.raises(KoalaError) as error:
        load_hub(on_hub(SDXL, revision=COMMIT))
    variable, path = re.search(
        {"mirror": r"(KOALA_WEIGHTS)=DIR: DIR/(\S+?)/unet/", "home": r"(HF_HOME)=DIR: DIR/(\S+?)/unet/"}[way],
        str(error.value),
    ).groups()
    shutil.copytree(folder, tmp_path / "supplied" / path)
    monkeypatch.setenv(variable, str(tmp_path / "supplied"))
    assert_same_networks(load_hub(on_hub(SDXL, revision=COMMIT)), original)
