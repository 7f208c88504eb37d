"""Small caches, runs and networks for tests of whole runs."""

from dataclasses import replace
from pathlib import Path

import captioned

from koala.distill import runs
from koala.distill.config import Run
from koala.harness.cli import Command, main

STUDENT = "tiny-koala-700m"


def koala(*arguments) -> int:
    """The exit code of `python -m koala ...`, in this process."""
    commands = {
        name: Command(f"koala.commands.{name}", "") for name in ("encode", "pairs", "train", "sample", "export")
    }
    return main("koala", "", commands, (), list(map(str, arguments)))


def cache(path: Path, n: int = 6, model: str = STUDENT, *options) -> Path:
    """A cache of `n` pictures, encoded with random weights."""
    photos = captioned.folder(path.with_name(f"{path.name}-photos"), n)
    assert koala("encode", photos, "--model", model, "--out", path, "--device", "cpu", *options) == 0
    return path


def run(name: str = "tiny-koala-700m-base", **changes) -> Run:
    """A named run, short and on the CPU."""
    short = {"steps": 2, "batch_size": 1, "workers": 0, "device": "cpu", "tracker": "none", "save_every": 2}
    return replace(runs.get(name), **{**short, **changes})
