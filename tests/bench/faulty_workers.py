"""Functions that a measuring process runs and that go wrong in every way a real one can."""

import os
import resource
import signal
import sys
import time

from bench import worker


def echo(send, value):
    send({"stage": "hello"})
    return {"value": value, "pid": os.getpid(), "cuda": "torch.cuda" in sys.modules and _cuda_initialised()}


def _cuda_initialised():
    import torch

    return torch.cuda.is_initialized()


def die(send, *args):
    os.kill(os.getpid(), signal.SIGKILL)


def die_half_way(send, *args):
    send({"stage": "warm-up", "timing": {"total": 3.0}})
    for seconds in (1.5, 1.25):
        send({"stage": "sample", "timing": {"total": seconds, "step": []}})
    die(send)


def hang(send, *args):
    send({"stage": "warm-up", "timing": {"total": 3.0}})
    send({"stage": "sample", "timing": {"total": 1.5, "step": []}})
    time.sleep(600)


def hang_and_say_where(send, file, *args):
    with open(file, "w") as out:
        out.write(str(os.getpid()))
    time.sleep(600)


def raise_error(send, *args):
    raise ValueError("the U-Net has a hole | in it")


def leave(send, *args):
    sys.exit(3)


def abort(send, *args):
    os.abort()


def fail_by_model(send, case, rule):
    """A sweep in which every model but one goes wrong in its own way."""
    faults = {"tiny-sdxl": die, "tiny-koala-1b": raise_error, "tiny-bk-sdxl": hang}
    return faults.get(case["model"], worker.measure_case)(send, case, rule)


def out_of_gpu_memory(send, case, rule):
    def fail(*args):
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nsecond line")

    worker.build_workload = fail
    return worker.measure_case(send, case, rule)


def with_little_memory(send, case, rule):
    """Measure under a limit of address space that the model's weights do not fit into."""
    limit = _address_space() + 300 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return worker.measure_case(send, case, rule)


def _address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def chatter(send, seconds):
    """Send a message every 5 ms."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        send({"stage": "sample"})
        time.sleep(0.005)
    return {}


def complain_after_an_error(send, *args):
    print("Traceback (most recent call last):\ntorch.AcceleratorError: CUDA error: an illegal address", file=sys.stderr)
    print("Compile with `TORCH_USE_CUDA_DSA` to enable device-side assertions.", file=sys.stderr)
    sys.exit(1)
