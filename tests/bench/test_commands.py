"""The command lines as people run them: real processes, real interrupts and kills."""

import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from command_lines import OURS, ROOT, SMOKE, bench, bench_here, started, statuses, wait_for_rows

from koala.harness import records


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    return folder, bench(*SMOKE, cwd=folder)


def test_a_sweep_prints_one_table_and_writes_rows_csv_and_markdown(swept):
    folder, done = swept
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| tiny-sdxl") == 3 + 2  # images stand in the table of their parts too
    assert "Weights are random" in done.stdout
    assert "[6/6]" in done.stderr
    assert sorted(p.name for p in (folder / "runs/bench").iterdir()) == ["rows.csv", "rows.jsonl", "rows.md"]


def test_starting_again_measures_nothing_and_prints_the_same_table(swept):
    folder, first = swept
    again = bench_here(*SMOKE, cwd=folder)
    assert again.returncode == 0
    assert "6 of 6 cases are measured already" in again.stderr
    assert again.stdout == first.stdout
    assert len(statuses(folder / "runs/bench/rows.jsonl")) == 6


def test_a_wider_sweep_measures_only_what_is_missing(swept):
    folder, _ = swept
    wider = bench_here(*SMOKE, "--batch-sizes", "1,2", "--targets", "unet", cwd=folder)
    assert "2 of 4 cases are measured already" in wider.stderr
    assert len(statuses(folder / "runs/bench/rows.jsonl")) == 8


