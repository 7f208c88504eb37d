import pandas as pd
import pytest
from bench_rows import store as bench_store
from command_lines import bench_here
from pareto_rows import CLIP, H200, eval_store, scored, timed

from eval.__main__ import COMMANDS as EVAL
from koala.__main__ import COMMANDS as KOALA
from koala.harness.cli import main


def test_the_command_prints_the_table_and_writes_its_files(tmp_path):
    ours = bench_store(tmp_path / "bench.jsonl", timed(), timed("sdxl", 2.0), timed("ssd-1b"), environment=H200)
    theirs = eval_store(tmp_path / "eval.jsonl", CLIP, *scored(0.25), *scored(0.3, model="sdxl"))
    done = bench_here("pareto", ours, "--quality", theirs, "--out", tmp_path / "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (
        "not joined: latency of ssd-1b 1024px 25 steps euler guided fp16 eager: no quality of that model" in done.stderr
    )
    files = [tmp_path / "out" / f"pareto.{kind}" for kind in ("svg", "png", "csv", "md")]
    assert done.stdout.splitlines()[-4:] == list(map(str, files))
    assert done.stdout.startswith(files[3].read_text())
    assert pd.read_csv(files[2])["efficient"].tolist() == [True, True]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "nothing is scored yet"),
        (["--quality", "eval.jsonl"], "nothing is measured yet"),
        (["bench.jsonl", "--quality", "eval.jsonl"], "nothing to join"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, args, words):
    bench_store(tmp_path / "bench.jsonl", timed(), environment=H200)
    eval_store(tmp_path / "eval.jsonl", CLIP, *scored(0.25, model="sdxl"))
    done = bench_here("pareto", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_rows_that_a_sweep_and_a_scoring_wrote_meet(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = "tiny-koala-700m"
    own = ["--models", model, "--targets", "pipeline", "--profiles", "eager", "--steps", "2"]
    small = ["--resolutions", "64", "--repeats", "2", "--budget", "0"]
    assert bench_here("sweep", "smoke", "--device", "cpu", *own, *small, cwd=tmp_path).returncode == 0
    size = ["--height", "64", "--width", "64", "--steps", "2", "--device", "cpu", "--dtype", "fp32"]
    drawing = ["sample", model, "a red apple", "--n", "2", "--weights", "random", "--out", "apples", *size]
    assert main("koala", "", KOALA, (), drawing) == 0
    assert (
        main("eval", "", EVAL, (), ["score", "apples", "--metrics", "brightness", "--device", "cpu", "--workers", "0"])
        == 0
    )
    done = bench_here("pareto", cwd=tmp_path)
    assert "of brightness neither more nor less is better" in done.stderr
    scores = tmp_path / "runs/eval/rows.jsonl"
    scores.write_text(scores.read_text().replace('"higher_is_better": null', '"higher_is_better": true'))
    done = bench_here("pareto", "--out", "pareto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "not joined" not in done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith(f"| {model}")]
    assert [cell.strip() for cell in line.split("|")][-4:-1] == ["yes", "random", "random"]
