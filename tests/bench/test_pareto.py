import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench_rows import PIPELINE, SIX, row
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.report.generation import of_latency
from bench.report.pareto import MEMORY, efficient
from bench.report.pareto_table import names, render_markdown
from koala.errors import KoalaError, UnknownName
from koala.harness.scores.headings import lines_of

sys.path.append(str(Path(__file__).parents[1] / "eval"))
from eval_rows import CLIP, COCO, FID, estimate_row, set_row
from pareto_rows import GIB, H200, gallery, joining, scored, timed

# ---- the front

POINTS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=30)


def beats(a, b):
    """Whether a is as cheap as b and worth as much, and better in one."""
    return a[0] <= b[0] and a[1] >= b[1] and a != b


@given(POINTS)
@settings(deadline=None)
def test_no_efficient_point_is_beaten_and_every_other_one_is_by_an_efficient_one(points):
    marks = efficient([float(cost) for cost, _ in points], [float(value) for _, value in points])
    front = [point for point, mark in zip(points, marks, strict=True) if mark]
    assert front
    for point, mark in zip(points, marks, strict=True):
        assert any(beats(other, point) for other in front) != mark
        assert mark or any(beats(other, point) for other in points)


@given(POINTS, st.randoms())
@settings(deadline=None)
def test_the_order_of_points_does_not_matter(points, random):
    marks = dict(zip(points, efficient(*map(list, zip(*points, strict=True))), strict=True))
    mixed = random.sample(points, len(points))
    assert efficient(*map(list, zip(*mixed, strict=True))) == [marks[point] for point in mixed]


def test_equal_points_are_efficient_together_and_at_one_cost_or_value_only_the_better_is():
    assert efficient([1, 1], [5, 5]) == [True, True]
    assert efficient([1, 1, 2], [5, 4, 5]) == [True, False, False]


@pytest.fixture
def joined(tmp_path):
    return joining(tmp_path)


# ---- the join


def test_latency_with_random_weights_stands_beside_quality_with_real_ones_and_says_so(joined):
    found = joined([timed(seconds=2.0)], scored(0.25))
    (line,) = lines_of(found.frame)
    assert line["latency_s"] == pytest.approx(2.0)
    assert line["latency_low_s"] < 2.0 < line["latency_high_s"]
    assert line["quality"] == pytest.approx(0.25)
    assert line["quality_low"] < 0.25 < line["quality_high"]
    assert (line["n"], line["peak_memory_bytes"], line["suite"]) == (8, 8 * GIB, "koala-core")
    assert (line["latency_weights"], line["quality_weights"]) == ("random", "hub")
    assert found.left_out == found.remarks == []
    text = render_markdown(found)
    cells = [cell.strip() for cell in text.splitlines()[2].split("|")][1:-1]
    assert cells[:6] == ["koala-700m", "1024", "25", "fp16", "eager", "NVIDIA H200"]
    assert cells[6:] == ["2.00 [1.98, 2.02]", "8.00", "0.2500 [0.2490, 0.2510] (n=8)", "yes", "random", "real"]
    assert "Latency of random weights is that of real ones" in text


@pytest.mark.parametrize(
    ("field", "drawn"),
    [
        ("steps", {"steps": 10}),
        ("guided", {"guidance": 1.0}),
        ("resolution", {"height": 512, "width": 512}),
        ("dtype", {"dtype": "fp32"}),
        ("profile", {"profile": "tiny-vae"}),
    ],
)
def test_what_differs_in_cost_is_not_joined_and_the_remark_names_it(joined, field, drawn):
    bench = [timed(), timed("sdxl")]
    found = joined(bench, [*scored(0.25, gallery(**drawn)), *scored(0.26, model="sdxl")])
    assert list(found.frame["model"]) == ["sdxl"]
    latency, quality = found.left_out
    assert latency.startswith("latency of koala-700m 1024px 25 steps euler guided fp16 eager: quality is of another ")
    assert f"of another {field}:" in latency
    assert f"latency is of another {field}:" in quality


def test_the_scale_of_guidance_costs_nothing_so_that_both_scales_join_and_are_told_apart(joined):
    sets = [gallery(name=f"g{scale}", guidance=scale) for scale in (3.5, 7.5)]
    found = joined([timed()], [line for of in sets for line in scored(0.25, of)])
    assert sorted(names(lines_of(found.frame))) == ["koala-700m guidance 3.5", "koala-700m guidance 7.5"]


