import json
import math
import re
from collections import Counter

import pandas as pd
import pytest
from bench_rows import store
from command_lines import bench_here
from hypothesis import given
from hypothesis import strategies as st
from pareto_rows import CLIP, H200, eval_store, scored, timed
from report_rows import HOSTILE, many, published, rows

from bench.report import headline
from bench.report.frame import frame_of_cases, latest_rows, whole_cases
from bench.report.page import payload as pages
from bench.report.page.html import page, script_json
from bench.report.site import build
from bench.report.table import render_markdown
from koala.errors import KoalaError
from koala.harness import records

NOTHING = records.Records()


def payload(known):
    cases = whole_cases(latest_rows(known), known)
    return pages.payload(cases, frame_of_cases(cases, known), known)


def read(folder):
    return records.read(sorted(folder.glob("*/rows.jsonl")))


def links(page):
    return [link for link in re.findall(r"\]\(([^)]+)\)", page) if "://" not in link]


def test_the_command_writes_index_tables_figures_and_page_and_says_so(tmp_path):
    results = published(tmp_path / "results")
    done = bench_here("report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    files = done.stdout.splitlines()
    assert files[-2:] == ["results/README.md", "results/index.html"]
    assert all((tmp_path / file).stat().st_size for file in files)
    index = (results / "README.md").read_text()
    assert all((results / link).exists() for link in links(index)), "no link of the index is broken"
    folder = next(results.glob("nvidia*"))
    assert {path.suffix for path in folder.iterdir()} == {".jsonl", ".csv", ".md", ".svg", ".png"}


def test_the_report_of_the_same_rows_is_the_same_bytes(tmp_path):
    results = published(tmp_path / "results")
    made = build(read(results), NOTHING, results, None)
    before = {path: path.read_bytes() for path in made.files}
    again = build(read(results), NOTHING, results, None)
    assert {path: path.read_bytes() for path in again.files} == before


def test_the_headline_has_a_line_a_model_and_out_of_memory_as_an_answer(tmp_path):
    known = read(published(tmp_path))
    frame = frame_of_cases(whole_cases(known.rows, known), known)
    table = headline.headline(frame, "pipeline")
    assert list(table["model"]) == ["koala-700m", "sdxl", "koala-700m", "sdxl"], "large images first"
    card = next(name for name in table.columns if "card of 8 GiB" in name)
    whole = next(name for name in table.columns if name.startswith("NVIDIA") and name != card)
    cells = table.set_index(["model", "resolution"])
    assert cells.loc[("sdxl", 1024), card] == "OOM" and pd.isna(cells.loc[("koala-700m", 1024), card])
    assert cells.loc[("koala-700m", 1024), whole] == "1.25 | 3.00"
    assert "<b>" not in headline.render_markdown(frame)


def test_of_two_measurements_of_a_case_the_newer_one_is_the_headline(tmp_path):
    old, new = timed("sdxl", 9.0), timed("sdxl", 3.0)
    old["started_at"], new["started_at"] = "2026-01-01T00:00:00+00:00", "2026-02-01T00:00:00+00:00"
    newer = H200 | {"id": "newer", "torch": "2.16.0"}
    new["environment"] = "newer"
    file = store(tmp_path / "a.jsonl", newer, old, new, environment=H200)
    known = records.read([file])
    frame = frame_of_cases(whole_cases(known.rows, known), known)
    (line,) = headline.headline(frame, "pipeline").to_dict("records")
    assert line["NVIDIA H200"].startswith("3.00")


def test_quality_that_meets_latency_is_drawn_and_listed(tmp_path):
    results = tmp_path / "results"
    (results / "gpu").mkdir(parents=True)
    store(results / "gpu/rows.jsonl", timed(), timed("sdxl", 2.0), environment=H200)
    sheet = tmp_path / "images/koala-core/koala-700m"
    sheet.mkdir(parents=True)
    (sheet / "contact_sheet.png").write_bytes(b"png")
    ours = scored(0.25)
    ours[0]["path"] = str(sheet)
    eval_store(tmp_path / "eval.jsonl", CLIP, *ours, *scored(0.3, model="sdxl"))
    done = bench_here("report", "--quality", tmp_path / "eval.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (results / "pareto").iterdir()} == {
        f"pareto.{k}" for k in ("svg", "png", "csv", "md")
    }
    index = (results / "README.md").read_text()
    assert "pareto/pareto.md" in index and "](pareto/pareto.svg)" in index
    text = (results / "index.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert [line["model"] for line in data["quality"]] == ["koala-700m", "sdxl"]
    assert 'src="sheets/koala-core-koala-700m.png"' in text
    assert (results / "sheets/koala-core-koala-700m.png").read_bytes() == b"png"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no rows under results"),
        (["missing.jsonl"], "cannot read missing.jsonl"),
        (["empty.jsonl"], "there are no measured rows"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, args, words):
    store(tmp_path / "empty.jsonl")
    done = bench_here("report", *args, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr and "Traceback" not in done.stderr


def test_files_of_ones_own_are_reported_elsewhere_than_among_published_ones(tmp_path):
    results = published(tmp_path / "results")
    before = sorted(results.rglob("*"))
    store(tmp_path / "mine.jsonl", *rows()[:2])
    assert bench_here("report", "mine.jsonl", cwd=tmp_path).returncode == 0
    assert sorted(results.rglob("*")) == before
    assert (tmp_path / "runs/report/index.html").is_file()


def test_the_page_holds_what_rows_hold(tmp_path):
    known = read(published(tmp_path))
    data = payload(known)
    columns = data["columns"]
    assert (data["rows"], data["of"], data["whole"]) == (7, 7, True)
    places = [columns["model"]["texts"][code] for code in columns["model"]["codes"]]
    assert Counter(places) == {"sdxl": 4, "koala-700m": 3}
    oom = columns["status"]["codes"].index(columns["status"]["texts"].index("oom"))
    assert columns["latency_s"][oom] is None and data["samples"][oom] == []
    place = columns["latency_s"].index(1.25)
    assert data["samples"][place] == [1.25, 1.2375, 1.2625, 1.25, 1.25, 1.25]
    assert data["environments"][data["environment"][place]]["driver"] == "580"


def test_above_a_number_of_rows_medians_are_shown_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MOST_WHOLE", 3)
    slow, fast, middle = timed("sdxl", 9.0), timed("sdxl", 1.0), timed("sdxl", 2.0)
    for place, line in enumerate((slow, fast, middle)):
        line["environment"] = f"e{place}"
    environments = [H200 | {"id": f"e{place}", "torch": f"2.{place}"} for place in range(3)]
    file = store(tmp_path / "a.jsonl", *environments, slow, fast, middle, timed("ssd-1b"), environment=H200)
    data = payload(records.read([file]))
    assert (data["rows"], data["of"], data["whole"], data["samples"]) == (2, 4, False, [])
    place = data["columns"]["model"]["codes"].index(data["columns"]["model"]["texts"].index("sdxl"))
    assert data["columns"]["latency_s"][place] == 2.0 and data["columns"]["samples"][place] == 18


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False) | st.none(), st.lists))
def test_no_text_ends_the_script_it_is_in(value):
    text = script_json(value)
    assert "<" not in text
    assert json.loads(text) == value


