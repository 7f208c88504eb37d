"""Rows of a training: means, what a resume repeats, what a tracker and a picture get."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_training import trained

from koala.distill import log
from koala.distill.log import Means, flat, nested, plot, read
from koala.errors import KoalaError
from koala.harness import records
from koala.harness.records import SCHEMA, Store


def row(step, interval=1, loss=1.0, **more):
    losses = {"unet": {"total": loss, "task": loss, **more}}
    return {"schema": SCHEMA, "kind": "train", "step": step, "interval": interval, "losses": losses}


def written(path, *rows):
    with Store(path) as store:
        store.append(*rows)
    return path


def logged(out, **changes):
    trained(out, **changes)
    return read(out / log.FILE)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
@settings(deadline=None)
def test_means_are_of_the_steps_that_had_the_number(values):
    means = Means()
    for step, value in enumerate(values):
        means.add({"unet/total": value} | ({"critic/total": value} if step % 2 else {}))
    taken = means.take()
    assert taken["unet/total"] == pytest.approx(sum(values) / len(values), abs=1e-6)
    odd = values[1::2]
    assert ("critic/total" in taken) == bool(odd)
    if odd:
        assert taken["critic/total"] == pytest.approx(sum(odd) / len(odd), abs=1e-6)
    assert means.take() == {}


def test_a_mean_that_is_no_number_is_null_and_spoils_no_other():
    means = Means()
    means.add({"unet/total": math.nan, "unet/task": 2.0, "critic/total": math.inf, "unet/feature/UP-1": 1.0})
    networks = nested(means.take())
    assert networks == {"unet": {"total": None, "task": 2.0, "feature/UP-1": 1.0}, "critic": {"total": None}}
    json.dumps(networks, allow_nan=False)


def test_rows_average_the_steps_since_the_row_before(tmp_path):
    each, some = logged(tmp_path / "each"), logged(tmp_path / "some", log_every=3)
    assert [(r["step"], r["interval"]) for r in some] == [(3, 3), (4, 1), (6, 2), (8, 2), (9, 1), (12, 3)]
    for r in some:
        of = [one for one in each if r["step"] - r["interval"] < one["step"] <= r["step"]]
        for part, value in r["losses"]["unet"].items():
            assert value == pytest.approx(sum(one["losses"]["unet"][part] for one in of) / len(of), rel=1e-12)
        norms = [one["gradient_norm"]["unet"] for one in of]
        assert r["gradient_norm"]["unet"] == pytest.approx(sum(norms) / len(norms), rel=1e-12)


def test_a_row_says_what_was_done_how_fast_and_where(tmp_path):
    rows = logged(tmp_path, warmup=4)
    found = records.read([tmp_path / log.FILE])
    for r in rows:
        assert found.environment(r)["device_kind"] == "cpu" and found.environment(r)["torch"]
        assert r["images"] == 4 * r["step"]
        assert r["images_per_s"] == pytest.approx(4 / r["step_s"])
        assert {"backward", "update", "data"} <= r["shares"].keys() and 0 < sum(r["shares"].values()) <= 1
        assert r["memory_bytes"]["rss_peak"] > 0
        assert (r["skipped"], r["overflows"]) == (0, 0)
    assert [r["learning_rate"]["unet"] for r in rows][:5] == pytest.approx([0, 0.0025, 0.005, 0.0075, 0.01])


def test_steps_that_are_made_again_are_read_once_the_last_time(tmp_path):
    path = written(tmp_path / log.FILE, *(row(step, 10, loss=1.0) for step in (10, 20, 30, 40)))
    written(path, row(24, 4, loss=2.0), row(34, 10, loss=2.0))  # it went on from step 20
    assert [(r["step"], r["losses"]["unet"]["total"]) for r in read(path)] == [(10, 1), (20, 1), (24, 2), (34, 2)]
    written(path, row(10, 10, loss=3.0))  # and from the start
    assert [(r["step"], r["losses"]["unet"]["total"]) for r in read(path)] == [(10, 3)]


@given(st.lists(st.integers(0, 11), max_size=5), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_whatever_was_repeated_each_step_is_in_one_row(tmp_path_factory, starts, every):
    path, number = tmp_path_factory.mktemp("log") / log.FILE, 0
    last: dict[int, int] = {}
    for start in [0, *sorted(starts, reverse=True)]:  # goes back ever further, always to a row's end
        for step in range(start - start % every + every, 13, every):
            number += 1
            written(path, row(step, every, loss=float(number)))
            last[step] = number
    assert {r["step"]: r["losses"]["unet"]["total"] for r in read(path)} == last


def test_a_torn_line_costs_itself_alone(tmp_path):
    path = written(tmp_path / log.FILE, row(1), row(2))
    with open(path, "a") as file:
        file.write('{"kind": "train", "step": 3, "los')
    written(path, row(4, 2))
    assert [r["step"] for r in read(path)] == [1, 2, 4]


def test_a_tracker_gets_flat_names():
    numbers = dict(flat(row(3, 2, loss=0.5) | {"learning_rate": {"unet": 1e-5}, "environment": "id", "skipped": 1}))
    assert numbers == {"losses/unet/total": 0.5, "losses/unet/task": 0.5, "learning_rate/unet": 1e-5, "skipped": 1}


def rows_of_two():
    for step in range(1, 40):
        both = row(step, loss=2 / step, **{"feature": 30 / step, "feature/UP-1": 20 / step, "feature/Mid": 1e-4})
        both["losses"]["critic"] = {"total": 0.1 * step, "real": -1.0, "broken": None}
        yield both


def test_the_losses_are_drawn_one_panel_a_network(tmp_path):
    plot(list(rows_of_two()), tmp_path / "figures" / "losses.png")
    with Image.open(tmp_path / "figures" / "losses.png") as image:
        assert image.width > 800 and image.height > image.width * 0.7
        assert len(image.convert("RGB").getcolors(1 << 24)) > 50


def test_no_loss_is_no_picture(tmp_path):
    with pytest.raises(KoalaError, match="no loss to plot"):
        plot([], tmp_path / "losses.png")
    with pytest.raises(KoalaError, match="no loss to plot"):
        plot([row(1, loss=None) | {"losses": {"unet": {"total": None}}}], tmp_path / "losses.png")
