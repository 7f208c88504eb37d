import pytest
import torch
from diffusers import AutoPipelineForText2Image, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file

from koala.__main__ import COMMANDS, EXAMPLES
from koala.harness.cli import main
from koala.models import single_file, zoo
from koala.models.load import DTYPES, load


def export(*arguments):
    return main("koala", "", COMMANDS, EXAMPLES, ["export", *map(str, arguments)])


def networks_of(name, dtype="fp32"):
    components = load(zoo.get(name), "cpu", dtype)
    networks = {"unet": components.unet, "autoencoder": components.autoencoder.to(DTYPES[dtype])}
    return networks | {f"text_encoder_{i}": encoder for i, encoder in enumerate(components.conditioner.networks)}


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert torch.equal(found[key], tensor), key


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-sdm-v2.1-base"])
def test_a_single_file_holds_what_the_loader_loads(name, tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert export(name, "--weights", "random", "--out", out, "--dtype", "bf16") == 0
    assert capsys.readouterr().out.split() == [str(out)]
    found = single_file.read(out, zoo.get(name))
    expected = networks_of(name, "bf16")
    assert found.keys() == expected.keys()
    for part, network in expected.items():
        assert_equal(found[part], network.state_dict())


def test_the_default_is_half_precision_of_every_network(tmp_path):
    out = tmp_path / "model.safetensors"
    assert export("tiny-koala-700m", "--weights", "random", "--out", out) == 0
    assert {tensor.dtype for tensor in load_file(out).values()} == {torch.float16}


@pytest.mark.parametrize(
    ("name", "kind"), [("tiny-koala-700m", StableDiffusionXLPipeline), ("tiny-sdm-v1.4", StableDiffusionPipeline)]
)
def test_diffusers_loads_an_exported_folder_as_it_was_written(name, kind, tmp_path):
    out = tmp_path / "folder"
    assert export(name, "--weights", "random", "--format", "diffusers", "--out", out, "--dtype", "fp32") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    pipeline = AutoPipelineForText2Image.from_pretrained(out, local_files_only=True)
    assert type(pipeline) is kind
    networks = networks_of(name)
    assert_equal(pipeline.unet.state_dict(), networks["unet"].state_dict())
    assert_equal(pipeline.vae.state_dict(), networks["autoencoder"].state_dict())
    assert_equal(pipeline.text_encoder.state_dict(), networks["text_encoder_0"].state_dict())
    ids = pipeline.tokenizer("a red apple", padding="max_length").input_ids
    assert len(ids) == 77
    assert pipeline.tokenizer.decode(ids, skip_special_tokens=True) == "a red apple"
    image = pipeline("a red apple", num_inference_steps=1, height=64, width=64, output_type="np").images
    assert image.shape == (1, 64, 64, 3)


def test_weights_go_from_a_folder_to_a_file_and_back_unchanged(tmp_path):
    name, folder, file, again = "tiny-koala-700m", tmp_path / "a", tmp_path / "b.safetensors", tmp_path / "c"
    assert export(name, "--weights", "random", "--format", "diffusers", "--out", folder) == 0
    assert export(name, "--weights", folder, "--out", file) == 0
    assert export(name, "--weights", file, "--format", "diffusers", "--out", again) == 0
    weights = [path.relative_to(folder) for path in folder.rglob("*.safetensors")]
    assert len(weights) == 4
    for path in weights:
        assert_equal(load_file(again / path), load_file(folder / path))


@pytest.mark.parametrize("form", ["single-file", "diffusers"])
def test_an_existing_file_or_folder_is_refused(form, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    assert export("tiny-koala-700m", "--weights", "random", "--format", form, "--out", out) == 2
    assert "mine exists" in capsys.readouterr().err
    assert not list(out.iterdir())


def test_a_folder_that_cannot_be_written_is_a_readable_error(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "folder"
    assert export("tiny-koala-700m", "--weights", "random", "--format", "diffusers", "--out", out) == 2
    assert "cannot write" in capsys.readouterr().err


def test_a_wrong_model_dtype_or_format_is_told_before_anything_is_written(tmp_path, capsys):
    out = tmp_path / "model.safetensors"
    assert export("tiny-koala-70m", "--out", out) == 2
    assert "did you mean" in capsys.readouterr().err
    assert export("tiny-koala-700m", "--out", out, "--weights", "random", "--dtype", "fp8") == 2
    assert "known: bf16, fp16, fp32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        export("tiny-koala-700m", "--out", out, "--format", "gguf")
    assert not out.exists()
