from dataclasses import replace

import pandas as pd
import pytest
from bench_rows import GPU, SDXL, SIX, row, store
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.commands.roofline import Options, run
from bench.report import roofline_figure
from bench.report.labels import place_names
from bench.report.roofline import left_out, placed, render_markdown
from bench.report.roofline_figure import draw
from koala.errors import KoalaError

H200 = {"peak_flops_per_s": 989.4e12, "peak_bytes_per_s": 4.8e12, "peak_source": "a datasheet"}


def line(model="sdxl", **fields):
    """One call of 10 TFLOP and 50 GB in a tenth of a second."""
    return {
        "model": model,
        "target": "unet",
        "resolution": 1024,
        "batch_size": 1,
        "dtype": "fp16",
        "profile": "eager",
        "device_name": "NVIDIA H200",
        "status": "ok",
        "latency_s": 0.1,
        "flops": 10e12,
        "moved_bytes": 50e9,
        **H200,
        **fields,
    }


def frame(*lines):
    return pd.DataFrame(list(lines))


# ---- the numbers


def test_shares_are_of_the_peaks_and_the_ridge_tells_what_binds():
    (point,) = placed(frame(line())).to_dict("records")
    assert point["flop_per_byte"] == 200
    assert point["achieved_flops_per_s"] == pytest.approx(100e12)
    assert point["share_of_flops"] == pytest.approx(100 / 989.4)
    assert point["share_of_bandwidth"] == pytest.approx(500 / 4800)
    assert point["ridge"] == pytest.approx(989.4e12 / 4.8e12)
    assert point["bound_by"] == "bandwidth"  # 200 FLOP a byte, and the ridge is at 206


@given(
    flops=st.floats(1e6, 1e16), moved=st.floats(1e6, 1e13), seconds=st.floats(1e-6, 1e4),
    peak_flops=st.floats(1e9, 1e16), peak_bytes=st.floats(1e8, 1e14),
)  # fmt: skip
@settings(max_examples=50, deadline=None)
def test_what_binds_is_the_limit_of_which_a_larger_share_is_used(flops, moved, seconds, peak_flops, peak_bytes):
    fields = {"flops": flops, "moved_bytes": moved, "latency_s": seconds}
    peaks = {"peak_flops_per_s": peak_flops, "peak_bytes_per_s": peak_bytes}
    (point,) = placed(frame(line(**fields, **peaks))).to_dict("records")
    shares = {"compute": point["share_of_flops"], "bandwidth": point["share_of_bandwidth"]}
    assert shares[point["bound_by"]] >= max(shares.values()) * (1 - 1e-9)


def test_the_table_rounds_and_says_what_bytes_and_peaks_are():
    text = render_markdown(frame(line(), line("koala-700m", latency_s=0.04)))
    cells = [cell.strip() for cell in text.splitlines()[4].split("|")]
    assert cells[1:-1] == ["sdxl", "unet", "1024", "fp16", "10.0", "50.0", "200", "100", "10.1", "10.4", "bandwidth"]
    assert "upper bound" in text
    assert "Peaks of fp16: a datasheet." in text


def test_batch_and_profile_are_shown_only_where_they_differ_from_one_and_eager():
    assert "batch" not in render_markdown(frame(line())).splitlines()[2]
    head = render_markdown(frame(line(), line(batch_size=4, profile="compiled"))).splitlines()[2]
    assert "batch" in head
    assert "profile" in head


def test_a_device_has_a_table_of_its_own():
    text = render_markdown(frame(line(), line(device_name="A CPU|", peak_source="probed: here")))
    assert "### NVIDIA H200" in text
    assert "### A CPU\\|" in text


@pytest.mark.parametrize(
    ("missing", "words"),
    [("flops", "counted operations"), ("moved_bytes", "counted bytes"), ("peak_flops_per_s", "peak FLOP/s")],
)
def test_a_row_that_lacks_something_is_named_with_it(missing, words):
    (remark,) = left_out(frame(line(), line("koala-1b", **{missing: None})))
    assert remark.startswith("koala-1b unet 1024px fp16: no ")
    assert words in remark


def test_a_row_that_was_not_measured_is_not_missed():
    assert left_out(frame(line(status="oom", latency_s=None))) == []


def test_rows_from_before_bytes_were_counted_have_no_place_and_break_nothing(tmp_path):
    old = frame(line()).drop(columns=["moved_bytes", *H200])
    assert "No row" in render_markdown(old)
    assert len(left_out(old)) == 1
    assert draw(old, tmp_path) == []


# ---- names beside points

FRAME = (0.0, 0.0, 400.0, 300.0)
POINTS = st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300)), max_size=25)


def boxes(points, offsets, width, height):
    for (x, y), offset in zip(points, offsets, strict=True):
        if offset is not None:
            left = x + offset[0] - (0 if offset[0] > 0 else width)
            yield left, y + offset[1] - height / 2, left + width, y + offset[1] + height / 2


