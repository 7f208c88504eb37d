"""What a user sees while a gallery fills: paths on stdout; progress, remarks and warnings on stderr."""

import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from koala.errors import KoalaError
from koala.harness import environment
from koala.harness.cli import INTERRUPTED
from koala.harness.records import Row
from koala.models.conditioning import PromptTruncated
from koala.sampling.contact_sheet import write_contact_sheet
from koala.sampling.gallery import Gallery, image_key
from koala.sampling.job import Picture, Settings, draw, unfinished
from koala.sampling.progress import DrawingProgress


def fill(
    gallery: Gallery,
    settings: Settings,
    pictures: Sequence[Picture],
    batch_size: int,
    compare: bool,
    console: Console,
) -> int:
    """Draw the pictures that are missing, and the contact sheet of all images; the exit code, 130 after Ctrl-C."""
    to_do = unfinished(settings, pictures, gallery)
    before, there = len(pictures) - len(to_do), set(gallery.images())
    printed: list[Path] = []

    def say(path: Path) -> None:
        with uninterrupted():  # else a path is printed that is not known to be, and printed again
            print(path, flush=True)
            printed.append(path)

    if before:
        console.print(f"{before} of {len(pictures)} images are there already", markup=False)
    try:
        here = environment.collect(settings.device)
        gallery.add_environment(here)
        facts = {"environment": here["id"], "device_name": here["device_name"]}
        with clean_warnings(console), DrawingProgress(len(to_do), console) as progress:
            for path in draw(settings, pictures, gallery, batch_size, facts, compare, progress.step):
                say(path)
        if to_do and compare:
            tell_difference(gallery.row_of(image_key(settings.row(pictures[0].prompt, pictures[0].seed))), console)
        console.print(f"contact sheet: {write_contact_sheet(gallery)}", markup=False)
    except KeyboardInterrupt:
        for path in gallery.images():  # some were on their way to the disk
            if path not in there and path not in printed:
                say(path)
        console.print(
            f"interrupted: {before + len(printed)} of {len(pictures)} images are kept in {gallery.folder}; "
            "the same command goes on from there",
            markup=False,
        )
        return INTERRUPTED
    except torch.OutOfMemoryError as error:
        raise KoalaError(
            f"out of GPU memory with {before + len(printed)} of {len(pictures)} images kept in {gallery.folder}; "
            "try --batch-size 1, --profile low-vram or a lower --resolution"
        ) from error
    return 0


def tell_difference(row: Row, console: Console) -> None:
    """Say how far a profile's picture is from the eager one, where that was measured."""
    difference: dict[str, Any] | None = row["profile_difference"]
    if difference is None:
        return
    if "reason" in difference:
        words = f"was not compared with {difference['to']}: {difference['reason']}"
    elif difference["identical"]:
        words = f"draws the same picture as {difference['to']}, to the bit"
    else:
        words = (
            f"differs from {difference['to']} by {difference['mean_absolute_levels']:.3g} of 255 levels on average, "
            f"{difference['max_absolute_levels']} at most (PSNR {difference['psnr_db']:.1f} dB)"
        )
    console.print(f"{row['profile']} {words}", markup=False)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C waits until the block has ended; in the main thread, which alone hears it."""
    heard: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if heard and before is not signal.SIG_IGN:
            raise KeyboardInterrupt


@contextmanager
def clean_warnings(console: Console) -> Iterator[None]:
    """A truncated prompt is one line on stderr, once; other warnings stay as they are."""
    said: set[str] = set()
    with warnings.catch_warnings():
        warnings.simplefilter("always", PromptTruncated)
        show = warnings.showwarning

        def say(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if not issubclass(category, PromptTruncated):
                show(message, category, *place, **more)
            elif str(message) not in said:
                said.add(str(message))
                console.print(f"warning: {message}", markup=False)

        warnings.showwarning = say
        yield
