"""`pytest-benchmark compare` and `bench compare` on the same two runs, and their gates: real processes, real clocks."""

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from statistics import median

import pytest
from bench_rows import GPU, SDXL

from bench.commands import compare
from bench.commands.compare import read_side
from koala.harness import records
from koala.harness.cli import parsed

FACTOR = 1.5
BENCHMARK = """
import json, os, time
import pytest

FACTOR, CASES = float(os.environ["FACTOR"]), json.loads(os.environ["CASES"])

@pytest.mark.parametrize("name", CASES)
def test_sleep(benchmark, name):
    factor = FACTOR if name == "slower" else 1 / FACTOR
    benchmark.pedantic(time.sleep, args=(0.02 * factor,), rounds=9, warmup_rounds=1)
    benchmark.extra_info |= CASES[name]
"""


def extra_info(model):
    case = asdict(SDXL) | {"model": model}
    known = {"memory_bytes": {}, "params": 1, "threads": 1, "environment": GPU}
    return {"schema": records.SCHEMA, "case": case, **known}


def pytest_run(folder, factor, *options):
    cases = {"slower": extra_info("sdxl"), "faster": extra_info("koala-700m")}
    (folder / "test_sleep.py").write_text(BENCHMARK)
    outside = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "test_sleep.py"]
    return subprocess.run(
        [*command, "--benchmark-only", "--benchmark-save-data", "--benchmark-storage=file://saved", *options],
        check=False,
        cwd=folder,
        env={**outside, "FACTOR": str(factor), "CASES": json.dumps(cases), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, one whose first case is slower by FACTOR and its second faster, and pytest-benchmark's word on that."""
    folder = tmp_path_factory.mktemp("agree")
    (folder / "pytest.ini").write_text("[pytest]\n")
    base = pytest_run(folder, 1.0, "--benchmark-save=base")
    gate = ("--benchmark-compare=0001", "--benchmark-compare-fail=median:20%")
    strict = pytest_run(folder, FACTOR, "--benchmark-save=changed", *gate)
    lenient = pytest_run(folder, FACTOR, "--benchmark-save=again", gate[0], "--benchmark-compare-fail=median:90%")
    files = [next(folder.glob(f"saved/*/*_{name}.json")) for name in ("base", "changed", "again")]
    return folder, files, (base, strict, lenient)


def table_of(folder, *files):
    """Median by file and test, as `pytest-benchmark compare --csv` prints them."""
    script = Path(sys.executable).with_name("pytest-benchmark")
    command = [script, "compare", *map(str, files), "--csv=table.csv", "--columns=median", "--sort=fullname"]
    subprocess.run(command, check=True, cwd=folder, capture_output=True)
    with (folder / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for row in rows:  # of each test the older file first
        found.setdefault(row["param:name"], []).append(float(row["median"]))
    return found


def compared(a, b, capsys, *options):
    words = [str(a), str(b), "--format", "json", *options]
    code = compare.run(parsed(compare.Options, (), "compare", words))
    lines = json.loads(capsys.readouterr().out)
    return code, {line["case"].split()[0]: line for line in lines}


NAMES = {"slower": "sdxl", "faster": "koala-700m"}


def test_both_see_the_same_ratio_of_medians_and_the_same_direction(runs, capsys):
    folder, (base, changed, _), _ = runs
    _, ours = compared(base, changed, capsys)
    for name, theirs in table_of(folder, base, changed).items():
        line = ours[NAMES[name]]
        assert line["ratio"] == pytest.approx(theirs[1] / theirs[0], rel=1e-6)
        assert line["a_s"] == pytest.approx(theirs[0], rel=1e-6)
        assert line["verdict"] == f"{name}?"  # one run a side is no proof
        assert (line["ratio"] > 1) == (theirs[1] > theirs[0]) == (name == "slower")


def test_their_gates_open_and_close_together(runs, capsys):
    _, (base, changed, again), (plain, strict, lenient) = runs
    assert plain.returncode == 0, plain.stdout
    assert strict.returncode != 0 and "Performance has regressed" in strict.stdout + strict.stderr
    assert lenient.returncode == 0, lenient.stdout
    assert compared(base, changed, capsys, "--fail-over", "20%")[0] == 1
    assert compared(base, again, capsys, "--fail-over", "90%")[0] == 0
    assert compared(base, base, capsys, "--fail-over", "20%")[0] == 0


def test_without_a_margin_one_run_a_side_fails_nothing(runs, capsys):
    _, (base, changed, _), _ = runs
    assert compared(base, changed, capsys)[0] == 0


def test_the_samples_are_those_that_pytest_benchmark_kept(runs):
    _, (base, *_), _ = runs
    rows = read_side(str(base)).rows
    assert [len(row["samples_s"]["total"]) for row in rows] == [9, 9]
    assert all(0.01 < median(row["samples_s"]["total"]) < 1 for row in rows)
