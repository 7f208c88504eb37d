"""Images a second of a DMD2 iteration by the way its networks lie on the GPUs: whole, replicated or sharded.

pytest tests/perf/test_sharding_speed.py --benchmark-only -s

On GPUs a KOALA-700M that learns to draw in four steps, at 1024 px with random weights; elsewhere its twin in one
and two processes of a CPU, which shows that they run and no speed that would interest anybody.
"""

import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
import torch

sys.path += [str(Path(__file__).parents[1] / "distill")]

import captioned

from koala.distill import log

ROOT = Path(__file__).parents[2]
FSDP = ROOT / "koala/distill/fsdp.yaml"
RUN, MODEL = "dmd2-koala-700m-4step", "koala-700m"
ON_GPU = torch.cuda.is_available()
PROCESSES = torch.cuda.device_count() if ON_GPU else 2
RATIO = 5  # of the run: an iteration is one update of the generator and five of the critic


def modes(device: str) -> dict[str, list[str]]:
    """What launches a command in one process, in several with whole networks, and in several with shards."""
    found = {"one process": [sys.executable]}
    if PROCESSES > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
        found["replicated"] = torchrun
    if device != "cpu":  # accelerate shards on GPUs alone; test_trainer_processes.py shards a toy on a CPU
        launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(PROCESSES)]
        found["sharded"] = [*launch, "--config_file", str(FSDP)]
    return found


def measured(launcher: list[str], run: str, data: Path, out: Path, *options: object) -> dict[str, float]:
    """Images a second over whole iterations but the first, and the peak of one process."""
    words = ["-m", "koala", "train", run, "--data", data, "--out", out, "--log-every", 1, *options]
    done = subprocess.run([*launcher, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = log.read(out / log.FILE)
    iterations = [rows[start : start + RATIO] for start in range(RATIO, len(rows), RATIO)]
    seconds = median(sum(row["step_s"] for row in steps) for steps in iterations)
    images = rows[0]["images"] * RATIO
    memory = rows[-1]["memory_bytes"]
    return {"images_per_s": images / seconds, "peak": memory.get("peak_allocated") or memory["rss_peak"]}


def compared(prefix: str, side: int, device: str, folder: Path, benchmark, *options: object) -> None:
    """Print every mode beside one process."""
    captioned.folder(folder / "photos", 8, side)
    line = [sys.executable, "-m", "koala", "encode", folder / "photos", "--model", prefix + MODEL]
    encode = [*line, "--out", folder / "cache", "--weights", "random", "--resolution", side]
    subprocess.run(list(map(str, encode)), cwd=ROOT, check=True, capture_output=True)
    found = {}
    for name, launcher in modes(device).items():
        run = (prefix + RUN, folder / "cache", folder / name.replace(" ", "-"))
        found[name] = measured(launcher, *run, *options, "--resolution", side, "--device", device)
        speed, peak = found[name].values()
        over = speed / found["one process"]["images_per_s"]
        n = 1 if name == "one process" else PROCESSES
        print(f"\n{name} ({n}): {speed:.3f} images/s, {over:.2f} of one process, peak {peak / 2**30:.2f} GiB each")
    benchmark.extra_info.update(found)
    benchmark.pedantic(lambda: None, rounds=1)


def short(iterations: int) -> list[object]:
    """Options of a run that is only measured."""
    weights = ["--student-weights", "random", "--teacher-weights", "random"]
    length = ["--steps", RATIO * iterations, "--batch-size", 1, "--global-batch", 0]
    return [*weights, *length, "--save-every", 10**9, "--tracker", "none"]


@pytest.mark.gpu
@pytest.mark.fullsize
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not ON_GPU, reason="no GPU")
def test_images_a_second_of_koala_700m_in_four_steps_by_sharding_mode(tmp_path, benchmark):
    compared("", 1024, "auto", tmp_path, benchmark, *short(4))


@pytest.mark.skipif(ON_GPU, reason="its own test is on GPUs")
@pytest.mark.timeout(900)
def test_a_small_twin_trains_in_one_process_and_in_two(tmp_path, benchmark):
    compared("tiny-", 64, "cpu", tmp_path, benchmark, *short(2), "--precision", "fp32")
