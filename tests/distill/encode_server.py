"""Runs `encode` in forked processes: real ones, to be killed or to find one another, without their seconds of imports.

Each line of stdin is a list of runs that start at once, [{"argv": [...], "env": {...}, "log": path}]; the answers are
{"started": process ids}, then, once all have ended, {"ended": exit codes}, negative ones: killed by that signal.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]


class Server:
    """The parent's end; a context manager."""

    def __enter__(self) -> "Server":
        path = os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        pipe = subprocess.PIPE
        self._running: list[int] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True, env=environment
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()

    def start(self, runs: Sequence[dict[str, Any]]) -> None:
        """Begin runs; those of a test that failed meanwhile are waited for first."""
        assert self._process.stdin
        if self._running:
            self.wait()
        print(json.dumps(list(runs)), file=self._process.stdin, flush=True)
        self._running = self._answer("started")

    def kill(self, first: int = 0) -> None:
        """SIGKILL to the runs from the first to be killed on; one that has ended stays ended."""
        for child in self._running[first:]:
            assert child > 1, "0 and -1 are whole groups of processes"
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)

    def wait(self) -> list[int]:
        """The exit codes of the runs."""
        codes, self._running = self._answer("ended"), []
        return codes

    def _answer(self, kind: str) -> list[int]:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())[kind]


def serve() -> None:
    """The child's end."""
    import diffusers.models
    import transformers

    import koala.commands.encode
    import koala.distill.data.encoding
    import koala.distill.data.sources
    from koala.harness.cli import Command, main

    _ = diffusers.models.AutoencoderKL, transformers.CLIPTextModelWithProjection  # imported when first named
    commands = {"encode": Command(koala.commands.encode.__name__, "")}
    for line in sys.stdin:
        children = []
        for run in json.loads(line):
            child = os.fork()
            if child == 0:
                log = os.open(run["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                os.dup2(log, 1), os.dup2(log, 2)
                os.environ.update(run.get("env", {}))
                code = main("koala", "", commands, (), ["encode", *run["argv"]])
                print("imported:", sorted({"datasets", "pyarrow.parquet"} & {*sys.modules}), flush=True)
                sys.stderr.flush()
                os._exit(code)
            children.append(child)
        print(json.dumps({"started": children}), flush=True)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(json.dumps({"ended": codes}), flush=True)
    os._exit(0)  # taking torch down takes seconds


if __name__ == "__main__":
    serve()
