from dataclasses import replace

import pytest
from huggingface_hub import ModelCard

from koala.distill import runs
from koala.distill.model_card import LOSSES, Ending, model_card
from koala.models import zoo

ENDING = Ending(
    steps=500_000,
    global_batch=128,
    processes=4,
    device="NVIDIA A100",
    hours=412.25,
    images=491_567,
    data_digest="0f1e2d",
    losses={"total": 1.5, "task": 0.25},
)


def card(name="koala-700m-lightning", ending=ENDING, missing="", curve=False, **changes):
    run = replace(runs.get(name), data="laion-pop", **changes)
    teacher = zoo.get(run.teacher) if run.teacher else None
    processes = 4 if run.global_batch % (4 * run.batch_size) == 0 else run.global_batch // run.batch_size
    return model_card(run.split(processes), zoo.get(run.student), teacher, ending, missing, curve)


@pytest.mark.parametrize("name", runs.names())
def test_every_run_has_a_card_whose_head_a_hub_reads(name):
    data = ModelCard(card(name)).data
    assert (data.library_name, data.pipeline_tag) == ("diffusers", "text-to-image")
    assert data.license in ("openrail++", "creativeml-openrail-m", "apache-2.0", "other")
    assert data.base_model or zoo.get(runs.get(name).student).weights is None
    assert ("lora" in data.tags) == bool(runs.get(name).lora_rank)


def test_a_licence_of_ones_own_keeps_its_name():
    data = ModelCard(card("koala-700m-turbo")).data
    assert (data.license, data.license_name) == ("other", zoo.get("sdxl-turbo").license)


def test_a_teacher_that_was_trained_here_was_not_released():
    assert "Teacher: emoji-teacher (as trained here, runs/train/emoji-teacher/final)" in card("emoji-koala")


def test_the_card_says_how_the_model_was_trained():
    text = card()
    assert "Teacher: sdxl-lightning-4step (its released weights)" in text
    assert "500,000 with 128 images each (8 x 4 accumulated x 4 processes), 64,000,000 images seen" in text
    assert "4 x NVIDIA A100, 412 hours" in text
    assert "laion-pop (491,567 images, digest 0f1e2d), 1024 px" in text
    assert "Text encoders and autoencoder: those of sdxl-lightning-4step, unchanged; an fp16 pipeline runs the" in text
    assert "1 x task + 1 x output + 1 x features of SA, LF@DW-1, LF@UP-3 (layers: bottom)" in text
    assert "| task | 0.25 |" in text
    assert all(note in text for note in runs.get("koala-700m-lightning").notes)
    assert "Random weights" not in text


def test_what_is_not_known_is_said_to_be():
    text = card(ending=Ending(steps=1, global_batch=1, processes=1))
    assert "1 x unknown device, unknown hours" in text
    assert "images that were not counted" in text
    assert "Losses" not in text


def test_changes_to_a_named_run_are_listed():
    assert "Run: koala-700m-lightning\n" in card()
    assert "with other steps 30000 (there 500000); ema_decay 0.99 (there 0.0)" in card(steps=30_000, ema_decay=0.99)
    assert "teacher sdxl (there none)" in card("lora", teacher="sdxl")


def test_limits_and_the_teachers_licence_are_there():
    text = card()
    assert "Legible text, hands, and prompts with several attributes" in text
    assert zoo.get("sdxl-lightning-4step").license in text.split("## Limits")[1]
    assert "No caption was dropped" in text
    assert "No caption was dropped" not in card(caption_dropout=0.1)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("tiny-koala-700m-base", {}),
        ("koala-700m-base", {"teacher_weights": "random"}),
        ("lora", {"student_weights": "random"}),
    ],
)
def test_weights_that_began_at_random_are_said_to_be(name, changes):
    text = card(name, **changes)
    assert "**Random weights.**" in text
    assert ModelCard(text).data.base_model is None


def test_a_folder_with_the_unet_alone_says_why():
    text = card(missing="There is no text encoder here.")
    assert "**The U-Net only.** There is no text encoder here." in text
    assert "UNet2DConditionModel.from_pretrained" in text
    assert "DiffusionPipeline" not in text


def test_the_picture_of_the_losses_is_shown_where_there_is_one():
    assert f"]({LOSSES})" in card(curve=True)
    assert LOSSES not in card()


def test_an_adapter_is_used_on_top_of_its_model():
    text = card("lora")
    assert "load_lora_weights" in text
    assert "--lora PATH" in text
    assert "adapter of rank 16 for KOALA-700M (koala-700m)." in text
    assert "rank 16, alpha 27, of the U-Net's to_q, to_k, to_v, to_out.0\n" in text
    assert "The weights began as: its released weights" in text


def test_an_adapter_that_was_taught_is_of_its_own_model_and_names_its_teacher():
    text = card("lora", teacher="sdxl")
    assert "for KOALA-700M (koala-700m), trained to imitate SDXL-Base 1.0 (sdxl)." in text
    assert ModelCard(text).data.base_model == "etri-vilab/koala-700m"


@pytest.mark.parametrize("missing", ["", "There is no text encoder here."])
def test_the_python_of_a_card_imports_what_it_uses(missing):
    code = card(missing=missing).split("```python\n")[1].split("```")[0]
    assert code.startswith("import diffusers\n\n")
    compile(code, "README.md", "exec")
