"""`python -m koala train` from pictures to pictures: what it prints, writes, refuses and goes on with."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trained_runs
from diffusers import DiffusionPipeline
from PIL import Image
from trained_runs import koala

from bench.__main__ import COMMANDS as BENCH
from koala.commands import train
from koala.distill import config, log, runs
from koala.distill.config import read_run
from koala.distill.finetune import FineTuning
from koala.distill.objective import Terms
from koala.harness import records
from koala.harness.cli import main
from koala.models import zoo
from koala.models.load import load
from koala.sampling.gallery import Gallery

RUN = "tiny-koala-700m-base"
SHORT = ("--steps", 6, "--batch-size", 1, "--workers", 0, "--device", "cpu", "--save-every", 3)
GRID = ("--sample-every", 6, "--sample-prompts", "a red square")


def train_in_a_process(*arguments, cwd):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "koala", "train", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


# ---- from pictures to pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return trained_runs.cache(tmp_path_factory.mktemp("data") / "cache")


@pytest.fixture(scope="module")
def trained(data):
    """The folder of a run of 6 steps, made by a process of its own, and what it said."""
    done = train_in_a_process(RUN, "--data", data, *SHORT, *GRID, "--out", "mine", cwd=data.parent)
    assert done.returncode == 0, done.stderr
    return data.parent / "mine", done


def test_a_run_ends_with_a_folder_whose_path_is_all_of_its_output(trained):
    out, done = trained
    assert done.stdout.splitlines() == ["mine/final"]
    assert "torchao" not in done.stderr and "register_constant" not in done.stderr
    assert {path.name for path in out.iterdir()} >= {"run.json", "log.jsonl", "checkpoints", "samples", "final"}
    assert read_run(out / "final" / "run.json").steps == 6
    assert [path.name for path in sorted((out / "samples").iterdir())] == ["step-000006.png"]
    rows = log.read(out / "log.jsonl")
    told = json.loads((out / "final" / "koala.json").read_text())
    assert told["losses"] == rows[-1]["losses"]["unet"]
    assert (told["images"], told["global_batch"]) == (6, 1)


def test_the_folder_draws_one_picture_with_diffusers_and_with_the_sample_command(trained, tmp_path, capsys):
    folder = trained[0] / "final"
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    settings = {"num_inference_steps": 2, "guidance_scale": zoo.get(str(folder)).recipe.guidance, "output_type": "np"}
    theirs = pipeline("a red square", generator=torch.Generator().manual_seed(0), **settings).images[0]
    assert koala("sample", folder, "a red square", "--steps", 2, "--device", "cpu", "--out", tmp_path / "s") == 0
    (image,) = Gallery(tmp_path / "s").images()
    with Image.open(image) as ours:
        assert np.abs((theirs * 255).round() - np.asarray(ours)).max() <= 1


def test_the_folder_exports_to_one_file_with_the_same_weights(trained, tmp_path, capsys):
    folder = trained[0] / "final"
    assert koala("export", folder, "--out", tmp_path / "one.safetensors", "--dtype", "fp32") == 0
    spec = zoo.get(trained_runs.STUDENT)
    ours = load(spec, "cpu", weights=str(tmp_path / "one.safetensors")).unet.state_dict()
    torch.testing.assert_close(ours, load(spec, "cpu", weights=str(folder)).unet.state_dict(), rtol=0, atol=0)


def test_the_folder_is_timed_by_its_path(trained, tmp_path, capsys):
    folder = trained[0] / "final"
    arguments = ["--models", folder, "--targets", "unet", "--device", "cpu", "--dtypes", "fp32", "--resolutions", 64]
    few = ["--repeats", 1, "--warmup", 0, "--budget", 0, "--out", tmp_path / "rows.jsonl"]
    assert main("bench", "", BENCH, (), ["sweep", "smoke", *map(str, (*arguments, *few))]) == 0
    (row,) = records.read([tmp_path / "rows.jsonl"]).of_kind("bench").rows
    assert (row["status"], row["case"]["model"]) == ("ok", zoo.get(str(folder)).name)
    assert row["case"]["weights"] == str(folder)
    assert zoo.get(str(folder)).name in capsys.readouterr().out


def test_a_finished_run_is_not_run_again(trained, capsys):
    out, _ = trained
    before = (out / "log.jsonl").read_bytes()
    assert koala("train", out / "run.json") == 0
    said = capsys.readouterr()
    assert said.out.strip() == str(out / "final")
    assert "6 steps are done" in said.err
    assert (out / "log.jsonl").read_bytes() == before


def test_a_run_that_is_refused_leaves_the_file_of_the_one_before(trained, capsys):
    out, _ = trained
    before = (out / "run.json").read_bytes()
    for steps in (6, 7):  # done, and to be gone on with
        assert koala("train", out / "run.json", "--steps", steps, "--learning-rate", 0.5) == 2
        said = capsys.readouterr()
        assert "is of another run: --learning-rate was 0.001 and is 0.5" in said.err and not said.out
        assert (out / "run.json").read_bytes() == before


def test_the_file_of_a_run_goes_on_with_more_steps_and_keeps_the_first_result(trained, capsys):
    out, _ = trained
    assert koala("train", out / "run.json", "--steps", 7, "--sample-every", 0) == 0
    assert [row["step"] for row in log.read(out / "log.jsonl")] == [1, 2, 3, 4, 5, 6, 7]
    assert read_run(out / "final" / "run.json").steps == 7
    assert read_run(out / "final-000006" / "run.json").steps == 6


def test_adapters_of_unet_and_text_encoders_are_trained_on_the_fly(data, tmp_path, capsys):
    photos = data.with_name("cache-photos")
    arguments = ("--on-the-fly", "--data", photos, "--lora-text", "--lora-rank", 2, "--out", tmp_path / "mine")
    assert koala("train", "tiny-lora", *arguments, *SHORT, "--steps", 2) == 0
    (folder,) = capsys.readouterr().out.splitlines()
    out = tmp_path / "s"
    drawn = ("--steps", 2, "--device", "cpu", "--out", out)
    assert koala("sample", trained_runs.STUDENT, "a cat", "--lora", folder, *drawn) == 0
    pipeline = DiffusionPipeline.from_pretrained(_whole_student(tmp_path))
    pipeline.load_lora_weights(folder)
    assert {"unet", "text_encoder", "text_encoder_2"} == set(pipeline.get_list_adapters())


def _whole_student(tmp_path):
    folder = tmp_path / "student"
    assert koala("export", trained_runs.STUDENT, "--weights", "random", "--format", "diffusers", "--out", folder) == 0
    return folder


def test_plain_fine_tuning_needs_no_teacher(data, tmp_path, capsys):
    arguments = ("--teacher", "", "--features", "", "--student-weights", "random", "--data", data)
    assert koala("train", RUN, *arguments, *SHORT, "--steps", 1, "--out", tmp_path / "mine") == 0
    assert set(log.read(tmp_path / "mine" / "log.jsonl")[-1]["losses"]["unet"]) == {"total", "task"}


# ---- the command line


def test_help_lists_runs_and_fields(capsys):
    for arguments in ((), ("--help",)):
        with pytest.raises(SystemExit):
            koala("train", *arguments)
        said = capsys.readouterr().out
        assert all(name in said for name in runs.names())
        assert all(f"--{field}" in said for field in ("learning-rate", "global-batch", "ema-decay", "dry-run"))
        assert "--notes" not in said


def test_help_of_a_run_shows_its_own_defaults_and_notes(capsys):
    with pytest.raises(SystemExit):
        koala("train", "bk-sdm-small", "--help")
    said = " ".join(capsys.readouterr().out.split())
    assert "bk-sdm-small" in said
    assert "5e-05" in said
    assert "--no-gradient-checkpointing" in said
    assert "notes:" in said


def test_flags_override_the_run_and_nothing_else():
    options = train.parse("train", ["koala-700m-base", "--steps", "9", "--features", "SA@Mid,FFN", "--dry-run"])
    assert options.run == replace(runs.get("koala-700m-base"), steps=9, features=("SA@Mid", "FFN"))
    assert options.dry_run


@pytest.mark.parametrize("name", ["bk-sdm-small", "koala-1b-base"])  # True and False are their defaults
def test_a_switch_can_be_set_either_way_whatever_its_default(name):
    for flag, value in (("--gradient-checkpointing", True), ("--no-gradient-checkpointing", False)):
        assert train.parse("train", [name, flag]).run.gradient_checkpointing is value


def test_a_run_of_which_no_row_has_a_loss_is_finished_without_a_picture_of_it(data, tmp_path, monkeypatch, capsys):
    terms = FineTuning.terms

    def spoiled(self, network, batch):
        found, factor = terms(self, network, batch), float("nan") if 0 in batch.positions else 1.0
        return Terms(found.total * factor, {name: value * factor for name, value in found.parts.items()})

    monkeypatch.setattr(FineTuning, "terms", spoiled)
    arguments = ("--teacher", "", "--features", "", "--student-weights", "random", "--data", data, "--on-nan", "skip")
    short = ("--steps", 2, "--save-every", 9, "--log-every", 9)
    assert koala("train", RUN, *arguments, *SHORT, *short, "--out", tmp_path / "mine") == 0
    assert (tmp_path / "mine" / "final" / "README.md").is_file()
    assert not list((tmp_path / "mine" / "final").glob("*.png"))


def test_a_dry_run_prints_the_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert koala("train", RUN, "--dry-run") == 0
    assert capsys.readouterr().out.startswith(f"run: {RUN}\n")
    assert not list(tmp_path.iterdir())


def test_a_runs_file_stays_in_its_folder(tmp_path):
    config.write_run(runs.get(RUN), tmp_path / "mine" / "run.json")
    config.write_run(runs.get(RUN), tmp_path / "mine" / "final" / "run.json")
    for name in ("run.json", "final/run.json"):
        assert train.read(str(tmp_path / "mine" / name)) == replace(runs.get(RUN), out=tmp_path / "mine")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("koala-70m-base",), "did you mean 'koala-700m-base'"),
        (("--data", "x"), "the run comes first"),
        (("none.json",), "not readable"),
        ((RUN,), "there is no --data"),
        ((RUN, "--data", "nowhere"), "is no cache"),
        ((RUN, "--data", "nowhere", "--on-the-fly"), "nowhere"),
        ((RUN, "--steps", 0), "--steps must be at least 1"),
        ((RUN, "--caption-dropout", 2), "--caption-dropout is a share"),
        ((RUN, "--teacher", ""), "nothing to inherit"),
        ((RUN, "--teacher", "tiny-sdm-v1.4", "--data", "x"), "cannot teach"),
        ((RUN, "--features", "XX", "--data", "x"), "XX"),
    ],
)
def test_mistakes_exit_with_two_and_write_nothing(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert koala("train", *arguments, *(("--device", "cpu") if "comes first" not in said else ())) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_folder_that_another_training_writes_stays_as_it_is(data, tmp_path, capsys):
    (tmp_path / "run.json").write_text("the other's")
    with records.Store(tmp_path / log.FILE):
        assert koala("train", RUN, "--data", data, *SHORT, "--out", tmp_path) == 2
    assert "another run is writing" in capsys.readouterr().err
    assert (tmp_path / "run.json").read_text() == "the other's"


def test_a_cache_that_does_not_fit_the_run_is_refused(data, tmp_path, capsys):
    other = ("--data", data, "--device", "cpu", "--out", tmp_path / "mine")
    assert koala("train", RUN, *other, "--resolution", 64) == 2
    assert "was encoded at 128 pixels" in capsys.readouterr().err
    assert koala("train", "tiny-bk-sdm-base", *other) == 2
    assert "text encoders" in capsys.readouterr().err
    assert koala("train", RUN, *other, "--teacher-weights", "hub") == 2
    assert "one of them is random" in capsys.readouterr().err
