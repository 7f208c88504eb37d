"""What a run will do, from shapes and counts alone: no weights are read."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from koala.distill import memory
from koala.distill.assemble import Models, models_of
from koala.distill.config import INHERIT, Run
from koala.distill.critic import gan_head
from koala.distill.data.cache import INDEX, Cache
from koala.distill.few_steps import judged_shape
from koala.distill.lora import TEXT_TARGETS, add_adapters
from koala.models.inherit import inherit
from koala.models.load import DTYPES
from koala.models.networks import count_params, meta_networks
from koala.models.spec import ModelSpec

_FP32 = 4  # bytes
_MOMENTS = {"adamw": 8, "adamw8bit": 2}  # bytes of an optimizer's two moments


@dataclass(frozen=True)
class Plan:
    """A run in numbers; bytes are those of one process."""

    run: Run
    models: Models
    processes: int
    student_params: int
    trained_params: int
    teacher_params: int
    critic_params: int  # its head included
    inherited: int  # tensors
    fresh: int
    pairs: Mapping[str, int]  # by stage
    images: int | None  # in the data; None where that is not there yet
    memory_bytes: Mapping[str, int]
    checkpoint_bytes: int

    @property
    def global_batch(self) -> int:
        """Images per optimisation step."""
        return self.run.batch_per_process * self.processes

    @property
    def images_seen(self) -> int:
        """Images of the whole run, each time one is seen."""
        return self.global_batch * self.run.steps

    @cached_property
    def activation_bytes(self) -> int:
        """What comes on top of `memory_bytes` while a step is made, about; counting takes seconds."""
        models = self.models
        return memory.activation_bytes(self.run, models.student, models.teacher, models.critic)

    def text(self) -> str:
        """The plan in lines of "name: value", then the run's notes."""
        lines = "\n".join(f"{name}: {value}" for name, value in self._lines().items())
        return "\n".join((lines, "notes:", *(f"  {note}" for note in self.run.notes)))

    def _lines(self) -> dict[str, str]:
        run, models = self.run, self.models
        compared = ", ".join(f"{stage} {n}" for stage, n in self.pairs.items())
        lines = {
            "run": run.name or run.student,
            "student": f"{models.student.name}, {self.student_params:,} parameters",
        }
        if self.trained_params != self.student_params:
            lines["trained"] = f"{self.trained_params:,} parameters of adapters"
        if models.teacher:
            lines["teacher"] = f"{models.teacher.name}, {self.teacher_params:,} parameters in {run.precision}"
        if run.student_weights == INHERIT:
            lines["tensors"] = f"{self.inherited} inherited, {self.fresh} fresh"
        else:
            lines["weights"] = run.student_weights
        if models.critic:
            lines |= self._few_steps(models.critic)
        elif models.teacher:
            lines["pairs"] = f"{sum(self.pairs.values())} ({compared or 'no features'})"
        lines["resolution"] = f"{models.student.resolution} px"
        lines["batch"] = (
            f"{self.global_batch} images = {run.batch_size} x {run.accumulation} accumulated x "
            f"{self.processes} process{'es' if self.processes > 1 else ''}"
        )
        lines["steps"] = f"{run.steps:,}, {self.images_seen:,} images seen"
        lines["data"] = self._data()
        lines |= self._memory()
        lines["checkpoints"] = (
            f"{_gib(self.checkpoint_bytes)} each, {run.keep} are kept and one more while it is written"
        )
        lines["out"] = str(run.folder)
        return lines

    def _memory(self) -> dict[str, str]:
        parts = ", ".join(f"{name} {_gib(size)}" for name, size in self.memory_bytes.items())
        held = sum(self.memory_bytes.values())
        sharded = memory.sharded_bytes(held, self.memory_bytes.get("teacher", 0), self.processes)
        verdicts = memory.verdicts(memory.visible_cards(), held, sharded, self.activation_bytes)
        checkpointing = "with" if self.run.gradient_checkpointing else "without"
        lines = {
            "memory": f"{_gib(held)} a process ({parts})",
            "activations": f"about {_gib(self.activation_bytes)} on top, {checkpointing} gradient checkpointing"
            f"{'; compared features are not counted' if self.pairs else ''}"
            f"{'; neither LPIPS nor its images are counted' if self.run.lpips else ''}",
            "GPUs": "; ".join(verdicts) or "none is visible here",
        }
        if self.processes > 1 and not self.run.lora_rank:
            lines["memory when sharded"] = f"{_gib(sharded)} a process (FSDP), all but the teacher"
        return lines

    def _few_steps(self, critic: ModelSpec) -> dict[str, str]:
        run = self.run
        share = f"the generator learns at every {_ordinal(run.ratio)} step"
        return {
            "generator": f"{len(run.timesteps)} steps ({', '.join(map(str, run.timesteps))}), {share}",
            "critic": f"{critic.name}, {self.critic_params:,} parameters",
            "weights of the losses": f"matching {run.matching_weight:g}, GAN {run.gan_weight:g}, in the critic's "
            f"{run.critic_gan_weight:g}; guidance {run.guidance:g}",
        }

    def _data(self) -> str:
        if self.images is None:
            return f"{self.run.data}, not counted" if self.run.data else "none is named yet (--data)"
        return f"{self.images:,} images, {self.images_seen / self.images:.4g} epochs"


