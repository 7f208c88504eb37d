import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest

from bench.case import MEASUREMENT, Case
from bench.report.publish import publish
from bench.report.published import comparison, read_published
from bench.report.pytest_json import read_any
from bench.report.table import latest_rows, render_markdown, to_frame
from koala.errors import KoalaError
from koala.harness import records

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results/reference/koala_published_latency.csv"
GPU = {
    "kind": "environment",
    "id": "gpu",
    "device_kind": "cuda",
    "device_name": "NVIDIA <b>H200</b>|",
    "driver": "580",
    "torch": "2.15.0",
    "diffusers": "0.42.1",
}
SDXL = Case("sdxl", "unet", 1024, 1, "fp16", None, "cuda")


def row(case, total=None, status="ok", **more):
    samples = {"samples_s": {"total": total, "device": total}} if total else {}
    return {
        "schema": 1,
        "kind": "bench",
        "measurement": MEASUREMENT,
        "case": asdict(case),
        "status": status,
        "environment": "gpu",
        "memory_bytes": {"weights": 2**30, "peak_reserved": 3 * 2**30},
        **samples,
        **more,
    }


def store(path, *rows, environment=GPU):
    with records.Store(path) as file:
        file.append(environment)
        for line in rows:
            file.append(line)
    return path


def frame_of(path):
    known = records.read([path])
    return to_frame(latest_rows(known), known)


SIX = [0.11, 0.1, 0.12, 0.13, 0.09, 0.1]


def test_latency_is_the_median_with_its_interval_and_nothing_is_rounded(tmp_path):
    total = [0.1234567890123, 0.1, 0.2, 0.3, 0.15, 0.16]
    line = frame_of(store(tmp_path / "r.jsonl", row(SDXL, total))).iloc[0]
    assert line["latency_s"] == pytest.approx(0.155)
    assert (line["latency_low_s"], line["latency_high_s"], line["samples"]) == (0.1, 0.3, 6)
    assert line["peak_reserved_bytes"] == 3 * 2**30


def test_below_six_samples_there_is_no_interval_and_the_table_says_so(tmp_path):
    frame = frame_of(store(tmp_path / "r.jsonl", row(SDXL, [1.0, 2.0, 1.5])))
    assert frame["latency_low_s"].isna().all()
    assert "1.50 (1.00 to 2.00, n < 6)" in render_markdown(frame)


def test_speed_up_is_against_sdxl_under_the_same_conditions_only(tmp_path):
    koala = replace(SDXL, model="koala-700m")
    path = store(
        tmp_path / "r.jsonl",
        row(SDXL, [2.0] * 6),
        row(koala, [0.5] * 6),
        row(replace(koala, resolution=512), [0.25] * 6),
        row(replace(koala, dtype="bf16"), [0.25] * 6),
    )
    frame = frame_of(path).set_index(["model", "resolution", "dtype"])["speedup_vs_sdxl"]
    assert frame["koala-700m", 1024, "fp16"] == 4.0
    assert frame["sdxl", 1024, "fp16"] == 1.0
    assert frame.isna().sum() == 2


def test_out_of_memory_is_spelled_out_and_has_no_latency(tmp_path):
    frame = frame_of(store(tmp_path / "r.jsonl", row(SDXL, [1.0] * 6, status="oom", reason="CUDA out of memory")))
    assert "out of memory" in render_markdown(frame)
    assert frame["latency_s"].isna().all()
    assert frame["samples"].tolist() == [0]


def test_a_failure_says_why_below_the_table(tmp_path):
    frame = frame_of(store(tmp_path / "r.jsonl", row(SDXL, status="failed", reason="ValueError: a hole")))
    assert "sdxl unet: ValueError: a hole" in render_markdown(frame)


def test_the_latest_row_of_a_case_wins(tmp_path):
    path = store(tmp_path / "r.jsonl", row(SDXL, status="failed", reason="x"), row(SDXL, SIX))
    assert frame_of(path)["status"].tolist() == ["ok"]


def test_publishing_an_old_file_does_not_replace_newer_rows(tmp_path):
    old = store(tmp_path / "old.jsonl", row(SDXL, [9.0] * 6, started_at="2026-01-01T00:00:00+00:00"))
    new = store(tmp_path / "new.jsonl", row(SDXL, SIX, started_at="2026-02-01T00:00:00+00:00"))
    for path in (new, old):
        (folder,) = publish([path], tmp_path / "results")
    assert [r["samples_s"]["total"] for r in records.read([folder / "rows.jsonl"]).rows] == [SIX]


def test_rows_of_another_kind_are_left_alone(tmp_path):
    path = store(tmp_path / "r.jsonl", {"kind": "eval", "metric": "fid"}, row(SDXL, SIX))
    assert frame_of(path)["model"].tolist() == ["sdxl"]


def test_two_drivers_are_not_held_against_each_other(tmp_path):
    path = store(tmp_path / "r.jsonl", row(SDXL, SIX))
    with records.Store(path) as file:
        file.append(GPU | {"id": "other", "driver": "999"})
        file.append(row(replace(SDXL, model="koala-700m"), SIX) | {"environment": "other"})
    assert frame_of(path).set_index("model")["speedup_vs_sdxl"].isna()["koala-700m"]


