"""Sweeps that go beyond the zoo on this device: smaller cards, black boxes, several processes."""

import shutil
import sys

from box_folders import save
from command_lines import SMOKE, bench_here, statuses

from koala.harness import records


def test_a_smaller_card_and_a_pipeline_as_a_black_box_stand_beside_the_zoo(tmp_path):
    folder = save("pixart", tmp_path / "own-pixart")
    tiny = ["--resolutions", "64", "--dtypes", "fp32", "--steps", "2", "--repeats", "2", "--budget", "0"]
    beside = ["--device", "cpu", "--pipeline", folder, "--models", "tiny-koala-700m", "--profiles", "eager,low-vram"]
    done = bench_here("sweep", "smoke", *beside, *tiny, "--targets", "pipeline", "--vram", "none,20MB", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = records.read([tmp_path / "runs/bench/rows.jsonl"]).rows
    box, eager = rows[:2], rows[2:]
    assert [row["status"] for row in box] == ["ok", "oom"]
    assert [(row["case"]["profile"], row["status"]) for row in eager] == [
        *(("eager", "ok"), ("eager", "oom"), ("low-vram", "ok"), ("low-vram", "oom"))
    ] or sys.platform != "linux"
    assert box[0]["case"]["model"].startswith("own-pixart@")
    assert (box[0]["class_name"], box[0]["unet_calls"]) == ("PixArtAlphaPipeline", 4)
    assert box[0]["flops"] > 0
    assert "own-pixart@" in done.stdout
    assert "tiny-koala-700m pipeline 64 px fp32 in" in done.stdout
    assert "eager is out of memory; so is low-vram" in done.stdout


def test_processes_are_joined_in_the_table_and_compared_with_another_run(tmp_path):
    args = [*SMOKE, "--models", "tiny-koala-700m", "--targets", "unet", "--processes", "2"]
    done = bench_here(*args, "--out", "a.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path / "a.jsonl") == ["ok"] * 2
    shutil.copy(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert done.stdout.count("| tiny-koala-700m") == 1
    assert "with Student's interval over the processes" in done.stdout
    again = bench_here(*args, "--out", "b.jsonl", cwd=tmp_path)
    assert "2 of 2 processes are measured already" in again.stderr
    compared = bench_here("compare", "a.jsonl", "b.jsonl", cwd=tmp_path)
    assert compared.returncode == 0, compared.stderr
    assert "tiny-koala-700m unet 64" in compared.stdout
