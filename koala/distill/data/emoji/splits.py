"""Combinations that are kept out of the training although it shows their parts."""

from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from itertools import combinations

Combination = tuple[str, ...]


def held_out(found: Iterable[Combination], share: float, seed: int = 0) -> set[Combination]:
    """About `share` of the combinations, so that the rest still shows every part, and of three parts every two.

    (role, gender, tone): each role with each gender, each role with each tone and so on remains, if it was there.
    """
    known = sorted(set(found), key=lambda combination: _place(combination, seed))
    left = Counter(part for combination in known for part in _parts(combination))
    out: set[Combination] = set()
    for combination in known:
        if len(out) >= share * len(known):
            break
        if all(left[part] > 1 for part in _parts(combination)):
            out.add(combination)
            left.subtract(_parts(combination))
    return out


def _parts(combination: Combination) -> list[tuple[tuple[int, str], ...]]:
    """All but one of its places, each with what stands there."""
    return list(combinations(enumerate(combination), len(combination) - 1))


def _place(combination: Combination, seed: int) -> bytes:
    return blake2b("\0".join([str(seed), *combination]).encode(), digest_size=8).digest()
