"""Scoring with several metrics against the bare forwards of their networks, and its memory; random weights.

pytest tests/perf/test_score_speed.py --benchmark-only -s
"""

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest
import torch
from PIL import Image
from rich.console import Console

from eval.extractor import Extractor, TextExtractor
from eval.networks import Networks
from eval.progress import ScoreProgress
from eval.reference import Reference
from eval.session import Job, score
from eval.sources import read_sets
from eval.weights import Weights

sys.path.append(str(Path(__file__).parents[1] / "eval"))

from clip_files import random_file
from random_networks import SLOPES, pictures, write_inception, write_vgg16

METRICS = ("fid:clean", "kid:clean", "precision:tf", "recall:tf", "clip_score:mlperf")
CLIP = "clip:ViT-B-32/openai"
IMAGES, SIDE, BATCH, ROUNDS = 48, 512, 32, 3


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("weights")
    return {
        "inception-v3-fid": write_inception(folder / "inception.pth"),
        "vgg16": write_vgg16(folder / "vgg16.pth"),
        "clip/ViT-B-32/openai": random_file("ViT-B-32", folder / "open_clip_model.safetensors"),
    }


def write_images(folder: Path, kind: str, n: int, side: int) -> Path:
    """A folder of PNG files, each with a caption of its own."""
    folder.mkdir(parents=True)
    drawn = pictures(kind, min(n, IMAGES))
    large = torch.nn.functional.interpolate(drawn, (side, side), mode="bilinear", antialias=True)
    for i in range(n):
        pixels = large[i % len(large)].roll(i, dims=1)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{i:04}.png")
    lines = [f"{i:04}.png,a picture of {i} discs on a ground of noise" for i in range(n)]
    (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(lines) + "\n")
    return folder


def bare(networks: Networks) -> float:
    """Seconds of the forwards alone: every network on every image, on batches that are ready, and every caption."""
    sides = {"inception": (299, 2 * IMAGES), "vgg16": (224, 2 * IMAGES), CLIP: (224, IMAGES)}
    start = time.perf_counter()
    with torch.inference_mode():
        for name, (side, n) in sides.items():
            network = networks.extractor(name)
            assert isinstance(network, Extractor)
            for first in range(0, n, BATCH):
                network.features(torch.zeros(min(BATCH, n - first), 3, side, side))
        text = networks.extractor(CLIP)
        assert isinstance(text, TextExtractor)
        text.texts([f"a picture of {i} discs on a ground of noise" for i in range(IMAGES)])
    return time.perf_counter() - start


def whole(networks: Networks, ours: Path, real: Path, out: Path, workers: int) -> float:
    """Seconds from files to rows; the networks are loaded."""
    start = time.perf_counter()
    job = Job(read_sets(ours), METRICS, Reference(real), out, networks, BATCH, workers)
    with ScoreProgress(Console(stderr=True)) as progress:
        assert score(job, progress) == []
    return time.perf_counter() - start


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.timeout(1800)
def test_several_metrics_together_cost_little_beside_their_forwards(workers, files, tmp_path, monkeypatch, benchmark):
    kinds = list(SLOPES)
    ours = write_images(tmp_path / "ours", kinds[0], IMAGES, SIDE)
    real = write_images(tmp_path / "real", kinds[1], IMAGES, SIDE)
    loaded = Networks(Weights(files), torch.device("cpu"))
    times: dict[str, list[float]] = {"bare": [], "whole": []}
    for round_ in range(ROUNDS + 1):
        monkeypatch.setenv("KOALA_CACHE", str(tmp_path / f"cache-{round_}"))
        fresh = Networks(loaded.weights, loaded.device)
        fresh._loaded = loaded._loaded  # no network is loaded twice, and no caption is known
        times["bare"].append(bare(fresh))
        times["whole"].append(whole(fresh, ours, real, tmp_path / f"out-{round_}", workers))
    forwards, everything = (median(times[name][1:]) for name in ("bare", "whole"))  # the first round warms up
    benchmark.extra_info.update(bare_s=times["bare"], whole_s=times["whole"])
    print(
        f"\n{', '.join(METRICS)} of {IMAGES} + {IMAGES} images of {SIDE} px, {workers} decoding processes: "
        f"{everything:.1f} s, bare forwards {forwards:.1f} s, ratio of medians {everything / forwards:.2f}"
    )
    benchmark.pedantic(lambda: None, rounds=1)
    assert everything <= 1.25 * forwards


_PEAK = """
import sys
from eval.__main__ import COMMANDS
from koala.harness.cli import main
from koala.harness.memory import RssMeter
meter = RssMeter()
meter.start()  # a process begins with the high-water mark of the one that started it
main("eval", "", COMMANDS, (), sys.argv[1:])
print("peak", meter.read()["rss_peak"], file=sys.stderr)
"""


@pytest.mark.timeout(1800)
def test_the_memory_of_fid_does_not_grow_with_the_number_of_images(files, tmp_path, monkeypatch, benchmark):
    monkeypatch.setenv("KOALA_CACHE", str(tmp_path / "cache"))
    real = write_images(tmp_path / "real", next(iter(SLOPES)), 64, 64)
    peaks = {}
    for n in (64, 640):
        folder = write_images(tmp_path / str(n), list(SLOPES)[1], n, 64)
        line = [sys.executable, "-c", _PEAK, "score", str(folder), "--reference", str(real), "--metrics", "fid:clean"]
        line += ["--weights", f"inception-v3-fid={files['inception-v3-fid']}", "--out", str(tmp_path / f"out-{n}")]
        done = subprocess.run([*line, "--workers", "0"], capture_output=True, text=True, check=True)
        peaks[n] = int(done.stderr.rpartition("peak ")[2])
    features_bytes = (640 - 64) * 2048 * 4
    print(
        f"\npeak RSS of FID: {peaks[64] / 2**20:.0f} MiB for 64 images, {peaks[640] / 2**20:.0f} MiB for 640 "
        f"(the features of the other 576: {features_bytes / 2**20:.1f} MiB)"
    )
    benchmark.extra_info.update(peaks)
    benchmark.pedantic(lambda: None, rounds=1)
    assert peaks[640] - peaks[64] < 64 * 2**20
