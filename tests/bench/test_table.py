import json
import re
from dataclasses import asdict, replace

import pytest
from bench_rows import GPU, PIPELINE, SDXL, SIX, frame_of, row, store

from bench.report.frame import latest_rows, to_frame
from bench.report.pytest_json import read_any
from bench.report.table import render_markdown
from koala.errors import KoalaError
from koala.harness import records


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


def test_rows_of_an_older_measurement_give_way_to_those_of_a_newer_one_of_the_same_case(tmp_path):
    koala = replace(SDXL, model="koala-700m")
    old = [row(case, [9.0] * 6, measurement=1) for case in (SDXL, koala)]
    new = [row(SDXL, SIX, measurement=2, process=process) for process in range(2)]
    frame = frame_of(store(tmp_path / "r.jsonl", *new, *old)).set_index("model")
    assert frame.index.is_unique
    assert (frame["processes"]["sdxl"], frame["latency_s"]["koala-700m"]) == (2, 9.0)


def test_the_table_says_what_its_energy_and_its_share_of_the_peak_leave_open(tmp_path):
    energy = {"energy_j": 200.0, "energy_within_j": 50.0, "energy_method": "a counter"}
    peak = {"flops": 10**13, "peak": {"flops_per_s": 1e15, "bytes_per_s": 1e12, "source": "a datasheet"}}
    text = render_markdown(frame_of(store(tmp_path / "r.jsonl", row(PIPELINE, SIX, unet_calls=2.5, **energy, **peak))))
    assert "samples were taken, a counter." in text and "up to 25% of it" in text
    assert "also those that run in another" in text
    assert "2.5" in text.splitlines()[4]


def test_what_did_not_run_for_another_reason_is_not_said_not_to_fit(tmp_path):
    card = replace(PIPELINE, vram_bytes=8 * 2**30)
    fp8 = row(replace(card, profile="fp8"), status="unsupported", reason="no torchao")
    text = render_markdown(frame_of(store(tmp_path / "r.jsonl", row(card, status="oom"), fp8)))
    assert "eager is out of memory; no other profile was measured" in text


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


def test_stages_of_a_pipeline_have_their_own_medians_and_columns(tmp_path):
    line = row(PIPELINE, unet_calls=50, decode_dtype="fp32")
    stages = {"encode": [0.1, 0.1, 0.2], "denoise": [0.8, 0.9, 0.7], "decode": [0.05, 0.06, 0.07]}
    line["samples_s"] = {"total": [1.0, 1.1, 1.2], **stages}
    frame = frame_of(store(tmp_path / "r.jsonl", line))
    assert frame[["encode_s", "denoise_s", "decode_s"]].iloc[0].tolist() == [0.1, 0.8, 0.06]
    assert frame[["nfe", "decode_dtype"]].iloc[0].tolist() == [50, "fp32"]
    assert "| denoise [s] |" in re.sub(" +", " ", render_markdown(frame))
    assert "denoise [s]" not in render_markdown(frame_of(store(tmp_path / "unet.jsonl", row(SDXL, SIX))))


def test_the_profile_is_shown_where_there_is_another_than_eager(tmp_path):
    plain = store(tmp_path / "a.jsonl", row(PIPELINE, SIX))
    assert "| profile" not in render_markdown(frame_of(plain))
    tiny = store(tmp_path / "b.jsonl", row(replace(PIPELINE, profile="tiny-vae"), SIX))
    assert "| tiny-vae" in render_markdown(frame_of(tiny))


def test_a_pipeline_stands_beside_stock_diffusers_in_the_same_case(tmp_path):
    stock = replace(PIPELINE, profile="diffusers-eager")
    path = store(
        tmp_path / "r.jsonl",
        row(PIPELINE, [2.0] * 6),
        row(stock, [3.0] * 6),
        row(replace(PIPELINE, profile="compiled"), [1.0] * 6),
        row(replace(PIPELINE, steps=10), [1.0] * 6),
        row(SDXL, [0.1] * 6),
    )
    frame = frame_of(path).set_index(["target", "profile", "steps"])["speedup_vs_diffusers"]
    pipelines = frame["pipeline"]
    assert pipelines[[("eager", 25), ("compiled", 25)]].tolist() == [1.5, 3.0]
    assert pipelines.isna().sum() == 2
    assert frame["unet"].isna().all()


def test_models_in_their_own_steps_are_held_against_sdxl_in_its_own_under_the_same_profile(tmp_path):
    lightning = replace(PIPELINE, model="koala-lightning-700m", steps=10)
    path = store(
        tmp_path / "r.jsonl",
        row(PIPELINE, [3.0] * 6),
        row(replace(PIPELINE, steps=4), [0.5] * 6),
        row(lightning, [0.6] * 6),
        row(replace(lightning, steps=4), [0.25] * 6),
        row(replace(lightning, steps=7), [0.25] * 6),
        row(replace(lightning, profile="tiny-vae"), [0.1] * 6),
        row(replace(lightning, resolution=512), [0.1] * 6),
    )
    frame = frame_of(path)
    ours = frame[frame["model"] == "koala-lightning-700m"]
    speedups = ours.set_index(["steps", "profile", "resolution"])["speedup_vs_sdxl"]
    assert speedups[10, "eager", 1024] == pytest.approx(5.0)
    assert speedups[4, "eager", 1024] == pytest.approx(2.0)
    assert speedups.isna().sum() == 3


def test_a_row_of_a_model_that_another_version_knew_is_still_shown(tmp_path):
    line = row(PIPELINE, SIX)
    line["case"] |= {"model": "sdxl-of-the-future"}
    frame = frame_of(store(tmp_path / "r.jsonl", line, row(PIPELINE, SIX)))
    assert frame.set_index("model")["speedup_vs_sdxl"].to_dict() == {"sdxl": 1.0, "sdxl-of-the-future": 1.0}


def test_what_is_not_possible_says_why_below_the_table_once(tmp_path):
    reason = {"status": "unsupported", "reason": "the profile fp8 cannot work here: too old"}
    cases = [replace(PIPELINE, profile="fp8", resolution=resolution) for resolution in (512, 1024)]
    text = render_markdown(frame_of(store(tmp_path / "r.jsonl", *(row(case, **reason) for case in cases))))
    assert text.count("not possible") == 2
    assert text.count("sdxl pipeline: the profile fp8 cannot work here: too old") == 1


def test_a_device_name_from_outside_stays_text_in_markdown(tmp_path):
    text = render_markdown(frame_of(store(tmp_path / "r.jsonl", row(SDXL, SIX))))
    assert "<b>" not in text


def test_an_empty_store_says_what_to_do(tmp_path):
    assert "python -m bench sweep" in render_markdown(frame_of(store(tmp_path / "r.jsonl")))


def test_a_pytest_benchmark_file_is_read_as_rows(tmp_path):
    extra = {
        "schema": records.SCHEMA,
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


def test_a_pytest_benchmark_file_of_the_first_schema_held_diffusers_own_pipeline(tmp_path):
    case = {name: value for name, value in asdict(PIPELINE).items() if name != "profile"}
    extra = {"case": case, "environment": GPU, "memory_bytes": {}, "params": 1, "threads": 2}
    path = tmp_path / "0001.json"
    path.write_text(json.dumps({"benchmarks": [{"name": "a", "extra_info": extra, "stats": {"data": SIX}}]}))
    assert [row["case"]["profile"] for row in read_any([path]).rows] == ["diffusers-eager"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "not json"])
def test_another_json_file_is_an_error_that_names_it(text, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(KoalaError, match=r"other\.json is not a JSON file of pytest-benchmark"):
        read_any([path])
