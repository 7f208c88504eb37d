"""Scenes of several emoji: what is drawn is what the caption says, in plain English."""

import numpy as np
import pytest
from emoji_pictures import coloured
from hypothesis import given
from hypothesis import strategies as st

from koala.distill.data.emoji import scenes

ZOO = [coloured("cat", (255, 0, 0)), coloured("dog", (0, 255, 0)), coloured("owl", (0, 0, 255))]


@given(st.integers(0, 10**6))
def test_a_scene_is_what_its_caption_says(number):
    made = scenes.scene(ZOO, 0, number)
    image = np.asarray(scenes.drawn(made, 64)).astype(int)
    assert tuple(image[0, 0]) == scenes.GROUNDS[made.ground] and made.rich.endswith(f"on a {made.ground} background")
    for glyph, (x, y) in zip(made.glyphs, made.places, strict=True):
        assert abs(image[round(y * 64), round(x * 64)] - image_colour(glyph)).max() <= 2
    words = made.rich.split(" ")
    if len(made.glyphs) == 1:
        assert made.rich.startswith(("a cat", "a dog", "an owl"))
    elif made.glyphs[0] is made.glyphs[1]:
        assert words[0] == {2: "two", 3: "three", 4: "four"}[len(set(made.places))]
        assert words[1] == f"{made.glyphs[0].name}s" == made.short
    else:
        (ax, ay), (bx, by) = made.places
        assert ax < bx if "to the left of" in made.rich else ay < by
        assert made.short == f"{made.glyphs[0].name} and {made.glyphs[1].name}"
        assert made.rich.index(made.glyphs[0].name) < made.rich.index(made.glyphs[1].name)


def image_colour(glyph):
    return np.asarray(scenes.cut_out(glyph, 32))[16, 16, :3].astype(int)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("ant", "an ant"),
        ("bus", "a bus"),
        ("wine glass", "a wine glass"),
        ("rhinoceros", "a rhinoceros"),
        ("bubbles", "bubbles"),
        ("card index dividers", "card index dividers"),
        ("nest with eggs", "a nest with eggs"),
        ("x-ray", "an x-ray"),
        ("ewe", "a ewe"),
        ("umbrella with rain drops", "an umbrella with rain drops"),
        ("bowling", "bowling"),
        ("ring", "a ring"),
    ],
)
def test_a_thing_is_told_with_its_article(name, told):
    one = coloured(name, (9, 9, 9))
    captions = {scenes.scene([one], 0, n).rich for n in range(0, 200) if _kind(n) == "one"}
    assert captions == {f"{told} on a {ground} background" for ground in scenes.GROUNDS}


def _kind(number):
    """What scene of one emoji or of several the number stands for, whatever emoji there are."""
    made = scenes.scene(ZOO, 0, number)
    return "one" if len(made.glyphs) == 1 else "several"
