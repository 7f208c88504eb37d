"""GenEval's verdict on the objects of an image (Ghosh et al., 2023), by the rules of its code.

`include` clauses all have to hold, and no `exclude` clause may. Of each class the surest 16 detections count. A clause
holds where as many objects are there as it asks for; of the surest so many, all have to have its colour and to stand in
its relation to all objects of the clause that it names. Detections never suppress one another (an overlap of 1).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from eval.objects.detection import Detection

THRESHOLD, COUNTING_THRESHOLD = 0.3, 0.9  # a detection's score has to be above
COUNTING = "counting"
MOST = 16  # objects of a class
MARGIN = 0.1  # of two objects' sizes that their distance is lessened by
_TILT = 0.5  # how much of the distance has to lie along an axis
_NOWHERE_PX = 1e-3

# The colour of each of some objects of a class
ColoursOf = Callable[[Sequence[Detection], str], Sequence[str]]


def threshold_of(expects: Mapping[str, Any]) -> float:
    """The score that detections need: the higher one for GenEval's counting task.

    A suite that does not say the task (`tag`) counts where it excludes something.
    """
    counting = expects.get("tag") == COUNTING if "tag" in expects else bool(expects.get("exclude"))
    return COUNTING_THRESHOLD if counting else THRESHOLD


def correct(found: Sequence[Detection], expects: Mapping[str, Any], colours_of: ColoursOf) -> bool:
    """Whether what was found in an image is what `expects` says."""
    least = threshold_of(expects)
    objects: dict[str, list[Detection]] = {}
    for one in sorted(found, key=lambda one: -one.score):
        if one.score > least and len(objects.setdefault(one.label, [])) < MOST:
            objects[one.label].append(one)
    groups: list[list[Detection] | None] = []
    for clause in expects.get("include", ()):
        groups.append(_matched(objects.get(clause["class"], []), clause, groups, colours_of))
    excess = any(len(objects.get(clause["class"], [])) >= clause["count"] for clause in expects.get("exclude", ()))
    return None not in groups and not excess


def _matched(
    there: list[Detection],
    clause: Mapping[str, Any],
    before: Sequence[list[Detection] | None],
    colours_of: ColoursOf,
) -> list[Detection] | None:
    """The objects that fulfil a clause; None where they do not."""
    count = clause.get("count", 1)
    chosen = there[:count]
    if len(chosen) < count:
        return None
    if "color" in clause and list(colours_of(chosen, clause["class"])).count(clause["color"]) < count:
        return None
    if "position" in clause:
        relation, target = clause["position"]
        others = before[target]
        if others is None or any(relation not in relations(one, other) for one in chosen for other in others):
            return None
    return chosen


def relations(one: Detection, other: Detection) -> set[str]:
    """Where `one` stands as seen from `other`: left of, right of, above, below, two of them, or none."""
    offset = np.subtract(one.centre, other.centre)
    sizes = np.add(one.size, other.size)
    clear = np.maximum(np.abs(offset) - MARGIN * sizes, 0) * np.sign(offset)
    if (np.abs(clear) < _NOWHERE_PX).all():
        return set()
    x, y = clear / np.linalg.norm(offset)
    named = {"left of": x < -_TILT, "right of": x > _TILT, "above": y < -_TILT, "below": y > _TILT}
    return {name for name, holds in named.items() if holds}
