import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.distill.batch import Batch
from koala.distill.data.prefetch import ahead, batches
from koala.models.conditioning import Condition


class Broken(Exception):
    pass


def working_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(("ahead", "items"))]


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(), max_size=20), st.integers(0, 4), st.integers(1, 6))
def test_results_come_in_order_however_long_each_takes(items, threads, ready):
    def slow(item: int) -> int:
        time.sleep(item % 3 / 1000)
        return 2 * item

    assert list(ahead(slow, items, threads, ready)) == [2 * item for item in items]
    assert not working_threads()


def test_no_more_is_drawn_than_may_wait():
    drawn = []

    def items():
        for item in range(100):
            drawn.append(item)
            yield item

    results = ahead(lambda item: item, items(), threads=2, ready=3)
    assert not drawn
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    time.sleep(0.1)
    assert len(drawn) <= 5 + 3
    results.close()
    assert not working_threads()


def test_work_is_done_by_several_threads_at_once():
    both = threading.Barrier(2, timeout=10)
    assert list(ahead(lambda _: both.wait() >= 0, range(4), threads=2)) == [True] * 4


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_of_the_work_comes_out_at_its_place(threads):
    def work(item: int) -> int:
        if item == 3:
            raise Broken
        return item

    results = ahead(work, range(10), threads, ready=5)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Broken):
        next(results)
    assert not working_threads()
    assert list(results) == []


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_of_the_items_comes_out_at_its_place(threads):
    def items():
        yield from range(3)
        raise Broken

    results = ahead(lambda item: item, items(), threads, ready=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(Broken):
        next(results)
    assert not working_threads()


def test_closing_ends_the_threads_also_while_the_items_are_slow():
    closed = threading.Event()

    def items():
        try:
            for item in range(100):
                time.sleep(0.02)
                yield item
        finally:
            closed.set()

    results = ahead(lambda item: item, items(), threads=3, ready=6)
    assert next(results) == 0
    results.close()
    assert not working_threads()
    del results
    assert closed.wait(5)


class Numbers:
    """Examples whose batches tell what was asked for."""

    def __len__(self) -> int:
        return 10

    def batch(self, indices, positions) -> Batch:
        clean = torch.tensor(indices, dtype=torch.float32).reshape(-1, 1, 1, 1)
        names = tuple(map(str, indices))
        return Batch(clean, Condition(), None, tuple(positions), names, names)

    def empty(self) -> Condition:
        return Condition()


def test_batches_are_those_of_the_schedule():
    schedule = [([3, 1], [0, 1]), ([4, 9], [2, 3]), ([0, 3], [4, 5])]
    found = [(batch.keys, batch.positions) for batch in batches(Numbers(), schedule, threads=2)]
    assert found == [(("3", "1"), (0, 1)), (("4", "9"), (2, 3)), (("0", "3"), (4, 5))]


def test_torch_starts_no_threads_in_the_threads_that_work_ahead_and_keeps_those_here():
    before = torch.get_num_threads()
    assert set(ahead(lambda _: torch.get_num_threads(), range(8), threads=3)) == {1}
    assert torch.get_num_threads() == before
