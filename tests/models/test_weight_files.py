import pickle
import re
import zipfile

import pytest
import torch
from pipeline_folders import SDXL
from safetensors.torch import save_file

from koala.errors import KoalaError
from koala.models.load import load
from koala.models.weights.files import LAYOUTS, choose

UNET = "diffusion_pytorch_model"
DAMAGED = (".safetensors", ".bin", ".pt", ".ckpt")


@pytest.fixture
def unet():
    return dict(load(SDXL, "cpu", parts=("unet",)).unet.state_dict())


def unet_only(spec, path, **how):
    return load(spec, "cpu", weights=str(path), parts=("unet",), **how).unet


@pytest.mark.parametrize(
    ("dtype", "names", "chosen"),
    [
        ("fp16", [f"{UNET}.safetensors", f"{UNET}.fp16.safetensors"], [f"{UNET}.fp16.safetensors"]),
        ("fp32", [f"{UNET}.safetensors", f"{UNET}.fp16.safetensors"], [f"{UNET}.safetensors"]),
        ("bf16", [f"{UNET}.safetensors", f"{UNET}.fp16.safetensors"], [f"{UNET}.safetensors"]),
        ("fp16", [f"{UNET}.safetensors", f"{UNET}.fp16.bin"], [f"{UNET}.safetensors"]),
        ("fp32", [f"{UNET}.fp16.safetensors", f"{UNET}.bin"], [f"{UNET}.fp16.safetensors"]),
        ("fp32", [f"{UNET}.non_ema.safetensors", f"{UNET}.bin", "config.json"], [f"{UNET}.bin"]),
        ("fp32", [f"{UNET}.non_ema.safetensors", "model.safetensors", "openvino_model.bin"], []),
        ("fp16", [f"{UNET}.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)], "all"),
        ("fp16", [f"{UNET}-0000{n}-of-00002.fp16.safetensors" for n in (1, 2)], "all"),
        ("fp32", [f"{UNET}-0000{n}-of-00003.bin" for n in (1, 2, 3)], "all"),
        ("fp32", [f"{UNET}-0000{n}-of-00003.safetensors" for n in (1, 3)], []),
        ("fp32", [f"{UNET}xfp16-0000{n}-of-00002.safetensors" for n in (1, 2)], []),
    ],
)
def test_the_file_of_the_wanted_precision_is_chosen_and_shards_only_if_all_are_there(dtype, names, chosen):
    expected = names if chosen == "all" else chosen
    assert choose(names, LAYOUTS["unet"], dtype) == tuple(expected)


def test_text_encoders_have_other_file_names():
    names = [f"{UNET}.safetensors", "pytorch_model.bin", "model.bin"]
    assert choose(names, LAYOUTS["text_encoder_0"], "fp32") == ("pytorch_model.bin",)
    assert choose([*names, "model.fp16.safetensors"], LAYOUTS["text_encoder_0"], "fp32") == ("model.fp16.safetensors",)


def test_files_that_are_something_else_say_so(tmp_path):
    save_file({"a.b": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(KoalaError, match=r"neither a U-Net nor a whole checkpoint; its first tensors are: a.b"):
        unet_only(SDXL, tmp_path / "other.safetensors")
    save_file({"unet.down_blocks.0.lora_A.weight": torch.zeros(1)}, tmp_path / "lora.safetensors")
    with pytest.raises(KoalaError, match="is a LoRA adapter, which goes on top of weights"):
        unet_only(SDXL, tmp_path / "lora.safetensors")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(KoalaError, match=re.escape("weights are files that end in .safetensors, .bin")):
        unet_only(SDXL, tmp_path / "model.gguf")


class Evil:
    def __reduce__(self):
        return (print, ("this code ran",))


@pytest.mark.parametrize("ending", DAMAGED)
@pytest.mark.parametrize("content", ["random", "zip", "empty", "pickle", "text"])
def test_a_damaged_file_is_an_error_that_names_it(ending, content, tmp_path):
    path = tmp_path / f"file{ending}"
    if content == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a", "b")
    else:
        noise = torch.randint(256, (4096,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        contents = {"random": bytes(noise.tolist()), "empty": b"", "text": b"<html>login</html>"}
        path.write_bytes(contents.get(content) or (pickle.dumps({"a": 1}) if content == "pickle" else b""))
    with pytest.raises(KoalaError, match=f"file{ending}"):
        unet_only(SDXL, path)


@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
@pytest.mark.parametrize("share", [0.5, 0.999])
def test_a_truncated_file_is_an_error_that_names_it(ending, share, unet, tmp_path):
    path = tmp_path / f"file{ending}"
    (save_file if ending == ".safetensors" else torch.save)(unet, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(KoalaError, match=f"file{ending}.*fetch it again"):
        unet_only(SDXL, path)


def test_pickled_objects_are_refused_and_never_run(unet, tmp_path, capsys):
    path = tmp_path / "model.bin"
    torch.save(unet | {"more": Evil()}, path)
    with pytest.raises(KoalaError, match="could run code when they are read: it is not opened"):
        unet_only(SDXL, path)
    assert "this code ran" not in capsys.readouterr().out


def test_quantised_weights_are_refused(unet, tmp_path):
    key = next(iter(unet))
    save_file(unet | {key: unet[key].to(torch.int8)}, tmp_path / "model.safetensors")
    with pytest.raises(KoalaError, match=f"{key} is torch.int8; quantised weights are not read"):
        unet_only(SDXL, tmp_path / "model.safetensors")
