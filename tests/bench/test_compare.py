import random
from dataclasses import replace

import pytest
from bench_rows import GPU, PIPELINE, SDXL, row
from hypothesis import given
from hypothesis import strategies as st

from bench.compare import (
    BROKEN,
    FASTER,
    FIELDS,
    MENDED,
    NEITHER,
    ONLY_A,
    ONLY_B,
    PERHAPS_SLOWER,
    SAME,
    SLOWER,
    UNLIKE,
    compare,
    measurements,
)
from bench.processes import grouped, merged
from bench.report.compare import percent, render_markdown, to_frame
from koala.errors import UnknownName
from koala.harness.records import Records

KOALA = replace(SDXL, model="koala-700m")


def processes(case, scale=1.0, count=5, seed=0, **more):
    """Rows of a quiet machine: 0.3% from run to run, 1% inside."""
    noise = random.Random(f"{seed} {case} {scale}")
    rows = []
    for process in range(count):
        base = 0.1 * scale * noise.gauss(1, 0.003)
        rows.append(row(case, [base * noise.gauss(1, 0.01) for _ in range(8)], process=process, **more))
    return rows


def records(*rows, environments=(GPU,)):
    return Records(list(rows), {e["id"]: e for e in environments})


def only(a, b, **more):
    found = compare(a, b, **more)
    assert len(found) == 1
    return found[0]


# ---- verdicts


@pytest.mark.parametrize(
    ("scale", "verdict", "regressed"), [(1.06, SLOWER, True), (0.94, FASTER, False), (1.0, SAME, False)]
)
def test_a_case_is_called_by_which_side_of_one_its_interval_lies_on(scale, verdict, regressed):
    found = only(records(*processes(SDXL)), records(*processes(SDXL, scale, seed=1)))
    assert (found.verdict, found.regressed()) == (verdict, regressed)
    assert found.ratio.ratio == pytest.approx(scale, rel=0.02)


def test_a_slowdown_within_the_margin_is_slower_and_no_regression():
    found = only(records(*processes(SDXL)), records(*processes(SDXL, 1.06, seed=1)))
    assert found.verdict == SLOWER
    assert not found.regressed(0.1) and found.regressed(0.03)


@pytest.mark.parametrize("status", ["oom", "failed", "timeout", "unsupported"])
def test_a_case_that_no_longer_runs_is_a_regression_whatever_the_margin(status):
    a, b = records(*processes(SDXL)), records(row(SDXL, status=status, reason="why"))
    assert only(a, b).verdict == BROKEN and only(a, b).regressed(10.0)
    assert only(b, a).verdict == MENDED and not only(b, a).regressed()
    assert only(b, b).verdict == NEITHER and not only(b, b).regressed()


def test_one_process_of_several_that_runs_out_of_memory_is_a_regression():
    rows = processes(SDXL)
    rows[3] |= {"status": "oom", "reason": "CUDA out of memory"}
    assert only(records(*processes(SDXL)), records(*rows)).verdict == BROKEN


def test_cases_of_one_side_are_listed_and_are_no_regression():
    found = compare(records(*processes(SDXL), *processes(KOALA)), records(*processes(KOALA), *processes(PIPELINE)))
    assert [one.verdict for one in found] == [ONLY_A, SAME, ONLY_B]
    assert not any(one.regressed() for one in found)


def test_of_one_process_a_side_nothing_is_called_for_sure():
    found = only(records(*processes(SDXL, count=1)), records(*processes(SDXL, 1.5, count=1)))
    assert found.verdict == PERHAPS_SLOWER and found.ratio.interval.low > 1.2
    assert not found.regressed()  # luck of the run for all that anyone knows
    assert found.regressed(0.2) and not found.regressed(0.6)
    assert found.asked == 3


def test_one_process_is_held_against_several_by_their_run_to_run_variance():
    found = only(records(*processes(SDXL)), records(*processes(SDXL, 1.5, count=1)))
    assert found.verdict == SLOWER and found.ratio.borrowed


# ---- what may be compared


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("device_name", "NVIDIA L4"),
        ("driver", "999"),
        ("cuda", "13.2"),
        ("power_limit_w", 300.0),
        ("cpu", "another"),
        ("omp_num_threads", "1"),
        ("torch", "2.16.0"),
        ("diffusers", "0.43"),
        ("transformers", "6.0"),
    ],
)
def test_another_environment_is_not_compared_unless_its_field_is_named(field, value):
    other = GPU | {"id": "other", field: value}
    a, b = records(*processes(SDXL)), records(*processes(SDXL, environment="other"), environments=(other,))
    assert only(a, b).verdict == UNLIKE and not only(a, b).regressed()
    assert only(a, b).differing == (f"{field}: {GPU.get(field, 'unknown')} vs {value}",)
    assert only(a, b, across=[field]).verdict in (SAME, SLOWER, FASTER)


