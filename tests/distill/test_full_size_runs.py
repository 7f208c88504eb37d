"""Every named run takes one step with its real networks, where KOALA_FULLSIZE=1.

One image, encoded and trained on by the commands that a user gives; all weights are random. Without a GPU with
gradient checkpointing, in bf16 where the processor multiplies it and in fp32 elsewhere, which would take a day in bf16.
A run that wants more memory than there is, swap included, is skipped.
"""

import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import captioned
import psutil
import pytest
import torch
from safetensors import safe_open

from koala.distill import emoji_runs, runs
from koala.distill.config import INHERIT, Run
from koala.distill.log import FILE, read
from koala.distill.plan import Plan, plan
from koala.harness.environment import cpu_isa
from koala.models.networks import count_params, meta_networks
from koala.models.spec import ClassLabels

ROOT = Path(__file__).parents[2]
ACTIVATIONS = 3 * 2**30  # bytes, of one image at 1024 px
GATED = pytest.mark.skipif(os.environ.get("KOALA_FULLSIZE") != "1", reason="an hour: set KOALA_FULLSIZE=1")
LARGE = [name for name in runs.names() if name not in emoji_runs.RUNS]  # the others: test_emoji_runs.py
FEW_STEPS = [name for name in LARGE if runs.get(name).timesteps]
SEEN = ("dmd2-sd15-stage1", "dmd2-sd15-stage2", "dmd2-koala-700m-4step")  # machines have had the memory for these alone
ON_GPU = torch.cuda.is_available()


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Encoded pictures by text encoders, latent space and side; made when they are asked for."""
    folder, made = tmp_path_factory.mktemp("full-size"), {}
    captioned.folder(folder / "photos", 1, 1024)
    captioned.folder(folder / "classes", 1, 1024)
    captioned.write_rows(folder / "classes/metadata.jsonl", [{"file_name": "images/0000.png", "text": "0"}])

    def cache(planned: Plan) -> Path:
        spec = planned.models.student
        key = (spec.conditioning, spec.autoencoder, spec.resolution)
        if key not in made:
            made[key] = folder / f"cache-{len(made)}"
            options = ("--resolution", spec.resolution, "--weights", "random")
            photos = folder / ("classes" if isinstance(spec.conditioning, ClassLabels) else "photos")
            koala("encode", photos, "--model", spec.name, "--out", made[key], *options)
        return made[key]

    return cache


def koala(*arguments: object) -> None:
    """Run the command, and see it succeed."""
    line = [sys.executable, "-m", "koala", *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def shortened(run: Run) -> Run:
    """The run as it is trained here: everything in which it differs from the published one."""
    trained = run.student_weights if run.student_weights == INHERIT else "random"
    return replace(
        run,
        student_weights=trained,
        teacher_weights="random",
        steps=1,
        batch_size=1,
        global_batch=1,
        precision=run.precision if ON_GPU else "bf16" if "bf16" in cpu_isa() else "fp32",
        gradient_checkpointing=run.gradient_checkpointing or not ON_GPU,
        tracker="none",
    )


def options(run: Run, published: Run) -> list[str]:
    """What turns the one into the other, as a user writes it."""
    changed = {key: value for key, value in vars(run).items() if value != getattr(published, key)}
    flags = {key: value for key, value in changed.items() if isinstance(value, bool)}
    given = [("--" if value else "--no-") + key.replace("_", "-") for key, value in flags.items()]
    pairs = [("--" + key.replace("_", "-"), str(value)) for key, value in changed.items() if key not in flags]
    return [*given, *(part for pair in pairs for part in pair)]


@GATED
@pytest.mark.fullsize
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name in LARGE if name not in FEW_STEPS])
@pytest.mark.proves("run", param="name", weights="random", remark="one step of one image")
def test_one_step_of_every_run_with_its_real_networks(name, caches, tmp_path):
    take_a_step(name, caches, tmp_path)


@GATED
@pytest.mark.fullsize
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", SEEN)
@pytest.mark.proves("run", param="name", weights="random", remark="one step of one image")
def test_one_step_of_runs_of_dmd2_with_their_real_networks(name, caches, tmp_path):
    take_a_step(name, caches, tmp_path)


@GATED
@pytest.mark.fullsize
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name in FEW_STEPS if runs.get(name).follows and name not in SEEN])
def test_one_step_of_the_other_runs_of_dmd2_with_their_real_networks(name, caches, tmp_path):
    take_a_step(name, caches, tmp_path)  # it proves nothing yet


def take_a_step(name, caches, tmp_path):
    published = runs.get(name)
    run = shortened(published)
    planned = plan(run)
    wanted = sum(planned.memory_bytes.values()) + ACTIVATIONS
    there = psutil.virtual_memory().available + psutil.swap_memory().free
    if ON_GPU:
        there = torch.cuda.get_device_properties(0).total_memory
    if wanted > there:
        pytest.skip(f"{name} wants {wanted / 2**30:.1f} GiB, here are {there / 2**30:.1f}")
    run = replace(run, data=str(caches(planned)), out=tmp_path / "out")
    try:
        koala("train", name, *options(run, published))
        (row,) = read(run.folder / FILE)
        print(f"\n{name}: {planned.models.student.resolution} px, {row['step_s']:.0f} s, {row['losses']}")
        peak = row["memory_bytes"].get("peak_allocated") or row["memory_bytes"]["rss_peak"]
        print(f"peak {peak / 2**30:.1f} GiB, planned {wanted / 2**30:.1f}")
        check(run, planned, row)
    finally:
        shutil.rmtree(tmp_path)  # tens of gigabytes


def check(run: Run, planned: Plan, row: dict) -> None:
    """The step was one of this run, and what it left is whole."""
    losses = row["losses"]["unet"]
    assert all(math.isfinite(value) for part in row["losses"].values() for value in part.values())
    assert losses["total"] > 0
    if run.timesteps:
        assert {"matching", "gradient", "brightness", "variance"} <= losses.keys()
        assert ("gan" in losses) == bool(run.gan_weight)
        assert "task" in row["losses"]["critic"] and row["gradient_norm"]["critic"] > 0
    else:
        assert losses["task"] > 0
        assert bool(run.teacher) == ("output" in losses) and bool(run.features) == ("feature" in losses)
    assert row["gradient_norm"]["unet"] > 0 and row["skipped"] == 0
    if run.lora_rank:
        assert stored(run.folder / "final/pytorch_lora_weights.safetensors") == planned.trained_params
        return
    student = meta_networks(planned.models.student, ("unet",))["unet"]
    folder = run.folder / "final/unet"
    shards = list((folder if folder.is_dir() else folder.parent).glob("*.safetensors"))
    assert sum(map(stored, shards)) == count_params(student) == planned.trained_params


def stored(path: Path) -> int:
    """Numbers in a file of tensors."""
    with safe_open(path, "pt") as tensors:
        return sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
