from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from koala.distill.data.order import index_of

CHI_SQUARE_1E6 = {1: 23.9, 2: 27.6, 4: 33.4, 5: 35.9, 6: 38.3, 9: 44.8, 23: 70.5}  # quantiles of 1 - 1e-6


def epoch(n: int, number: int, seed: int = 0) -> list[int]:
    return [index_of(number * n + place, n, seed) for place in range(n)]


def chi_square(counts: Counter, cells: int, total: int) -> float:
    expected = total / cells
    return sum((counts[cell] - expected) ** 2 / expected for cell in counts) + expected * (cells - len(counts))


@given(st.integers(1, 300), st.integers(0, 10**6), st.integers(0, 2**40))
def test_every_epoch_shows_every_example_once(n, number, seed):
    assert sorted(epoch(n, number, seed)) == list(range(n))


@given(st.integers(20, 200), st.integers(0, 1000), st.integers(0, 1000))
def test_epochs_and_seeds_have_orders_of_their_own(n, number, seed):
    orders = {tuple(epoch(n, number + k, seed)) for k in range(3)} | {tuple(epoch(n, number, seed + 1))}
    assert len(orders) == 4


def test_the_order_is_the_same_on_every_machine():
    assert epoch(8, 0, seed=0) == [5, 1, 2, 0, 7, 3, 4, 6]


@pytest.mark.parametrize("n", [2, 3, 5, 7, 10, 24])
@pytest.mark.parametrize("place", [0, -1])
def test_any_example_may_come_first_and_last(n, place):
    counts = Counter(index_of(number * n + place % n, n, seed=3) for number in range(3000))
    assert chi_square(counts, n, 3000) < CHI_SQUARE_1E6[n - 1]


def test_all_six_orders_of_three_examples_come_equally_often():
    counts = Counter(tuple(epoch(3, number)) for number in range(3000))
    assert chi_square(counts, 6, 3000) < CHI_SQUARE_1E6[5]


def test_neighbours_do_not_stay_neighbours():
    order = epoch(2000, 0)
    assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < 12  # 2 expected
    assert sum(place == index for place, index in enumerate(order)) < 10  # 1 expected


def test_a_number_of_examples_beyond_memory_costs_nothing():
    n = 10**15
    indices = {index_of(position, n, seed=1) for position in range(500)}
    assert len(indices) == 500 and all(0 <= index < n for index in indices)
    assert max(indices) > 0.95 * n and min(indices) < 0.05 * n


def test_no_data_and_places_before_the_first_are_a_programmers_mistake():
    with pytest.raises(AssertionError):
        index_of(0, 0, seed=0)
    with pytest.raises(AssertionError):
        index_of(-1, 5, seed=0)
