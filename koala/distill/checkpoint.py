"""Checkpoints that are whole or not there: written aside, synced, renamed; safetensors and JSON, nothing pickled."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import safe_open
from torch import Tensor

from koala.distill import distributed
from koala.distill.config import Run
from koala.distill.optimizers import Learner
from koala.distill.resuming import changes, settings
from koala.errors import KoalaError
from koala.harness.files import sha256_of
from koala.models.safetensors_stream import Entry, write

FOLDER = "checkpoints"
MANIFEST = "manifest.json"
STATE = "state.json"
_SCHEMA = 1
_NAME = re.compile(r"step-(\d{8,})")
_NONE = -1


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on the disk."""

    path: Path

    @property
    def step(self) -> int:
        """How many steps had been done."""
        return _step(self.path)

    def state(self) -> dict[str, Any]:
        """What was kept as JSON."""
        return json.loads((self.path / STATE).read_text(encoding="utf-8"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file, on the CPU."""
        with safe_open(self.path / f"{name}.safetensors", "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)


def path_of(folder: Path, step: int) -> Path:
    """The folder of one checkpoint within the folder of all."""
    return folder / f"step-{step:08d}"


def save(
    folder: Path, step: int, state: Mapping[str, Any], files: Iterable[tuple[str, Mapping[str, Tensor]]], keep: int
) -> Path:
    """Write the checkpoint of `step`, then remove all but the newest `keep` up to it.

    A kill at any moment leaves the earlier ones whole. What cannot be written is a `KoalaError`, after which they are
    all that is there. Of `files` one is held at a time.
    """
    final = path_of(folder, step)
    aside = final.with_name(f".{final.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        for name, tensors in files:
            _write_tensors(aside / f"{name}.safetensors", tensors)
        _write_json(aside / STATE, state)
        entries = {f.name: {"bytes": f.stat().st_size, "sha256": sha256_of(f)} for f in sorted(aside.iterdir())}
        _write_json(aside / MANIFEST, {"schema": _SCHEMA, "files": entries})
        _sync_folder(aside)
        _remove(final)  # one of this step was found damaged, or else training would have gone on from it
        aside.replace(final)
        _sync_folder(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise KoalaError(
            f"cannot write the checkpoint {final}: {error.strerror or error}; those before it are whole, and the same "
            "command goes on from there"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    retire(folder, step, keep)
    return final


def retire(folder: Path, step: int, keep: int) -> None:
    """Remove all checkpoints but the newest `keep` up to that of `step`, which is whole."""
    for old in _found(folder, step)[:-keep]:
        with suppress(OSError):
            _remove(old)


def newest(folder: Path, remark: Callable[[str], None]) -> Checkpoint | None:
    """The newest checkpoint that is whole to the last bit, or none where none was written.

    Those that are damaged are renamed, so that they are neither found nor counted again; where that leaves none, a
    `KoalaError` keeps training from starting all over.
    """
    damaged = []
    for path in reversed(_found(folder)):
        fault = _fault(path)
        if fault is None:
            break
        remark(f"{path} is damaged ({fault}); trying the one before")
        damaged.append(path)
    else:
        if damaged:
            raise KoalaError(f"no checkpoint in {folder} is whole; to start all over, remove that folder")
        return None
    try:
        for bad in damaged:
            aside = bad.with_name(f"damaged-{bad.name}")
            _remove(aside)
            bad.rename(aside)
    except OSError as error:
        raise KoalaError(f"cannot rename a damaged checkpoint: {error}") from error
    return Checkpoint(path)


def clean(folder: Path) -> None:
    """Remove what killed writers left behind; nobody else may be writing."""
    for left in folder.glob(".*step-*") if folder.is_dir() else ():
        shutil.rmtree(left, ignore_errors=True)


class Keeper:
    """The checkpoints of one training; all processes must ask for the same at the same time."""

    def __init__(
        self,
        run: Run,
        out: Path,
        accelerator: Accelerator,
        identity: Mapping[str, Any],
        remark: Callable[[str], None],
    ):
        self._run, self._folder, self._accelerator, self._remark = run, out / FOLDER, accelerator, remark
        self._settings = settings(run, identity)
        self._saved: int | None = None

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is."""
        return path_of(self._folder, step)

    def save(self, step: int, counts: Mapping[str, int], learners: Mapping[str, Learner]) -> None:
        """Write the checkpoint of `step`; if that fails, all processes raise a `KoalaError`."""
        if step == self._saved:
            return
        scaler = self._accelerator.scaler
        state = {
            "step": step,
            "counts": counts,
            "settings": self._settings,
            "steps": self._run.steps,
            "torch": torch.__version__,
            "processes": self._accelerator.num_processes,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "networks": {name: learner.numbers() for name, learner in learners.items()},
        }
        files = (file for learner in learners.values() for file in learner.files())
        distributed.together(self._accelerator, lambda: self._write(step, state, files))
        self._saved = step

    def _write(self, step: int, state: Mapping[str, Any], files: Iterator[tuple[str, Mapping[str, Tensor]]]) -> None:
        try:
            if self._accelerator.is_main_process:
                save(self._folder, step, state, files, self._run.keep)
        finally:
            for _ in files:  # who does not write, or could not, still takes part in gathering
                pass

    def resume(self, learners: Mapping[str, Learner]) -> tuple[int, dict[str, int]]:
        """Restore the newest whole checkpoint; its step and counts, or 0 and nothing where there is none."""
        found = distributed.together(self._accelerator, self._newest)
        step = distributed.of_main(self._accelerator, found)
        if step == _NONE:
            return 0, {}
        kept = Checkpoint(self.path(step))
        state = kept.state()
        self._check(kept.path, state)
        for name, learner in learners.items():
            learner.restore(state["networks"][name], kept.tensors)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state["scaler"])
        self._saved = step
        return step, state["counts"]

    def _newest(self) -> int:
        if not self._accelerator.is_main_process:
            return _NONE
        clean(self._folder)
        found = newest(self._folder, self._remark)
        if found is None:
            return _NONE
        retire(self._folder, found.step, self._run.keep)  # a kill may have come between writing and that
        return found.step

    def _check(self, path: Path, state: Mapping[str, Any]) -> None:
        """Raise a `KoalaError` where the run is another one; remark on what may change its last digits."""
        if told := changes(state["settings"], self._settings):
            raise KoalaError(f"{path} is of another run: {told}. Give what it was, or another --out")
        if state["step"] > self._run.steps:
            raise KoalaError(
                f"{path} is beyond --steps {self._run.steps}: --steps {state['step']} ends there, more of them go on"
            )
        if state["torch"] != torch.__version__:
            self._remark(f"{path} was made with torch {state['torch']}: the last digits may differ from here on")
        if state["steps"] != self._run.steps and self._run.schedule != "constant":
            self._remark(f"the {self._run.schedule} schedule now ends at step {self._run.steps}, not {state['steps']}")


def _found(folder: Path, up_to: int | None = None) -> list[Path]:
    """The checkpoints of a folder in the order of their steps, whole or not."""
    if not folder.is_dir():
        return []
    paths = sorted((path for path in folder.iterdir() if _NAME.fullmatch(path.name)), key=_step)
    return [path for path in paths if up_to is None or _step(path) <= up_to]


def _fault(path: Path) -> str | None:
    """What keeps a checkpoint from being whole."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        schema = manifest["schema"]
        files = {name: (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
    except OSError as error:
        return f"{MANIFEST}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is unreadable"
    if schema != _SCHEMA:
        raise KoalaError(f"{path} was written by a newer version of koala-bench; upgrade, or choose another --out")
    faults = (_fault_of_file(path / name, *expected) for name, expected in files.items())
    return next(filter(None, faults), None) if STATE in files else f"{MANIFEST} lists no {STATE}"


def _fault_of_file(path: Path, num_bytes: int, sha256: str) -> str | None:
    try:
        if path.stat().st_size != num_bytes:
            return f"{path.name} has another size"
        return None if sha256_of(path) == sha256 else f"{path.name} has other contents"
    except OSError as error:
        return f"{path.name}: {error.strerror}"
    except KoalaError as error:  # the disk did not give what it holds
        return str(error)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    entries = {name: Entry(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write(path, entries, lambda name: tensors[name].cpu(), {"format": "pt"})


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with path.open("x", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks sync no folders
            raise
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    """Remove a folder so that a kill leaves nothing that looks like a checkpoint."""
    if path.exists():
        hidden = path.with_name(f".{path.name}.{os.getpid()}.old")
        path.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step-"))
