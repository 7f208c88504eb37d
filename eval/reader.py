"""Images decoded by several processes, handed over in order. Imports no torch, so that its workers start fast."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from eval.images import Picture, Unreadable, decode, max_pixels
from koala.errors import KoalaError
from koala.harness.environment import cpu_cores

_AHEAD = 2  # images per worker that are decoded before they are asked for
_MOST_WORKERS = 16


def default_workers() -> int:
    """One process per processor but the one that runs the network."""
    return max(1, min(_MOST_WORKERS, cpu_cores() - 1))


def read(paths: Sequence[Path], workers: int) -> Iterator[Picture | Unreadable]:
    """The picture of each path, in order; `workers` = 0 decodes in this process.

    Two images per worker are decoded ahead and no more. Closing the iterator ends the workers.
    """
    limit = max_pixels()
    if workers < 0:
        raise KoalaError(f"{workers} reader processes cannot be; say --workers 0 or more")
    if not workers or len(paths) < 2:
        yield from (decode(path, limit) for path in paths)
        return
    # Spawned, not forked: this process has threads and perhaps a GPU context.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(paths)), context, initializer=_prepare_worker)
    rest = iter(paths)
    ahead: deque[tuple[Path, Future[Picture | Unreadable]]] = deque()

    def submit(most: int) -> None:
        with _without_ctrl_c():
            ahead.extend((path, pool.submit(decode, path, limit)) for path in islice(rest, most))

    try:
        submit(_AHEAD * workers)
        while ahead:
            picture = ahead[0][1].result()
            ahead.popleft()
            yield picture
            del picture  # not two at a time
            submit(1)
    except BrokenProcessPool as error:
        raise KoalaError(_death([path for path, _ in ahead], workers)) from error
    except OSError as error:
        raise KoalaError(f"cannot start {workers} processes: {error.strerror}; run with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Ctrl-C waits until the end of the block; processes that start in it never get one, nor complain of it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _death(pending: Sequence[Path], workers: int) -> str:
    place = f" at {pending[0]} or one of the {len(pending) - 1} images after it" if pending else ""
    return (
        f"a process that reads images died{place}: killed for want of memory, or by a file that crashes its decoder. "
        f"Run again with fewer than --workers {workers}; --workers 0 finds the file"
    )


def _prepare_worker() -> None:
    """Go when the parent goes, however it went, and say nothing: libtiff would talk to the terminal."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
