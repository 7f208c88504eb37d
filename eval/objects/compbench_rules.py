"""T2I-CompBench's verdict on where objects stand, and on complex prompts (Huang et al., 2023), by its code's rules.

Of each object the surest detection counts. Half of the score is how sure both are, half is whether the one stands
where the prompt says; what is below a half is 0, so that a wrong place or a missing object is 0. Boxes are
measured in an image whose shorter side has 479 pixels and whose longer one 480 at most.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eval.objects.detection import Box, Detection

PERSONS = ("girl", "boy", "man", "woman")  # looked for as "person"
NEAR_PX, OVERLAP = 150.0, 0.1  # centres that are near; intersection over union that is no fault
_SHORTER_PX, _LONGER_PX = 479, 480
_WORTH = 0.5
_BESIDE = ("on side of", "next to", "near")
# Of relations along an axis: which one, and on which side of the other object the one has to be
_AXES: Mapping[str, tuple[int, int]] = {
    "on the left of": (0, -1),
    "on the right of": (0, 1),
    "on the bottom of": (1, 1),
    "on the top of": (1, -1),
}
_RELATIONS = (*_BESIDE, *_AXES, "on top of")  # in its code's order; it looks for the last one, which never holds
_TOLD = re.compile(rf"an? ([\w-]+) ({'|'.join(_RELATIONS)}) an? ([\w-]+)\.?", re.IGNORECASE)
# Its files sort the 300 complex prompts for validation; read side by side with them, these words sort them alike
_PLACES = r"(next to|near|on top of|on the (left|right|top|bottom) of|on side of|below the)\b"
_SPATIAL = re.compile(rf"\b(is|are|was|were) {_PLACES}", re.IGNORECASE)
_BOTH = re.compile(rf"\b{_PLACES}", re.IGNORECASE)
_BEFORE_OBJECTS = ("on top of", "on bottom of", "on the left", "on the right", "next to", "on side of", "near")
_NOUNS, _NAME = ("NOUN", "PROPN"), "PROPN"
Word = tuple[str, str]  # as it is written, and its part of speech as spaCy calls it


@dataclass(frozen=True)
class Pair:
    """Two objects, and where the one is to stand as seen from the other."""

    one: str
    relation: str | None  # None: none that is known
    other: str

    @property
    def names(self) -> tuple[str, str]:
        """What is looked for."""
        return self.one, self.other


def told(prompt: str) -> Pair | None:
    """The objects of "a dog on the left of a cat", the form of all prompts of its spatial category; else None.

    Its code takes spaCy's first and last noun, which are these two.
    """
    found = _TOLD.fullmatch(prompt.strip())
    return Pair(_sought(found[1].lower()), found[2].lower(), _sought(found[3].lower())) if found else None


def told_in_words(prompt: str, words: Sequence[Word]) -> Pair | None:
    """The objects of a complex prompt: the nouns before and after its one preposition of place, else None."""
    places = _prepositions(words)
    objects = [noun for start, length in places for noun in _nouns_around(words, start, length)]
    if len(objects) != 2:
        return None
    relation = next((name for name in _RELATIONS if name in prompt), None)
    return Pair(_sought(objects[0]), relation, _sought(objects[1]))


def _prepositions(words: Sequence[Word]) -> list[tuple[int, int]]:
    """Where they begin, and how many words they have."""
    found = []
    for start in range(len(words)):
        texts = (" ".join(word for word, _ in words[start : start + length]) for length in (3, 2, 1))
        lengths = [len(text.split()) for text in texts if text in _BEFORE_OBJECTS]
        found += [(start, lengths[0])] if lengths else []
    return found


def _nouns_around(words: Sequence[Word], start: int, length: int) -> list[str]:
    """The last noun before a preposition and the first one after it; a name there only where no other noun is."""
    before = [word for word, kind in words[:start] if kind in _NOUNS][-1:]
    rest = words[start + length :]
    after = [word for word, kind in rest if kind == "NOUN"]
    names = [word for (word, kind), (_, next_kind) in pairwise(rest) if kind == _NAME != next_kind]
    return [*before, *(after or names)[:1]]


def _sought(name: str) -> str:
    return "person" if name in PERSONS else name


def spatial_score(found: Sequence[Detection], pair: Pair | None, height: int, width: int) -> float:
    """0, or 0.5 to 1, for what was found in an image of that size; the surest come first."""
    if pair is None:
        return 0.0
    surest = {one.label: one for one in reversed(found)}
    one, other = surest.get(pair.one), surest.get(pair.other)
    score = 0.25 * sum(there.score for there in (one, other) if there)
    if one and other:
        scale = _scale(height, width)
        first, second = (_scaled(there.box, scale) for there in (one, other))
        score += place_score(pair.relation, first, second) / 2
    return score if score >= _WORTH else 0.0


def place_score(relation: str | None, one: Box, other: Box) -> float:
    """How well a box stands in a relation to another one, 0 to 1; pixels are those of the resized image."""
    offset = [(one[axis] + one[axis + 2] - other[axis] - other[axis + 2]) / 2 for axis in (0, 1)]
    far = [abs(distance) for distance in offset]
    if relation in _BESIDE:
        return 1.0 if min(far) < NEAR_PX else NEAR_PX / max(far)
    if relation is None or relation not in _AXES:
        return 0.0
    axis, side = _AXES[relation]
    if offset[axis] * side <= 0 or far[axis] <= far[1 - axis]:
        return 0.0
    shared = overlap(one, other)
    return 1.0 if shared < OVERLAP else OVERLAP / shared


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    sides = [max(0.0, min(one[axis + 2], other[axis + 2]) - max(one[axis], other[axis])) for axis in (0, 1)]
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    shared = sides[0] * sides[1]
    return shared / (sum(areas) - shared) if shared else 0.0


def _scale(height: int, width: int) -> float:
    """From an image's pixels to those that its code measures in."""
    shorter, longer = sorted((height, width))
    return min(_SHORTER_PX / shorter, _LONGER_PX / longer)


def _scaled(box: Box, scale: float) -> Box:
    left, top, right, bottom = (side * scale for side in box)
    return left, top, right, bottom


def complex_parts(prompt: str) -> tuple[str, ...]:
    """Which scores a complex prompt's is the mean of."""
    if _SPATIAL.search(prompt):
        return "attributes", "spatial"
    return ("attributes", "spatial", "action") if _BOTH.search(prompt) else ("attributes", "action")