def test_fresh_keeps_the_old_rows_under_another_name(swept, tmp_path):
    folder, _ = swept
    out = tmp_path / "rows.jsonl"
    out.write_bytes((folder / "runs/bench/rows.jsonl").read_bytes())
    done = bench_here(*SMOKE, "--targets", "unet", "--fresh", "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert statuses(out) == ["ok"] * 2
    (aside,) = (p for p in tmp_path.glob("rows.*.jsonl"))
    assert aside.name in done.stderr
    assert aside.read_bytes() == (folder / "runs/bench/rows.jsonl").read_bytes()


def test_a_dry_run_lists_cases_with_rough_memory_and_time_and_measures_nothing(tmp_path):
    done = bench_here(*SMOKE, "--models", "tiny-sdm-v1.4", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| to do") == 3
    assert "about [GiB]" in done.stdout
    assert "3 cases, 0 measured already" in done.stdout
    assert not list(tmp_path.iterdir())


def test_ctrl_c_says_that_the_sweep_can_go_on_and_it_does(tmp_path):
    out = tmp_path / "rows.jsonl"
    process = started(*OURS, "--out", out, cwd=tmp_path)
    wait_for_rows(out, 1)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    kept = len(statuses(out))
    assert 1 <= kept < 4
    again = bench(*OURS, "--out", out, cwd=tmp_path)
    assert again.returncode == 0
    assert f"{kept} of 4 cases are measured already" in again.stderr
    assert statuses(out) == ["ok"] * 4


def test_sigkill_at_random_moments_loses_no_row_and_doubles_none(tmp_path):
    out = tmp_path / "rows.jsonl"
    for seed in range(2):
        process = started(*OURS, "--out", out, cwd=tmp_path)
        before = len(statuses(out))
        if before < 4:
            wait_for_rows(out, before + 1)
        time.sleep(random.Random(seed).uniform(0, 0.5))
        process.kill()
        process.communicate(timeout=30)
        assert len(statuses(out)) >= min(before + 1, 4)
    done = bench(*OURS, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cases = [json.dumps(row["case"], sort_keys=True) for row in records.read([out]).rows]
    assert len(cases) == len(set(cases)) == 4


def test_a_torn_last_line_is_reported_and_its_case_measured_again(swept, tmp_path):
    folder, _ = swept
    whole = (folder / "runs/bench/rows.jsonl").read_bytes().splitlines(keepends=True)
    out = tmp_path / "rows.jsonl"
    out.write_bytes(b"".join(whole[:4]) + whole[4][:-20])  # an environment, three rows and a torn fourth
    done = bench_here(*SMOKE, "--out", out, cwd=tmp_path)
    assert done.returncode == 0
    assert "line 5: not a whole row, skipped" in done.stderr
    assert "3 of 6 cases are measured already" in done.stderr
    assert statuses(out) == ["ok"] * 6


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["sweep", "papers"], "unknown sweep 'papers' (did you mean 'paper'?)"),
        (["sweep", "--models", "koala-70m"], "did you mean 'koala-700m'"),
        (["sweep", "smoke", "--profiles", "compile"], "did you mean 'compiled'"),
        (["sweep", "smoke", "--profiles", "int8+fp8"], "do not go together"),
        (["sweep", "smoke", "--profiles", "diffusers-eager", "--targets", "unet"], "add --targets pipeline"),
        (["sweep", "smoke", "--resolutions", "100"], "multiples of 8"),
        (["sweep", "smoke", "--resolutions", "big"], "cannot read 'big'"),
        (["sweep", "smoke", "--repeats", "0"], "--repeats must be at least 1"),
        (["sweep", "smoke", "--device", "tpu"], "known: cpu, cuda, cuda:N"),
        (["sweep", "smoke", "--device", "cuda:99"], "there is no cuda:99 here"),
        (["sweep", "smoke", "--out", "/proc/nowhere/rows.jsonl"], "cannot write /proc/nowhere/rows.jsonl"),
        (["sweep", "smoke", "--out", "rows.csv"], "must name a .jsonl file"),
        (["sweep", "smoke", "--vram", "8 bananas"], "'8 bananas' is no number of bytes such as 8GiB"),
        (["sweep", "smoke", "--processes", "0"], "--processes must be at least 1"),
        (["sweep", "smoke", "--timeout", "0"], "--timeout must be more than 0 seconds"),
        (["sweep", "smoke", "--vram", "8"], "'8' is no number of bytes such as 8GiB"),
        (["sweep", "--pipeline", "own", "--profiles", "compiled"], "--profiles and --targets need --models"),
        (["sweep", "--pipeline", "no/such-folder/here"], "no/such-folder/here"),
        (["breakdown", "koala-70m"], "did you mean 'koala-700m'"),
        (["compare", "a.jsonl", "b.jsonl"], "cannot read a.jsonl"),
        (["swep"], "did you mean 'sweep'"),
        (["table"], "run `python -m bench sweep`"),
        (["table", "no-such.jsonl"], "cannot read no-such.jsonl"),
        (["publish", "no-such.jsonl"], "cannot read no-such.jsonl"),
    ],
)
def test_a_users_mistake_is_one_clear_line_and_exit_code_2(args, words, tmp_path):
    done = bench_here(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_profile_that_cannot_work_here_is_an_answer_and_asked_again_for_it_may_work_later(tmp_path):
    small = ["sweep", "smoke", "--device", "cpu", "--models", "tiny-koala-700m", "--targets", "pipeline", "--repeats"]
    args = [*small, "2", "--resolutions", "64", "--budget", "0", "--profiles", "eager,diffusers-eager,tiny-vae,fp8"]
    done = bench_here(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert statuses(tmp_path / "runs/bench/rows.jsonl") == ["ok", "ok", "ok", "unsupported"]
    assert "not possible: the profile fp8 cannot work here" in done.stderr
    assert "not possible |" in done.stdout
    assert "- tiny-koala-700m pipeline: the profile fp8 cannot work here: fp8 matrix products need" in done.stdout
    again = bench_here(*args, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "3 of 4 cases are measured already" in again.stderr


def test_a_failed_case_makes_exit_code_1(tmp_path):
    done = bench_here(*SMOKE, "--targets", "unet", "--timeout", "0.01", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stdout.count("timed out") == 2
    assert statuses(tmp_path / "runs/bench/rows.jsonl") == ["timeout"] * 2


def test_table_prints_csv_and_json_that_machines_read(swept):
    folder, _ = swept
    csv = bench_here("table", "--format", "csv", cwd=folder)
    frame = pd.read_csv(io.StringIO(csv.stdout))
    lines = json.loads(bench_here("table", "--format", "json", cwd=folder).stdout)
    assert list(frame["model"]) == [line["model"] for line in lines]
    samples = [row["samples_s"]["total"] for row in records.read([folder / "runs/bench/rows.jsonl"]).rows]
    medians = sorted(sum(pair) / 2 for pair in samples)
    assert sorted(frame["latency_s"]) == pytest.approx(medians, rel=1e-12)


def test_twins_are_not_published(swept, tmp_path):
    folder, _ = swept
    done = bench_here("publish", "--results", tmp_path, cwd=folder)
    assert done.returncode == 2
    assert "no finished rows of full-size models" in done.stderr
    assert not list(tmp_path.iterdir())


def children_cpu_s() -> float:
    """Processor time of all ended children: what they cost, however busy the machine is."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_help_of_every_command_shows_examples_quickly():
    for command in ("sweep", "table", "compare", "breakdown", "roofline", "pareto", "check", "publish"):
        start = children_cpu_s()
        done = bench(command, "--help", cwd=ROOT)
        assert children_cpu_s() - start < 2
        assert f"python -m bench {command}" in done.stdout.replace("\n", " ")
        assert "examples:" in done.stdout


CGROUP = Path("/sys/fs/cgroup/memory/koala-bench-test")


@pytest.fixture
def small_memory():
    """A control group (v1) of 1.2 GiB that this process may move others into."""
    try:
        CGROUP.mkdir()
        (CGROUP / "memory.limit_in_bytes").write_text(str(1200 * 2**20))
        (CGROUP / "memory.swappiness").write_text("0")  # or it would be swapped out where there is room
    except OSError:
        pytest.skip("no writable memory control group here")
    yield CGROUP / "cgroup.procs"
    time.sleep(0.5)
    CGROUP.rmdir()


def test_the_kernels_own_out_of_memory_killer_costs_one_row(small_memory, tmp_path):
    args = ["sweep", "cpu", "--models", "koala-700m,tiny-koala-700m", "--resolutions", "64", "--dtypes", "fp32"]
    command = f"echo $$ > {small_memory} && exec {sys.executable} -m bench {' '.join(args)}"
    done = subprocess.run(
        ["sh", "-c", command],
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "killed by the kernel's out-of-memory killer" in done.stderr
    assert statuses(tmp_path / "runs/bench/rows.jsonl") == ["oom", "ok"]
