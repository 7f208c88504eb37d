import captioned
import pytest

from koala.distill.data import filters
from koala.distill.data.captions import Captions
from koala.distill.data.example import Example
from koala.distill.data.filters import Admitted, Filters, Refused
from koala.distill.data.sources import open_source
from koala.errors import KoalaError


def example(height=32, width=48, **columns):
    return Example("a.png", captioned.encoded(captioned.picture(1, height, width)), {"text": "a red square", **columns})


def admit(one, *, captions=Captions(), **bounds):  # noqa: B008, frozen
    return Filters(**bounds).admit(one, captions)


def test_without_bounds_a_captioned_image_is_let_in():
    outcome = admit(example())
    assert isinstance(outcome, Admitted)
    assert (outcome.key, outcome.image.size, outcome.captions) == ("a.png", (48, 32), ("a red square",))


@pytest.mark.parametrize(("least", "reason"), [(32, None), (33, filters.TOO_SMALL)])
@pytest.mark.parametrize("size", [(32, 48), (48, 32)])
def test_the_shorter_side_counts(least, reason, size):
    outcome = admit(example(*size), min_side=least)
    assert getattr(outcome, "reason", None) == reason
    if reason:
        assert outcome.detail == f"{size[1]} x {size[0]}"


def test_a_small_image_is_refused_before_it_is_decoded():
    data = captioned.encoded(captioned.picture(1, 32, 32))
    outcome = admit(Example("cut.png", data[: len(data) // 2], {"text": "x"}), min_side=100)
    assert outcome.reason == filters.TOO_SMALL


@pytest.mark.parametrize(
    ("score", "reason"),
    [
        (6, None),
        (6.0, None),
        ("6.5", None),
        (5.99, filters.LOW_SCORE),
        (-1, filters.LOW_SCORE),
        (None, filters.NO_SCORE),
        ("high", filters.NO_SCORE),
        (float("nan"), filters.NO_SCORE),
        ([7], filters.NO_SCORE),
    ],
)
def test_a_score_must_be_there_and_high_enough(score, reason):
    outcome = admit(example(aesthetic=score), score_column="aesthetic", min_score=6.0)
    assert getattr(outcome, "reason", None) == reason


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({"min_words": 3}, ("one two three", "one two three four five")),
        ({"max_words": 3}, ("one", "one two three")),
        ({"min_words": 2, "max_words": 4}, ("one two three",)),
        ({"min_words": 6}, filters.CAPTION_LENGTH),
    ],
)
def test_captions_outside_the_bounds_are_left_out_and_the_image_with_the_last_of_them(bounds, kept):
    outcome = admit(example(text=["one", "one two three", "one two three four five"]), **bounds)
    assert (outcome.captions if isinstance(outcome, Admitted) else outcome.reason) == kept


@pytest.mark.parametrize(
    ("one", "reason", "detail"),
    [
        (example(text=" "), filters.NO_CAPTION, ""),
        (Example("b", b"", {}, "the tar breaks off"), filters.BROKEN, "the tar breaks off"),
        (Example("b", b"", {"text": "x"}), filters.BROKEN, "the file is empty"),
        (Example("b", b"<html>", {"text": "x"}), filters.BROKEN, "no image of a kind"),
    ],
)
def test_what_cannot_be_used_says_why(one, reason, detail):
    outcome = admit(one)
    assert isinstance(outcome, Refused) and outcome.reason == reason and detail in outcome.detail


@pytest.mark.parametrize(
    "bounds",
    [
        {"min_score": 6.0},
        {"score_column": "aesthetic"},
        {"min_side": -1},
        {"min_words": 9, "max_words": 8},
    ],
)
def test_bounds_that_make_no_sense_are_an_error(bounds):
    with pytest.raises(KoalaError, match="--m"):
        Filters(**bounds)


def test_the_columns_that_bounds_need_are_known():
    assert Filters().columns == () and Filters(score_column="s", min_score=1.0).columns == ("s",)


# The data of KOALA's second lesson (section 3.3, table 4): the same two parts spell all three. LAION-POP comes with its
# rich captions; a score in `aesthetic` and captions of LLaVA in `llava` are what the columns are called here.
ARMS = {
    "a: LAION-Aesthetics V2 6+": (
        Captions(("text",)),  # --caption-columns text
        Filters(score_column="aesthetic", min_score=6.0),  # --score-column aesthetic --min-score 6
    ),
    "b: with synthetic captions appended": (
        Captions(("text", "llava"), "append"),  # --caption-columns text,llava --captions append
        Filters(score_column="aesthetic", min_score=6.0),
    ),
    "c: few large images with rich captions alone": (
        Captions(("text", "llava"), "replace"),  # --caption-columns text,llava --captions replace
        Filters(min_side=64, min_words=15),  # --min-side 64 --min-words 15
    ),
}


def test_the_three_arms_of_koalas_second_lesson_are_flags(tmp_path):
    path = captioned.folder(tmp_path, 8)
    for number in (2, 3):
        captioned.picture(number, 32, 32).save(path / f"images/{number:04d}.png")
    found = {}
    for arm, (captions, bounds) in ARMS.items():
        outcomes = [bounds.admit(one, captions) for one in open_source(str(path)).read(0)]
        found[arm[0]] = {int(one.key[7:11]): one.captions for one in outcomes if isinstance(one, Admitted)}
    rows = {number: captioned.columns(number) for number in range(8)}
    assert found["a"] == {n: (row["text"],) for n, row in rows.items() if row["aesthetic"] >= 6}
    assert found["b"] == {n: (f"{row['text']} {row['llava']}",) for n, row in rows.items() if row["aesthetic"] >= 6}
    assert found["c"] == {n: (row["llava"],) for n, row in rows.items() if n not in (2, 3)}
