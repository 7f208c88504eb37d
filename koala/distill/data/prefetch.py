"""Work done ahead in threads, its results in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

from koala.distill.batch import Batch, Examples

Item = TypeVar("Item")
Result = TypeVar("Result")
_END = object()


def batches(
    examples: Examples, schedule: Iterable[tuple[Sequence[int], Sequence[int]]], threads: int, ready: int | None = None
) -> Iterator[Batch]:
    """The batch of each (indices, positions) of `schedule`, in its order, made ahead by `threads` threads."""
    return ahead(lambda step: examples.batch(*step), schedule, threads, ready)


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], threads: int, ready: int | None = None
) -> Iterator[Result]:
    """The result of `work` for each item, in order; at most `ready` of them (twice the threads) wait or are at work.

    Nothing starts before the first is asked for. An exception of `items` or `work` comes out in the place of its
    result, after which, as when the iterator is closed, no thread is left. Without threads all happens here.
    """
    if threads < 1:
        yield from map(work, items)
        return
    source = iter(items)
    torch.get_num_threads()  # this thread has its number before others get theirs
    # One thread alone draws items, so that the drawing may be slow, and its errors travel as results do.
    with ThreadPoolExecutor(1, "items") as drawing, ThreadPoolExecutor(threads, "ahead", _one_core) as working:

        def begin() -> Future[Any]:
            item: Future[Any] = drawing.submit(next, source, _END)
            return working.submit(lambda: _END if item.result() is _END else work(item.result()))

        waiting = deque(begin() for _ in range(ready or 2 * threads))
        try:
            while (result := waiting.popleft().result()) is not _END:
                waiting.append(begin())
                yield result
        finally:
            for pool in (working, drawing):
                pool.shutdown(wait=False, cancel_futures=True)


def _one_core() -> None:
    """Torch's operations in this thread start no others: with those, OpenMP's waits in all threads become slow."""
    torch.set_num_threads(1)
