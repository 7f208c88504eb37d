import json
import subprocess
import sys
from dataclasses import asdict

import pytest
from bench_rows import GPU, SDXL, SIX, row, store
from test_compare import processes

from bench.__main__ import COMMANDS
from bench.commands import compare
from bench.commands.compare import read_side, share
from koala.errors import KoalaError
from koala.harness import records
from koala.harness.cli import Command, main, parsed


def run(capsys, *words):
    """Exit code and stdout."""
    code = compare.run(parsed(compare.Options, compare.EXAMPLES, "compare", list(map(str, words))))
    return code, capsys.readouterr().out


def pytest_file(path, samples, case=SDXL, environment=GPU):
    extra = {
        "schema": records.SCHEMA,
        "case": asdict(case),
        "environment": environment,
        "memory_bytes": {},
        "params": 1,
        "threads": 2,
    }
    path.write_text(json.dumps({"benchmarks": [{"name": "a", "extra_info": extra, "stats": {"data": samples}}]}))
    return path


@pytest.fixture
def before(tmp_path):
    return store(tmp_path / "before.jsonl", *processes(SDXL))


@pytest.fixture
def after(tmp_path):
    return store(tmp_path / "after.jsonl", *processes(SDXL, 1.06))


def test_a_regression_is_exit_code_1_and_within_the_margin_0(before, after, capsys):
    code, text = run(capsys, before, after)
    assert code == 1 and "**slower**" in text and "**1 regression**" in text
    assert run(capsys, before, after, "--fail-over", "20%")[0] == 0
    assert run(capsys, after, before)[0] == 0
    assert run(capsys, before, before)[0] == 0


def test_the_margin_is_the_change_that_processes_are_asked_for(before, after, capsys):
    assert "to see 5%" in run(capsys, before, after)[1]
    assert "to see 20%" in run(capsys, before, after, "--fail-over", "20%")[1]


def test_a_store_against_itself_has_no_difference(before, capsys):
    assert "1 no difference." in run(capsys, before, before)[1]


def test_csv_and_json_hold_every_digit(before, after, capsys):
    line = json.loads(run(capsys, before, after, "--format", "json")[1])[0]
    assert line["verdict"] == "slower" and line["ratio"] != round(line["ratio"], 6)
    assert run(capsys, before, after, "--format", "csv")[1].splitlines()[0].startswith('"case","verdict"')


def test_where_nothing_can_be_compared_that_is_a_mistake_which_names_the_fields(before, tmp_path, capsys):
    other = store(tmp_path / "other.jsonl", *processes(SDXL), environment=GPU | {"torch": "2.16", "driver": "9"})
    with pytest.raises(KoalaError, match=r"no case of .* --across driver,torch compares unlike ones"):
        run(capsys, before, other)
    assert "not comparable (driver: 580 vs 9; torch: 2.15.0 vs 2.16)" in capsys.readouterr().out
    assert run(capsys, before, other, "--across", "torch,driver")[0] == 0


@pytest.mark.parametrize("text", ["5", "five", "-5%", "5%%", "", "%"])
def test_a_margin_that_is_no_percentage_is_a_mistake(text):
    with pytest.raises(KoalaError, match="--fail-over wants a percentage such as 5%"):
        share(text)


def test_a_margin_is_a_percentage():
    assert (share("5%"), share(" 2.5% "), share("0%")) == (pytest.approx(0.05), pytest.approx(0.025), 0.0)


def test_mistakes_are_exit_code_2(before, tmp_path, capsys):
    def code(*words):
        return main("bench", "", {"compare": Command("bench.commands.compare", "")}, (), ["compare", *map(str, words)])

    assert code(before, tmp_path / "none.jsonl") == 2
    assert code(before, before, "--across", "phase-of-the-moon") == 2
    assert code(before, store(tmp_path / "empty.jsonl")) == 2
    errors = capsys.readouterr().err
    assert (
        "cannot read" in errors and "unknown field 'phase-of-the-moon'" in errors and "holds no measured case" in errors
    )


def test_files_of_pytest_benchmark_are_one_process_each(tmp_path, capsys):
    names = []
    for number in range(4):
        slow, fast = ([s * scale * (1 + number / 1000) for s in SIX] for scale in (1.5, 1.0))
        names.append((pytest_file(tmp_path / f"a{number}.json", fast), pytest_file(tmp_path / f"b{number}.json", slow)))
    a, b = (",".join(map(str, side)) for side in zip(*names, strict=True))
    assert [line["process"] for line in read_side(a).rows] == [0, 1, 2, 3]
    code, text = run(capsys, a, b)
    assert code == 1 and "**slower**" in text and "| 4, 4" in text


def test_one_file_of_pytest_benchmark_a_side_is_never_called_for_sure(tmp_path, capsys):
    a, b = pytest_file(tmp_path / "a.json", SIX), pytest_file(tmp_path / "b.json", [1.5 * s for s in SIX])
    code, text = run(capsys, a, b)
    assert code == 0 and "slower?" in text and "run-to-run variance unknown" in text
    assert run(capsys, a, b, "--fail-over", "5%")[0] == 1


def test_torn_lines_are_named_on_stderr(before, capsys):
    with before.open("a") as file:
        file.write('{"kind": "bench", "ca\n')
    code = compare.run(parsed(compare.Options, (), "compare", [str(before), str(before)]))
    assert code == 0 and "not a whole row, skipped" in capsys.readouterr().err


def test_rows_of_another_kind_alone_hold_no_case(tmp_path):
    path = store(tmp_path / "r.jsonl", {"kind": "eval", "metric": "fid"})
    with pytest.raises(KoalaError, match="holds no measured case"):
        read_side(str(path))


def test_the_command_is_in_the_table_and_its_module_imports_no_numpy():
    assert COMMANDS["compare"].module == "bench.commands.compare"
    code = "import sys, bench.commands.compare; print([m for m in ('numpy', 'pandas', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_out_of_memory_on_one_side_is_spelled_out(before, tmp_path, capsys):
    full = store(tmp_path / "full.jsonl", row(SDXL, status="oom", reason="CUDA out of memory"))
    code, text = run(capsys, before, full)
    assert code == 1 and "**no longer runs**" in text and "B out of memory (CUDA out of memory)" in text
