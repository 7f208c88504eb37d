"""`python -m bench` as people run it: real processes in a folder of their own."""

import os
import subprocess
import sys
import time
from pathlib import Path

from koala.harness import records

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
