"""Scores on a GPU equal those on the CPU."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from eval.commands import score as command
from koala.harness import records

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
METRICS = ("brightness", "kd_effnet_lite0", "fd_effnet_lite0")


def images(folder, seed):
    folder.mkdir()
    random = np.random.default_rng(seed)
    for i in range(12):
        small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        small.resize((200 + 8 * (i % 2), 200), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
    return folder


def scores(options):
    assert command.run(options) == 0
    rows = records.read([options.out / "rows.jsonl"]).of_kind("eval").rows
    of_sets = {row["metric"]: row["value"] for row in rows if row["level"] == "set"}
    of_images = {(row["file"], id): x for row in rows if row["level"] == "image" for id, x in row["scores"].items()}
    return {**of_sets, **of_images}


def test_scores_on_the_gpu_equal_those_on_the_cpu(tmp_path, monkeypatch):
    ours, real = images(tmp_path / "ours", 0), images(tmp_path / "real", 1)
    found = {}
    for device in ("cpu", "cuda"):
        monkeypatch.setenv("KOALA_CACHE", str(tmp_path / f"cache-{device}"))
        options = command.Options(paths=(ours,), metrics=METRICS, reference=real, workers=0, device=device)
        found[device] = scores(replace(options, out=tmp_path / device))
    assert found["cuda"].keys() == found["cpu"].keys()
    for key, value in found["cpu"].items():
        assert found["cuda"][key] == pytest.approx(value, rel=5e-3, abs=1e-4)
