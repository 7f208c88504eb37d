import pytest
from eval_rows import CLIP, DIVERSITY, FID, estimate_row, group_row, image_row, image_rows, known, set_row

from koala.harness.scores.collect import collect
from koala.harness.scores.table import tag_frame, to_frame

SCORES = [30.0, 31.0, 29.0, 32.0, 30.5, 28.0, 33.0, 30.0]


def test_scores_of_other_pixels_or_of_another_prompt_do_not_count():
    koala, row = set_row(n=1), image_row(set_row(), 0, {CLIP["id"]: 1.0})
    later = {"started_at": "2026-03-02T00:00:00+00:00", "scores": {}}
    group = group_row(koala, row["prompt"], {DIVERSITY["id"]: 0.5}, files=[row["file"]], sha256=[row["sha256"]])
    metrics = (CLIP, DIVERSITY, koala)
    assert len(to_frame(known(*metrics, row, group, row | later))) == 2
    assert to_frame(known(*metrics, row, group, row | later | {"sha256": "0" * 64})).empty
    assert to_frame(known(*metrics, row, group, row | later | {"prompt": "another"})).empty


def test_tags_are_those_of_an_image_now():
    koala, row = set_row(n=1), image_row(set_row(), 0, {CLIP["id"]: 1.0})
    later = row | {"started_at": "2026-03-02T00:00:00+00:00", "scores": {}, "tags": {"category": "plants"}}
    assert list(tag_frame(collect(known(CLIP, koala, row, later)))["tag_value"]) == ["plants"]


def test_scores_whose_metric_or_set_line_is_lost_are_counted_as_left_out():
    koala = set_row()
    problems = collect(known(koala, *image_rows(koala, CLIP, SCORES), estimate_row(set_row("gone"), FID, 1.0))).problems
    assert any(CLIP["id"] in problem and "8 rows" in problem for problem in problems)
    assert any("set" in problem and "1 row skipped" in problem for problem in problems)


def test_groups_are_averaged_over_prompts():
    koala = set_row()
    rows = [group_row(koala, f"p{i}", {DIVERSITY["id"]: 0.5 + i / 100}) for i in range(7)]
    (found,) = to_frame(known(DIVERSITY, koala, *rows)).to_dict("records")
    assert (found["label"], found["value"], found["n"]) == ("lpips_diversity", pytest.approx(0.53), 7)
