import re
import threading
import time
from pathlib import Path

import pytest
import torch
from pipeline_folders import SDXL, assert_same_networks, saved
from safetensors.torch import load_file, save_file

from koala.errors import KoalaError
from koala.models import single_file, zoo
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.weights.checkpoint import Checkpoint
from koala.models.weights.fill import fill

UNET = "diffusion_pytorch_model"
DAMAGED = (".safetensors", ".bin", ".pt", ".ckpt")


@pytest.fixture
def unet():
    return dict(load(SDXL, "cpu", parts=("unet",)).unet.state_dict())


def unet_only(spec, path, **how):
    return load(spec, "cpu", weights=str(path), parts=("unet",), **how).unet


def renamed(state, old, new):
    return {re.sub(old, new, key): tensor for key, tensor in state.items()}


def rewritten(file, old, new, **more):
    save_file(renamed(load_file(file), old, new) | more, file)


def test_old_names_of_text_encoders_and_autoencoders_are_known(tmp_path):
    original = saved(SDXL, tmp_path)
    first, second = (tmp_path / name / "model.safetensors" for name in ("text_encoder", "text_encoder_2"))
    before = set(load_file(first)) | set(load_file(second))
    positions = torch.arange(77)[None]
    rewritten(first, r"^(text_model\.)?", "text_model.", **{"text_model.embeddings.position_ids": positions})
    rewritten(second, r"^text_model\.", "", **{"embeddings.position_ids": positions})
    vae = tmp_path / "vae" / f"{UNET}.safetensors"
    for now, old in {"to_q": "query", "to_k": "key", "to_v": "value", r"to_out\.0": "proj_attn"}.items():
        assert set(load_file(vae)) != set(renamed(load_file(vae), rf"\.{now}\.", f".{old}."))
        rewritten(vae, rf"\.{now}\.", f".{old}.")
    assert set(load_file(first)) | set(load_file(second)) != before
    assert_same_networks(load(SDXL, "cpu", weights=str(tmp_path)), original)


def test_missing_unexpected_and_reshaped_tensors_are_counted_and_the_first_named(unet, tmp_path):
    path = tmp_path / "model.safetensors"
    lost = [key for key in unet if key.startswith("up_blocks.1.")][:7]
    for key in lost:
        del unet[key]
    unet |= {"conv_in.weight": torch.zeros(32, 5, 3, 3), "what.is.this": torch.zeros(1)}
    save_file(unet, path)
    with pytest.raises(KoalaError) as error:
        unet_only(SDXL, path)
    message = str(error.value)
    assert f"7 tensors are missing: {', '.join(lost[:5])}, ...; 1 tensor is unexpected: what.is.this;" in message
    assert "1 tensor is of another shape: conv_in.weight (32, 5, 3, 3), not (32, 4, 3, 3)" in message
    assert "nearest to the U-Net of tiny-koala-700m" in message
    assert str(path) in message


def test_a_text_encoder_that_lacks_a_tensor_says_so_without_naming_a_unet(tmp_path):
    saved(SDXL, tmp_path)
    file = tmp_path / "text_encoder" / "model.safetensors"
    tensors = load_file(file)
    (lost, _), *rest = tensors.items()
    save_file(dict(rest), file)
    with pytest.raises(KoalaError, match=f"text_encoder_0 .*1 tensor is missing: {lost}$"):
        load(SDXL, "cpu", weights=str(tmp_path))


@pytest.mark.parametrize("naming", ["diffusers", "original"])
@pytest.mark.parametrize(("model", "asked"), [("bk-sdm-tiny", "koala-1b"), ("koala-1b", "koala-700m")])
def test_the_model_whose_unet_was_given_instead_is_named(model, asked, naming, tmp_path):
    spec, path = zoo.get(f"tiny-{model}"), tmp_path / "model.safetensors"
    unet = load(spec, "cpu", parts=("unet",)).unet
    if naming == "original":
        single_file.write(path, {"unet": unet}, spec)
    else:
        save_file(unet.state_dict(), path)
    with pytest.raises(KoalaError, match=rf"It is the U-Net of tiny-{model}\b"):
        unet_only(zoo.get(f"tiny-{asked}"), path)


class Headers(dict):
    """The shapes of a network, as a checkpoint of which nothing is ever read."""

    @property
    def shapes(self):
        return {key: tuple(tensor.shape) for key, tensor in self.items()}

    def tensor(self, key):
        raise AssertionError(key)


@pytest.mark.parametrize("name", zoo.names())
def test_every_full_size_unet_is_recognised_by_its_header(name):
    from koala.models.weights.recognise import recognise

    plan = zoo.get(name).unet
    state = Headers(meta_networks(zoo.get(name), ("unet",))["unet"].state_dict())
    same = {other for other in zoo.names() if zoo.get(other).unet == plan}
    assert re.match(r"It is the U-Net of ([\w.-]+?)(\.$| \()", recognise(state.shapes)).group(1) in same


def test_a_network_unlike_all_is_called_so():
    from koala.models.weights.recognise import recognise

    assert recognise({"a": (1,)}) == "It is not the U-Net of any model here."
    assert recognise({}) == "It is not the U-Net of any model here."


def anonymous_bytes():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's process status")
def test_filling_takes_no_second_copy_of_the_weights(tmp_path):
    side, layers, path = 2**12, 4, tmp_path / "model.safetensors"  # 64 MiB each: more than malloc keeps for itself
    with torch.device("meta"):
        skeleton = torch.nn.Sequential(*(torch.nn.Linear(side, side, bias=False) for _ in range(layers)))
    save_file({f"{i}.weight": torch.ones(side, side) for i in range(layers)}, path)
    peak, done, start = [0], threading.Event(), anonymous_bytes()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], anonymous_bytes())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    network = fill(skeleton, Checkpoint([path]), "cpu")
    peak[0] = max(peak[0], anonymous_bytes())
    done.set()
    watcher.join()
    assert network[layers - 1].weight.sum() == side**2
    # Memory that earlier tests gave back to malloc may be used again, so that there is no lower bound.
    assert (peak[0] - start) / (4 * side**2 * layers) < 1.2
