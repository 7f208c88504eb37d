"""The suites that were written for this project."""

import re
from collections import Counter

import pytest

from eval import suites
from eval.objects.detection import CLASSES
from koala.models.tokenizers import clip_tokenizer

COLOURS = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white"}
RELATIONS = {"left of", "right of", "above", "below"}
OWN = ("koala-core", "koala-smoke")
PROMPTS = [pytest.param(prompt, id=prompt.text[:40]) for name in OWN for prompt in suites.load(name).prompts]


@pytest.mark.parametrize(("name", "fewest"), [("koala-core", 200), ("koala-smoke", 16)])
def test_it_has_enough_prompts_and_none_twice(name, fewest):
    texts = [prompt.text for prompt in suites.load(name).prompts]
    assert len(texts) >= fewest and len(set(texts)) == len(texts)


def test_every_kind_of_prompt_is_there_often_enough_to_have_a_mean():
    kinds = Counter(prompt.tags["category"] for prompt in suites.load("koala-core").prompts)
    assert len(kinds) >= 10 and min(kinds.values()) >= 18
    assert {prompt.tags["category"] for prompt in suites.load("koala-smoke").prompts} == kinds.keys()


def test_many_prompts_can_be_checked_by_a_machine():
    prompts = suites.load("koala-core").prompts
    assert sum("include" in prompt.expects for prompt in prompts) >= 100
    assert sum("text" in prompt.expects for prompt in prompts) >= 20
    assert {prompt.tags.get("objects") for prompt in prompts} >= {"1", "2", "3", "4", "5"}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_prompt_expects_only_what_can_be_checked(prompt):
    assert prompt.tags["difficulty"] in ("easy", "medium", "hard")
    include = prompt.expects.get("include", [])
    for place, item in enumerate(include):
        assert item.keys() <= {"class", "count", "color", "position"}
        assert item["class"] in CLASSES and item["count"] >= 1
        assert "color" not in item or (item["color"] in COLOURS and item["color"] in prompt.text.lower())
        relation, target = item.get("position", ["above", 0])
        assert relation in RELATIONS and (target < place or "position" not in item)
        words = item["class"].split()[-1].rstrip("y")
        assert words[:3] in prompt.text.lower() or item["class"] in ("person", "bird", "boat", "dining table")
    for item in prompt.expects.get("exclude", []):
        asked = next(other for other in include if other["class"] == item["class"])
        assert item["count"] == asked["count"] + 1


@pytest.mark.parametrize("prompt", PROMPTS)
def test_quotes_are_straight_and_stand_only_around_text_to_be_read(prompt):
    assert not set(prompt.text) & set("\u2018\u2019\u201c\u201d\u00ab\u00bb")
    assert ('"' in prompt.text) == ("text" in prompt.expects) == (prompt.tags["category"] == "text")


@pytest.mark.parametrize("prompt", [p for p in PROMPTS if "text" in p.values[0].expects])
def test_text_that_is_expected_stands_in_quotes(prompt):
    assert " ".join(re.findall(r'"([^"]+)"', prompt.text)) == prompt.expects["text"]
    assert re.fullmatch(r"[A-Za-z0-9 :]+", prompt.expects["text"])


def test_captions_that_clip_does_not_read_to_their_end_say_so():
    tokenizer = clip_tokenizer("<|endoftext|>", 77)
    prompts = [prompt for name in OWN for prompt in suites.load(name).prompts]
    assert {prompt.tags["length"] for prompt in prompts if prompt.tags["category"] == "long"} == {"fits", "over"}
    for prompt in prompts:
        fits = len(tokenizer(prompt.text, verbose=False).input_ids) <= 77
        assert prompt.tags.get("length", "fits") == ("fits" if fits else "over")