def test_a_row_that_was_not_guided_by_its_count_of_forwards_is_believed(joined):
    unguided = timed() | {"unet_calls": 25}
    with pytest.raises(KoalaError, match="nothing to join"):
        joined([unguided], scored(0.25))
    assert len(joined([unguided], scored(0.25, guidance=1.0)).frame) == 1


def test_of_several_latencies_of_a_case_real_weights_count_before_random_ones_then_the_newest(joined):
    old = timed(seconds=1.0) | {"started_at": "2026-01-01"}
    new = timed(seconds=2.0) | {"started_at": "2026-02-01", "environment": "newer"}
    bench = [H200 | {"id": "newer", "torch": "2.16.0"}, old, new]
    assert joined(bench, scored(0.25)).frame["latency_s"].tolist() == pytest.approx([2.0])
    real = timed(seconds=3.0, weights="hub") | {"started_at": "2025-01-01"}
    (line,) = lines_of(joined([*bench, real], scored(0.25)).frame)
    assert (line["latency_s"], line["latency_weights"]) == (pytest.approx(3.0), "hub")


def test_seconds_are_per_image_whatever_the_batch(joined):
    found = joined([timed(seconds=4.0, batch_size=4), timed(seconds=1.5)], scored(0.25))
    assert found.frame["latency_s"].tolist() == pytest.approx([1.0, 1.5])
    assert names(lines_of(found.frame)) == ["koala-700m x4", "koala-700m"]


def test_published_means_count_where_the_images_own_rows_were_left_out(joined):
    of = gallery()
    del of["path"]
    mean = estimate_row(of, CLIP, 0.31, 0.30, 0.32, reference=None) | {"level": "mean"}
    found = joined([timed()], [of, mean])
    (line,) = lines_of(found.frame)
    assert found.remarks == ["rows do not say of which suite images are: those of unlike prompts do not compare"]
    assert (line["quality"], line["quality_low"], line["quality_high"]) == (0.31, 0.30, 0.32)


# ---- what is efficient


def test_only_rows_of_one_device_are_compared(joined):
    bench = [timed("sdxl", 3.0), timed("koala-700m", 60.0, "cpu"), timed("sdxl", 90.0, "cpu")]
    found = joined(bench, [*scored(0.25), *scored(0.24, model="sdxl")])
    marks = {(line["device"], line["model"]): line["efficient"] for line in lines_of(found.frame)}
    assert marks == {("NVIDIA H200", "sdxl"): True, ("Xeon", "koala-700m"): True, ("Xeon", "sdxl"): False}


def test_an_emulated_card_is_a_device_of_its_own(joined):
    found = joined([timed(seconds=1.0), timed(seconds=5.0, vram_bytes=8 * GIB)], scored(0.25))
    assert found.frame["device"].tolist() == ["NVIDIA H200", "NVIDIA H200 as a card of 8 GiB"]
    assert found.frame["efficient"].all()


@pytest.mark.parametrize(("metric", "better"), [(CLIP, "sdxl"), (FID, "koala-700m")])
def test_a_metric_says_which_way_is_better(joined, metric, better):
    bench = [timed(seconds=1.0), timed("sdxl", 1.0)]
    found = joined(bench, [*scored(0.25, metric=metric), *scored(0.26, model="sdxl", metric=metric)])
    assert found.frame[found.frame["efficient"]]["model"].tolist() == [better]


def test_memory_in_the_place_of_latency(joined):
    bench = [timed(seconds=1.0, memory=9 * GIB), timed("sdxl", 2.0, memory=8 * GIB)]
    quality = [*scored(0.25), *scored(0.24, model="sdxl")]
    assert joined(bench, quality).frame["efficient"].tolist() == [True, False]
    assert joined(bench, quality, against=MEMORY).frame["efficient"].tolist() == [True, True]


def test_unlike_software_and_unlike_numbers_of_images_are_said(joined):
    bench = [H200 | {"id": "newer", "torch": "2.16.0"}, timed(), timed("sdxl", environment="newer")]
    found = joined(bench, [*scored(0.25, metric=FID), *scored(0.24, gallery("sdxl", n=9), FID)])
    assert "NVIDIA H200: latencies of unlike torch are compared: 2.15.0, 2.16.0" in found.remarks
    assert "quality is over unlike numbers of images: 8, 9" in found.remarks


def test_a_latency_that_may_be_unstable_says_why(joined):
    (remark,) = joined([timed() | {"samples_s": {"total": SIX}}], scored(0.25)).remarks
    assert remark.startswith("koala-700m (") and " on NVIDIA H200 may be unstable: " in remark


