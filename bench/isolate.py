"""A function in a process of its own: from a server that has the heavy imports done, watched without spinning.

The child sends JSON messages and at last a result; whatever else happens to it (an exception, a signal, the
kernel's out-of-memory killer, a deadline) becomes an `Outcome`. A child ends as soon as its parent is gone.
"""

import json
import multiprocessing
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_PRELOAD = ["bench.preload"]
_GRACE_S = 10.0  # what a child may take to end after its last message
_RAISED = re.compile(r"[\w.]+(Error|Exception|Interrupt)\b")  # the line of a traceback that says what it was

Message = dict[str, Any]
Send = Callable[[Message], None]


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its result, or why there is none."""

    result: Message | None
    exit_code: int | None = None
    timed_out: bool = False
    killed_for_memory: bool = False
    errors: str = ""  # the end of what it wrote to stderr

    @property
    def reason(self) -> str:
        """One line that says why there is no result."""
        if self.timed_out:
            return "ran past its time limit"
        if self.killed_for_memory:
            return "killed by the kernel's out-of-memory killer"
        if self.exit_code is not None and self.exit_code < 0:
            return f"killed by {signal.Signals(-self.exit_code).name}"
        lines = [line for line in self.errors.splitlines() if line.strip()]
        raised = [line for line in lines if _RAISED.match(line)]
        return (raised or lines)[-1].strip() if lines else f"ended with exit code {self.exit_code} and no result"


class ForkServer:
    """Starts children from one preloaded server (`spawn` where the system cannot fork)."""

    def __init__(self, fork: bool = True) -> None:
        methods = multiprocessing.get_all_start_methods() if fork else ["spawn"]
        self._context: Any = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
        os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # number GPUs as the driver does
        # diffusers asks for a GPU when it is imported; asking CUDA itself would spoil it for every forked child.
        os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
        if "forkserver" in methods:
            self._context.set_forkserver_preload(_PRELOAD)
            # Ctrl-C reaches the whole process group; the server ignores it, and goes when this process goes.
            with _sigint(signal.SIG_IGN):
                forkserver.ensure_running()

    def call(
        self,
        function: str,
        *args: Any,
        timeout_s: float | None = None,
        on_message: Send = lambda message: None,
        watch: Callable[[], None] | None = None,
        watch_every_s: float = 0.05,
        oom_kills: Callable[[], int | None] | None = None,
    ) -> Outcome:
        """Run `function(send, *args)`, named "module:function", in a fresh process.

        `watch` is called meanwhile at that period; the parent itself imports nothing that the function needs.
        """
        oom_kills = oom_kills or kernel_oom_kills
        kills_before = oom_kills()
        with tempfile.TemporaryDirectory(prefix="koala-bench-") as folder:
            errors = Path(folder) / "stderr"
            receiver, sender = self._context.Pipe(duplex=False)
            child = self._context.Process(target=_child, args=(sender, str(errors), function, args), daemon=True)
            try:
                with _ctrl_c_waits():  # a child half started would complain on the terminal
                    child.start()  # waits for the server's imports the first time
                sender.close()
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
                result, timed_out = _listen(receiver, deadline, on_message, watch, watch_every_s)
                if not timed_out:
                    child.join(_GRACE_S)
            finally:
                if child.pid is not None:
                    child.kill()
                    child.join()
                receiver.close()
            killed = child.exitcode == -signal.SIGKILL and not timed_out
            return Outcome(
                result=result,
                exit_code=child.exitcode,
                timed_out=timed_out,
                killed_for_memory=killed and (oom_kills() or 0) > (kills_before or 0),
                errors=_tail(errors),
            )


@contextmanager
def _sigint(handler: Any) -> Iterator[None]:
    """Another reaction to Ctrl-C for a while; only the main thread can have one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Hold a Ctrl-C back until the block has ended, then raise it."""
    pressed: list[int] = []
    with _sigint(lambda number, frame: pressed.append(number)):
        yield
    if pressed:
        raise KeyboardInterrupt


def _listen(
    receiver: Connection,
    deadline: float | None,
    on_message: Send,
    watch: Callable[[], None] | None,
    watch_every_s: float,
) -> tuple[Message | None, bool]:
    """The child's result, or null when the pipe ends; and whether the deadline passed first."""
    next_look = time.monotonic()
    while True:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            return None, True
        if watch is not None and time.monotonic() >= next_look:
            watch()
            next_look = time.monotonic() + watch_every_s
        pauses = [left, None if watch is None else max(0.0, next_look - time.monotonic())]
        if not wait([receiver], min((p for p in pauses if p is not None), default=None)):
            continue
        try:
            message = json.loads(receiver.recv_bytes())
        except (EOFError, OSError):  # OSError: it died in the middle of a message
            return None, False
        if "result" in message:
            return message["result"], False
        on_message(message)


def _child(sender: Connection, errors: str, function: str, args: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    stderr = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)
    _die_with_parent()
    _be_first_to_die()

    def send(message: Message) -> None:
        sender.send_bytes(json.dumps(message, allow_nan=False).encode())

    module, _, name = function.partition(":")
    send({"result": getattr(import_module(module), name)(send, *args)})


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        sentinel = parent.sentinel
        threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()


def _be_first_to_die() -> None:
    """Ask the kernel, when memory runs out, to end this process rather than the parent that holds the results."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def kernel_oom_kills() -> int | None:
    """How many processes the kernel has killed for want of memory since it started; null where it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)


def _tail(path: Path, most: int = 4000) -> str:
    return path.read_text(errors="replace")[-most:] if path.exists() else ""
