from dataclasses import replace
from itertools import pairwise

import pytest
from pareto_rows import GIB, joining, scored, timed

from bench.report import pareto_figure
from bench.report.labels import place_names
from bench.report.pareto import LATENCY, MEMORY
from bench.report.pareto_figure import draw


@pytest.fixture
def joined(tmp_path):
    return joining(tmp_path)


def many(joined, **more):
    models = ("koala-turbo-700m", "koala-700m", "koala-1b", "ssd-1b", "sdxl")
    bench = [timed(model, 1.0 + k, memory=(k + 1) * GIB) for k, model in enumerate(models)]
    values = (0.20, 0.25, 0.23, 0.26, 0.27)
    quality = [line for model, value in zip(models, values, strict=True) for line in scored(value, model=model)]
    return joined([*bench, timed(seconds=70.0, environment="cpu", weights="hub")], quality, **more)


def test_the_figure_has_a_panel_a_device_a_name_a_point_and_says_what_is_better(joined):
    figure = pareto_figure._figure(many(joined))
    gpu, cpu = figure.axes
    assert [axis.get_title("left") for axis in figure.axes] == ["NVIDIA H200, 1024 px", "Xeon, 1024 px"]
    assert sorted(text.get_text() for text in gpu.texts) == [
        "koala-1b",
        "koala-700m",
        "koala-turbo-700m",
        "sdxl",
        "ssd-1b",
    ]
    assert gpu.get_xscale() == "log"
    assert gpu.get_xlabel() == "latency [s per image]  (← less is better)"
    assert gpu.get_ylabel() == "clip_score:mlperf  (higher is better →)"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:5] == [
        "Pareto front",
        "efficient: no other beats it",
        "beaten by another",
        "latency of real weights",
        "latency of random weights",
    ]
    assert [text for text in legend if "peak memory" in text][-1] == "peak memory, 8.00 GiB"
    assert [text.get_text() for text in cpu.texts] == ["koala-700m"]


def test_the_front_climbs_in_steps_through_the_efficient_points(joined):
    found = many(joined)
    gpu = pareto_figure._figure(found).axes[0]
    xs, ys = gpu.lines[0].get_data()
    corners = list(zip(xs, ys, strict=True))
    on_front = found.frame[found.frame["efficient"] & (found.frame["device"] == "NVIDIA H200")]
    assert all(point in corners for point in zip(on_front["latency_s"], on_front["quality"], strict=True))
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys)


@pytest.mark.parametrize(("worst", "scale"), [(19.0, "linear"), (491.0, "log")])
def test_few_bad_values_do_not_press_the_others_against_the_edge(joined, worst, scale):
    found = many(joined)
    frame = found.frame.assign(quality_low=None, quality_high=None)
    frame["quality"] = [1.0, *[worst] * (len(frame) - 1)]
    axis = pareto_figure._figure(replace(found, frame=frame)).axes[0]
    assert axis.get_yscale() == scale


@pytest.mark.parametrize("against", [LATENCY, MEMORY])
def test_the_same_rows_give_the_same_files(joined, tmp_path, against):
    found = many(joined, against=against)
    first, second = (draw(found, tmp_path / name) for name in ("a", "b"))
    assert [path.name for path in first] == ["pareto.svg", "pareto.png"]
    assert first[0].read_bytes() == second[0].read_bytes()


def test_a_name_stays_off_a_large_point():
    (offset,) = place_names([(200.0, 150.0)], [40.0], 9.0, (0.0, 0.0, 400.0, 300.0), radii=[12.0])
    assert max(abs(offset[0]), abs(offset[1]) - 4.5) >= 12.0


def test_one_point_with_a_name_that_looks_like_a_formula_is_drawn_as_it_is(joined, tmp_path):
    found = joined([timed()], scored(0.25))
    found.frame["model"] = found.frame["device"] = "$a_$ \\frac"
    assert draw(found, tmp_path)