@pytest.mark.parametrize(
    ("model", "steps", "nfe", "guided"),
    [
        ("edm-imagenet64", 256, 511, False),
        ("bk-sdm-v2-tiny", 1, 2, False),
        ("bk-sdm-v2-tiny", 1, 4, True),
        ("bk-sdm-v2-tiny", 25, 52, True),
        ("sdxl", 25, 50, True),
        ("sdxl", 25, 25, False),
        ("sdxl-turbo", 1, None, False),
    ],
)
def test_whether_it_was_guided_is_told_by_forwards_as_the_scheduler_makes_them(model, steps, nfe, guided):
    line = {"model": model, "weights": "random", "steps": steps, "nfe": nfe, "resolution": 64}
    assert of_latency(line | {"dtype": "fp32", "profile": "eager"}).guided is guided


# ---- errors


def test_where_nothing_meets_the_error_names_what_each_side_has(joined):
    with pytest.raises(KoalaError, match=r"latency is there of koala-700m 1024px .*; quality of sdxl 1024px"):
        joined([timed()], scored(0.25, model="sdxl"))
    with pytest.raises(KoalaError, match=r"latency is there of no pipeline .*; quality of no set"):
        joined([row(PIPELINE, status="oom")], scored(0.25, set_row(settings={})))


def test_out_of_memory_is_the_answer_to_why_a_quality_has_no_latency(joined):
    out = row(replace(PIPELINE, model="sdxl"), status="oom", unet_calls=50)
    found = joined([timed(), out], [*scored(0.25), *scored(0.26, model="sdxl")])
    (remark,) = found.left_out
    assert remark == "quality of sdxl 1024px 25 steps euler guided fp16 eager: out of memory on NVIDIA H200"


def test_a_folder_of_images_and_a_black_box_are_named_as_of_no_known_making(joined):
    box = row(replace(PIPELINE, steps=20), SIX)
    box["case"] |= {"model": "my-pixart", "profile": "diffusers-eager", "weights": "random"}
    found = joined([timed(), box], [*scored(0.25), *scored(0.3, set_row("photos", settings={}))])
    assert found.left_out == [
        "latency of my-pixart: its recipe is not known here",
        "quality of photos: how its images were made is not recorded",
    ]


def test_one_of_several_metrics_must_be_named_and_an_unknown_one_lists_them(joined):
    of = gallery()
    quality = [*scored(0.25, of), *scored(20.0, of, FID)[1:]]
    with pytest.raises(KoalaError, match="choose one with --metric: clip_score:mlperf, fid:clean"):
        joined([timed()], quality)
    with pytest.raises(UnknownName, match=r"did you mean 'fid:clean'.*known: clip_score:mlperf, fid:clean"):
        joined([timed()], quality, "fid:clan")
    assert joined([timed()], quality, "fid:clean").frame["quality"].tolist() == [20.0]


def test_one_of_several_references_must_be_named(joined):
    of, other = gallery(), {"name": "photos", "content": "f0" * 32}
    quality = [of, estimate_row(of, FID, 20.0, reference=COCO), estimate_row(of, FID, 30.0, reference=other)]
    with pytest.raises(KoalaError, match="'fid:clean vs coco-val', 'fid:clean vs photos'"):
        joined([timed()], quality)
    assert joined([timed()], quality, "fid:clean vs photos").frame["quality"].tolist() == [30.0]


def test_one_of_several_suites_must_be_named_and_folders_of_no_model_do_not_count(joined):
    photos = set_row("photos", settings={})
    quality = [*scored(0.25), *scored(0.3, suite="drawbench"), *scored(0.4, photos)]
    with pytest.raises(KoalaError, match="choose one with --suite: drawbench, koala-core"):
        joined([timed()], quality)
    with pytest.raises(UnknownName, match="known: drawbench, koala-core"):
        joined([timed()], quality, suite="coco")
    assert joined([timed()], quality, suite="drawbench").frame["quality"].tolist() == pytest.approx([0.3])


def test_without_a_score_the_user_learns_how_to_get_some(joined):
    with pytest.raises(KoalaError, match="python -m eval score"):
        joined([timed()], [gallery()])


def test_memory_that_nobody_measured_is_an_error_where_it_is_asked_for(joined):
    bare = timed() | {"memory_bytes": {}}
    assert joined([bare], scored(0.25)).frame["peak_memory_bytes"].isna().all()
    with pytest.raises(KoalaError, match="--against latency"):
        joined([bare], scored(0.25), against=MEMORY)
