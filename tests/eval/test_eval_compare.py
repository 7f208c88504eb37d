import pytest
from eval_rows import (
    CLIP,
    COCO,
    DIVERSITY,
    FID,
    HOSTILE,
    estimate_row,
    group_row,
    image_row,
    image_rows,
    known,
    metric_row,
    set_row,
    store,
)

from eval.commands.compare import Options, run
from eval.report.compare import compare, find_set, render
from koala.errors import KoalaError, UnknownName
from koala.harness.scores.collect import collect

SCORES = [30.0, 31.0, 29.0, 32.0, 30.5, 28.0, 33.0, 30.0]
A, B = set_row("a"), set_row("b")


def compared(*rows, a="a", b="b"):
    scored = collect(known(CLIP, FID, DIVERSITY, *rows))
    return compare(scored, find_set(scored, a), find_set(scored, b))


def shifted(by, scores=SCORES):
    return [score + by for score in scores]


def test_images_are_paired_by_prompt_and_seed_whatever_their_order_and_file():
    theirs = [
        image_row(B, 7 - place, {CLIP["id"]: score + 0.5}, prompt=f"prompt {place}")
        for place, score in enumerate(SCORES)
    ]
    (pair,) = compared(A, B, *image_rows(A, CLIP, SCORES), *reversed(theirs)).paired
    assert pair.difference.mean == 0.5
    assert (pair.difference.n, pair.difference.clusters, pair.without_partner) == (8, 8, (0, 0))
    assert pair.difference.p == 2 / 2**8


def test_other_seeds_and_prompts_have_no_partner_and_are_counted():
    theirs = [*image_rows(B, CLIP, SCORES[:6]), image_row(B, 6, {CLIP["id"]: 9.0}, seed=5)]
    (pair,) = compared(A, B, *image_rows(A, CLIP, SCORES), *theirs).paired
    assert (pair.difference.n, pair.without_partner) == (6, (2, 1))
    assert pair.difference.mean == 0


def test_images_without_prompts_are_paired_by_file_name():
    nameless = [
        row | {"prompt": None, "seed": None}
        for about, by in ((A, 0), (B, 2.0))
        for row in image_rows(about, CLIP, shifted(by))
    ]
    (pair,) = compared(A, B, *nameless).paired
    assert (pair.difference.mean, pair.difference.n) == (2.0, 8)


def test_files_of_one_name_in_other_formats_are_pairs_where_their_prompts_are_alike():
    png = image_row(A, 0, {CLIP["id"]: 1.0}, seed=None, file="x/0.png")
    jpg = image_row(B, 0, {CLIP["id"]: 2.0}, seed=None, file="x/0.jpg")
    (pair,) = compared(A, B, png, jpg).paired
    assert pair.difference.n == 1
    (pair,) = compared(A, B, png, jpg | {"prompt": "another"}).paired
    assert pair.difference is None and pair.without_partner == (1, 1)


def test_groups_are_paired_by_prompt():
    rows = [
        group_row(about, f"p{i}", {DIVERSITY["id"]: 0.5 + by + i / 100})
        for about, by in ((A, 0), (B, -0.1))
        for i in range(7)
    ]
    (pair,) = compared(A, B, *rows).paired
    assert pair.difference.mean == pytest.approx(-0.1)


def test_the_verdict_knows_which_way_is_better():
    lower = metric_row("10", "lower", higher=False)
    rows = [lower, A, B, *image_rows(A, lower, SCORES), *image_rows(B, lower, shifted(1))]
    rows += [*image_rows(A, CLIP, SCORES, started_at="2026-04"), *image_rows(B, CLIP, shifted(1), started_at="2026-04")]
    page = render(compared(*rows))
    assert [text.split("|")[-2].strip() for text in page.splitlines() if text.startswith(("| lower", "| clip"))] == [
        "a is better",
        "b is better",
    ]


def test_noise_is_no_difference():
    noise = [0.3, -0.2, 0.1, -0.4, 0.2, -0.1, 0.3, -0.2]
    theirs = [score + n for score, n in zip(SCORES, noise, strict=True)]
    page = render(compared(A, B, *image_rows(A, CLIP, SCORES), *image_rows(B, CLIP, theirs)))
    assert "no difference shown" in page


def test_metrics_of_sets_stand_side_by_side_and_are_marked_as_not_tested():
    found = compared(A, B, estimate_row(A, FID, 20.0, 19.0, 21.0), estimate_row(B, FID, 23.5))
    page = render(found)
    assert not found.paired
    assert "20.00 [19.00, 21.00] (n=8)" in page and "23.50 (n=8)" in page
    assert "3.500" in page
    assert "not tested" in page


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weights", {"inception.pth": "00" * 32}),
        ("preparation", "to 224"),
        ("dtype", "bf16"),
        ("settings", {"scale": 1.0}),
        ("extractor", "other"),
    ],
)
def test_unlike_scores_are_refused_with_the_field_that_differs(field, value):
    other = CLIP | {"id": "9999", field: value}
    with pytest.raises(KoalaError, match=rf"clip_score:mlperf: unlike {field} \("):
        compared(other, A, B, *image_rows(A, CLIP, SCORES), *image_rows(B, other, SCORES))


def test_unlike_references_are_refused_beside_what_does_compare():
    rows = [*image_rows(A, CLIP, SCORES), *image_rows(B, CLIP, SCORES)]
    rows += [estimate_row(A, FID, 1.0), estimate_row(B, FID, 1.0, reference=COCO | {"content": "other"})]
    found = compared(A, B, *rows)
    assert len(found.paired) == 1
    assert found.side_by_side == []
    assert found.refused == [f"fid:clean: unlike reference content ({'c0c0' * 16} against other)"]
    assert "Refused" in render(found)


def test_sets_are_found_by_name_by_id_and_by_the_beginning_of_one():
    scored = collect(known(A, B, set_row("twice", id="1" * 16), set_row("twice", id="2" * 16)))
    assert find_set(scored, "a") == find_set(scored, A["id"]) == find_set(scored, A["id"][:8])
    with pytest.raises(KoalaError, match="several sets are called 'twice'; say which: 1111111111111111, 22222"):
        find_set(scored, "twice")
    with pytest.raises(UnknownName, match="unknown set 'c'; known: a, b"):
        find_set(scored, "c")


def test_a_set_is_not_compared_with_itself_nor_with_one_that_shares_no_metric():
    with pytest.raises(KoalaError, match="the same set"):
        compared(A, B, b="a")
    with pytest.raises(KoalaError, match="no metric was computed for both"):
        compared(A, B, *image_rows(A, CLIP, SCORES), estimate_row(B, FID, 1.0))


def test_scores_of_unlike_environments_are_compared_with_a_remark():
    theirs = image_rows(B, CLIP, SCORES, environment="other")
    assert "different environments" in render(compared(A, B, *image_rows(A, CLIP, SCORES), *theirs))
    assert "environments" not in render(compared(A, B, *image_rows(A, CLIP, SCORES), *image_rows(B, CLIP, SCORES)))


def test_the_command_prints_a_table_of_hostile_names_in_its_cells(tmp_path, capsys):
    evil = set_row(HOSTILE)
    path = store(
        tmp_path / "r.jsonl", CLIP, A, evil, *image_rows(A, CLIP, SCORES), *image_rows(evil, CLIP, shifted(-1))
    )
    assert run(Options("a", HOSTILE, (path,))) == 0
    page = capsys.readouterr().out
    assert "<script" not in page
    assert "a is better" in page
    assert "0.0078" in page
