"""A bar over all steps of all images, on stderr and only on a terminal."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class DrawingProgress:
    """Follows the drawing of `n` images; elapsed and remaining time come from the steps that were done."""

    def __init__(self, n: int, console: Console, name: str = ""):
        self._name = f"{name}: " if name else ""
        self._n, self._before, self._batch = n, 0, 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=bool(name),
        )
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> "DrawingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, done: int, total: int, batch: int) -> None:
        """`done` of `total` steps are made in a batch of that many images."""
        if done == 0:  # the images of the batch before are on their way to the disk
            self._before, self._batch = self._before + self._batch, batch
        first, last = self._before + 1, self._before + batch
        which = f"image {first}" if batch == 1 else f"images {first}-{last}"
        self._bar.update(
            self._task,
            description=f"{self._name}{which} of {self._n}, "
            + (f"step {done}/{total}" if done < total else "decoding"),
            total=self._n * total,
            completed=self._before * total + done * batch,
        )
