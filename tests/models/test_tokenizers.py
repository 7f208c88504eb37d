import open_clip
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.errors import KoalaError
from koala.models import tokenizers
from koala.models.tokenizers import clip_tokenizer

FIRST, SECOND = clip_tokenizer("<|endoftext|>"), clip_tokenizer("!")


def reference_ids(text):
    return open_clip.tokenizer.SimpleTokenizer()(text)[0].tolist()


def test_a_caption_has_sdxls_ids():
    caption = "a photo of a red apple to the left of a blue car"
    ids = [49406, 320, 1125, 539, 320, 736, 3055, 531, 518, 1823, 539, 320, 1746, 1615, 49407]
    assert FIRST(caption).input_ids == SECOND(caption).input_ids == ids


def test_the_two_tokenizers_pad_differently():
    assert FIRST("a cat", padding="max_length").input_ids[4:] == [49407] * 73
    assert SECOND("a cat", padding="max_length").input_ids[4:] == [0] * 73


def test_an_exclamation_mark_is_padding_to_the_second_tokenizer():
    # diffusers issue 4153 shows the same ids from SDXL's own files.
    assert SECOND("! !! !!!").input_ids == [49406, 0, 0, 0, 0, 0, 0, 49407]
    assert FIRST("! !! !!!").input_ids == reference_ids("! !! !!!")[: len(FIRST("! !! !!!").input_ids)]


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec="ascii", exclude_characters="&<>", exclude_categories=["Cc"]), max_size=60))
def test_ids_equal_open_clips_up_to_padding(text):
    # "&", "<" and ">" are left out: open_clip unescapes HTML first, CLIP's own tokenizer does not.
    expected = reference_ids(text)
    ids = FIRST(text, padding="max_length", truncation=True).input_ids
    end = expected.index(49407) + 1
    assert ids[:end] == expected[:end]


def test_ids_equal_open_clips_on_words_of_many_languages():
    for text in ("naïve café", "Ein grüner Bär", "日本の城", "красный шар", "an emoji 🐨 eats"):
        expected = reference_ids(text)
        end = expected.index(49407) + 1
        assert FIRST(text, padding="max_length").input_ids[:end] == expected[:end]


def test_without_open_clip_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tokenizers, "find_spec", lambda name: None)
    with pytest.raises(KoalaError, match="pip install open-clip-torch"):
        tokenizers._vocabulary_file()
