from pathlib import Path

import pandas as pd
import pytest
from eval_rows import CLIP, FID, estimate_row, image_rows, known, metric_row, set_row, settings

from eval import metrics
from eval.report.published import COLUMNS, beside, read_published, render_published
from koala.errors import KoalaError, UnknownName
from koala.harness.scores.table import to_frame
from koala.models import zoo

REFERENCE = Path(__file__).parents[2] / "results/reference"
PUBLISHED = read_published(REFERENCE)
CLIP_SCORES = [31.0, 32.0, 31.5, 31.7, 31.2, 31.9, 31.4, 31.6]
# Benchmarks that this project does not run, or papers' metrics whose convention no source states.
NOT_OURS = {"hpsv2", "geneval", "compbench", "fid:edm", "lpips_diversity:dmd2"}


def cell(model, metric, **where):
    """The one published cell of a model and metric."""
    chosen = PUBLISHED[(PUBLISHED["model"] == model) & (PUBLISHED["metric"] == metric)]
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    (found,) = chosen.to_dict("records")
    return found


@pytest.mark.parametrize(
    ("model", "metric", "where", "value"),
    [
        ("bk-sdm-small", "fid:bk-sdm", {"benchmark": "coco30k"}, "16.98"),
        ("bk-sdm-v2-tiny", "clip_score:bk-sdm", {}, "0.2897"),
        ("sdm-v1.4", "inception_score:bk-sdm", {"benchmark": "coco30k"}, "36.76"),
        ("dmd2-sdxl-4step", "fid:dmd2", {}, "19.32"),
        ("dmd2-sdxl-1step", "patch_fid:clean", {}, "26.98"),
        ("sdxl", "clip_score:dmd2", {"guidance": "8"}, "0.335"),
        ("dmd2-sd15", "fid:dmd2-256", {}, "8.35"),
        ("sdm-v1.5", "fid:dmd2-256", {"guidance": "3"}, "8.59"),
        ("koala-1b-30k-task-sa", "hpsv2", {}, "26.74"),
        ("sdm-v2.0", "hpsv2:v2.1", {}, "26.38"),
        ("sdxl", "geneval:overall", {}, "0.55"),
        ("sdxl", "compbench:complex", {}, "0.4091"),
    ],
)
def test_cells_are_the_papers(model, metric, where, value):
    assert cell(model, metric, **where)["value"] == value


def test_mlperfs_ranges_are_published_whole():
    found = PUBLISHED[(PUBLISHED["benchmark"] == "mlperf-inference-sdxl") & (PUBLISHED["value"] == "")]
    assert found.set_index("metric")[["low", "high"]].to_dict("index") == {
        "fid:pytorch-fid": {"low": "23.01085758", "high": "23.95007626"},
        "clip_score:mlperf": {"low": "31.68631873", "high": "31.81331801"},
    }


def test_every_cell_names_a_source_by_its_key_and_says_what_it_is():
    assert PUBLISHED["source"].str.match(r"^(BK|D2|D2-tab|K-tab|MLP|GE|HPS|CB): \S").all()
    keys = ["benchmark", "model", "steps", "guidance", "metric", "note"]
    assert not PUBLISHED.duplicated(keys).any()


def test_models_are_called_as_in_the_zoo_where_it_has_them():
    ours = set()
    for model in PUBLISHED["model"]:
        try:
            ours.add(zoo.get(model).name)
        except UnknownName:
            continue
    assert {"sdxl", "sdm-v1.4", "bk-sdm-small-2m", "bk-sdm-v2-base", "dmd2-sdxl-4step", "sdxl-turbo"} <= ours
    assert ours <= set(PUBLISHED["model"]), "an alias stands where the zoo's own name should"


@pytest.mark.parametrize("metric", sorted(set(PUBLISHED["metric"])))
def test_metrics_are_called_as_in_the_registry_or_are_known_not_to_be_ours(metric):
    if metric not in NOT_OURS and metric.partition(":")[0] not in NOT_OURS:
        metrics.load(metric)


def frame_of(label="clip_score:mlperf", weights="hub", model="sdxl", n=8):
    about = set_row("run", n=n, settings=settings(model, weights))
    metric = CLIP | {"label": label}
    return to_frame(known(metric, FID, about, *image_rows(about, metric, CLIP_SCORES), estimate_row(about, FID, 24.0)))


