"""`python -m bench` as people run it: real processes in a folder of their own, or in this one where that is enough."""

import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

from bench.__main__ import COMMANDS, EXAMPLES
from koala.harness import records
from koala.harness.cli import main

ROOT = Path(__file__).parents[2]
SMOKE = ["sweep", "smoke", "--resolutions", "64", "--repeats", "2", "--budget", "0"]
OURS = [*SMOKE, "--profiles", "eager"]


def bench(*args, cwd, **more):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "bench", *map(str, args)],
        check=False,
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        **more,
    )


def bench_here(*args, cwd):
    """The same in this process, whose server of measuring processes has its imports done."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main("bench", "", COMMANDS, EXAMPLES, list(map(str, args)))
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def started(*args, cwd):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *map(str, args)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def statuses(path):
    return [row["status"] for row in records.read([path]).rows] if path.exists() else []


def wait_for_rows(path, count):
    deadline = time.monotonic() + 90
    while len(statuses(path)) < count:
        assert time.monotonic() < deadline, "no row came"
        time.sleep(0.05)
