"""Recipe -> diffusers scheduler and its timesteps, as a table."""

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from koala.errors import KoalaError, UnknownName
from koala.models.spec import Recipe

# Stable Diffusion's noise schedule, from v1 to SDXL.
_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class _Kind:
    scheduler: type
    settings: dict[str, Any] = field(default_factory=dict)


# A timestep schedule in latent space is not clipped to [-1, 1] and ends at the first alpha of training.
_LATENT = {"clip_sample": False, "set_alpha_to_one": False}
SCHEDULERS = {
    "ddim": _Kind(DDIMScheduler, _LATENT),
    "dpm++": _Kind(DPMSolverMultistepScheduler),
    "euler": _Kind(EulerDiscreteScheduler),
    "euler-ancestral": _Kind(EulerAncestralDiscreteScheduler),
    "lcm": _Kind(LCMScheduler),
    "pndm": _Kind(PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
}


def build_scheduler(recipe: Recipe, prediction: str = "epsilon") -> Any:
    """A fresh scheduler for `recipe` and what the U-Net predicts; `set_timesteps` begins a schedule."""
    if recipe.scheduler not in SCHEDULERS:
        raise UnknownName("scheduler", recipe.scheduler, SCHEDULERS)
    if prediction not in PREDICTIONS:
        raise UnknownName("prediction", prediction, PREDICTIONS)
    kind = SCHEDULERS[recipe.scheduler]
    return kind.scheduler(
        **_NOISE, **kind.settings, timestep_spacing=recipe.timestep_spacing, prediction_type=prediction
    )


@cache
def training_schedule() -> torch.Tensor:
    """The share of the sample's power that is left at each timestep of training, fp32; not to be changed."""
    with torch.inference_mode(False), torch.device("cpu"):
        return DDPMScheduler(**_NOISE).alphas_cumprod


def set_timesteps(scheduler: Any, recipe: Recipe, device: torch.device) -> torch.Tensor:
    """The timesteps of one run, in order; PNDM takes one more than the recipe's steps."""
    if recipe.timesteps is None:
        scheduler.set_timesteps(recipe.steps, device=device)
    elif "timesteps" in inspect.signature(scheduler.set_timesteps).parameters:
        with _quiet(type(scheduler)):
            scheduler.set_timesteps(timesteps=list(recipe.timesteps), device=device)
    else:
        raise KoalaError(f"the scheduler {recipe.scheduler} takes no explicit timesteps; lcm does")
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    return scheduler.timesteps


@contextmanager
def _quiet(scheduler: type) -> Iterator[None]:
    """Without diffusers' remark that timesteps are not its own: those of a recipe are its authors'."""
    logger = logging.getLogger(scheduler.__module__)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def with_steps(recipe: Recipe, steps: int | None) -> Recipe:
    """`recipe` in another number of steps; one with explicit timesteps takes only its own."""
    return recipe if steps is None else replace(recipe, steps=steps)
