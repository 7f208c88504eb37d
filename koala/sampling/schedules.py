"""Recipe -> diffusers scheduler, as a table."""

from diffusers import EulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from koala.errors import UnknownName
from koala.models.spec import Recipe

# Stable Diffusion's noise schedule, from v1 to SDXL.
_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}

SCHEDULERS = {"euler": EulerDiscreteScheduler}


def build_scheduler(recipe: Recipe) -> SchedulerMixin:
    """A fresh scheduler for `recipe`; its timesteps are set by whoever samples."""
    if recipe.scheduler not in SCHEDULERS:
        raise UnknownName("scheduler", recipe.scheduler, SCHEDULERS)
    return SCHEDULERS[recipe.scheduler](**_NOISE, timestep_spacing=recipe.timestep_spacing)
