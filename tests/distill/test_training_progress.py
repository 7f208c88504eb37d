"""What a training says of itself while it runs."""

import io

from rich.console import Console

from koala.distill.progress import TrainingProgress


def told(terminal: bool, shown: bool = True, step_s: float = 25.0) -> str:
    times = iter(range(1000))
    console = Console(file=io.StringIO(), force_terminal=terminal, width=120)
    with TrainingProgress(10, 2, console, shown, clock=lambda: next(times) * step_s) as progress:
        for _ in range(8):
            progress.step(0.5, 3.25)
    return console.file.getvalue()


def test_without_a_terminal_there_is_a_line_now_and_then():
    lines = told(terminal=False).splitlines()
    assert 1 <= len(lines) < 8
    assert lines[0] == "step 5 of 10: loss 0.5, 3.25 images/s"
    assert told(terminal=False, step_s=1.0) == ""


def test_only_the_first_process_speaks():
    assert told(terminal=False, shown=False) == ""


def test_a_terminal_gets_a_bar():
    assert "loss 0.5, 3.25 images/s" in told(terminal=True)


def test_what_is_left_is_estimated_however_long_a_step_takes():
    times = iter(range(0, 10**6, 90))
    console = Console(file=io.StringIO(), force_terminal=True, width=120, get_time=lambda: float(next(times)))
    progress = TrainingProgress(10, 2, console)
    for _ in range(4):
        progress.step(0.5, 3.25)
    assert progress._bar.tasks[0].time_remaining > 0
