import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala.distill import emoji_runs, runs
from koala.distill.config import INHERIT, Run, read_run, run_of, write_run
from koala.errors import KoalaError, UnknownName
from koala.models import zoo

EVERY = [*runs.names(), *(f"tiny-{name}" for name in runs.names())]
# Steps, images per step, learning rate, teacher, side: papers.md's tables of KOALA 2.4, BK-SDM 4.2, Segmind 4.4.
STATED = {
    "koala-1b-turbo": (500_000, 128, 1e-5, "sdxl-turbo", 512),
    "koala-700m-turbo": (500_000, 128, 1e-5, "sdxl-turbo", 512),
    "koala-1b-lightning": (500_000, 128, 1e-5, "sdxl-lightning-4step", 1024),
    "koala-700m-lightning": (500_000, 128, 1e-5, "sdxl-lightning-4step", 1024),
    "koala-1b-base": (100_000, 128, 1e-5, "sdxl", 1024),
    "koala-700m-base": (100_000, 128, 1e-5, "sdxl", 1024),
    "bk-sdm-base": (50_000, 256, 5e-5, "sdm-v1.4", 512),
    "bk-sdm-small": (50_000, 256, 5e-5, "sdm-v1.4", 512),
    "bk-sdm-tiny": (50_000, 256, 5e-5, "sdm-v1.4", 512),
    "bk-sdm-v2-base": (50_000, 128, 5e-5, "sdm-v2.1-base", 512),
    "bk-sdm-v2-small": (50_000, 128, 5e-5, "sdm-v2.1-base", 512),
    "bk-sdm-v2-tiny": (50_000, 128, 5e-5, "sdm-v2.1-base", 512),
    "bk-sdxl": (50_000, 128, 1e-5, "sdxl", 1024),
    "segmind-small-sd": (95_000, 128, 1e-4, "realistic-vision-v4.0", 512),
    "segmind-tiny-sd": (125_000, 128, 1e-4, "realistic-vision-v4.0", 512),
    "segmind-portrait-finetune": (131_000, 128, 1e-4, "", 768),
    "lora": (800, 0, 1e-4, "", 1024),
    # papers.md 5.2; where sources disagree, the larger number of steps. Of KOALA's students nothing is published.
    "dmd2-sdxl-4step": (20_000, 128, 5e-7, "sdxl", 1024),
    "dmd2-sdxl-1step-pretrain": (2_000, 256, 1e-5, "sdxl", 1024),
    "dmd2-sdxl-1step": (25_000, 128, 5e-7, "sdxl", 1024),
    "dmd2-sdxl-4step-lora": (16_000, 128, 5e-5, "sdxl", 1024),
    "dmd2-sd15-stage1": (40_000, 2048, 1e-5, "sdm-v1.5", 512),
    "dmd2-sd15-stage2": (5_000, 2048, 5e-7, "sdm-v1.5", 512),
    "dmd2-imagenet64": (200_000, 280, 2e-6, "edm-imagenet64", 64),
    "dmd2-imagenet64-stage1": (410_000, 280, 2e-6, "edm-imagenet64", 64),
    "dmd2-imagenet64-stage2": (150_000, 280, 5e-7, "edm-imagenet64", 64),
    "dmd2-koala-1b-4step": (20_000, 128, 5e-7, "sdxl", 1024),
    "dmd2-koala-1b-1step": (25_000, 128, 5e-7, "sdxl", 1024),
    "dmd2-koala-700m-4step": (20_000, 128, 5e-7, "sdxl", 1024),
    "dmd2-koala-700m-1step": (25_000, 128, 5e-7, "sdxl", 1024),
}


def test_every_run_has_the_values_that_its_sources_state():
    def values(run):
        side = run.resolution or zoo.get(run.student).resolution
        return run.steps, run.global_batch, run.learning_rate, run.teacher, side

    published = [name for name in runs.names() if name not in emoji_runs.RUNS]
    assert {name: values(runs.get(name)) for name in published} == STATED


def test_runs_of_few_steps_have_the_values_that_dmd2_states():
    # Timesteps, guidance, ratio of updates, weights of the GAN for generator and critic, as papers.md 5.2 has them.
    sdxl = (8.0, 5, 5e-3, 1e-2)
    stated = {
        "dmd2-sdxl-4step": ((999, 749, 499, 249), *sdxl),
        "dmd2-sdxl-4step-lora": ((999, 749, 499, 249), *sdxl),
        "dmd2-sdxl-1step": ((399,), *sdxl),
        "dmd2-sd15-stage1": ((999,), 1.75, 10, 0.0, 0.0),
        "dmd2-sd15-stage2": ((999,), 1.75, 10, 1e-3, 1e-2),
        "dmd2-imagenet64": ((999,), 1.0, 5, 3e-3, 1e-2),
        "dmd2-imagenet64-stage1": ((999,), 1.0, 5, 0.0, 0.0),
        "dmd2-imagenet64-stage2": ((999,), 1.0, 5, 3e-3, 1e-2),
    }
    for name, numbers in stated.items():
        run = runs.get(name)
        assert (run.timesteps, run.guidance, run.ratio, run.gan_weight, run.critic_gan_weight) == numbers
        assert (run.betas, run.weight_decay, run.clip_norm, run.warmup, run.seed) == ((0.9, 0.999), 1e-2, 10.0, 500, 10)
        assert (run.precision, run.ema_decay, run.schedule, run.simulate) == ("bf16", 0.0, "constant", True)
    for size in ("1b", "700m"):
        assert [runs.get(f"dmd2-koala-{size}-{n}step").timesteps for n in (4, 1)] == [(999, 749, 499, 249), (399,)]
    lora = runs.get("dmd2-sdxl-4step-lora")
    assert (lora.lora_rank, lora.lora_alpha) == (64, 8.0)


