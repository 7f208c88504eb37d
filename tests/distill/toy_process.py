"""Toy trainings in processes of their own, forked from one that has imported everything; faults strike where asked."""

import gc
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_multi_gpu_env
from few_steps import KOALA, matching_of
from random_batch import RandomExamples
from torch.distributed.tensor import DTensor
from toy import ToyExamples, ToyNetwork, ToyObjective, toy_run
from toy_training import kept

import koala.distill
from koala.distill.batch import Examples
from koala.distill.config import Run
from koala.distill.data.beside import beside
from koala.distill.distributed import _check_fsdp, processes
from koala.distill.dmd2 import PAIRS
from koala.distill.kd import Distillation
from koala.distill.objective import Objective
from koala.distill.trainer import Trainer
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.load import load

ERROR = "error.txt"
FSDP = Path(koala.distill.__file__).with_name("fsdp.yaml")


@dataclass(frozen=True)
class Faults:
    """What goes wrong, and when."""

    kill_at_operation: int = 0  # SIGKILL at the n-th sync, rename or removal of a folder; 0: never
    after: bool = False  # ... just after it and not just before
    signal_at_step: int = -1
    number: int = signal.SIGINT
    file_limit_at_step: int = -1  # from this step on no file may grow over 100 kB


@dataclass(frozen=True)
class Job:
    """A toy training: changes of the run, and of the toys."""

    out: Path
    run: dict = field(default_factory=dict)
    faults: Faults = Faults()
    dropout: float = 0.0
    width: int = 8
    idle: bool = False
    n: int = 50
    broken: tuple[int, ...] = ()
    world: int = 1
    fsdp: bool = False  # the networks sharded over the processes
    sampled_by: int | None = None  # the one process that is asked for samples, and cannot write them
    learns: str = "toy"  # or small U-Nets: "kd", a student of a larger one, "dmd2", a generator with its critic


def train(*jobs: Job) -> list[int]:
    """The exit code of each job's process (of its first process, if it has several); all run side by side."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["koala.distill.trainer", "koala.distill.kd", "accelerate.commands.launch"])
    started = [
        [context.Process(target=_main, args=(job, rank, port)) for rank in range(job.world)]
        for job, port in ((job, _free_port()) for job in jobs)
    ]
    everyone = [process for group in started for process in group]
    for process in everyone:
        process.start()
    for process in everyone:
        process.join(120)
        assert process.exitcode is not None, "it hangs"
    return [max(process.exitcode for process in group) if len(group) > 1 else group[0].exitcode for group in started]


def tensors(out: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights, average and optimizer state of a checkpoint."""
    names = ("unet", "unet.average", "unet.optimizer")
    return {f"{name}: {key}": value for name in names for key, value in kept(out, step, name).items()}


def error_of(out: Path) -> str:
    return (out / ERROR).read_text()


class _Struck(ToyObjective):
    """Strikes this process itself when a step begins."""

    def __init__(self, network: ToyNetwork, faults: Faults):
        super().__init__(network)
        self._faults = faults

    def turns(self, step: int):
        if step == self._faults.signal_at_step:
            os.kill(os.getpid(), self._faults.number)
        if step == self._faults.file_limit_at_step:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        return super().turns(step)


def _main(job: Job, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # what was imported before the fork is not garbage, and need not be looked through
    if job.world > 1:
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": job.world, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1")
    if job.faults.kill_at_operation:
        _kill_at(job.faults.kill_at_operation, job.faults.after)
    sys.exit(_train(job))


def _train(job: Job) -> int:
    run = toy_run(**job.run)
    try:
        with processes(run, job.out) as accelerator:
            assert accelerator.num_processes == job.world
            if job.fsdp:
                _shard(accelerator, run, job.learns != "toy")
            objective, examples = _task(job, accelerator.process_index)
            given = dict(objective.trained)
            sample = _unwritable if job.sampled_by == accelerator.process_index else None
            trainer = Trainer(run, objective, examples, job.out, accelerator, sample=sample)
            trainer.train()
            assert objective.trained == given and trainer.learners["unet"].network is given["unet"]
            for value in trainer.learners["unet"].parameters.values():
                assert isinstance(value, DTensor) == job.fsdp
    except KoalaError as error:
        (job.out / ERROR).write_text(str(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _unwritable(step: int) -> None:
    if step == 4:
        raise KoalaError("cannot write the samples")


def _task(job: Job, rank: int) -> tuple[Objective, Examples]:
    match job.learns:
        case "kd":
            return _distillation()
        case "dmd2":
            pairs = RandomExamples(KOALA, 7, noise=True)
            return matching_of(gan_weight=0.5, regression_weight=0.25, ratio=2), beside(
                RandomExamples(KOALA, 9), {PAIRS: pairs}, seed=3
            )
    return _toy(job, rank)


def _toy(job: Job, rank: int) -> tuple[Objective, Examples]:
    """Faults strike the first process alone."""
    network = ToyNetwork(dropout=job.dropout, width=job.width, idle=job.idle)
    objective = ToyObjective(network) if rank else _Struck(network, job.faults)
    return objective, ToyExamples(job.n, job.broken)


def _distillation() -> tuple[Objective, Examples]:
    student, teacher = zoo.get("tiny-bk-sdm-tiny"), zoo.get("tiny-sdm-v1.4")
    own, theirs = (load(spec, "cpu", "fp32", "random", ("unet",), seed=1).unet for spec in (student, teacher))
    objective = Distillation(student, own, teacher, theirs, ("SA@UP-1", "LF@UP"))
    return objective, RandomExamples(student, 9)


def _shard(accelerator: Accelerator, run: Run, unet: bool) -> None:
    """accelerate offers FSDP on GPUs alone; its code for them runs on CPUs as well, told to."""
    if unet:
        arguments = launch_command_parser().parse_args(["--config_file", str(FSDP), "x.py"])
        os.environ.update(prepare_multi_gpu_env(_validate_launch_command(arguments)[0]))
        plugin = FullyShardedDataParallelPlugin()
        assert plugin.transformer_cls_names_to_wrap == ["BasicTransformerBlock", "ResnetBlock2D"]
    else:
        plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="size_based_wrap", min_num_params=20)
    AcceleratorState._shared_state.update(distributed_type=DistributedType.FSDP, fsdp_plugin=plugin)
    _check_fsdp(accelerator, run)


def _kill_at(count: int, after: bool) -> None:
    """SIGKILL this process at its `count`-th operation on the disk that orders what a crash may leave."""
    left = [count]

    def dangerous(operation):
        def wrapped(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0 and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = operation(*args, **kwargs)
            if left[0] == 0 and after:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    os.fsync = dangerous(os.fsync)
    Path.replace, Path.rename = dangerous(Path.replace), dangerous(Path.rename)
    shutil.rmtree = dangerous(shutil.rmtree)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


if __name__ == "__main__":  # two launched processes of a batch of four
    sys.exit(_train(Job(Path(sys.argv[1]), {"batch_size": 4}, world=2)))
