import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala.distill.data.captions import Captions, check_columns, num_words
from koala.distill.data.example import Example
from koala.errors import KoalaError

ROW = {"text": "a dog", "llava": "A brown dog on a lawn.", "alt": ["dog", " ", "hound"], "score": 6.5, "none": None}


@pytest.mark.parametrize(
    ("columns", "mode", "captions"),
    [
        (("text",), "each", ["a dog"]),
        (("text", "llava"), "each", ["a dog", "A brown dog on a lawn."]),
        (("text", "llava"), "append", ["a dog A brown dog on a lawn."]),
        (("llava", "text"), "append", ["A brown dog on a lawn. a dog"]),
        (("text", "llava"), "replace", ["A brown dog on a lawn."]),
        (("text", "none"), "replace", ["a dog"]),
        (("none", "text"), "append", ["a dog"]),
        (("text", "alt"), "each", ["a dog", "dog", "hound"]),
        (("alt", "text"), "append", ["dog a dog", "hound a dog"]),
        (("text", "alt"), "replace", ["dog", "hound"]),
        (("none", "score", "absent"), "each", []),
        (("none",), "append", []),
        (("none",), "replace", []),
    ],
)
def test_columns_become_captions(columns, mode, captions):
    assert Captions(columns, mode)(ROW) == captions


@pytest.mark.parametrize("nothing", [None, "", " \n\t", "\u3000", [], [""], math.nan, 1.5, True, b"bytes", {"a": "b"}])
@pytest.mark.parametrize("mode", ["each", "append", "replace"])
def test_what_is_no_text_is_no_caption(nothing, mode):
    assert Captions(("text",), mode)({"text": nothing}) == []


def test_the_number_of_a_class_is_a_caption():
    assert Captions(("label",))({"label": 0}) == ["0"]


def test_half_a_surrogate_pair_becomes_text_that_a_tokenizer_takes():
    (caption,) = Captions()({"text": "a \ud83d dog"})
    assert caption.encode() and caption == "a ? dog"


def test_captions_without_a_column_are_an_error():
    with pytest.raises(KoalaError, match="--caption-columns"):
        Captions(())


texts = st.one_of(st.none(), st.text(max_size=5), st.lists(st.text(max_size=5), max_size=3))


@given(st.dictionaries(st.sampled_from("abc"), texts), st.sampled_from(["each", "append", "replace"]))
def test_captions_are_never_empty_and_there_are_some_wherever_a_column_has_text(row, mode):
    captions = Captions(("a", "b", "c"), mode)(row)
    parts = [part for value in row.values() for part in (value if isinstance(value, list) else [value])]
    assert all(caption.strip() == caption != "" for caption in captions)
    assert bool(captions) == any(part and part.strip() for part in parts)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("Zs", "Cc", "Zl", "Zp")), min_size=1)))
def test_words_are_counted_between_white_space(words):
    assert num_words("  ".join(words)) == num_words("\n".join(words) + " ") == len(words)


def examples(*rows):
    return [Example(str(number), b"x", row) for number, row in enumerate(rows)]


def test_a_column_that_only_some_rows_have_is_no_error_and_no_more_are_read_than_it_takes():
    rows = iter(examples({"text": "a"}, {"text": "b", "llava": ""}, {"text": "c"}))
    check_columns(rows, ("text", "llava"))
    assert [one.columns["text"] for one in rows] == ["c"]


def test_a_column_that_no_row_has_is_an_error_that_lists_those_there_are():
    with pytest.raises(KoalaError, match="has the column text; there are: caption, url, score"):
        check_columns(examples({"caption": "a", "url": "b"}, {"score": 1}), ("text", "caption"))


def test_a_search_for_a_column_ends(monkeypatch):
    monkeypatch.setattr("koala.distill.data.captions.MOST_READ", 2)
    rows = iter(examples({"a": ""}, {"a": ""}, {"text": "there"}))
    with pytest.raises(KoalaError, match="none of the first examples has the column text"):
        check_columns(rows, ("text",))
    assert next(rows).columns == {"text": "there"}


def test_examples_that_are_all_lost_say_nothing_about_columns():
    check_columns([Example("a", b"", {}, "lost")], ("text",))
