"""How a scoring run goes, on stderr and only on a terminal: a bar over the images of a set."""

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class ScoreProgress:
    """A bar over the images of each set and of the reference in turn."""

    def __init__(self, console: Console):
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("to go"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> "ScoreProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def begin(self, name: str, images: int, done: int) -> None:
        """Start on a set of that many images, some of which were done before."""
        self._bar.reset(self._task, total=images, completed=done, description=escape(name))

    def advance(self, images: int) -> None:
        """That many more are done."""
        self._bar.advance(self._task, images)

    def stage(self, name: str) -> None:
        """What is being computed now, where it is not a matter of images."""
        self._bar.update(self._task, description=escape(name))

    def remark(self, text: str) -> None:
        """A line above the bar."""
        self.console.print(text, markup=False)
