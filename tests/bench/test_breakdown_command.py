"""`python -m bench breakdown` as people run it."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.commands import breakdown
from bench.commands.breakdown import Options, case_of
from bench.isolate import ForkServer, Outcome
from koala.harness.cli import Command, main
from koala.models import zoo

ROOT = Path(__file__).parents[2]
FILES = ["breakdown.csv", "breakdown.json", "breakdown.png", "breakdown.svg", "trace.json"]


def bench(*args):
    commands = {"breakdown": Command("bench.commands.breakdown", "where the time goes")}
    return main("bench", "", commands, (), ["breakdown", *map(str, args)])


def test_tables_come_on_stdout_and_files_in_a_folder_that_names_the_case(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert bench("tiny-koala-700m", "--resolution", 64, "--dtype", "fp32", "--device", "cpu", "--repeats", 3) == 0
    said = capsys.readouterr()
    assert said.out.startswith("**tiny-koala-700m: one U-Net call of 2 rows at 64 px, fp32, random weights, ")
    assert "| self-attention" in said.out
    assert "| VAE decoding" in said.out
    assert "files: runs/bench/breakdown/tiny-koala-700m-64-fp32/" in said.err
    folder = tmp_path / "runs/bench/breakdown/tiny-koala-700m-64-fp32"
    assert sorted(path.name for path in folder.iterdir()) == FILES
    kept = json.loads((folder / "breakdown.json").read_text())
    assert kept["case"]["model"] == "tiny-koala-700m"
    assert kept["environment"]["device_kind"] == "cpu"
    assert all(len(module["samples_s"]) == 3 for module in kept["modules"])
    frame = pd.read_csv(folder / "breakdown.csv")
    assert len(frame) == len(kept["cells"])
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["koala-70m"], "did you mean 'koala-700m'"),
        (["tiny-sdxl", "--device", "tpu"], "known: cpu, cuda, cuda:N"),
        (["tiny-sdxl", "--dtype", "fp8"], "unknown dtype 'fp8'"),
        (["tiny-sdxl", "--resolution", "100"], "multiples of 8"),
        (["tiny-sdxl", "--batch-size", "0"], "batch_size must be at least 1"),
        (["tiny-sdxl", "--repeats", "0"], "--repeats must be at least 1"),
        (["tiny-sdxl", "--dtype", "fp32", "--out", "/proc/nowhere"], "cannot write /proc/nowhere"),
        (["tiny-sdxl", "--dtype", "fp32", "--weights", "no-such-folder"], "no-such-folder"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    device = [] if "--device" in args else ["--device", "cpu"]
    assert bench(*args, *device) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert words in said.err
    assert said.out == ""


class FakeServer(ForkServer):
    """Answers every call with one outcome, and starts nothing."""

    def __init__(self, outcome):
        self.outcome = outcome

    def call(self, function, *args, on_message, **options):
        on_message({"doing": "loading the U-Net"})
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome({"status": "oom", "reason": "loading the U-Net: CUDA out of memory"}), "does not fit: loading the U-"),
        (Outcome(None, -9, killed_for_memory=True), "does not fit: killed by the kernel's out-of-memory killer"),
        (Outcome(None, 1, errors="Traceback ...\nRuntimeError: broken"), "failed: RuntimeError: broken"),
    ],
)
def test_what_does_not_fit_or_fails_is_one_line_and_exit_code_1(outcome, words, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(breakdown, "server_for", lambda device, console: FakeServer(outcome))
    assert bench("tiny-sdxl", "--dtype", "fp32", "--device", "cpu", "--out", tmp_path) == 1
    said = capsys.readouterr()
    assert f"tiny-sdxl unet 128px fp32 {words}" in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


def test_a_cpu_draws_smaller_than_a_gpu_unless_told():
    spec, twin = zoo.get("sdxl"), zoo.get("tiny-sdxl")
    assert case_of(spec, Options("sdxl"), "cuda", "fp16").resolution == 1024
    assert case_of(spec, Options("sdxl"), "cpu", "fp32").resolution == 256
    assert case_of(twin, Options("tiny-sdxl"), "cpu", "fp32").resolution == 128
    assert case_of(spec, Options("sdxl", resolution=512), "cpu", "fp32").resolution == 512


def test_the_command_imports_neither_torch_nor_pandas_before_it_runs():
    code = "import sys, bench.commands.breakdown; print({'torch', 'pandas', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
