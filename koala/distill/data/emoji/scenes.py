"""Scenes of one to four emoji on a coloured ground, whose captions are exact because the scene was made from them."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from koala.distill.data.emoji.glyphs import THINGS, Glyph

GROUNDS = {  # colours that hardly any emoji has all over
    "white": (255, 255, 255),
    "yellow": (252, 226, 138),
    "green": (176, 219, 160),
    "blue": (168, 204, 240),
    "pink": (247, 190, 208),
    "grey": (190, 190, 194),
}
_NUMBERS = {2: "two", 3: "three", 4: "four"}
_VOWELS = ("a", "e", "i", "o", "u", "x-")
_CONSONANTS = ("ewe", "euro", "unicorn", "one-piece")  # by their sound
_UNCOUNTED = (
    "cooking",
    "bowling",
    "camping",
    "tennis",
    "broccoli",
    "bread",
    "butter",
    "popcorn",
    "yarn",
    "wood",
    "dna",
)
_HOUR = re.compile(r"o[’']clock|-thirty$")  # of a clock, which is not seen at that size
_PHRASE = re.compile(r" (with|of|in|on|at|and|for) ")  # its last word is not what there are several of
_IRREGULAR = ("s", "x", "z", "ch", "sh", "y", "f", "fe", "fish", "sheep", "deer", "man", "foot", "tooth", "ox", "mouse")


@dataclass(frozen=True)
class Scene:
    """What is where: places are the centres of the emoji and their size, as shares of the side."""

    glyphs: tuple[Glyph, ...]
    places: tuple[tuple[float, float], ...]
    size: float
    ground: str
    short: str
    rich: str


def scene(glyphs: Sequence[Glyph], seed: int, number: int) -> Scene:
    """Scene `number`: one emoji, two side by side or above each other, or two to four of one kind."""
    source = random.Random(f"{seed} {number}")
    ground = source.choice(list(GROUNDS))
    kind = source.choice(("one", "beside", "above", "many"))
    on = f"on a {ground} background"
    if kind == "one":
        (glyph,) = source.sample(glyphs, 1)
        place = source.uniform(0.4, 0.6), source.uniform(0.4, 0.6)
        return Scene((glyph,), (place,), 0.7, ground, glyph.name, f"{_a(glyph.name)} {on}")
    if kind == "many":
        glyph = source.choice([glyph for glyph in glyphs if _regular(glyph.name)])
        n = source.randint(2, 4)
        places = tuple(source.sample([(x, y) for x in (0.27, 0.73) for y in (0.27, 0.73)], n))
        plural = f"{glyph.name}s"
        return Scene((glyph,) * n, places, 0.42, ground, plural, f"{_NUMBERS[n]} {plural} {on}")
    first, second = source.sample(glyphs, 2)
    across = source.uniform(0.4, 0.6)
    places = ((0.27, across), (0.73, across)) if kind == "beside" else ((across, 0.27), (across, 0.73))
    relation = "to the left of" if kind == "beside" else "above"
    rich = f"{_a(first.name)} {relation} {_a(second.name)} {on}"
    return Scene((first, second), places, 0.44, ground, f"{first.name} and {second.name}", rich)


def usable(glyphs: Sequence[Glyph]) -> list[Glyph]:
    """Things, whose name alone says what is seen."""
    groups = (*THINGS, "things")
    return [g for g in glyphs if g.group in groups and not g.combination and not _HOUR.search(g.name)]


def drawn(placed: Scene, side: int) -> Image.Image:
    """The scene as an RGB picture."""
    ground = Image.new("RGB", (side, side), GROUNDS[placed.ground])
    for glyph, (x, y) in zip(placed.glyphs, placed.places, strict=True):
        cut = cut_out(glyph, round(placed.size * side))
        ground.paste(cut, (round(x * side - cut.width / 2), round(y * side - cut.height / 2)), cut)
    return ground


def single(glyph: Glyph, side: int) -> Image.Image:
    """The emoji alone on white, as large as it goes."""
    return drawn(Scene((glyph,), ((0.5, 0.5),), 1.0, "white", "", ""), side)


def cut_out(glyph: Glyph, side: int) -> Image.Image:
    """The picture in RGBA, its longer side of that many pixels."""
    with Image.open(BytesIO(glyph.picture)) as picture:
        rgba = picture.convert("RGBA")
    scale = side / max(rgba.size)
    width, height = (max(1, round(length * scale)) for length in rgba.size)
    return rgba.resize((width, height), Image.Resampling.LANCZOS)


def _a(name: str) -> str:
    """The name after its article; as it is where there are several of it already, or no number."""
    head = _head(name)
    if head in _UNCOUNTED or (head.endswith("s") and not head.endswith(("ss", "us", "os"))):
        return name
    an = name.lower().startswith(_VOWELS) and not name.startswith(_CONSONANTS)
    return f"{'an' if an else 'a'} {name}"


def _head(name: str) -> str:
    """The last word of the name without what follows with, of, in ..."""
    found = _PHRASE.search(name)
    return (name[: found.start()] if found else name).split()[-1]


def _regular(name: str) -> bool:
    """Whether an s makes more than one of it."""
    whole = name[-1].isalpha() and not _PHRASE.search(name)
    return whole and not name.lower().endswith(_IRREGULAR) and _head(name) not in _UNCOUNTED
