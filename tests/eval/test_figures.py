import html
import re
import warnings

import numpy as np
import pytest
from eval_rows import CLIP, FID, HOSTILE, estimate_row, image_rows, known, metric_row, set_row, settings
from PIL import Image

from eval.report import figures, steps_figure
from koala.harness.scores.collect import collect
from koala.harness.scores.table import tag_frame, to_frame

SCORES = [30.0, 31.0, 29.0, 32.0, 30.5, 28.0, 33.0, 30.0]


def frames(*names, metrics=(CLIP,), low=20.0):
    sets = [set_row(name, settings=settings(weights="random" if name == HOSTILE else "hub")) for name in names]
    rows = [row for about in sets for metric in metrics for row in image_rows(about, metric, SCORES)]
    estimates = [estimate_row(about, FID, 21.0, low, 22.0) for about in sets]
    found = known(FID, *metrics, *sets, *rows, *estimates)
    return to_frame(found), tag_frame(collect(found))


def texts(svg):
    """What an SVG says: matplotlib keeps the text of drawn paths in comments."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", svg.read_text(), re.DOTALL)]


def test_a_figure_has_a_panel_for_each_metric_and_a_row_for_each_set(tmp_path):
    frame, _ = frames("sdxl", "koala")
    svg, png = figures.draw_metrics(frame, tmp_path)
    assert (svg.name, png.name) == ("metrics.svg", "metrics.png")
    said = texts(svg)
    assert "fid:clean ↓" in said
    assert "clip_score:mlperf ↑" in said
    assert said.count("sdxl") == 1, "rows are labelled once, on the left"


def test_a_figure_is_drawn_on_white_and_holds_ink(tmp_path):
    pixels = np.asarray(Image.open(figures.draw_metrics(frames("sdxl")[0], tmp_path)[1]).convert("RGB"))
    assert (pixels[0, 0] == 255).all()
    assert 0.002 < (pixels.min(axis=2) < 200).mean() < 0.2


def test_the_same_rows_give_the_same_svg(tmp_path):
    first, second = (figures.draw_metrics(frames("a", "b")[0], tmp_path / part)[0] for part in "xy")
    assert first.read_bytes() == second.read_bytes()


def test_hostile_names_are_drawn_as_they_are_without_mathematics_or_missing_glyphs(tmp_path):
    label = metric_row("e1", HOSTILE, label=HOSTILE + " 絵")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame, tags = frames(HOSTILE, "$\\frac{$ 😀 絵", metrics=(label,))
        written = [*figures.draw_metrics(frame, tmp_path), *figures.draw_tags(tags, frame, tmp_path)]
    assert len(written) == 4
    assert "$\\frac{$ 😀 ?" in texts(written[0])


def test_that_weights_are_random_survives_a_long_name(tmp_path):
    svg, _ = figures.draw_metrics(frames(HOSTILE)[0], tmp_path)
    assert any(text.endswith("(random weights)") and len(text) <= 34 for text in texts(svg))


@pytest.mark.parametrize(("low", "face"), [(20.0, False), (None, True)])
def test_a_value_without_an_interval_is_hollow(tmp_path, low, face):
    frame, _ = frames("sdxl", metrics=(), low=low)
    svg, _ = figures.draw_metrics(frame, tmp_path)
    assert (re.search(r"fill: #ffffff; stroke: #0072b2", svg.read_text()) is not None) == face


def test_labels_of_rows_do_not_overlap_and_stay_on_the_page(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(figures, "save", lambda figure, base: drawn.append(figure) or [])
    names = [f"koala-lightning-700m at {steps} steps of a long name" for steps in range(12)]
    metrics = [metric_row(f"id{i}", f"clip_score:ViT-H-14-quickgelu/metaclip_fullcc_{i}") for i in range(5)]
    frame, tags = frames(*names, metrics=metrics)
    figures.draw_metrics(frame, tmp_path)
    figures.draw_tags(tags, frame, tmp_path)
    assert len(drawn) == 2
    for figure in drawn:
        figure.draw_without_rendering()
        for axis in figure.axes:
            labels = [text for text in axis.get_yticklabels() if text.get_text()]
            boxes = [text.get_window_extent() for text in (*labels, axis.title, *axis.texts, axis._left_title)]
            shown = [box for box in boxes if box.width]
            assert all(box.x0 >= 0 and box.x1 <= figure.bbox.x1 for box in shown)
            assert not any(a.overlaps(b) for i, a in enumerate(shown) for b in shown[:i])
        titles = [axis._left_title.get_window_extent() for axis in figure.axes]
        assert not any(a.overlaps(b) for i, a in enumerate(titles) for b in titles[:i])


def test_figures_by_tag_show_a_few_sets_and_the_page_says_so(tmp_path):
    names = [f"set {place}" for place in range(figures.MOST_SETS_BY_TAG + 2)]
    frame, tags = frames(*names)
    svg, _ = figures.draw_tags(tags, frame, tmp_path)
    said = texts(svg)
    assert "set 7" in said
    assert "set 8" not in said
    assert {"by category", "animals", "food"} <= set(said)
    without, _ = figures.draw_tags(tags[tags["name"] != "set 0"], frame, tmp_path)
    assert "set 0" not in texts(without) and "set 8" in texts(without)


def test_nothing_to_draw_draws_nothing(tmp_path):
    koala = set_row()
    frame = to_frame(known(FID, koala, estimate_row(koala, FID, None)))
    assert figures.draw_metrics(frame, tmp_path) == []
    assert not list(tmp_path.iterdir())


# ---- quality against steps


def by_steps(*steps, model="koala", **more):
    recipes = [{"scheduler": "euler", "steps": n, "guidance": 7.5} for n in steps]
    name = f"{model}-{more}"
    sets = [set_row(f"{name}-{r['steps']}", settings=settings(model, recipe=r, **more)) for r in recipes]
    return sets, [row for about in sets for row in image_rows(about, CLIP, SCORES)]


def test_models_drawn_with_several_numbers_of_steps_are_curves(tmp_path):
    sets, rows = by_steps(1, 4, 25)
    others, more = by_steps(4, model="sdxl-turbo")
    frame = to_frame(known(CLIP, *sets, *others, *rows, *more))
    svg, png = steps_figure.draw_steps(frame, tmp_path)
    assert (svg.name, png.name) == ("steps.svg", "steps.png")
    said = texts(svg)
    assert "clip_score:mlperf ↑" in said and {"1", "4", "25", "koala"} <= set(said)
    assert "sdxl-turbo" not in said, "one number of steps is no curve"


def test_curves_of_one_model_are_told_apart_by_what_differs(tmp_path):
    sets, rows = by_steps(1, 4)
    others, more = by_steps(1, 4, height=512, width=512)
    svg, _ = steps_figure.draw_steps(to_frame(known(CLIP, *sets, *others, *rows, *more)), tmp_path)
    assert {"koala height=512", "koala height=1024"} <= set(texts(svg))


def test_without_several_numbers_of_steps_there_is_no_figure(tmp_path):
    assert steps_figure.draw_steps(frames("sdxl", "koala")[0], tmp_path) == []
