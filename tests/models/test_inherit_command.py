from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel

from koala.commands.inherit import report_fresh
from koala.harness.cli import Command, main, stderr_console
from koala.models import zoo
from koala.models.inherit import inherit as inherit_plan
from koala.models.load import load
from koala.models.networks import count_params, meta_networks

TEACHER, STUDENT = "tiny-sdxl", "tiny-koala-700m"


def inherit(*arguments):
    return main("koala", "", {"inherit": Command("koala.commands.inherit", "")}, (), ["inherit", *map(str, arguments)])


@pytest.fixture(scope="module")
def unet():
    """A teacher; not to be changed."""
    return load(zoo.get(TEACHER), "cpu", parts=("unet",)).unet


def test_a_student_is_made_and_summed_up_in_lines(unet, tmp_path, capsys):
    unet.save_pretrained(tmp_path / "pipeline" / "unet")
    out = tmp_path / "student"
    assert inherit(TEACHER, STUDENT, "--weights", tmp_path / "pipeline", "--out", out, "--dtype", "fp16") == 0
    said = capsys.readouterr()
    tensors = meta_networks(zoo.get(STUDENT), ("unet",))["unet"]
    assert dict(line.split(": ", 1) for line in said.out.splitlines()) == {
        "student": f"{STUDENT}, from {TEACHER}",
        "tensors": f"{len(tensors.state_dict())} inherited, 0 fresh",
        "parameters": f"{count_params(tensors):,} (float16)",
        "bytes": f"{(out / 'diffusion_pytorch_model.safetensors').stat().st_size:,}",
        "folder": str(out),
    }
    assert said.err == ""  # no bar where no one watches
    student = UNet2DConditionModel.from_pretrained(out, torch_dtype=torch.float16)
    key = "up_blocks.1.resnets.1.conv1.weight"
    assert torch.equal(student.get_parameter(key), unet.get_parameter(key.replace("resnets.1", "resnets.2")).half())


def test_random_weights_try_it_out_without_any_file(unet, tmp_path):
    out = tmp_path / "student"
    assert inherit(TEACHER, STUDENT, "--weights", "random", "--out", out) == 0
    student = UNet2DConditionModel.from_pretrained(out)
    assert student.dtype == torch.float32
    assert torch.equal(student.conv_in.weight, unet.conv_in.weight)
    assert inherit(TEACHER, STUDENT, "--weights", "random", "--seed", 1, "--out", tmp_path / "other") == 0
    assert not torch.equal(UNet2DConditionModel.from_pretrained(tmp_path / "other").conv_in.weight, unet.conv_in.weight)


def test_tensors_without_a_place_in_the_teacher_are_named_on_stderr(capsys):
    student = replace(zoo.get(STUDENT).unet, context_dim=80)
    found = inherit_plan(zoo.get(TEACHER).unet, student)
    report_fresh(found, stderr_console())
    head, *named = capsys.readouterr().err.splitlines()
    assert head == f"{len(found.fresh)} tensors have no place in the teacher and start at random:"
    assert tuple(map(str.strip, named)) == found.fresh


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("tiny-sdlx", STUDENT), "did you mean 'sdxl'"),
        ((TEACHER, "tiny-koala-70m"), "did you mean"),
        ((TEACHER, STUDENT, "--dtype", "fp8"), "known: bf16, fp16, fp32"),
        ((TEACHER, "tiny-sdm-v1.4"), "channels per stage: the teacher has 32, 64, 128, the student 32, 64, 128, 128"),
        ((STUDENT, TEACHER), "blocks per down stage: the teacher has 1, the student 2"),
        ((TEACHER, STUDENT, "--weights", "nowhere"), "there is no 'nowhere'"),
    ],
)
def test_mistakes_exit_with_two_and_write_nothing(arguments, said, tmp_path, capsys):
    given = arguments if "--weights" in arguments else (*arguments, "--weights", "random")
    assert inherit(*given, "--out", tmp_path / "student") == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_with_anything_in_it_is_refused_before_weights_are_read(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    assert inherit(TEACHER, STUDENT, "--weights", "nowhere", "--out", tmp_path) == 2
    assert f"{tmp_path} exists" in capsys.readouterr().err


def test_weights_and_out_are_required(capsys):
    with pytest.raises(SystemExit):
        inherit(TEACHER, STUDENT)
    assert "--weights" in capsys.readouterr().err
