"""What tables, figure and trace make of a breakdown."""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise

import pandas as pd
import pytest

from bench.breakdown import measure_breakdown
from bench.case import Case
from bench.report.breakdown import cells_frame, image_frame, overhead, remarks, render_markdown, trace_events
from bench.report.breakdown_figure import draw
from koala.harness.tables import to_csv
from koala.models import zoo
from koala.models.anatomy import WORK, stages


def case_of(model, **changes):
    fields = {"target": "unet", "resolution": 64, "batch_size": 1, "dtype": "fp32", "steps": None, "device": "cpu"}
    return Case(**{"model": model, **fields, **changes})


@pytest.fixture(scope="module")
def sdxl():
    case = asdict(case_of("tiny-sdxl"))
    environment = {"id": "abc", "device_name": "a CPU"}
    return {"case": case, "environment": environment, **measure_breakdown(lambda message: None, case, 5)}


def test_the_csv_has_one_unrounded_line_a_cell(sdxl):
    frame = pd.read_csv(io.StringIO(to_csv(cells_frame(sdxl))))
    assert len(frame) == len(sdxl["cells"])
    for measure in ("time_share", "flops_share", "params_share"):
        assert frame[measure].sum() == pytest.approx(1)
    line = frame[(frame["stage"] == "DW-3") & (frame["kind"] == "cross-attention")].iloc[0]
    (cell,) = (c for c in sdxl["cells"] if (c["stage"], c["kind"]) == ("DW-3", "cross-attention"))
    assert line["time_s"] == sorted(cell["samples_s"])[2]
    assert set(frame["repeats"]) == {5}


def made_by_hand(hooked_s=1.25):
    """A U-Net of one stage and one layer: 1 s of self-attention, 0.2 s beside it, 0.05 s outside the stage."""
    cell = {"params": 3_000_000, "flops": 10**9}
    return {
        "case": asdict(case_of("tiny-sdxl", batch_size=2)),
        "environment": {"id": "abc", "device_name": "a | GPU"},
        "rows": 4,
        "steps": 10,
        "lowest_stages": ["DW-1"],
        "plain_s": [1.2, 1.2, 1.2],
        "hooked_s": [hooked_s] * 3,
        "step_s": [1.5, 1.5, 1.5],
        "cells": [
            {"stage": "DW-1", "kind": "other", "samples_s": [0.2] * 3, **cell},
            {"stage": "DW-1", "kind": "self-attention", "samples_s": [9.0, 1.0, 0.5], **cell},
            {"stage": "in/out", "kind": "other", "samples_s": [0.05] * 3, "params": 0, "flops": 0},
        ],
        "parts": [
            {"name": "text encoding", "dtype": "fp16", "samples_s": [0.4]},
            {"name": "VAE decoding", "dtype": "fp32", "samples_s": [2.0, 1.6, 9.0]},
        ],
    }


def test_an_image_needs_text_and_decoding_once_and_the_u_net_in_each_step():
    frame = image_frame(made_by_hand())
    assert list(frame["part"]) == ["text encoding", "U-Net", "guidance and scheduler", "VAE decoding"]
    assert list(frame["calls"]) == [1, 10, 10, 1]
    assert list(frame["image_s"]) == pytest.approx([0.2, 6.0, 1.5, 1.0])  # two images a call
    assert list(frame["share"]) == pytest.approx([0.2 / 8.7, 6 / 8.7, 1.5 / 8.7, 1 / 8.7])


def test_the_tables_say_milliseconds_percent_and_what_hooks_cost():
    text = render_markdown(made_by_hand())
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert ["DW-1", "1000", "200", "1200"] in rows
    assert ["in/out", "", "50.0", "50.0"] in rows
    assert ["DW-1", "80.0", "16.0", "96.0"] in rows
    assert ["self-attention", "1000", "80.0", "1.00", "50.0", "3.00", "50.0"] in rows
    assert ["total", "", "", "", "8.70", "100.0"] in rows
    assert "takes 1250 ms, the same call without them 1200 ms: 1.042 times as long" in text
    assert "(DW-1) hold 100.0% of the U-Net's parameters; they take 96.0% of its time and 100.0% of its FLOPs" in text


def test_hooks_that_cost_more_than_5_percent_are_remarked_on():
    assert overhead(made_by_hand())[0] == pytest.approx(1.25 / 1.2)
    assert overhead(made_by_hand())[1] is None
    assert "too few for an interval" in render_markdown(made_by_hand())
    assert not remarks(made_by_hand(1.25))
    (remark,) = remarks(made_by_hand(1.32))
    assert "10.0% longer" in remark


def test_six_turns_give_an_interval_of_what_hooks_cost():
    turns = {"plain_s": [1.0, 1.1, 1.0, 0.9, 1.0, 1.0], "hooked_s": [1.02, 1.1, 1.04, 1.0, 1.02, 1.02]}
    turns["step_s"] = turns["plain_s"]
    ratio, interval = overhead(made_by_hand() | turns)
    assert ratio == pytest.approx(1.02)
    assert interval is not None
    assert 0.95 < interval.low <= ratio <= interval.high < 1.1
    assert "; 95% interval " in render_markdown(made_by_hand() | turns)


def test_figures_are_files_of_their_kind_and_the_same_twice(sdxl, tmp_path):
    paths = draw(sdxl, tmp_path / "new")
    assert [path.name for path in paths] == ["breakdown.svg", "breakdown.png"]
    first = [path.read_bytes() for path in paths]
    assert b"<svg" in first[0]
    assert first[1].startswith(b"\x89PNG")
    assert [path.read_bytes() for path in draw(sdxl, tmp_path / "new")] == first
    draw(made_by_hand(), tmp_path)


def spans_of(events, category) -> Iterator[tuple[float, float]]:
    return ((e["ts"], e["ts"] + e["dur"]) for e in events if e["ph"] == "X" and category(e["cat"]))


def test_the_trace_is_one_call_with_stages_inside_it_and_modules_inside_them(sdxl):
    trace = json.loads(json.dumps(trace_events(sdxl)))
    events = trace["traceEvents"]
    names = {event["name"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert set(names) == {"process_name", "thread_name"}
    assert "tiny-sdxl" in names["process_name"]
    assert {event["ph"] for event in events} == {"M", "X"}
    assert len({(event["pid"], event["tid"]) for event in events}) == 1
    ((begin, end),) = spans_of(events, lambda cat: cat == "network")
    assert begin == 0
    assert end / 1e6 == pytest.approx(sorted(sdxl["hooked_s"])[2])
    by_stage = list(spans_of(events, lambda cat: cat == "stage"))
    assert [e["name"] for e in events if e.get("cat") == "stage"] == [s.name for s in stages(zoo.get("sdxl").unet)]
    nanosecond = 1e-3
    for (_, before), (after, _) in pairwise(by_stage):
        assert before <= after + nanosecond
    modules = [e for e in events if e.get("cat") in WORK]
    assert len(modules) == len([m for m in sdxl["modules"] if m["kind"]])
    for event in modules:
        inside = [
            (a, b) for a, b in by_stage if a - nanosecond <= event["ts"] < event["ts"] + event["dur"] <= b + nanosecond
        ]
        assert len(inside) == 1
    assert any(e["name"] == "attentions.0.transformer_blocks.9.attn1" for e in modules)
    assert [e["ts"] for e in events if e["ph"] == "X"] == sorted(e["ts"] for e in events if e["ph"] == "X")
    json.dumps(trace, allow_nan=False)