@pytest.mark.parametrize(("field", "value"), [("threads", 8), ("decode_dtype", "fp32"), ("measurement", 0)])
def test_rows_that_were_measured_in_another_way_are_not_compared(field, value):
    a, b = records(*processes(SDXL)), records(*processes(SDXL, **{field: value}))
    assert only(a, b).verdict == UNLIKE and only(a, b).differing[0].startswith(f"{field}: ")
    assert only(a, b, across=[field]).ratio is not None


@pytest.mark.parametrize("more", [{"weights": "hub"}, {"vram_bytes": 8 * 2**30}])
def test_other_weights_and_an_emulated_card_are_not_compared_with_the_real_one(more):
    found = only(records(*processes(SDXL)), records(*processes(replace(SDXL, **more))))
    assert found.verdict == UNLIKE and found.differing[0].startswith(next(iter(more)))


def test_each_emulated_card_is_held_against_itself():
    cards = [replace(SDXL, vram_bytes=size * 2**30) for size in (8, 11, 24)]
    a = records(*(line for card in cards for line in processes(card)))
    b = records(*(line for card in reversed(cards) for line in processes(card)))
    assert [(one.case, one.verdict) for one in compare(a, b)] == [
        (f"sdxl unet 1024px fp16 in {size} GiB", SAME) for size in (8, 11, 24)
    ]


def test_commits_clocks_and_packages_that_do_not_matter_do_not_keep_rows_apart():
    other = GPU | {"id": "other", "git_commit": "b", "os": "Linux 7", "torchao": "0.19"}
    b = records(*processes(SDXL, environment="other"), environments=(other,))
    assert only(records(*processes(SDXL)), b).verdict == SAME


def test_a_package_that_a_profile_is_made_of_matters():
    case, other = replace(SDXL, profile="int8"), GPU | {"id": "other", "torchao": "0.19"}
    b = records(*processes(case, environment="other"), environments=(other,))
    assert only(records(*processes(case)), b).differing == ("torchao: unknown vs 0.19",)


def test_of_several_environments_in_a_store_the_like_ones_meet():
    other = GPU | {"id": "other", "device_name": "NVIDIA L4"}
    both = [*processes(SDXL, 3.0, environment="other"), *processes(SDXL)]
    a, b = records(*both, environments=(GPU, other)), records(*processes(SDXL), environments=(GPU,))
    assert [one.verdict for one in compare(a, b)] == [ONLY_A, SAME]


def test_cards_of_one_name_are_compared_whatever_their_number():
    a, b = (records(*processes(replace(SDXL, device=device))) for device in ("cuda:0", "cuda:3"))
    assert only(a, b).verdict == SAME


def test_an_unknown_field_lists_the_known_ones():
    with pytest.raises(UnknownName, match=r"unknown field 'torhc' \(did you mean 'torch'\?\); known: .*power_limit_w"):
        compare(records(), records(), across=["torhc"])
    assert compare(records(), records(), across=FIELDS) == []


# ---- processes


def test_the_latest_row_of_each_process_counts():
    old = [line | {"started_at": "2026-01-01"} for line in processes(SDXL, 9.0, count=3)]
    new = [line | {"started_at": "2026-01-02"} for line in processes(SDXL, count=2)]
    (found,) = measurements(records(*new, *old))
    assert found.row["processes"] == 3
    assert [runs[0] > 0.5 for runs in found.row["runs"]] == [False, False, True]


def test_rows_of_processes_become_one_row():
    rows = [
        row(SDXL, [3.0, 4.0], process=1, warmup_s=[9.0], wall_s=2.0, energy_j=10.0, energy_method="m"),
        row(SDXL, [1.0], process=0, warmup_s=[8.0], wall_s=1.0, energy_j=40.0, energy_method="m"),
    ]
    rows[0]["memory_bytes"] = {"weights": 5, "peak_reserved": None}
    rows[1]["memory_bytes"] = {"weights": 5, "peak_reserved": 7, "context": None}
    rows[0]["conditions"] = {"throttled": ["heat"], "sm_clock_hz": {"low": 1, "median": 2, "high": 3}}
    rows[1]["conditions"] = {"throttled": ["power"], "sm_clock_hz": {"low": 2, "median": 4, "high": 9}, "busy": None}
    one = merged(rows)
    assert one["samples_s"]["total"] == [1.0, 3.0, 4.0] and one["runs"] == [[1.0], [3.0, 4.0]]
    assert (one["processes"], one["warmup_s"], one["wall_s"], one["status"]) == (2, [8.0], 3.0, "ok")
    assert one["memory_bytes"] == {"weights": 5, "peak_reserved": 7, "context": None}
    assert one["energy_j"] == pytest.approx(20.0)  # 3 samples: 40, 10, 10
    clocks = {"low": 1, "median": 3, "high": 9}
    assert one["conditions"] == {"throttled": ["heat", "power"], "sm_clock_hz": clocks, "busy": None}


