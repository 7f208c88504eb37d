import sys
from dataclasses import asdict, replace

import pytest

from bench import estimate, sweep
from bench.case import MEASUREMENT, Axes, Case, grid
from bench.rule import Rule
from bench.sweep import Job, Plan, jobs_of
from koala.harness import environment, records
from koala.harness.stats import median_interval

RULE = Rule(warmup=1, repeats=2, budget_s=0.0)
MODELS = ("tiny-koala-700m", "tiny-sdxl", "tiny-koala-1b", "tiny-bk-sdxl")
CASES = grid(Axes(MODELS, ("unet",), (64,), (1,), ("fp32",), (), "cpu"))
JOBS = jobs_of(CASES, 1)


class Silent:
    def begin(self, job): ...

    def message(self, message): ...

    def end(self, row): ...


def run(cases, path, server, timeout_s=60.0, **more):
    jobs = jobs_of(cases, more.pop("processes", 1))
    return sweep.run(jobs, Plan(more.pop("rule", RULE), timeout_s, **more), path, server, Silent())


@pytest.fixture(scope="module")
def faulty(server, tmp_path_factory):
    """A sweep in which three of four workers go wrong: killed, raising, hanging."""
    path = tmp_path_factory.mktemp("sweep") / "rows.jsonl"
    rows = run(CASES, path, server, timeout_s=15.0, measure="faulty_workers:fail_by_model")
    return path, {row["case"]["model"]: row for row in rows}


def test_a_sweep_goes_on_past_every_kind_of_failure(faulty):
    _, rows = faulty
    assert {model: row["status"] for model, row in rows.items()} == {
        "tiny-koala-700m": "ok",
        "tiny-sdxl": "failed",
        "tiny-koala-1b": "failed",
        "tiny-bk-sdxl": "timeout",
    }
    assert rows["tiny-sdxl"]["reason"] == "killed by SIGKILL"
    assert rows["tiny-koala-1b"]["reason"] == "ValueError: the U-Net has a hole | in it"
    assert "Traceback" in rows["tiny-koala-1b"]["detail"]


def test_what_a_worker_measured_before_it_hung_is_kept(faulty):
    _, rows = faulty
    assert rows["tiny-bk-sdxl"]["samples_s"] == {"total": [1.5]}
    assert rows["tiny-bk-sdxl"]["warmup_s"] == [3.0]


def test_a_row_holds_what_the_design_promises(faulty):
    path, rows = faulty
    row = rows["tiny-koala-700m"]
    assert row["schema"] == records.SCHEMA
    assert row["kind"] == "bench"
    assert len(row["samples_s"]["total"]) == 2
    assert len(row["warmup_s"]) >= 1
    assert all(seconds > 0 for seconds in row["samples_s"]["total"])
    assert row["memory_bytes"]["weights"] == row["params"] * 4
    assert row["memory_bytes"]["rss_peak"] > row["memory_bytes"]["rss_baseline"] + row["memory_bytes"]["weights"]
    assert row["energy_j"] is None
    assert row["threads"] >= 1
    here = records.read([path]).environment(row)
    assert here["device_name"] == environment.collect("cpu")["device_name"]


def test_every_row_is_on_disk_as_it_was_returned(faulty):
    path, rows = faulty
    assert records.read([path]).rows == list(rows.values())


def test_only_what_is_measured_or_out_of_memory_is_not_run_again(faulty):
    path, _ = faulty
    known, here = records.read([path]), environment.collect("cpu")
    assert [job.case.model for job in sweep.finished_rows(known, JOBS, here)] == ["tiny-koala-700m"]
    known.rows[1]["status"] = "oom"
    assert [job.case.model for job in sweep.finished_rows(known, JOBS, here)] == ["tiny-koala-700m", "tiny-sdxl"]
    assert not sweep.finished_rows(known, JOBS, here | {"torch": "9.9"})


def test_the_latest_row_of_a_case_decides(faulty, server, tmp_path):
    path = tmp_path / "rows.jsonl"
    run(CASES[1:2], path, server, measure="faulty_workers:die")
    run(CASES[1:2], path, server)
    known = records.read([path])
    assert [row["status"] for row in known.rows] == ["failed", "ok"]
    assert list(sweep.finished_rows(known, JOBS, environment.collect("cpu"))) == [Job(CASES[1])]
    assert len(known.environments) == 1


