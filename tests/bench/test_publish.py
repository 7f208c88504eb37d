import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from bench_rows import PIPELINE, SDXL, SIX, frame_of, row, store

from bench.case import Case
from bench.report.publish import publish
from bench.report.published import comparison, read_published
from bench.report.table import render_markdown
from koala import aliases
from koala.errors import KoalaError
from koala.harness import records

ROOT = Path(__file__).parents[2]


REFERENCE = ROOT / "results/reference/koala_published_latency.csv"


def test_publishing_an_old_file_does_not_replace_newer_rows(tmp_path):
    old = store(tmp_path / "old.jsonl", row(SDXL, [9.0] * 6, started_at="2026-01-01T00:00:00+00:00"))
    new = store(tmp_path / "new.jsonl", row(SDXL, SIX, started_at="2026-02-01T00:00:00+00:00"))
    for path in (new, old):
        (folder,) = publish([path], tmp_path / "results")
    assert [r["samples_s"]["total"] for r in records.read([folder / "rows.jsonl"]).rows] == [SIX]


def test_a_device_whose_peak_is_known_has_its_roofline_published(tmp_path):
    peak = {"flops_per_s": 1e15, "bytes_per_s": 4.8e12, "source": "a datasheet"}
    file = store(tmp_path / "a.jsonl", row(SDXL, SIX, flops=int(1.35e13), moved_bytes=int(5e10), peak=peak))
    (folder,) = publish([file], tmp_path / "results")
    assert {path.name for path in folder.iterdir()} == {
        *("rows.jsonl", "bench.csv", "bench.md"),
        *("roofline.svg", "roofline.png", "resolutions.svg", "resolutions.png"),
    }


def test_the_place_of_a_black_box_is_not_published(tmp_path):
    line = row(PIPELINE, SIX, class_name="PixArtAlphaPipeline")
    line["case"] |= {"model": "own@12345678", "pipeline": "/home/me/own", "profile": "diffusers-eager"}
    (folder,) = publish([store(tmp_path / "a.jsonl", line)], tmp_path / "results")
    assert "/home/me" not in (folder / "rows.jsonl").read_text()
    assert "own@12345678" in (folder / "bench.md").read_text()


def test_publishing_keeps_finished_rows_and_merges_with_what_was_published(tmp_path):
    koala = replace(SDXL, model="koala-700m")
    first = store(tmp_path / "a.jsonl", row(SDXL, [9.0] * 6), row(koala, status="failed", reason="x"))
    second = store(tmp_path / "b.jsonl", row(SDXL, SIX), row(koala, status="oom", reason="no memory"))
    for path in (first, second):
        publish([path], tmp_path / "results")
    folder = tmp_path / "results" / "nvidia-b-h200-b"
    assert sorted(p.name for p in folder.iterdir()) == [
        "bench.csv",
        "bench.md",
        "resolutions.png",
        "resolutions.svg",
        "rows.jsonl",
    ]
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


def test_published_cells_stand_beside_measured_ones_and_are_marked(tmp_path):
    pipeline = replace(SDXL, target="pipeline", steps=25)
    vega, sdm = replace(pipeline, model="segmind-vega"), Case("sdm-v2.0", "unet", 768, 1, "fp16", None, "cuda")
    path = store(
        tmp_path / "r.jsonl",
        row(pipeline, [3.0] * 6),
        row(replace(pipeline, profile="diffusers-eager"), [4.0] * 6),
        row(replace(pipeline, profile="tiny-vae"), [8.88] * 6),
        row(SDXL, [0.1] * 6),
        row(sdm, [0.04] * 6),
        row(vega, [7.77] * 6),
    )
    page = comparison(read_published(REFERENCE), [path])
    lines = {line.split("|")[1].strip(): line for line in reversed(page.splitlines()) if line[:1] == "|"}
    assert "9.65 \\| 10.4" in lines["sdxl-base-1.0"]
    assert "3.00 \\| 3.00" in lines["sdxl-base-1.0"]
    assert "4.00 \\| 3.00" in lines["sdxl-base-1.0"]
    assert "\\|, diffusers' pipeline" in lines["model"]
    assert "<b>" not in page
    assert "1.00 (25 x step)" in lines["sdm-v2.0-unet"]
    assert "7.77" not in page, "the published steps of ssd-vega are not known"
    assert "8.88" not in page
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


@pytest.mark.parametrize(
    "folder", sorted({p.parent for p in (ROOT / "results").glob("*/rows.jsonl")} - {ROOT / "results/quality"})
)
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
    assert set(read_published(REFERENCE)["gpu"]) == set(aliases.DEVICES)
