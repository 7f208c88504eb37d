"""A folder that appears whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from koala.errors import KoalaError


def refuse_to_overwrite(out: Path) -> None:
    """A `KoalaError` unless `out` is free: no such file, and no such folder with anything in it."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise KoalaError(f"{out} exists; choose another name or remove it")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A hidden folder beside `out`, which becomes `out` when the block ends well and goes when it does not."""
    refuse_to_overwrite(out)
    out = out.resolve()
    aside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        aside.mkdir(parents=True)
        try:
            yield aside
            aside.replace(out)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        raise KoalaError(f"cannot write {out}: {error}") from error