@given(points=POINTS, width=st.floats(10, 80))
@settings(max_examples=40, deadline=None)
def test_no_name_covers_a_point_or_another_name_or_leaves_the_frame(points, width):
    offsets = place_names(points, [width] * len(points), 9.0, FRAME)
    found = list(boxes(points, offsets, width, 9.0))
    for place, (left, bottom, right, top) in enumerate(found):
        assert left >= -1e-6 and bottom >= -1e-6 and right <= 400 + 1e-6 and top <= 300 + 1e-6
        assert not any(left < x < right and bottom < y < top for x, y in points)
        for a, b, c, d in found[:place]:
            assert c <= left + 1e-6 or right <= a + 1e-6 or d <= bottom + 1e-6 or top <= b + 1e-6


def test_a_lonely_point_has_its_name_beside_it_unless_a_line_runs_there():
    assert place_names([(200.0, 150.0)], [40.0], 9.0, FRAME) == [(7.0, 0.0)]
    beside = [(200.0 + step, 150.0) for step in range(-100, 100, 2)]
    (offset,) = place_names([(200.0, 150.0)], [40.0], 9.0, FRAME, beside)
    assert abs(offset[1]) > 4.5


def test_where_there_is_no_room_there_is_no_name():
    assert place_names([(5.0, 5.0)], [40.0], 9.0, (0.0, 0.0, 10.0, 10.0)) == [None]


# ---- the figure


def many(count=6):
    return frame(
        *(line(f"model-{k}", latency_s=0.1 + 0.01 * k, moved_bytes=50e9 + 1e9 * k) for k in range(count)),
        *(line(f"model-{k}", resolution=512, dtype="fp32", peak_flops_per_s=66.9e12) for k in range(2)),
    )


def test_each_device_gets_its_figure_in_two_formats(tmp_path):
    paths = draw(pd.concat([many(), frame(line(device_name="A CPU"))]), tmp_path)
    folders = ["nvidia-h200", "a-cpu"]
    assert paths == [tmp_path / name / f"roofline.{kind}" for name in folders for kind in ("svg", "png")]
    assert all(path.stat().st_size > 5000 for path in paths)


def test_the_same_rows_give_the_same_file(tmp_path):
    first, second = (draw(many(), tmp_path / name)[0].read_bytes() for name in ("a", "b"))
    assert first == second


def drawn(rows):
    return roofline_figure._figure("NVIDIA H200", placed(rows))


def test_the_figure_has_a_roof_a_dtype_a_marker_a_resolution_and_a_name_a_point():
    figure = drawn(many())
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [
        "fp16 roof: 989 TFLOP/s,\n4800 GB/s, ridge 206 FLOP/byte",
        "fp32 roof: 66.9 TFLOP/s,\n4800 GB/s, ridge 13.9 FLOP/byte",
        "unet 512 px",
        "unet 1024 px",
    ]
    (axis,) = figure.axes
    assert sorted(text.get_text() for text in axis.texts) == sorted(many()["model"])
    assert axis.get_xscale() == axis.get_yscale() == "log"


def test_the_footnote_says_what_bytes_are_and_whose_the_peaks_are():
    maker = drawn(frame(line())).get_supxlabel().replace("\n", " ")
    assert "upper bound" in maker
    assert "from bench/gpus.toml" in maker
    probed = drawn(frame(line(peak_source="probed: here"))).get_supxlabel().replace("\n", " ")
    assert "probed on this device" in probed


def test_points_beyond_what_can_be_named_are_counted():
    figure = drawn(many(roofline_figure.MOST_LABELS + 3))
    assert len(figure.axes[0].texts) <= roofline_figure.MOST_LABELS
    assert "without a name" in figure.axes[0].get_title("right")


def test_names_that_look_like_formulas_are_drawn_as_they_are(tmp_path):
    assert draw(frame(line("$a_$ \\frac", device_name="X $y$")), tmp_path)


def test_a_folder_that_cannot_be_written_is_the_users_to_mend(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(KoalaError, match="cannot write"):
        draw(frame(line()), tmp_path / "file")


# ---- the command


def test_the_command_prints_the_table_and_the_paths_and_names_what_it_left_out(tmp_path, capsys):
    peak = {"flops_per_s": 989.4e12, "bytes_per_s": 4.8e12, "source": "a datasheet"}
    counted = {"flops": 13_522_472_796_160, "moved_bytes": 43_900_000_000, "peak": peak}
    path = store(
        tmp_path / "rows.jsonl",
        row(SDXL, SIX, **counted),
        row(replace(SDXL, model="koala-700m"), SIX),
        environment=GPU | {"device_name": "NVIDIA H200"},
    )
    assert run(Options((path,), tmp_path / "figures")) == 0
    out, err = capsys.readouterr()
    assert "| sdxl" in out
    assert str(tmp_path / "figures/nvidia-h200/roofline.png") in out.splitlines()
    assert "left out: koala-700m unet 1024px fp16: no counted operations" in err


def test_without_rows_the_user_learns_how_to_get_some(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KoalaError, match="python -m bench sweep"):
        run(Options())