def test_a_device_out_of_memory_is_a_row(server, tmp_path):
    (row,) = run(CASES[:1], tmp_path / "r.jsonl", server, measure="faulty_workers:out_of_gpu_memory")
    assert row["status"] == "oom"
    assert row["reason"] == "CUDA out of memory. Tried to allocate 20.00 GiB."
    assert row["memory_bytes"]["rss_peak"] > 0


def test_a_host_out_of_memory_is_a_row(server, tmp_path):
    case = Case("koala-700m", "unet", 256, 1, "fp32", None, "cpu")
    (row,) = run([case], tmp_path / "r.jsonl", server, measure="faulty_workers:with_little_memory")
    assert row["status"] == "oom"
    assert "allocate memory" in row["reason"]


def test_the_kernels_out_of_memory_killer_makes_an_oom_row(server, tmp_path, monkeypatch):
    counts = iter([7, 8])
    monkeypatch.setattr("bench.isolate.kernel_oom_kills", lambda: next(counts))
    (row,) = run(CASES[:1], tmp_path / "r.jsonl", server, measure="faulty_workers:die_half_way")
    assert (row["status"], row["samples_s"]["total"]) == ("oom", [1.5, 1.25])


@pytest.mark.parametrize("profile", ["eager", "tiny-vae", "diffusers-eager"])
def test_a_pipeline_row_has_its_steps_and_stages_in_every_sample(server, tmp_path, profile):
    for steps in (1, 3):
        case = Case("tiny-koala-700m", "pipeline", 64, 2, "fp32", steps, "cpu", profile=profile)
        (row,) = run([case], tmp_path / "r.jsonl", server)
        assert row["status"] == "ok", row
        samples = row["samples_s"]
        assert [len(sample) for sample in samples["step"]] == [steps] * 2
        stages = zip(*(samples[name] for name in ("encode", "denoise", "decode", "rest")), strict=True)
        of_steps = zip(samples["step"], samples["denoise"], samples["unet"], samples["scheduler"], strict=True)
        for parts, (step, denoise, unet, scheduler), total in zip(stages, of_steps, samples["total"], strict=True):
            assert 0.8 * total < sum(parts) <= total * 1.0001  # within 2% where the machine is not busy
            assert sum(step) == pytest.approx(denoise)
            assert 0.8 * denoise < unet + scheduler <= denoise * 1.0001
        assert (row["unet_calls"], row["decode_dtype"]) == (2 * steps, "fp32")


def test_a_profile_that_cannot_work_here_is_an_answer_with_the_reason_and_is_asked_again(server, tmp_path):
    case = replace(CASES[0], profile="fp8")
    (row,) = run([case], tmp_path / "r.jsonl", server)
    assert (row["status"], row["reason"][:34]) == ("unsupported", "the profile fp8 cannot work here: ")
    assert "samples_s" not in row
    known = records.read([tmp_path / "r.jsonl"])
    assert row["status"] in sweep.FINISHED
    assert not sweep.finished_rows(known, [Job(case)], environment.collect("cpu"))


def test_a_profile_changes_what_is_loaded(server, tmp_path):
    cases = [
        Case("tiny-koala-700m", "pipeline", 64, 1, "fp32", 1, "cpu", profile=profile)
        for profile in ("eager", "tiny-vae")
    ]
    eager, tiny = run(cases, tmp_path / "r.jsonl", server)
    assert eager["params"] != tiny["params"]


LATER = ("profile", "pipeline", "vram_bytes")  # fields that a case of the first schema does not have


def test_rows_of_the_first_schema_answer_only_for_diffusers_own_pipeline(tmp_path):
    here = environment.collect("cpu")
    pipeline = Case("sdxl", "pipeline", 1024, 1, "fp16", 25, "cpu")
    step = replace(pipeline, target="unet", steps=None)
    with records.Store(tmp_path / "r.jsonl") as file:
        file.append(here)
        for case in (pipeline, step):
            fields = {name: value for name, value in asdict(case).items() if name not in LATER}
            row = {"schema": 1, "kind": "bench", "measurement": MEASUREMENT, "case": fields, "status": "ok"}
            file.append(row | {"environment": here["id"]})
    stock = replace(pipeline, profile="diffusers-eager")
    known = records.read([tmp_path / "r.jsonl"])
    assert list(sweep.finished_rows(known, jobs_of([pipeline, stock, step], 1), here)) == [Job(stock), Job(step)]


