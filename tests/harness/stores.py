"""Rows, and processes that write them."""

import contextlib
import subprocess
import sys
from pathlib import Path

from koala.harness.records import Store

ROOT = Path(__file__).parents[2]


def row(n):
    return {"kind": "bench", "n": n}


def append(path, *rows):
    with Store(path) as store:
        for each in rows:
            store.append(each)


def numbers(found):
    return [each["n"] for each in found.rows]


@contextlib.contextmanager
def python(script, *args):
    """A real child that runs `script`; killed at the end if it has not been before."""
    command = [sys.executable, "-c", script, *map(str, args)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with child:
        try:
            yield child
        finally:
            child.kill()