def test_two_thousand_rows_are_six_megabytes_at_most(tmp_path):
    known = records.read([store(tmp_path / "a.jsonl", *many(2000))])
    data = payload(known)
    assert data["whole"] and data["rows"] == 2000
    assert len(page(data, "about").encode()) <= 6e6


def test_text_from_rows_is_nowhere_html(tmp_path):
    results = published(tmp_path / "results")
    build(read(results), NOTHING, results, None)
    text = (results / "index.html").read_text()
    assert HOSTILE not in text and "<b>H200" not in text
    assert "<b>H200" not in (results / "README.md").read_text()
    assert "<b>H200" not in render_markdown(pd.read_csv(next(results.glob("*/bench.csv"))))


def test_no_rows_are_an_error(tmp_path):
    with pytest.raises(KoalaError, match="no measured rows"):
        build(NOTHING, NOTHING, tmp_path, None)


def test_rows_without_memory_have_a_figure_too(tmp_path):
    lines = [line | {"memory_bytes": {}} for line in rows()[:2]]
    made = build(read(published(tmp_path / "results", *lines)), NOTHING, tmp_path / "results", None)
    assert any(path.name == "resolutions.svg" for path in made.files)


@given(st.lists(st.one_of(st.none(), st.integers(0, 2**52), st.floats(allow_nan=True, allow_infinity=True, width=64))))
def test_numbers_of_the_page_are_short_and_right(values):
    for given_value, shown in zip(values, pages._numbers(values), strict=True):
        if given_value is None or not math.isfinite(given_value):
            assert shown is None
        elif float(given_value).is_integer():
            assert shown == given_value and isinstance(shown, int)
        elif abs(given_value) > 1e-290:
            assert shown == pytest.approx(float(f"{given_value:.{pages.DIGITS}g}"), rel=2 * 10.0**-pages.DIGITS)
            assert len(repr(shown)) <= pages.DIGITS + 7 or not 1e-14 < abs(given_value) < 1e6


def test_a_table_of_many_lines_says_how_many_are_left_out(tmp_path):
    known = read(published(tmp_path))
    frame = frame_of_cases(whole_cases(known.rows, known), known)
    text = render_markdown(frame, most=3)
    assert f"And {len(frame) - 3} more rows." in text and "more rows" not in render_markdown(frame)
    assert sum(line.startswith("| sdxl") or line.startswith("| koala") for line in text.splitlines()) >= 3
