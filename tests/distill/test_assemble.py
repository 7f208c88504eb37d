from contextlib import nullcontext
from dataclasses import replace

import captioned
import pytest
import torch
import trained_runs
from safetensors.torch import load_file

from koala.distill.assemble import assemble, inherited, models_of, student_unet
from koala.distill.finetune import FineTuning
from koala.distill.kd import Distillation
from koala.distill.objective import Objective
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.load import load
from koala.models.student import unet_weights, write_student

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(trained_runs.cache(tmp_path_factory.mktemp("data") / "cache", 4))


def made(**changes):
    return assemble(trained_runs.run(**changes), CPU, lambda _: nullcontext())


@pytest.mark.parametrize("student", ["tiny-koala-700m", "tiny-koala-1b"])
def test_a_student_begins_as_the_inherit_command_makes_it(student, tmp_path):
    teacher, spec = zoo.get("tiny-sdxl"), zoo.get(student)
    write_student(teacher, spec, unet_weights(teacher, "random", seed=3), tmp_path / "written", seed=3)
    expected = load_file(tmp_path / "written" / "diffusion_pytorch_model.safetensors")
    torch.testing.assert_close(dict(inherited(teacher, spec, "random", 3).state_dict()), expected, rtol=0, atol=0)


def test_what_the_teacher_has_no_place_for_begins_as_its_layer_initialises_it(tmp_path):
    teacher = zoo.get("tiny-sdxl")
    spec = replace(zoo.get("tiny-koala-700m"), unet=replace(zoo.get("tiny-koala-700m").unet, pooled_dim=48))
    write_student(teacher, spec, unet_weights(teacher, "random"), tmp_path / "written", seed=0)
    expected = load_file(tmp_path / "written" / "diffusion_pytorch_model.safetensors")
    torch.testing.assert_close(dict(inherited(teacher, spec, "random", 0).state_dict()), expected, rtol=0, atol=0)


def test_the_student_is_in_fp32_and_trains_and_the_frozen_teacher_is_in_the_runs_precision(data):
    found = made(data=data, precision="bf16")
    assert isinstance(found.objective, Distillation)
    assert isinstance(found.objective, Objective)
    assert {(p.dtype, p.requires_grad) for p in found.unet.parameters()} == {(torch.float32, True)}
    assert {(p.dtype, p.requires_grad) for p in found.objective.teacher.parameters()} == {(torch.bfloat16, False)}


def test_a_step_on_the_first_batch_gives_a_loss_of_every_term(data):
    found = made(data=data)
    parts = found.objective.terms("unet", found.examples.batch([0, 1], [0, 1])).parts
    assert {"task", "output", "feature", "feature/UP-1", "feature/DW-1"} <= set(parts)
    assert all(torch.isfinite(value) for value in parts.values())


def test_a_student_may_begin_at_its_own_weights_or_at_random(tmp_path):
    spec = zoo.get(trained_runs.STUDENT)
    load(spec, "cpu", seed=9, parts=("unet",)).unet.save_pretrained(tmp_path)
    for weights, seed in ((str(tmp_path), 9), ("random", 100)):
        run = trained_runs.run(student_weights=weights)
        expected = load(spec, "cpu", seed=seed, parts=("unet",)).unet.state_dict()
        torch.testing.assert_close(student_unet(run, models_of(run)).state_dict(), expected, rtol=0, atol=0)


def test_dropped_captions_are_those_of_the_cache_without_their_condition(data):
    kept, dropped = made(data=data), made(data=data, caption_dropout=1.0)
    assert kept.examples.batch([0], [0]).captions[0]
    assert dropped.examples.batch([0], [0]).captions == ("",)


def test_without_a_teacher_it_is_fine_tuning_and_with_a_rank_only_adapters_train(data):
    found = made(student_weights="random", teacher="", features=(), data=data, lora_rank=2)
    assert type(found.objective) is FineTuning
    assert {name.split(".")[-3] for name, p in found.unet.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_adapters_learn_from_a_teacher_as_weights_do(data):
    found = made(student_weights="random", data=data, lora_rank=2)
    assert type(found.objective) is Distillation
    found.objective.terms("unet", found.examples.batch([0], [0])).total.backward()
    learnt = {name.split(".")[-3] for name, p in found.unet.named_parameters() if p.grad is not None}
    assert learnt == {"lora_A", "lora_B"}


def test_images_encoded_on_the_fly_are_those_of_the_cache(data):
    photos = str(data) + "-photos"
    cached, live = made(data=data), made(data=photos, on_the_fly=True)
    one, other = (found.examples.batch([1, 3], [5, 6]) for found in (cached, live))
    assert one.captions == other.captions
    near = {"atol": 2e-3, "rtol": 2e-3, "check_dtype": False}  # a cache is in fp16
    torch.testing.assert_close(one.clean, other.clean, **near)
    torch.testing.assert_close(one.condition.context, other.condition.context, **near)


def test_the_digest_of_the_data_tells_two_caches_apart(data, tmp_path):
    other = trained_runs.cache(tmp_path / "other", 5)
    assert made(data=data).data_digest == made(data=data).data_digest != made(data=str(other)).data_digest


def test_a_source_that_changes_is_other_data_on_the_fly_too(data, tmp_path):
    photos = captioned.folder(tmp_path / "photos", 3)
    before = made(data=str(photos), on_the_fly=True).data_digest
    assert before == made(data=str(photos), on_the_fly=True).data_digest
    captioned.folder(photos, 4)
    assert before != made(data=str(photos), on_the_fly=True).data_digest


def test_no_data_is_said_before_any_weights_are_read():
    with pytest.raises(KoalaError, match="there is no --data"):
        made(teacher_weights="nowhere")
