import json

import pandas as pd
import pytest
from eval_rows import (
    CLIP,
    COCO,
    DIVERSITY,
    FID,
    estimate_row,
    group_row,
    image_row,
    image_rows,
    known,
    metric_row,
    set_row,
    settings,
    store,
)

from eval.commands.publish import Options, run
from eval.report import publish as publishing
from eval.report.markdown import render_markdown
from eval.report.publish import publish
from koala.errors import KoalaError
from koala.harness import records
from koala.harness.scores.collect import MEAN
from koala.harness.scores.table import to_frame

SCORES = [30.0, 31.0, 29.0, 32.0, 30.5, 28.0, 33.0, 30.0]
LATER = "2026-04-01T00:00:00+00:00"
KOALA = set_row()


def whole(about=KOALA, fid=23.0, scores=SCORES, **more):
    return [about, *image_rows(about, CLIP, scores, **more), estimate_row(about, FID, fid, 22.0, 24.0, **more)]


def published(tmp_path, *rows, name="rows.jsonl"):
    return publish([store(tmp_path / name, CLIP, FID, *rows)], tmp_path / "results")


def table(tmp_path):
    frame = pd.read_csv(tmp_path / "results/quality/quality.csv")
    return {(line["name"], line["label"]): line["value"] for line in frame.to_dict("records")}


def lines(tmp_path, level):
    rows = records.read([tmp_path / "results/quality/rows.jsonl"]).rows
    return [row for row in rows if row["kind"] == "eval" and row["level"] == level]


def test_whole_rows_become_rows_csv_and_markdown(tmp_path):
    found = published(tmp_path, *whole())
    assert sorted(path.name for path in found.folder.iterdir()) == ["quality.csv", "quality.md", "rows.jsonl"]
    assert found.remarks == []
    assert table(tmp_path) == {("koala", "clip_score:mlperf"): 30.4375, ("koala", "fid:clean"): 23.0}
    assert (len(lines(tmp_path, "set")), len(lines(tmp_path, MEAN)), len(lines(tmp_path, "image"))) == (1, 1, 8)
    assert "## Published beside measured" in (found.folder / "quality.md").read_text()


def test_publishing_again_changes_nothing(tmp_path):
    folder = published(tmp_path, *whole()).folder
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    publish([tmp_path / "rows.jsonl"], tmp_path / "results")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_published_mean_stands_for_its_images(tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "IMAGE_ROWS_BELOW_BYTES", 2000)
    found = published(tmp_path, *whole())
    assert any("8 rows of single images" in remark and "only their means" in remark for remark in found.remarks)
    assert lines(tmp_path, "image") == []
    kinds = [row["kind"] for row in records.read([found.folder / "rows.jsonl"]).rows]
    assert (kinds.count("metric"), kinds.count("set")) == (2, 1)
    columns = ["label", "level", "value", "low", "high", "n", "n_prompts", "interval_method"]
    again = to_frame(records.read([found.folder / "rows.jsonl"]))[columns].sort_values("label", ignore_index=True)
    fresh = to_frame(records.read([tmp_path / "rows.jsonl"]))[columns].sort_values("label", ignore_index=True)
    pd.testing.assert_frame_equal(again, fresh, check_dtype=False)


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        (set_row("bad", unreadable=[{"file": "x.png", "reason": "truncated"}]), "1 images could not be read"),
        (set_row("bad", n=9), "interrupted, 8 of 9 images have a row"),
        (set_row("bad", n=7), "8 images have a row and the set holds 7"),
        (set_row("bad", settings=settings("tiny-koala-700m")), "tiny-koala-700m is a small twin"),
    ],
)
def test_a_set_that_is_not_whole_stays_behind(tmp_path, about, reason):
    with pytest.raises(KoalaError, match=f"no whole rows of full-size models to publish; bad: {reason}"):
        published(tmp_path, *whole(about))
    found = published(tmp_path, *whole(), name="more.jsonl") and publish(
        [tmp_path / "rows.jsonl", tmp_path / "more.jsonl"], tmp_path / "results"
    )
    assert found.remarks == [f"bad: {reason}; not published"]
    assert {name for name, _ in table(tmp_path)} == {"koala"}


def test_a_set_whose_last_scoring_was_interrupted_stays_behind(tmp_path):
    with pytest.raises(KoalaError, match="last scoring did not come to its end"):
        published(tmp_path, *whole(), set_row(content=None))


def test_a_distance_to_a_reference_that_is_not_whole_stays_behind(tmp_path):
    partly = estimate_row(KOALA, FID, 1.0, reference=COCO | {"unreadable": 2}, started_at=LATER)
    found = published(tmp_path, *whole(), partly)
    assert found.remarks == ["koala, fid:clean: images of its reference could not be read; not published"]
    assert {label for _, label in table(tmp_path)} == {"clip_score:mlperf"}
    page = render_markdown(to_frame(records.read([tmp_path / "rows.jsonl"])))
    assert "coco-val (n=40504, 2 unreadable, content c0c0c0c0)" in page


