"""One training on several processes: how they start, agree, and gather what is sharded over them."""

import hashlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast,
)
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor, distribute_tensor

from koala.distill.config import Run
from koala.errors import KoalaError, UnknownName

Result = TypeVar("Result")
_NO_TRACKER = "none"
_DEVICES = ("auto", "cpu")
_LONGEST_WAIT = timedelta(hours=2)  # while the first process reads and writes checkpoints: NCCL's own are 10 minutes
_KNOWN = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.FSDP)


@contextmanager
def processes(run: Run, out: Path) -> Iterator[Accelerator]:
    """accelerate's view of this process among the others; a run that cannot be so is a `KoalaError`."""
    accelerator = _start(run, out)
    try:
        yield accelerator
    finally:
        accelerator.state.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)  # another run may want another precision


def _start(run: Run, out: Path) -> Accelerator:
    if run.device not in _DEVICES:
        raise KoalaError(
            f"--device is {' or '.join(_DEVICES)}, not {run.device}: auto is a GPU for each process, and "
            "CUDA_VISIBLE_DEVICES says which"
        )
    on_cpu = run.device == "cpu" or not torch.cuda.is_available()
    if on_cpu and run.precision == "fp16":
        raise KoalaError("fp16 needs a GPU; --precision bf16 and fp32 do not")
    accelerator = Accelerator(
        cpu=on_cpu,  # without it, processes on a machine without GPUs would not find one another
        mixed_precision="no" if run.precision == "fp32" else run.precision,
        log_with=tracker(run.tracker),
        project_config=ProjectConfiguration(str(out), logging_dir=str(out / "tracker")),
        dynamo_backend="no",  # --compile is the run's
        # the last layer of a text encoder may have no part in what the U-Net is told
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=run.lora_text, gradient_as_bucket_view=True),
            InitProcessGroupKwargs(timeout=_LONGEST_WAIT),
        ],
    )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != expected:
        raise KoalaError(f"{expected} processes were launched and do not see one another; launch with torchrun")
    if accelerator.distributed_type not in _KNOWN:
        raise KoalaError(f"{accelerator.distributed_type.value} is not known here; choose DDP or FSDP")
    if accelerator.distributed_type == DistributedType.FSDP:
        _check_fsdp(accelerator, run)
    return accelerator


def tracker(name: str) -> str | None:
    """The tracker as accelerate takes it; one that it does not know, or that is not installed, is a `KoalaError`."""
    if name == _NO_TRACKER:
        return None
    if name not in LOGGER_TYPE_TO_CLASS:
        raise UnknownName("tracker", name, (*LOGGER_TYPE_TO_CLASS, _NO_TRACKER))
    if name not in map(str, get_available_trackers()):
        raise KoalaError(f"--tracker {name} needs the package {name}: pip install {name}, or --tracker none")
    return name


def _check_fsdp(accelerator: Accelerator, run: Run) -> None:
    if not accelerator.is_fsdp2:
        raise KoalaError("FSDP must be of version 2: fsdp_version: 2 in accelerate's configuration")
    if run.precision == "fp16":
        raise KoalaError("fp16 and FSDP were not tried together; --precision bf16")
    if run.optimizer != "adamw":
        raise KoalaError(f"{run.optimizer} and FSDP were not tried together; --optimizer adamw")
    if run.precision == "bf16":  # accelerate would add gradients up in bf16
        accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)


def together(accelerator: Accelerator, action: Callable[[], Result]) -> Result:
    """What `action` returns; if it is a `KoalaError` in one process, all of them raise one."""
    result, error = None, None
    try:
        result = action()
    except KoalaError as raised:
        error = raised
    failed = accelerator.reduce(torch.tensor([float(error is not None)], device=accelerator.device), "sum")
    if error is not None or failed.item():
        raise error or KoalaError("another process failed; its message says why")
    return cast(Result, result)


def of_main(accelerator: Accelerator, number: int) -> int:
    """What the first process says."""
    return int(broadcast(torch.tensor([number], device=accelerator.device)).item())


def reseed(seed: int, step: int, rank: int) -> None:
    """Seed torch's own generators, of which dropout draws, for one step: no checkpoint needs to keep their state."""
    digest = hashlib.blake2b(f"step {seed} {step} {rank}".encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What is sharded is gathered on the CPU of the first process, one tensor after the other; the rest is as it is."""
    first = not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0
    gathered = {}
    for name, tensor in tensors.items():
        plain = tensor.detach()
        if isinstance(plain, DTensor):
            full = plain.full_tensor()
            plain = full.cpu() if first else full.new_empty(0)
        gathered[name] = plain
    return gathered


def sharded(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of `tensor`, laid out as `like` is; all of it where `like` is whole."""
    if not isinstance(like, DTensor):
        return tensor
    mesh = like.device_mesh
    # every process has read the same values, so nothing is sent
    return distribute_tensor(tensor.to(like.device), mesh, like.placements, src_data_rank=None)


@torch.no_grad()
def fill(into: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Write `values`, which are whole, into the tensors of the same names."""
    assert into.keys() == values.keys(), f"other parameters: {sorted(into.keys() ^ values.keys())[:5]}"
    for name, tensor in into.items():
        tensor.copy_(sharded(values[name], tensor))


@contextmanager
def interrupts(alone: bool) -> Iterator[threading.Event]:
    """An event that is set by Ctrl-C or a request to end, which do nothing else while the block runs.

    `alone`, a second Ctrl-C interrupts at once. Launchers pass on what the terminal has sent already, so that several
    processes get each signal twice.
    """
    asked = threading.Event()

    def ask(number: int, _: object) -> None:
        if asked.is_set() and alone and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread hears signals
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