def test_steps_of_a_pipeline_have_their_own_median(tmp_path):
    case = replace(SDXL, target="pipeline", steps=2)
    steps = [[0.2, 0.4], [0.3, 0.3]]
    line = row(case)
    line["samples_s"] = {"total": [1.0, 1.0], "step": steps}
    assert frame_of(store(tmp_path / "r.jsonl", line))["step_s"].tolist() == [0.3]


def test_a_device_name_from_outside_stays_text_in_markdown(tmp_path):
    text = render_markdown(frame_of(store(tmp_path / "r.jsonl", row(SDXL, SIX))))
    assert "<b>" not in text


def test_an_empty_store_says_what_to_do(tmp_path):
    assert "python -m bench sweep" in render_markdown(frame_of(store(tmp_path / "r.jsonl")))


def test_publishing_keeps_finished_rows_and_merges_with_what_was_published(tmp_path):
    koala = replace(SDXL, model="koala-700m")
    first = store(tmp_path / "a.jsonl", row(SDXL, [9.0] * 6), row(koala, status="failed", reason="x"))
    second = store(tmp_path / "b.jsonl", row(SDXL, SIX), row(koala, status="oom", reason="no memory"))
    for path in (first, second):
        publish([path], tmp_path / "results")
    folder = tmp_path / "results" / "nvidia-b-h200-b"
    assert sorted(p.name for p in folder.iterdir()) == ["bench.csv", "bench.md", "rows.jsonl"]
    table = pd.read_csv(folder / "bench.csv").set_index("model")
    assert table.loc["sdxl", "latency_s"] == pytest.approx(0.105)
    assert table.loc["koala-700m", "status"] == "oom"
    published = records.read([folder / "rows.jsonl"])
    assert len(published.rows) == 2
    assert [r["samples_s"]["total"] for r in published.rows if r["status"] == "ok"] == [SIX]


def test_a_row_without_its_environment_is_not_published(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(json.dumps(row(SDXL, SIX)) + "\n")
    with pytest.raises(KoalaError, match="environment that its file does not hold"):
        publish([path], tmp_path / "results")


def test_a_pytest_benchmark_file_is_read_as_rows(tmp_path):
    extra = {
        "case": asdict(SDXL),
        "environment": GPU,
        "memory_bytes": {"weights": 1},
        "params": 2_567_463_684,
        "threads": 2,
    }
    report = {
        "datetime": "2026-01-01T00:00:00",
        "benchmarks": [
            {"name": "test_a", "extra_info": extra, "stats": {"data": SIX}},
            {"name": "test_foreign", "extra_info": {}, "stats": {"data": [1.0]}},
        ],
    }
    path = tmp_path / "0001.json"
    path.write_text(json.dumps(report))
    known = read_any([path])
    assert to_frame(latest_rows(known), known)["latency_s"].tolist() == [pytest.approx(0.105)]
    assert known.problems == [f"{path}: test_foreign is not one of ours or holds no samples, skipped"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_another_json_file_is_an_error_that_names_it(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(KoalaError, match=r"other\.json is not a JSON file of pytest-benchmark"):
        read_any([path])


def test_published_cells_stand_beside_measured_ones_and_are_marked(tmp_path):
    pipeline = replace(SDXL, target="pipeline", steps=25)
    path = store(tmp_path / "r.jsonl", row(pipeline, [3.0] * 6), row(SDXL, [0.1] * 6))
    page = comparison(read_published(REFERENCE), [path])
    lines = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("|")}
    assert "9.65 \\| 10.4" in lines["sdxl-base-1.0"]
    assert "3.00 \\| 3.00" in lines["sdxl-base-1.0"]
    assert "2.50 (25 x step)" in lines["sdxl-base-1.0-unet"]
    assert "RTX4090-24GB (published)" in lines["model"]
    assert "OOM" in lines["ssd-1b"]


def test_a_cell_that_nobody_measured_stays_empty(tmp_path):
    other = replace(SDXL, target="pipeline", steps=10)
    page = comparison(read_published(REFERENCE), [store(tmp_path / "r.jsonl", row(other, [3.0] * 6))])
    assert "3.00" not in page


def test_published_speed_ups_are_the_papers_numbers():
    page = comparison(read_published(REFERENCE), [])
    # 3.133 / 1.257 and 3.133 / 1.604 seconds on the KOALA model card
    assert [line.split("|")[-2].strip() for line in page.splitlines() if "| koala-" in line and "RTX" in line][-2:] == [
        "1.95",
        "2.49",
    ]


def test_the_published_page_is_what_the_rows_say():
    stores = sorted((ROOT / "results").glob("*/rows.jsonl"))
    page = ROOT / "results/reference/README.md"
    assert page.read_text() == comparison(read_published(REFERENCE), stores), "run `python -m bench publish`"


@pytest.mark.parametrize("folder", sorted(p.parent for p in (ROOT / "results").glob("*/rows.jsonl")))
def test_every_published_table_is_what_its_rows_say(folder):
    frame = frame_of(folder / "rows.jsonl")
    assert (folder / "bench.md").read_text() == render_markdown(frame), "run `python -m bench publish`"
    assert len(frame) == len(records.read([folder / "rows.jsonl"]).rows)


def test_a_reference_file_with_other_columns_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "published.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(KoalaError, match=r"published\.csv should have the columns"):
        read_published(path)


def test_every_published_gpu_has_its_alias():
    from koala import aliases

    assert set(read_published(REFERENCE)["gpu"]) == set(aliases.DEVICES)
