"""A bar over all steps of all images, on stderr and only on a terminal."""

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class DrawingProgress:
    """Follows the drawing of `n` images; elapsed and remaining time come from the steps that were done."""

    def __init__(self, n: int, console: Console):
        self._n, self._images, self._total = n, 0, 1
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("loading", total=None)

    def __enter__(self) -> "DrawingProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def step(self, done: int, total: int, batch: int) -> None:
        """`done` of `total` steps are made in a batch of that many images."""
        self._total = total
        first, last = self._images + 1, self._images + batch
        which = f"image {first}" if batch == 1 else f"images {first}-{last}"
        self._bar.update(
            self._task,
            description=f"{which} of {self._n}, " + (f"step {done}/{total}" if done < total else "decoding"),
            total=self._n * total,
            completed=self._images * total + done * batch,
        )

    def image(self) -> None:
        """One more image is on disk."""
        self._images += 1
        self._bar.update(self._task, completed=self._images * self._total)
