"""A bar over the steps of a training, on stderr and only on a terminal."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingProgress:
    """Follows `total` steps, of which `done` were made before; what remains is estimated from the latest ones."""

    def __init__(self, total: int, done: int, console: Console, shown: bool = True):
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
            console=console,
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
        self._bar.update(self._task, advance=1, description=f"loss {loss:.4g}, {images_per_s:.3g} images/s")
