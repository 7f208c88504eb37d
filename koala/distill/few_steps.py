"""A run of DMD2, put together: the critic with its head, and the objective."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from koala.distill.config import INHERIT, Run
from koala.distill.critic import Critic, Seen, narrowest
from koala.distill.dmd2 import DistributionMatching, Matching
from koala.distill.perceptual import perceptual
from koala.distill.regression import Distance
from koala.errors import KoalaError
from koala.models.conditioning import Condition, random_condition, size_ids
from koala.models.load import load
from koala.models.networks import meta_networks
from koala.models.spec import ModelSpec, Recipe
from koala.models.unet import UNet
from koala.models.weights.checkpoint import Checkpoint, Renamed
from koala.models.weights.fill import fill

_UNET, _HEAD = "unet.", "head."  # how a critic's checkpoint begins the names of its tensors
_ENDING = ".safetensors"


def recipe(run: Run) -> Recipe:
    """How what the run makes is sampled: its own steps, each to a clean sample and back to the next one's noise."""
    return Recipe("lcm", len(run.timesteps), guidance=0.0, timesteps=run.timesteps)


def matching(run: Run) -> Matching:
    """The run's numbers."""
    return Matching(
        timesteps=run.timesteps,
        guidance=run.guidance,
        ratio=run.ratio,
        weight=run.matching_weight,
        gan_weight=run.gan_weight,
        critic_gan_weight=run.critic_gan_weight,
        regression_weight=run.regression_weight,
        simulated=run.simulate,
    )


def objective(
    run: Run,
    student: ModelSpec,
    teacher: ModelSpec,
    critic: ModelSpec,
    unet: UNet,
    unconditional: Condition,
    device: torch.device,
    **options: Any,
) -> DistributionMatching:
    """The objective around the generator `unet`; the teacher is loaded in the run's precision, the critic in fp32."""
    follower = critic_of(run, student, teacher, critic, unet)
    taught_by = load(teacher, device, run.precision, run.teacher_weights, ("unet",), run.seed).unet
    assert taught_by is not None
    networks = (student, unet, teacher, taught_by, critic, follower)
    return DistributionMatching(*networks, unconditional, matching(run), run.seed, **options)


def distance(run: Run, spec: ModelSpec, device: torch.device) -> Distance:
    """That of the run's regression, in the latent space of `spec`."""
    if not run.lpips:
        return F.mse_loss
    return perceptual(spec, Path(run.lpips), device, run.precision, run.teacher_weights, run.seed)


def critic_of(run: Run, student: ModelSpec, teacher: ModelSpec, critic: ModelSpec, unet: UNet) -> Critic:
    """The critic on the CPU in fp32, before its first step."""
    shape = judged_shape(critic, student.resolution) if run.critic_gan_weight else None
    weights = run.critic_weights or _begins_as(run, student, teacher, critic)
    if weights == INHERIT:
        return Critic(deepcopy(unet), shape, run.seed)
    if weights.endswith(_ENDING) and (found := _parts(Path(weights))):
        return _restored(critic, shape, found, run.seed)
    network = load(critic, "cpu", "fp32", weights, ("unet",), run.seed).unet
    assert network is not None
    return Critic(network, shape, run.seed)


def judged_shape(spec: ModelSpec, resolution: int) -> tuple[int, int, int]:
    """Channels, height and width of the features that a critic built like `spec` judges, found without numbers."""
    side, cpu = resolution // spec.downscale, torch.device("cpu")
    unet = meta_networks(spec, ("unet",))["unet"]
    condition = random_condition(spec, 1, torch.float32, cpu).map(lambda field: field.to("meta"))
    sizes = size_ids((resolution, resolution), None, (0, 0), 1).to("meta")
    samples = torch.empty(1, spec.unet.sample_channels, side, side, device="meta")
    seen = Seen(samples, torch.zeros(1, dtype=torch.long, device="meta"), condition.unet_arguments(sizes))
    with torch.no_grad():
        channels, height, width = narrowest(unet, seen).shape[1:]
    return channels, height, width


def _begins_as(run: Run, student: ModelSpec, teacher: ModelSpec, critic: ModelSpec) -> str:
    """Whose weights the critic has where none are named; INHERIT: those of the generator as it begins."""
    if critic.unet == student.unet:
        return run.student_weights if run.lora_rank else INHERIT
    if critic.unet == teacher.unet:
        return run.teacher_weights
    raise KoalaError(f"the critic {critic.name} is built like neither student nor teacher: give --critic-weights")


def _parts(path: Path) -> Checkpoint | None:
    """The tensors of a critic's checkpoint; None where it is another file."""
    found = Checkpoint([path])
    return found if all(key.startswith((_UNET, _HEAD)) for key in found.shapes) else None


def _restored(spec: ModelSpec, shape: tuple[int, int, int] | None, found: Checkpoint, seed: int) -> Critic:
    """A critic with the tensors of an earlier one; its head is fresh where that had none."""
    tensors = {
        part: {key.removeprefix(part): found.tensor(key) for key in found.shapes if key.startswith(part)}
        for part in (_UNET, _HEAD)
    }
    unet = fill(meta_networks(spec, ("unet",))["unet"], Renamed(str(found), tensors[_UNET]), "cpu")
    critic = Critic(unet, shape, seed)
    if critic.head is not None and tensors[_HEAD]:
        _fill_head(critic.head, tensors[_HEAD], found)
    return critic


def _fill_head(head: nn.Module, tensors: dict[str, torch.Tensor], found: Checkpoint) -> None:
    try:
        head.load_state_dict(tensors)
    except RuntimeError as error:
        raise KoalaError(
            f"the head in {found} judges features of another shape: {str(error).splitlines()[-1]}"
        ) from error
