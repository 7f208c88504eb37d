"""What a suite expects of its images, checked as it is read: a score would fail, or be 0 for ever, long after."""

from collections.abc import Mapping
from typing import Any

from eval.suite import Expectations
from koala.errors import KoalaError

KEYS = ("tag", "include", "exclude", "text")
RELATIONS = ("left of", "right of", "above", "below")  # GenEval's, and what `eval.objects.geneval_rules` tells apart
_CLAUSE = {"class": str, "count": int, "color": str, "position": list}


def expectations(value: Any, where: str) -> Expectations:
    """`value`, which is what `eval.suite.Expectations` says; a `KoalaError` names the key that is not."""
    if not isinstance(value, dict):
        raise KoalaError(f"{where}: expects is no object with {', '.join(KEYS)}")
    for name, item in value.items():
        if name not in KEYS:
            raise KoalaError(f"{where}: expects has the unknown key {name!r}; known: {', '.join(KEYS)}")
        if not isinstance(item, list if name in ("include", "exclude") else str):
            raise KoalaError(f"{where}: expects.{name} is {item!r}, which is of another type than it should be")
    for name in ("include", "exclude"):
        for place, clause in enumerate(value.get(name, [])):
            _check_clause(clause, name, place, f"{where}: expects.{name}, item {place}")
    return value


def _check_clause(clause: Any, name: str, place: int, where: str) -> None:
    if not isinstance(clause, dict) or "class" not in clause:
        raise KoalaError(f"{where} is no object with a class")
    for key, item in clause.items():
        if key not in _CLAUSE:
            raise KoalaError(f"{where} has the unknown key {key!r}; known: {', '.join(_CLAUSE)}")
        if not isinstance(item, _CLAUSE[key]) or isinstance(item, bool):
            raise KoalaError(f"{where}: {key} is {item!r}, which is of another type than it should be")
    if clause.get("count", 1) < 1 or (name == "exclude" and "count" not in clause):
        raise KoalaError(f"{where} has no count of 1 or more")
    if "position" in clause:
        _check_position(clause, place, where)


def _check_position(clause: Mapping[str, Any], place: int, where: str) -> None:
    position = clause["position"]
    if len(position) != 2 or position[0] not in RELATIONS or position[1] not in range(place):
        known = ", ".join(RELATIONS)
        raise KoalaError(f"{where}: position is {position!r}; it is [one of {known}, the place of an earlier item]")
