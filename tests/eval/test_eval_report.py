import re

import pandas as pd
import pytest
from eval_rows import (
    CLIP,
    COCO,
    FID,
    HOSTILE,
    estimate_row,
    image_row,
    image_rows,
    known,
    metric_row,
    set_row,
    settings,
    unavailable_row,
)

from eval.report.markdown import not_computed, render_markdown, render_tags
from koala.harness.bootstrap import mean_interval
from koala.harness.scores.collect import collect
from koala.harness.scores.table import tag_frame, to_frame

LATER = "2026-04-01T00:00:00+00:00"
SCORES = [30.0, 31.0, 29.0, 32.0, 30.5, 28.0, 33.0, 30.0]
NO_REFERENCES = "no-published-numbers"


def line(frame, name, label):
    (found,) = frame[(frame["name"] == name) & (frame["label"] == label)].to_dict("records")
    return found


def cells(markdown, start):
    """The cells of the table line that starts with `start`."""
    (found,) = [text for text in markdown.splitlines() if text.startswith(f"| {start}")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", found)[1:-1]]


def headings(markdown):
    return [text for text in markdown.splitlines() if text.startswith("| images of")]


def test_scores_of_images_become_a_mean_with_the_interval_of_its_prompts():
    koala = set_row()
    rows = [image_row(koala, i, {CLIP["id"]: s}, prompt=f"p{i // 2}", seed=i % 2) for i, s in enumerate(SCORES * 2)]
    found = line(to_frame(known(CLIP, koala, *rows)), "koala", "clip_score:mlperf")
    expected = mean_interval(SCORES * 2, [i // 2 for i in range(16)])
    assert found["value"] == pytest.approx(sum(SCORES) / 8)
    assert (found["low"], found["high"]) == (expected.low, expected.high)
    assert (found["n"], found["n_prompts"]) == (16, 8)
    assert (found["torch"], found["steps"], found["image_dtype"], found["dtype"]) == ("2.15.0", 25, "fp16", "fp32")


def test_images_without_prompts_are_resampled_one_by_one():
    folder = set_row("folder", settings={})
    rows = [image_row(folder, i, {CLIP["id"]: s}, seed=None) | {"prompt": None} for i, s in enumerate(SCORES)]
    found = line(to_frame(known(CLIP, folder, *rows)), "folder", "clip_score:mlperf")
    assert (found["n_prompts"], pd.isna(found["low"])) == (0, False)
    assert "over images" in found["interval_method"]


def test_of_several_scores_of_an_image_the_latest_counts():
    koala = set_row(n=2)
    old = image_rows(koala, CLIP, [1.0, 2.0])
    new = image_rows(koala, CLIP, [5.0], started_at=LATER)
    assert line(to_frame(known(CLIP, koala, *new, *old)), "koala", "clip_score:mlperf")["value"] == 3.5


def test_scores_of_pixels_that_were_replaced_do_not_count():
    koala = set_row(n=1)
    other = metric_row("22", "aesthetic")
    old = image_row(koala, 0, {CLIP["id"]: 1.0, "22": 9.0})
    new = image_row(koala, 0, {CLIP["id"]: 2.0}, started_at=LATER, sha256="ff" * 32)
    assert set(to_frame(known(CLIP, other, koala, old, new))["label"]) == {"clip_score:mlperf"}


def test_rows_of_an_older_content_of_a_set_do_not_count():
    old, new = set_row(content="old"), set_row(content="new")
    frame = to_frame(known(FID, old, estimate_row(old, FID, 99.0), new))
    assert frame.empty
    frame = to_frame(known(FID, old, estimate_row(old, FID, 99.0), new, estimate_row(new, FID, 10.0)))
    assert list(frame["value"]) == [10.0]


def test_images_that_left_the_folder_do_not_count(tmp_path):
    koala = set_row(n=2, path=str(tmp_path))
    for place in (0, 2):
        (tmp_path / f"{place:04d}.png").touch()
    rows = image_rows(koala, CLIP, [1.0, 500.0, 3.0])
    assert line(to_frame(known(CLIP, koala, *rows)), "koala", "clip_score:mlperf")["value"] == 2.0


def test_a_set_whose_last_scoring_was_interrupted_says_so():
    begun, images = set_row(content=None), image_rows(set_row(), CLIP, SCORES[:3])
    page = render_markdown(to_frame(known(CLIP, begun, *images)))
    assert "koala: interrupted, 3 of 8 images have a row" in page
    done = set_row()
    page = render_markdown(to_frame(known(CLIP, done, *image_rows(done, CLIP, SCORES), begun)))
    assert "its last scoring did not come to its end" in page


def test_images_without_a_score_are_left_out_of_the_mean_and_counted():
    koala = set_row()
    frame = to_frame(known(CLIP, koala, *image_rows(koala, CLIP, [None, *SCORES[1:]])))
    assert line(frame, "koala", "clip_score:mlperf")["n"] == 7
    assert "1 images without a score are left out" in render_markdown(frame)


def test_below_six_prompts_there_is_a_mean_and_no_interval():
    koala = set_row(n=5)
    page = render_markdown(to_frame(known(CLIP, koala, *image_rows(koala, CLIP, SCORES[:5]))))
    assert cells(page, "koala")[-1] == "30.50 (n=5)"
    assert "none below 6 prompts" in page


def test_a_cell_is_the_value_its_interval_and_n():
    koala = set_row(n=240)
    page = render_markdown(to_frame(known(FID, koala, estimate_row(koala, FID, 23.43, 22.9, 23.95))))
    assert cells(page, "koala")[-1] == "23.43 [22.90, 23.95] (n=240)"
    assert "fid:clean ↓" in page
    assert cells(page, "fid:clean ↓") == [
        "fid:clean ↓",
        "1",
        "jackknife",
        "coco-val (n=40504, content c0c0c0c0)",
        "f1df1df1",
    ]
    preparation = "to 299 x 299, bicubic with antialias; from -1 to 1"
    assert cells(page, "1") == ["1", "inception_v3 (fp32)", preparation, "inception.pth 5f5f5f5f5f5f"]


def test_columns_on_the_same_features_name_them_once():
    koala, other = (
        set_row(),
        metric_row("0f0f", "kid:clean", "set", settings={"subsets": 100, "prefix": "", "no": None}),
    )
    rows = [estimate_row(koala, FID, 1.0), estimate_row(koala, other, 2.0)]
    page = render_markdown(to_frame(known(FID, other, koala, *rows)))
    assert cells(page, "fid:clean ↓")[1] == cells(page, "kid:clean ↑")[1] == "1"
    assert "| subsets=100 |" in page and page.count("to 299 x 299") == 1


def test_what_bias_alone_gives_is_printed_beside_n():
    koala = set_row(n=240)
    detail = {"self_distance": 12.34, "self_distance_n": 120, "debiased": 11.0, "subsets": 20}
    row = estimate_row(koala, FID, 23.43, detail=detail)
    page = render_markdown(to_frame(known(FID, koala, row)))
    assert cells(page, "koala (n=240)")[1:] == ["debiased 11.00"]
    assert cells(page, "the reference, 120 images against 120")[1:] == ["12.34"]
    assert "subsets" not in page


@pytest.mark.parametrize(("low", "is_outside"), [(9.0, True), (23.0, False)])
def test_a_value_outside_its_bias_corrected_interval_is_explained(low, is_outside):
    koala = set_row(n=240)
    row = estimate_row(koala, FID, 23.43, low, low + 3)
    page = render_markdown(to_frame(known(FID, koala, row)))
    assert ("A value outside its interval" in page) == is_outside


def test_no_column_holds_two_metric_ids_and_colliding_labels_bear_their_ids():
    a, b = set_row("a"), set_row("b")
    other = FID | {"id": "abcdef9876543210", "weights": {"inception.pth": "00" * 32}}
    page = render_markdown(to_frame(known(FID, other, a, b, estimate_row(a, FID, 10.0), estimate_row(b, other, 20.0))))
    (heading,) = headings(page)
    assert "fid:clean (f1df1df1) ↓" in heading
    assert "fid:clean (abcdef98) ↓" in heading
    assert cells(page, "a")[-2:] == ["10.00 (n=8)", ""]
    assert cells(page, "b")[-2:] == ["", "20.00 (n=8)"]


def test_unlike_references_are_unlike_columns_even_under_one_name():
    a, b = set_row("a"), set_row("b")
    moved = COCO | {"content": "d0d0" * 16}
    rows = [estimate_row(a, FID, 10.0), estimate_row(b, FID, 20.0, reference=moved)]
    page = render_markdown(to_frame(known(FID, a, b, *rows)))
    (heading,) = headings(page)
    assert "fid:clean vs coco-val (c0c0c0c0) ↓" in heading
    assert "fid:clean vs coco-val (d0d0d0d0) ↓" in heading
    assert cells(page, "a")[-2:] == ["10.00 (n=8)", ""]


def test_unlike_n_in_a_column_of_distances_is_said():
    a, b = set_row("a", n=240), set_row("b", n=5000)
    rows = [estimate_row(a, FID, 30.0), estimate_row(b, FID, 20.0)]
    warning = "n differs between rows"
    assert f"{warning}** of fid:clean: " in render_markdown(to_frame(known(FID, a, b, *rows)))
    assert warning not in render_markdown(to_frame(known(FID, a, b, rows[0])))


def test_sets_of_one_name_bear_their_ids():
    a, b = set_row("same", id="aaaa1111aaaa1111"), set_row("same", id="bbbb2222bbbb2222")
    page = render_markdown(to_frame(known(FID, a, b, estimate_row(a, FID, 1.0), estimate_row(b, FID, 2.0))))
    assert cells(page, "same (aaaa1111)")[-1] == "1.000 (n=8)"
    assert cells(page, "same (bbbb2222)")[-1] == "2.000 (n=8)"


def test_substitutes_unverified_and_random_weights_are_marked():
    koala = set_row(settings=settings(weights="random"))
    substitute = metric_row("5ab5", "fd_effnet_lite0", "set", higher=False, substitute=True)
    unverified = metric_row("0f0f", "fid:clean", "set", label="fid:clean[unverified]", verified=False)
    rows = [estimate_row(koala, substitute, 1.0), estimate_row(koala, unverified, 2.0)]
    page = render_markdown(to_frame(known(substitute, unverified, koala, *rows)))
    assert "fd_effnet_lite0 † ↓" in page
    assert "† A metric of its own" in page
    assert "[unverified]: the standard code on weights" in page
    assert "koala (random weights)" in page
    assert "say nothing of the model" in page
    plain_page = render_markdown(to_frame(known(FID, set_row(), estimate_row(set_row(), FID, 1.0))))
    assert not re.search(r"†|\[unverified\]|random", plain_page)


def test_a_value_that_is_no_number_says_why():
    koala = set_row()
    row = estimate_row(koala, FID, None, detail={"reason": "features hold NaN"})
    page = render_markdown(to_frame(known(FID, koala, row)))
    assert cells(page, "koala")[-1] == "no value"
    assert "koala, fid:clean: no value (features hold NaN)" in page


def test_hostile_names_stay_in_their_cells():
    evil = set_row(HOSTILE, settings=settings(HOSTILE))
    rows = [image_row(evil, i, {CLIP["id"]: s}, tags={HOSTILE: HOSTILE}) for i, s in enumerate(SCORES)]
    label = metric_row("e1", HOSTILE, label=HOSTILE, extractor=HOSTILE, settings={HOSTILE: HOSTILE})
    found = known(
        CLIP,
        label,
        evil,
        *rows,
        image_row(evil, 0, {"e1": 1.0}, tags={HOSTILE: HOSTILE}),
        unavailable_row(evil, "no" + HOSTILE, HOSTILE),
    )
    frame, scored = to_frame(found), collect(found)
    page = "\n".join(
        [render_markdown(frame), render_tags(tag_frame(scored), frame), not_computed(scored.unavailable, frame)]
    )
    assert "<script" not in page
    assert "](javascript" not in page
    tables = [block.splitlines() for block in page.split("\n\n") if block.startswith("|")]
    assert len(tables) == 1 + 2 + 2 + 1
    for table in tables:
        assert len({len(re.split(r"(?<!\\)\|", text)) for text in table}) == 1


def test_tables_by_tag_have_a_mean_for_each_value():
    koala = set_row(n=16)
    found = known(CLIP, koala, *image_rows(koala, CLIP, [float(i % 2) for i in range(16)]))
    tags = tag_frame(collect(found))
    by_value = tags.set_index("tag_value")
    assert (by_value.loc["animals", "value"], by_value.loc["food", "value"]) == (1.0, 0.0)
    assert by_value.loc["animals", "n"] == 8
    text = render_tags(tags, to_frame(found))
    assert "### clip_score:mlperf ↑ by category" in text
    assert cells(text, "animals")[-1] == "1.000 [1.000, 1.000] (n=8)"


def test_what_could_not_be_computed_names_the_missing_file_unless_it_was_computed_since():
    a, b = set_row("a"), set_row("b")
    unverified = metric_row("0f0f", "fid:clean", "set", label="fid:clean[unverified]", verified=False)
    rows = [unavailable_row(s, "fid:clean", "not here\nlong", ["inception.pth"]) for s in (a, b)]
    rows += [unavailable_row(a, "cmmd"), estimate_row(a, FID, 1.0), estimate_row(b, unverified, 1.0)]
    found = known(FID, unverified, a, b, *rows)
    text = not_computed(collect(found).unavailable, to_frame(found))
    assert cells(text, "fid:clean") == ["fid:clean", "inception.pth", "not on this machine", "1"]
    assert cells(text, "cmmd")[1] == "ViT-g-14.safetensors"
    assert "Nothing that was tried is missing" in not_computed([], to_frame(found))


def test_a_distance_to_another_reference_does_not_hide_that_one_is_missing():
    koala = set_row()
    missing = unavailable_row(koala, "fid:clean", "too few images", ()) | {"reference": {"name": "x", "content": "d0"}}
    found = known(FID, koala, missing, estimate_row(koala, FID, 1.0))
    assert "too few images" in not_computed(collect(found).unavailable, to_frame(found))
    earlier = unavailable_row(koala, "fid:clean", "without a reference", ())
    found = known(FID, koala, earlier, estimate_row(koala, FID, 1.0))
    assert "Nothing that was tried" in not_computed(collect(found).unavailable, to_frame(found))


def test_metrics_that_want_the_same_file_share_a_line():
    koala = set_row()
    rows = [unavailable_row(koala, name, files=["inception.pth"]) for name in ("kid:clean", "fid:clean")]
    text = not_computed(collect(known(koala, *rows)).unavailable, to_frame(known()))
    assert cells(text, "fid:clean, kid:clean")[1:] == ["inception.pth", "not on this machine", "1"]


def test_all_that_was_done_to_images_is_said_however_much_it_is():
    notes = {f"note number {i} of many": i for i in range(12)}
    koala = set_row(notes=notes)
    page = render_markdown(to_frame(known(CLIP, koala, *image_rows(koala, CLIP, SCORES))))
    assert "note number 0 of many: 0; " in page and "note number 11 of many: 11." in page
