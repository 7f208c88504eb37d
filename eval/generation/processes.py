"""This process among those that draw the images of a suite together, as accelerate launched them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from koala.errors import KoalaError

_LONGEST_WAIT = timedelta(days=2)  # between the end of the fastest process and that of the slowest


@dataclass(frozen=True)
class Processes:
    """How many there are, which of them this one is, and the device that it draws on."""

    rank: int
    count: int
    device: str
    _state: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the one that talks."""
        return self.rank == 0

    @property
    def writer(self) -> int | None:
        """The number of this process's own manifest; None where it is alone."""
        return self.rank if self.count > 1 else None

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """The first process goes through the block, then the others: what it remembers on disk they need not make."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()

    def wait(self) -> None:
        """Return when all of them are here."""
        if self._state is not None:
            self._state.wait_for_everyone()


@contextmanager
def processes(device: str) -> Iterator[Processes]:
    """This process alone, or among those of `accelerate launch` or torchrun, each with a GPU of its own."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, device)
        return
    from accelerate import PartialState

    if ":" in device:
        raise KoalaError(f"--device {device} is one device, and {count} processes were launched: say cuda or cpu")
    state = PartialState(cpu=device == "cpu", timeout=_LONGEST_WAIT)
    try:
        if state.num_processes != count:
            raise KoalaError(f"{count} processes were launched and do not see one another; use accelerate launch")
        yield Processes(state.process_index, count, "cpu" if device == "cpu" else str(state.device), state)
    finally:
        state.destroy_process_group()
        PartialState._reset_state()
