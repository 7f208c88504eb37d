"""Recipe -> diffusers scheduler and its timesteps, as a table."""

import inspect
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from koala.errors import KoalaError, UnknownName
from koala.models.noising import SD_SCHEDULE
from koala.models.spec import Recipe
from koala.sampling.edm_steps import EdmEuler, EdmHeun, EdmRenoise

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True)
class _Kind:
    scheduler: type
    settings: dict[str, Any] = field(default_factory=dict)


# A timestep schedule in latent space is not clipped to [-1, 1] and ends at the first alpha of training.
_LATENT = {"clip_sample": False, "set_alpha_to_one": False}
SCHEDULERS = {  # of Stable Diffusion's noise
    "ddim": _Kind(DDIMScheduler, _LATENT),
    "dpm++": _Kind(DPMSolverMultistepScheduler),
    "euler": _Kind(EulerDiscreteScheduler),
    "euler-ancestral": _Kind(EulerAncestralDiscreteScheduler),
    "lcm": _Kind(LCMScheduler),
    "pndm": _Kind(PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
}
EDM_SCHEDULERS = {"euler": EdmEuler, "heun": EdmHeun, "lcm": EdmRenoise}


def build_scheduler(recipe: Recipe, prediction: str = "epsilon", noising: str = "sd") -> Any:
    """A fresh scheduler for `recipe`, what the U-Net predicts and how noise is added.

    `set_timesteps` begins a schedule.
    """
    known: Collection[str] = EDM_SCHEDULERS if noising == "edm" else SCHEDULERS
    if recipe.scheduler not in known:
        raise UnknownName("scheduler", recipe.scheduler, known)
    if prediction not in PREDICTIONS:
        raise UnknownName("prediction", prediction, PREDICTIONS)
    if noising == "edm":
        assert prediction == "sample", "EDM's networks predict the clean sample"
        return EDM_SCHEDULERS[recipe.scheduler]()
    kind = SCHEDULERS[recipe.scheduler]
    return kind.scheduler(
        **SD_SCHEDULE, **kind.settings, timestep_spacing=recipe.timestep_spacing, prediction_type=prediction
    )


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