def plan(run: Run, processes: int = 1) -> Plan:
    """The plan of `run` on that many processes; a `KoalaError` for what does not go together."""
    run = run.split(processes)
    models = models_of(run)
    student = meta_networks(models.student, ("unet",))["unet"]
    student_params = trained = own = count_params(student)
    if run.lora_rank:
        trained = _adapters(run, models)
        own += trained
    teacher_params, inheritance = 0, None
    if models.teacher:
        teacher_params = count_params(meta_networks(models.teacher, ("unet",))["unet"])
        if run.student_weights == INHERIT:
            inheritance = inherit(models.teacher.unet, models.student.unet)
    critic = _critic_params(run, models)
    averaged = _FP32 * (trained + critic) if run.ema_decay else 0
    moments = _MOMENTS[run.optimizer]
    half = DTYPES[run.precision].itemsize
    held = {
        "weights": _FP32 * own,
        "gradients": _FP32 * trained,
        "optimizer": moments * trained,
        "critic": _FP32 * critic,
        "gradients of the critic": _FP32 * critic,
        "optimizer of the critic": moments * critic,
        "average": averaged,
        "teacher": half * teacher_params,
        "copies in half precision": half * (student_params + critic) if half < _FP32 else 0,
        "text encoders and autoencoder": half * _frozen_params(models) if run.on_the_fly else 0,
    }
    return Plan(
        run=run,
        models=models,
        processes=processes,
        student_params=student_params,
        trained_params=trained,
        teacher_params=teacher_params,
        critic_params=critic,
        inherited=len(inheritance.inherited) if inheritance else 0,
        fresh=len(inheritance.fresh) if inheritance else 0,
        pairs=Counter(pair.stage for pair in models.pairs),
        images=_count(run),
        memory_bytes={name: size for name, size in held.items() if size},
        checkpoint_bytes=(_FP32 + moments) * (trained + critic) + averaged,
    )


def _adapters(run: Run, models: Models) -> int:
    """Parameters of the adapters."""
    networks = meta_networks(models.student, ("unet", "text") if run.lora_text else ("unet",))
    for name, network in networks.items():
        targets = run.lora_targets if name == "unet" else TEXT_TARGETS
        with torch.device("meta"):
            add_adapters(network, run.lora_rank, run.lora_alpha, targets)
    return sum(p.numel() for network in networks.values() for p in network.parameters() if p.requires_grad)


def _critic_params(run: Run, models: Models) -> int:
    """Parameters of the critic and its head; 0 where there is none."""
    if models.critic is None:
        return 0
    count = count_params(meta_networks(models.critic, ("unet",))["unet"])
    if not run.critic_gan_weight:
        return count
    with torch.device("meta"):
        return count + count_params(gan_head(*judged_shape(models.critic, models.student.resolution)))


def _frozen_params(models: Models) -> int:
    return sum(map(count_params, meta_networks(models.frozen, ("text", "autoencoder")).values()))


def _count(run: Run) -> int | None:
    """Images of the cache; None where there is none yet, or where they are encoded on the fly."""
    if run.on_the_fly or not run.data or not (Path(run.data) / INDEX).is_file():
        return None
    return len(Cache(run.data, unfinished=True))


def _ordinal(n: int) -> str:
    ending = "th" if n % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(n % 10, "th")
    return f"{n}{ending}"


def _gib(size: int) -> str:
    return f"{size / 2**30:.3g} GiB" if size >= 2**27 else f"{size / 2**20:.3g} MiB"