def test_energy_by_two_methods_or_missing_once_is_not_measured():
    def energies(*found):
        return merged([row(SDXL, [1.0], process=i, energy_j=j, energy_method=m) for i, (j, m) in enumerate(found)])

    assert energies((1.0, "a"), (1.0, "b"))["energy_j"] is None
    assert energies((1.0, "a"), (None, None))["energy_j"] is None


def test_a_row_is_ok_only_if_every_process_was():
    rows = [row(SDXL, [1.0], process=0), row(SDXL, process=1, status="timeout", reason="slow")]
    rows.append(row(SDXL, process=2, status="oom", reason="full"))
    assert (merged(rows)["status"], merged(rows)["reason"]) == ("timeout", "slow")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=20, unique=True))
def test_grouping_keeps_every_row_and_the_order_of_processes(labels):
    rows = [row(SDXL, [1.0], process=process, name=name) for name, process in labels]
    groups = grouped(rows, lambda line: line["name"])
    assert sorted(map(id, rows)) == sorted(id(line) for group in groups for line in group)
    assert [group[0]["name"] for group in groups] == list(dict.fromkeys(name for name, _ in labels))
    for group in groups:
        assert [line["process"] for line in group] == sorted(line["process"] for line in group)


def test_a_row_alone_stays_what_it_is():
    line = row(SDXL, [1.0, 2.0], energy_j=None)
    one = merged([line])
    assert one | line == one and one["runs"] == [[1.0, 2.0]]


# ---- the table


def rendered(a, b, fail_over=0.0):
    return render_markdown(compare(a, b), ("old.jsonl", "new.jsonl"), fail_over, 0.05)


def test_the_table_begins_with_what_regressed_and_says_how_to_read_it():
    a = records(*processes(KOALA), *processes(SDXL), *processes(PIPELINE))
    b = records(*processes(KOALA), *processes(SDXL, 1.06), row(PIPELINE, status="oom", reason="CUDA out of memory"))
    text = rendered(a, b)
    assert text.startswith("**2 regressions** in 3 cases: 1 no longer runs, 1 slower, 1 no difference.")
    cases = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert [case.split(" 1024px")[0] for case in cases] == ["sdxl pipeline", "sdxl unet", "koala-700m unet"]
    assert "A is old.jsonl, B is new.jsonl" in text and "about 2.5% of unchanged cases" in text
    assert "- sdxl pipeline 1024px fp16 25 steps: A 0.1" in text
    assert " s, B out of memory (CUDA out of memory)" in text


def test_the_table_says_what_a_case_could_have_seen_and_what_to_measure():
    text = rendered(records(*processes(SDXL)), records(*processes(SDXL)))
    assert "would see" in text and "| enough" in text
    single = rendered(records(*processes(SDXL, count=1)), records(*processes(SDXL, 1.5, count=1)))
    assert "run-to-run variance unknown: measure with `--processes 3`" in single
    assert "slower?" in single and "**slower" not in single and single.startswith("**No regression**")


def test_a_frame_is_not_rounded_and_leaves_unknown_cells_empty():
    found = compare(records(*processes(SDXL)), records(row(SDXL, status="oom"), *processes(KOALA)))
    line = to_frame(found, 0.0).iloc[0]
    assert line["a_s"] != round(line["a_s"], 6) and line[["b_s", "ratio", "visible_change"]].isna().all()
    assert line["regression"] and line["b_status"] == "oom"


@pytest.mark.parametrize(("share", "text"), [(0.05, "5%"), (0.1, "10%"), (0.0312, "3.1%"), (0.004, "0.4%")])
def test_percentages_have_two_digits_and_no_trailing_noughts(share, text):
    assert percent(share) == text


def test_two_empty_stores_say_so():
    assert render_markdown([], ("a", "b"), 0.0, 0.05) == "Neither side holds a row.\n"