def measured(frame, metric="clip_score:mlperf"):
    lines = beside(PUBLISHED, frame)
    return list(lines.loc[lines["metric"] == metric, "measured"].dropna())


def test_a_measured_number_stands_beside_a_published_one_of_its_model_and_metric():
    lines = beside(PUBLISHED, frame_of())
    (mlperf,) = lines[(lines["published"] == "31.7466")].to_dict("records")
    assert mlperf["measured"].startswith("31.54 [")
    assert mlperf["protocol differs"] == "n 5000 against 8, steps 20 against 25, guidance 8 against 7.5"
    assert set(lines["model"]) == {"sdxl"}


@pytest.mark.parametrize("label", ["clip_score:mlperf[unverified]", "clip_score:mlperf[bf16]", "clip_score:dmd2x"])
def test_only_the_bare_standard_label_stands_beside_a_published_number(label):
    assert measured(frame_of(label)) == []
    assert len(measured(frame_of())) == 2


def test_random_weights_and_twins_stand_beside_nothing():
    assert measured(frame_of(weights="random")) == []
    assert beside(PUBLISHED, frame_of(model="tiny-sdxl")).empty


def test_published_aliases_meet_the_zoos_names():
    assert len(measured(frame_of(model="sdxl-base-1.0"))) == 2


def test_a_protocol_that_agrees_is_said_to_differ_in_nothing():
    about = set_row("run", n=10000, settings=settings("dmd2-sdxl-4step", recipe={"steps": 4, "guidance": 0.0}))
    fid = FID | {"metric": "fid:dmd2", "label": "fid:dmd2"}
    lines = beside(PUBLISHED, to_frame(known(fid, about, estimate_row(about, fid, 19.5))))
    (found,) = lines[lines["metric"] == "fid:dmd2"].to_dict("records")
    assert found["protocol differs"] is None or pd.isna(found["protocol differs"])
    assert found["published"] == "19.32"


def test_the_page_marks_what_is_published_and_prints_sources():
    page = render_published(PUBLISHED, frame_of())
    heading = next(line for line in page.splitlines() if line.startswith("| model"))
    assert "published" in heading
    assert "measured" in heading
    assert "MLP: mlcommons/inference text_to_image; range of valid submissions" in page
    assert "No number was published" in render_published(PUBLISHED, frame_of(model="my-own"))
    assert "No number was published" in render_published(PUBLISHED.iloc[:0], frame_of())
    assert "No number was published" in render_published(PUBLISHED, pd.DataFrame())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,metric\n", "should have the columns benchmark,"),
        ("", "cannot read"),
        (
            ",".join(COLUMNS) + "\nb,m,,,fid:clean,twelve,,,,,S: x,\n",
            "line 2: value is 'twelve', and should be a number",
        ),
        (",".join(COLUMNS) + "\nb,m,,,fid:clean,1,,,,,,\n", "line 2: model, metric, source"),
        (",".join(COLUMNS) + "\nb,m,,,fid:clean,,,,,,S: x,\n", "line 2: model, metric, source"),
    ],
)
def test_a_file_that_is_not_of_this_kind_is_an_error(tmp_path, text, message):
    (tmp_path / "x_published_quality.csv").write_text(text)
    with pytest.raises(KoalaError, match=message):
        read_published(tmp_path)


def test_dmd2s_fids_stand_beside_no_fid_of_images_that_were_not_resized_first():
    dmd2 = PUBLISHED[PUBLISHED["benchmark"].isin(["coco10k-sdxl", "coco30k-sd15"])]
    assert set(dmd2["metric"]) & set(metrics.names()) == {
        "fid:dmd2",
        "fid:dmd2-256",
        "patch_fid:clean",
        "clip_score:dmd2",
    }
    about = set_row("run", n=10000, settings=settings("dmd2-sdxl-4step", recipe={"steps": 4, "guidance": 0.0}))
    lines = beside(PUBLISHED, to_frame(known(FID, about, estimate_row(about, FID, 19.5))))
    assert lines["measured"].isna().all()


def test_a_folder_without_files_has_no_numbers(tmp_path):
    assert read_published(tmp_path).empty


def test_substitutes_have_no_published_numbers():
    substitute = metric_row("5a", "fd_effnet_lite0", "set", substitute=True)
    about = set_row("run", settings=settings("sdxl"))
    lines = beside(PUBLISHED, to_frame(known(substitute, about, estimate_row(about, substitute, 1.0))))
    assert lines["measured"].isna().all()