def test_a_pipeline_is_estimated_by_the_timesteps_that_its_scheduler_takes(server):
    cases = [
        Case("tiny-sdm-v1.4", "pipeline", 64, 1, "fp32", 25, "cpu"),  # PNDM takes one more than its steps
        Case("tiny-sdm-v1.4", "unet", 64, 1, "fp32", None, "cpu"),
        Case("tiny-dmd2-sdxl-4step", "pipeline", 64, 1, "fp32", 4, "cpu"),
        Case("tiny-sdxl-turbo", "pipeline", 64, 1, "fp32", 1, "cpu"),
    ]
    costs = estimate.count_costs(server, cases)
    assert [costs[case]["timesteps"] for case in cases] == [26, 1, 4, 1]
    image, step, *_ = (costs[case] for case in cases)
    (shorter,) = estimate.count_costs(server, [replace(cases[0], steps=9)]).values()
    assert image["call_flops"] - shorter["call_flops"] == (26 - 10) * step["call_flops"]
    rule = Rule(warmup=0, repeats=1, budget_s=0.0)
    assert estimate.estimate(cases[0], image, rate=1.0, rule=rule).seconds > image["call_flops"]


def test_samples_are_taken_until_the_median_is_known_or_the_budget_is_spent(server, tmp_path):
    rule = replace(RULE, repeats=None, budget_s=1.0)
    (row,) = run(CASES[:1], tmp_path / "r.jsonl", server, rule=rule)
    total = row["samples_s"]["total"]
    assert len(total) >= 6
    assert median_interval(total) is not None


def test_counted_flops_stand_in_the_row_of_a_step(server, tmp_path):
    case = CASES[0]
    (row,) = run([case], tmp_path / "r.jsonl", server, costs={case: {"call_flops": 123, "moved_bytes": 7}})
    assert (row["flops"], row["moved_bytes"]) == (123, 7)


def test_a_case_is_measured_in_as_many_fresh_processes_as_asked_and_resumes_by_process(server, tmp_path):
    rows = run(CASES[:2], tmp_path / "r.jsonl", server, processes=2)
    assert [(row["case"]["model"], row["process"]) for row in rows] == [
        ("tiny-koala-700m", 0),
        ("tiny-sdxl", 0),
        ("tiny-koala-700m", 1),
        ("tiny-sdxl", 1),
    ]
    known, here = records.read([tmp_path / "r.jsonl"]), environment.collect("cpu")
    missing = set(jobs_of(CASES[:2], 3)) - set(sweep.finished_rows(known, jobs_of(CASES[:2], 3), here))
    assert missing == {Job(case, 2) for case in CASES[:2]}


def test_only_a_peak_that_was_probed_is_taken_from_earlier_rows():
    here = {"id": "e", "device_name": "a GPU", "omp_num_threads": None}
    sources = {"fp32": (1e12, "probed: products"), "bf16": (None, "not probed: killed"), "fp16": (9e14, "a datasheet")}
    rows = [
        {"kind": "bench", "environment": "e", "case": {"dtype": dtype}, "peak": {"flops_per_s": most, "source": source}}
        for dtype, (most, source) in sources.items()
    ]
    assert list(sweep.earlier_peaks(records.Records(rows, {"e": here}), here)) == ["fp32"]


def test_what_another_run_measured_meanwhile_is_not_measured_again(server, tmp_path):
    assert len(run(CASES[:1], tmp_path / "r.jsonl", server)) == 1
    assert run(CASES[:1], tmp_path / "r.jsonl", server) == []
    assert len(records.read([tmp_path / "r.jsonl"]).rows) == 1


def test_a_row_says_what_else_went_on(server, tmp_path):
    (row,) = run(CASES[:1], tmp_path / "r.jsonl", server)
    assert row["conditions"]["other_processes"] is None
    assert row["energy_method"] is None and row["energy_within_j"] is None
    if sys.platform == "linux":
        assert 0 <= row["conditions"]["busy_elsewhere"] <= 1