def test_a_metric_without_a_score_for_every_image_stays_behind(tmp_path):
    other = metric_row("ae5", "aesthetic")
    partial = [image_row(KOALA, i, {"ae5": 5.0, CLIP["id"]: SCORES[i]}, started_at=LATER) for i in range(3)]
    null = metric_row("b1", "brightness")
    rows = [image_row(KOALA, i, {"b1": None if i == 2 else 0.5}) for i in range(8)]
    found = published(tmp_path, other, null, *whole(), *rows, *partial)
    assert {label for _, label in table(tmp_path)} == {"clip_score:mlperf", "fid:clean"}
    assert len(found.remarks) == 2
    assert all(set(row["scores"]) == {CLIP["id"]} for row in lines(tmp_path, "image"))


def test_a_metric_that_says_nothing_of_some_prompts_is_published_with_their_number(tmp_path):
    legible = metric_row("7e7", "text_accuracy", partial=True)
    rows = [image_row(KOALA, i, {"7e7": None if i < 5 else 0.5}, started_at=LATER) for i in range(8)]
    assert published(tmp_path, legible, *rows, KOALA).remarks == []
    publish([tmp_path / "results/quality/rows.jsonl"], tmp_path / "again")
    for folder in ("results", "again"):
        (line,) = pd.read_csv(tmp_path / folder / "quality/quality.csv").to_dict("records")
        assert (line["value"], line["n"], line["without_score"]) == (0.5, 3, 5)


def test_a_partial_metric_that_has_not_seen_every_image_stays_behind(tmp_path):
    legible = metric_row("7e7", "text_accuracy", partial=True)
    rows = [image_row(KOALA, i, {"7e7": 0.5} if i < 5 else {}) for i in range(8)]
    with pytest.raises(KoalaError, match="not every image has a score"):
        published(tmp_path, legible, *rows, KOALA)


def test_published_rows_stay_and_newer_ones_of_the_same_key_count(tmp_path):
    published(tmp_path, *whole())
    other = set_row("other")
    published(tmp_path, *whole(other, fid=50.0), estimate_row(KOALA, FID, 21.0, started_at=LATER), KOALA,
              *image_rows(KOALA, CLIP, SCORES), name="b.jsonl")  # fmt: skip
    assert table(tmp_path)["koala", "fid:clean"] == 21.0
    assert table(tmp_path)["koala", "clip_score:mlperf"] == 30.4375
    assert table(tmp_path)["other", "fid:clean"] == 50.0
    publish([tmp_path / "rows.jsonl"], tmp_path / "results")
    assert table(tmp_path)["koala", "fid:clean"] == 21.0, "an older file does not replace newer rows"


def test_other_content_and_other_references_are_kept_beside(tmp_path):
    published(tmp_path, *whole())
    redrawn = set_row(content="content-2")
    published(tmp_path, *whole(redrawn, fid=19.0, started_at=LATER), name="b.jsonl")
    names = {name for name, _ in table(tmp_path)}
    assert names == {"koala"}
    page = (tmp_path / "results/quality/quality.md").read_text()
    assert "koala (content content-)" in page
    assert len(lines(tmp_path, "set")) == 2


def test_groups_are_published_as_means_too(tmp_path):
    groups = [group_row(KOALA, f"p{i}", {DIVERSITY["id"]: 0.5}) for i in range(6)]
    published(tmp_path, DIVERSITY, *whole(), *groups)
    assert table(tmp_path)["koala", "lpips_diversity"] == 0.5


def test_paths_of_this_machine_are_not_published(tmp_path):
    folder = published(tmp_path, *whole(set_row(path="/home/someone/images"))).folder
    text = "".join(path.read_text() for path in folder.iterdir())
    assert "someone" not in text
    assert "/data/coco" not in text
    assert "coco-val" in text


def test_a_row_without_its_environment_is_not_published(tmp_path):
    path = store(tmp_path / "r.jsonl", CLIP, *whole()[:-1], environment=None)
    with pytest.raises(KoalaError, match="environment that its file does not hold"):
        publish([path], tmp_path / "results")


def test_a_damaged_published_file_is_not_overwritten(tmp_path):
    folder = published(tmp_path, *whole()).folder
    text = (folder / "rows.jsonl").read_text() + '{"kind": "eval", "lev'
    (folder / "rows.jsonl").write_text(text)
    with pytest.raises(KoalaError, match="mend the published file first"):
        publish([tmp_path / "rows.jsonl"], tmp_path / "results")
    assert (folder / "rows.jsonl").read_text() == text


def test_models_of_ones_own_are_published(tmp_path):
    published(tmp_path, *whole(set_row(settings=settings("my-own-model"))))
    assert table(tmp_path)["koala", "fid:clean"] == 23.0


def test_the_command_names_the_folder_and_what_stayed_behind(tmp_path, capsys):
    rows = store(tmp_path / "r.jsonl", CLIP, FID, *whole(), *whole(set_row("bad", n=9)))
    assert run(Options((rows,), tmp_path / "results")) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{tmp_path / 'results/quality'}\n"
    assert "warning: bad: interrupted, 8 of 9 images have a row; not published" in printed.err


def test_every_published_line_is_json_with_a_schema_or_an_environment(tmp_path):
    folder = published(tmp_path, *whole()).folder
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert all(row.get("schema") == records.SCHEMA or row["kind"] == "environment" for row in rows)
    assert not known(*rows).problems
