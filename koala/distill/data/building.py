"""The making of a cache: what decides its content, and which process writes which part of it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from accelerate import PartialState

from koala import __version__
from koala.distill.data.cache import Index, Writer, model_settings, read_index
from koala.distill.data.captions import check_columns
from koala.distill.data.encoding import Encoder, Encoding, Preparation
from koala.distill.data.example import Source
from koala.errors import KoalaError, UnknownName
from koala.harness.records import Row
from koala.models.load import DTYPES, load
from koala.models.spec import ModelSpec
from koala.models.weights.source import come_apart

Listeners = tuple[Callable[[], None], Callable[[], None]]  # called after each example and after each unit
_ENCODING = "text", "autoencoder"  # the parts that make a cache
Progress = Callable[[int], AbstractContextManager[Listeners]]  # of so many units


@dataclass(frozen=True)
class Share:
    """What one process adds to a cache: units, and how many examples of each, none: all of its."""

    writer: Writer
    units: Mapping[int, int | None]
    device: str
    dtype: str
    first: bool  # of the processes
    on_example: Callable[[], None]
    on_unit: Callable[[], None]


@runtime_checkable
class Work(Protocol):
    """What is to be written into a cache, in units that several processes may share."""

    def shares(self) -> Mapping[int, int | None]:
        """How many examples each unit is to have, none: all of its; the same in every process."""
        ...

    def content(self, dtype: str, units: int) -> Row:
        """Everything that decides what the cache holds, but for rounding."""
        ...

    def write(self, share: Share) -> None:
        """Write the units of a share, and in the first process the condition of no caption."""
        ...


@dataclass(frozen=True)
class Job:
    """Captioned images that are to be encoded, and with what."""

    spec: ModelSpec
    weights: str
    origin: str  # what the source was opened by
    source: Source
    preparation: Preparation
    limit: int = 0  # examples that are taken from the beginning of the source; 0: all
    seed: int = 0
    workers: int = 2
    batch_size: int = 8

    def shares(self) -> dict[int, int | None]:
        """How many examples are taken from each unit that is needed, none: all; the same in every process."""
        if not self.limit:
            return dict.fromkeys(range(len(self.source.units)))
        found: dict[int, int | None] = {}
        left = self.limit
        for unit in range(len(self.source.units)):
            found[unit] = number = sum(1 for _ in islice(self.source.read(unit), left))
            left -= number
            if not left:
                break
        return found

    def content(self, dtype: str, units: int) -> Row:
        """Everything that decides what a cache holds, but for rounding."""
        return {
            "model": self.spec.name,
            "weights": self._encoded_with(),
            "dtype": dtype,
            "source": absolute(self.origin),
            "source_units": len(self.source.units),
            "source_digest": self.source.digest[:16],
            "limit": self.limit,
            "units": units,
            "koala": __version__,
            **self.preparation.settings(),
            **model_settings(self.spec),
        }

    def _encoded_with(self) -> str:
        """Whose text encoders and autoencoder are used: those of a model that is trained here may be another's."""
        others = self.weights != "random" and come_apart(self.spec, _ENCODING)
        return "hub" if others else absolute(self.weights)

    def write(self, share: Share) -> None:
        """Encode the units of a share, and after the first of them the condition of no caption."""
        writer = share.writer
        check_columns(self.source.read(0), self.preparation.columns)
        networks = load(self.spec, share.device, share.dtype, self.weights, _ENCODING, self.seed)
        encoder = Encoder(networks, self.seed, self.batch_size)
        encoding = Encoding(self.source, self.preparation, encoder, writer.folder, self.workers, share.on_example)
        for unit, limit in share.units.items():
            writer.add_unit(unit, encoding.unit(unit, limit))
            share.on_unit()
            if share.first:
                writer.add_empty(encoder.empty)
        if share.first:
            writer.add_empty(encoder.empty)


def build(job: Work, out: Path, device: str, dtype: str, progress: Progress) -> Index | None:
    """Write what is missing of a cache, this process its share of it; the whole cache's index, in the first process.

    `dtype` "auto" is fp16 on a GPU, else fp32. With several processes a GPU is that of the process.
    """
    # Processes that are done wait for the others, however long those take.
    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=365))
    rank, world = state.process_index, state.num_processes
    place = device if world == 1 or device == "cpu" else str(state.device)
    if dtype == "auto":
        dtype = "fp32" if place == "cpu" else "fp16"
    if dtype not in DTYPES:
        raise UnknownName("dtype", dtype, DTYPES)
    shares = job.shares()
    with Writer(out, job.content(dtype, len(shares)), rank) as writer:
        missing = {
            unit: limit for unit, limit in shares.items() if unit % world == rank and not writer.index.whole(unit)
        }
        if missing or (rank == 0 and not writer.has_empty):
            shown = progress(len(missing)) if rank == 0 else nullcontext((_nothing, _nothing))
            with shown as listeners:
                job.write(Share(writer, missing, place, dtype, rank == 0, *listeners))
    try:
        state.wait_for_everyone()
    except RuntimeError as error:  # the connection to a process that is gone
        raise KoalaError("another process ended before its share was done; the same command again goes on") from error
    if world > 1:
        state.destroy_process_group()
    return read_index(out) if rank == 0 else None


def absolute(name: str) -> str:
    """The path of a file or folder that is here, wherever the command was given; another name as it is."""
    return str(Path(name).resolve()) if Path(name).exists() else name


def _nothing() -> None:
    pass
