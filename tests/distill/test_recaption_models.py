import os
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

from koala.commands.recaption import INSTRUCTION
from koala.distill.data.recaption import VisionLanguageModel
from koala.errors import KoalaError
from koala.harness.cli import Command, main
from koala.models.safetensors_stream import Entry, write

sys.path.append(str(Path(__file__).parent))

from captioned_pictures import by_file, picture, write_pictures
from vision_language import llava_processor, write_llava, write_llava_next


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    return {"llava": write_llava(root / "llava"), "llava-next": write_llava_next(root / "next")}


def asked_directly(folder, images, new_tokens):
    """What transformers' own classes answer, image by image."""
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    if processor.chat_template:
        content = [{"type": "image"}, {"type": "text", "text": INSTRUCTION}]
        question = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    else:
        question = f"USER: <image>\n{INSTRUCTION} ASSISTANT:"
    answers = []
    for image in images:
        inputs = processor(images=image, text=question, return_tensors="pt")
        tokens = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
        answers.append(processor.decode(tokens[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))
    return answers


def command(*words):
    return main(
        "koala", "", {"recaption": Command("koala.commands.recaption", "")}, (), ["recaption", *map(str, words)]
    )


@pytest.mark.parametrize("name", ["llava", "llava-next"])
def test_captions_are_those_that_transformers_gives_each_image_alone(tmp_path, models, name, capsys):
    folder = write_pictures(tmp_path / "photos", 5)
    line = [folder, "--model", models[name], "--column", "llava", "--batch-size", 3, "--max-new-tokens", 8]
    assert command(*line, "--device", "cpu") == 0
    direct = asked_directly(models[name], [picture(i) for i in range(5)], 8)
    assert list(by_file(folder).values()) == [" ".join(text.split()) for text in direct]
    assert len(set(direct)) > 1, "captions depend on the image"
    assert "captioned: 5\n" in capsys.readouterr().out


def test_a_model_that_is_not_here_is_an_error_that_asks_for_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    folder = write_pictures(tmp_path / "photos", 1)
    assert command(folder, "--model", "owner/name", "--column", "llava", "--device", "cpu") == 2
    assert "give the folder of a model" in capsys.readouterr().err
    with pytest.raises(KoalaError, match="no folder /nowhere/model"):
        VisionLanguageModel("/nowhere/model", "look", 4, torch.float32, "cpu")


def test_a_model_is_found_in_a_folder_laid_out_as_the_hub(tmp_path, models, monkeypatch):
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to(models["llava"])
    monkeypatch.setenv("KOALA_WEIGHTS", str(tmp_path))
    assert len(VisionLanguageModel("owner/name", "look", 4, torch.float32, "cpu")([picture(0)])) == 1


def test_weights_that_are_missing_are_not_made_up(tmp_path, models):
    from safetensors.torch import load_file, save_file

    for file in models["llava"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tmp_path / "model.safetensors")
    save_file(dict(list(tensors.items())[1:]), tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(KoalaError, match="lack 1 of its tensors"):
        VisionLanguageModel(str(tmp_path), "look", 4, torch.float32, "cpu")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(KoalaError, match="cannot be loaded as an image-text-to-text model"):
        VisionLanguageModel(str(tmp_path), "look", 4, torch.float32, "cpu")


# ---- at real size

LLAVA_PARAMS = 7_063_427_072  # of the released LLaVA-1.5-7B


def write_full_llava(folder):
    """LLaVA-1.5-7B's architecture with random weights in bf16, tensor by tensor."""
    text = {"model_type": "llama", "vocab_size": 32_064, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5}
    vision = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "projection_dim": 768}
    vision |= {"num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, pad_token_id=3)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    llava_processor(336, 32_000).save_pretrained(folder)
    shapes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    noise = torch.randn(5_000_011, generator=torch.Generator().manual_seed(0)).bfloat16()

    def tensor(key):
        shape = shapes[key]
        size = torch.Size(shape).numel()
        if len(shape) == 1:
            return torch.full(shape, 0.0 if key.endswith("bias") else 1.0, dtype=torch.bfloat16)
        spread = torch.Size(shape[1:]).numel() ** -0.5
        return noise.repeat(-(-size // len(noise)))[:size].view(shape) * spread

    entries = {key: Entry(torch.bfloat16, shape) for key, shape in shapes.items()}
    write(folder / "model.safetensors", entries, tensor, {"format": "pt"})
    return sum(torch.Size(shape).numel() for shape in shapes.values())


@pytest.mark.proves("loader", name="recaption-llava-1.5-7b", weights="random", remark="one image, four tokens, bf16")
@pytest.mark.fullsize
@pytest.mark.timeout(1800)
@pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="14 GB of disk and memory: set KOALA_FULLSIZE=1")
def test_llava_of_seven_billion_parameters_captions_an_image(tmp_path):
    model, folder = tmp_path / "llava", write_pictures(tmp_path / "photos", 1)
    model.mkdir()
    try:
        assert write_full_llava(model) == LLAVA_PARAMS
        line = [folder, "--model", model, "--column", "llava", "--dtype", "bf16", "--device", "cpu"]
        assert command(*line, "--max-new-tokens", 4) == 0
    finally:
        (model / "model.safetensors").unlink(missing_ok=True)
    assert 1 <= len(by_file(folder)["0.png"].split()) <= 4