@pytest.mark.parametrize("name", runs.names())
def test_every_run_reaches_its_batch_on_one_process_and_on_several(name):
    run = runs.get(name)
    for processes in (1, 7 if "imagenet" in name else 4):  # as many as its authors had, or a part of them
        split = run.split(processes)
        assert split.batch_per_process * processes == (run.global_batch or processes * run.batch_size)


@pytest.mark.parametrize("name", EVERY)
def test_every_run_is_complete_and_cites_its_sources(name):
    run = runs.get(name)
    assert run.name == name
    assert run.notes
    assert run.teacher or run.student_weights != INHERIT
    for model in filter(None, (run.student, run.teacher, run.critic)):
        assert zoo.known(model)


@pytest.mark.parametrize("name", runs.names())
def test_what_is_not_verified_is_said(name):
    words = ("unverified", "disagree", "not stated", "left out", "not of any paper")
    assert any(word in note for note in runs.get(name).notes for word in words)


@pytest.mark.parametrize("name", runs.names())
def test_a_tiny_run_is_the_same_run_on_small_random_twins(name):
    run, tiny = runs.get(name), runs.get(f"tiny-{name}")
    assert (tiny.timesteps, tiny.critic) == (run.timesteps, run.critic and f"tiny-{run.critic}")
    assert (tiny.student, tiny.features, tiny.schedule) == (f"tiny-{run.student}", run.features, run.schedule)
    assert "hub" not in (tiny.student_weights, tiny.teacher_weights)
    assert (tiny.precision, tiny.global_batch) == ("fp32", 0)
    assert tiny.steps <= 20


@pytest.mark.parametrize("name", ["koala-700m", "tiny-tiny-lora", "koala-70m-base", ""])
def test_an_unknown_run_is_answered_with_the_known_ones(name):
    with pytest.raises(UnknownName, match=r"known: .*koala-700m-base.*tiny-lora"):
        runs.get(name)


@given(st.integers(1, 16), st.integers(1, 16), st.integers(0, 512))
def test_processes_either_make_up_the_global_batch_exactly_or_are_refused(processes, batch_size, global_batch):
    try:
        split = replace(runs.get("lora"), batch_size=batch_size, global_batch=global_batch).split(processes)
    except KoalaError:
        assert global_batch % (batch_size * processes)
    else:
        assert split.batch_per_process * processes == (global_batch or batch_size * processes)


def test_an_accumulation_that_contradicts_the_global_batch_is_refused():
    run = replace(runs.get("koala-700m-base"), accumulation=4)
    assert run.split(4).accumulation == 4
    with pytest.raises(KoalaError, match="contradicts --global-batch 128"):
        run.split(2)


@pytest.mark.parametrize("name", EVERY)
def test_a_run_is_read_back_as_it_was_written(name, tmp_path):
    run = replace(runs.get(name), out=Path("somewhere"), sample_prompts=("a cat", "ein Bär"))
    write_run(run, tmp_path / "run.json")
    assert read_run(tmp_path / "run.json") == run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not readable"),
        ("[]", "names no student"),
        ("{}", "names no student"),
        ('{"student": "koala-700m", "student_weights": "hub", "stepz": 3}', "does not know: stepz"),
        ('{"student": "koala-700m", "student_weights": "hub", "steps": "many"}', "another type"),
        ('{"student": "koala-700m", "student_weights": "hub", "steps": 0}', "at least 1"),
    ],
)
def test_a_file_that_is_no_run_is_a_clear_error(text, said, tmp_path):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(KoalaError, match=said):
        read_run(tmp_path / "run.json")


def test_a_run_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(KoalaError, match="not readable"):
        read_run(tmp_path / "none.json")


def test_every_field_of_a_run_survives_json():
    values = {field.name: getattr(runs.get("lora"), field.name) for field in fields(Run)}
    assert run_of(values, "here") == runs.get("lora")


def test_runs_need_no_torch():
    code = "import sys, koala.distill.runs as r; [r.get(n) for n in r.names()]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
