"""The order of training and other choices, as functions of what they are made for: nothing is held in memory.

`index_of` permutes every epoch anew. A Feistel network permutes a square of numbers that is hardly larger than the
data, and walking along its cycles until a number is within the data permutes that (Black and Rogaway, "Ciphers with
arbitrary finite domains", 2002).
"""

import hashlib
from math import isqrt

_ROUNDS = 6


def index_of(position: int, n: int, seed: int) -> int:
    """Which of `n` examples comes at a place of the whole training: each exactly once per epoch of n places."""
    assert n > 0 and position >= 0
    epoch, place = divmod(position, n)
    key = hashlib.blake2b(f"order {seed} {epoch}".encode(), digest_size=32).digest()
    side = isqrt(n - 1) + 1  # side x side numbers are at least n, and fewer than n + 2 sqrt(n) + 1
    while True:
        place = _permuted(place, side, key)
        if place < n:
            return place


def number_below(n: int, *names: int | str) -> int:
    """A number below `n` that looks random, always the same one for the same names."""
    digest = hashlib.blake2b("\0".join(map(str, names)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest, "little") % n


def _permuted(place: int, side: int, key: bytes) -> int:
    """A permutation of the numbers below side x side."""
    left, right = divmod(place, side)
    for turn in range(_ROUNDS):
        data = turn.to_bytes(1, "little") + right.to_bytes(16, "little")
        mixed = int.from_bytes(hashlib.blake2b(data, key=key, digest_size=8).digest(), "little")
        left, right = right, (left + mixed) % side
    return left * side + right
