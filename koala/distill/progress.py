"""A bar over the steps of a training, on stderr: on a terminal a bar, elsewhere a line a minute."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

_LINE_S = 60.0  # between lines where there is no terminal: a log of weeks stays readable
_LATEST_S = 1800.0  # over which the speed is measured: within rich's own 30 s there may be no two steps


class TrainingProgress:
    """Follows `total` steps, of which `done` were made before; what remains is estimated from the latest ones."""

    def __init__(
        self,
        total: int,
        done: int,
        console: Console,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._console, self._lines, self._clock = console, shown and not console.is_terminal, clock
        self._total, self._done, self._said_s = total, done, clock()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
            console=console,
            speed_estimate_period=_LATEST_S,
            disable=not (shown and console.is_terminal),
        )
        self._task = self._bar.add_task("training", total=total, completed=done)

    def __enter__(self) -> "TrainingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, loss: float, images_per_s: float) -> None:
        """One more step is done."""
        told = f"loss {loss:.4g}, {images_per_s:.3g} images/s"
        self._done += 1
        self._bar.update(self._task, advance=1, description=told)
        if self._lines and self._clock() - self._said_s >= _LINE_S:
            self._said_s = self._clock()
            self._console.print(f"step {self._done} of {self._total}: {told}", markup=False)
