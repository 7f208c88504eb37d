"""Distillation on a GPU: its losses are the CPU's, and KOALA-700M learns from SDXL at full size."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "distill"))

import captioned

from koala.distill.batch import Batch
from koala.distill.kd import Distillation
from koala.distill.runs import get
from koala.models import zoo
from koala.models.conditioning import random_condition, size_ids
from koala.models.load import load

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
CPU = torch.device("cpu")


def random_batch(spec, n: int, side: int) -> Batch:
    torch.manual_seed(0)
    return Batch(
        torch.randn(n, spec.unet.sample_channels, side, side),
        random_condition(spec, n, torch.float32, CPU),
        size_ids((side * 8, side * 8), None, (0, 0), n),
        tuple(range(n)),
        tuple(map(str, range(n))),
        ("",) * n,
    )


def distillation(student, teacher, device, teacher_dtype="fp32"):
    own = load(student, device, "fp32", parts=("unet",), seed=1).unet
    theirs = load(teacher, device, teacher_dtype, parts=("unet",)).unet
    return Distillation(student, own, teacher, theirs, ("SA", "LF@DW-1", "LF@UP-3"))


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-koala-1b"])
def test_losses_and_gradients_on_the_gpu_are_those_of_the_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    student, teacher = zoo.get(name), zoo.get("tiny-sdxl")
    found = {}
    for device in ("cpu", "cuda"):
        objective = distillation(student, teacher, device)
        terms = objective.terms("unet", random_batch(student, 2, 16).to(torch.device(device), torch.float32))
        terms.total.backward()
        gradient = next(objective.trained["unet"].parameters()).grad
        found[device] = [*terms.parts.values(), gradient.norm()]
    for on_gpu, on_cpu in zip(found["cuda"], found["cpu"], strict=True):
        assert on_gpu.item() == pytest.approx(on_cpu.item(), rel=1e-3)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_koala_700m_learns_from_sdxl_at_1024_px(checkpointing):
    student, teacher = zoo.get("koala-700m"), zoo.get("sdxl")
    objective = distillation(student, teacher, "cuda", "bf16")
    unet = objective.trained["unet"]
    if checkpointing:
        unet.enable_gradient_checkpointing()
    optimizer = torch.optim.AdamW(unet.parameters(), 1e-5, fused=True)
    batch = random_batch(student, 2, 128).to(torch.device("cuda"), torch.float32)
    losses = []
    for _ in range(6):
        with torch.autocast("cuda", torch.bfloat16):
            terms = objective.terms("unet", batch)
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(terms.total.item())
    assert losses[-1] < losses[0]


@pytest.mark.timeout(580)
def test_a_run_trains_resumes_and_ends_on_the_gpu(tmp_path):
    images = captioned.folder(tmp_path / "images", 8, side=160)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def koala(*words: object) -> str:
        line = [sys.executable, "-m", "koala", *map(str, words)]
        return subprocess.run(line, check=True, capture_output=True, text=True, env=environment).stdout

    cache, out = tmp_path / "cache", tmp_path / "run"
    koala("encode", images, "--model", "tiny-koala-700m", "--weights", "random", "--out", cache)
    run = replace(get("tiny-koala-700m-base"), steps=4, precision="bf16")
    line = ("train", "tiny-koala-700m-base", "--data", cache, "--out", out, "--precision", run.precision)
    koala(*line, "--steps", 2)
    assert koala(*line, "--steps", 4).strip().endswith("final")
    rows = [json.loads(text) for text in (out / "log.jsonl").read_text().splitlines()]
    assert max(row["step"] for row in rows if row["kind"] == "train") == run.steps
