"""How noise is added: z = a x + s n at a timestep, for a sample x and standard normal noise n.

A model of the zoo names one of `NOISINGS`; teacher, critic and student share it. A new one is a class and a line.
"""

from functools import cache
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from koala.errors import UnknownName

# Stable Diffusion's noise schedule, from v1 to SDXL.
SD_SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # EDM (Karras et al., NeurIPS 2022), table 1
SIGMA_DATA = 0.5


@runtime_checkable
class Noising(Protocol):
    """What a timestep, a whole number below `num_timesteps`, means."""

    num_timesteps: int

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The factors of the sample and of the noise, one row each, to multiply `like` with."""
        ...

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """Power of the sample over that of the noise, one value a row; EDM's samples count as of power 1."""
        ...

    def weights(self, timesteps: Tensor) -> Tensor | None:
        """Weight of each row's squared error where a network learns to denoise; None: all alike."""
        ...

    def start(self, noise: Tensor, timestep: int) -> Tensor:
        """What a generator begins with, at the noisiest of its timesteps."""
        ...

    def sample_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The precision in which a network of `dtype` is given noisy samples."""
        ...


class StableDiffusion:
    """a^2 + s^2 = 1, by a table of a^2."""

    num_timesteps = 1000

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """The square roots of the table's share and of the rest."""
        alphas = _schedule(timesteps.device)[timesteps].to(like.dtype)[:, None, None, None]
        return alphas.sqrt(), (1 - alphas).sqrt()

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """The table's share over the rest."""
        alphas = _schedule(timesteps.device)[timesteps]
        return alphas / (1 - alphas)

    def weights(self, timesteps: Tensor) -> None:
        """All alike."""

    def start(self, noise: Tensor, timestep: int) -> Tensor:
        """The noise itself, also where a little of a sample would be left."""
        return noise

    def sample_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """The network's own."""
        return dtype


class Edm:
    """a = 1 and s from 0.002 to 80 by Karras's schedule, the last timestep being the noisiest (EDM)."""

    num_timesteps = 1000

    def levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """One, and the standard deviation of the noise."""
        sigma = self.sigma(timesteps).to(like.dtype)[:, None, None, None]
        return torch.ones_like(sigma), sigma

    def sigma(self, timesteps: Tensor) -> Tensor:
        """The standard deviation of the noise, float64; timesteps need not be whole (EDM equation 5)."""
        low, high = SIGMA_MIN ** (1 / RHO), SIGMA_MAX ** (1 / RHO)
        return (low + timesteps.double() / (self.num_timesteps - 1) * (high - low)) ** RHO

    def signal_to_noise(self, timesteps: Tensor) -> Tensor:
        """One over the variance of the noise."""
        return self.sigma(timesteps).float() ** -2

    def weights(self, timesteps: Tensor) -> Tensor:
        """Of the error of the clean sample: sigma^-2 + sigma_data^-2 (EDM's lambda; DMD2's critic)."""
        return self.sigma(timesteps).float() ** -2 + SIGMA_DATA**-2

    def start(self, noise: Tensor, timestep: int) -> Tensor:
        """Noise alone, as strong as at that timestep."""
        return self.levels(torch.full((len(noise),), timestep, device=noise.device), noise)[1] * noise

    def sample_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """At least fp32: at little noise the network passes most of the sample on."""
        return torch.promote_types(dtype, torch.float32)


SD, EDM = StableDiffusion(), Edm()
NOISINGS: dict[str, Noising] = {"sd": SD, "edm": EDM}


def noising(name: str) -> Noising:
    """The noising called `name`."""
    if name not in NOISINGS:
        raise UnknownName("noising", name, NOISINGS)
    return NOISINGS[name]


@cache
def training_schedule() -> Tensor:
    """The share of the sample's power that Stable Diffusion leaves at each timestep, fp32; not to be changed."""
    with torch.inference_mode(False), torch.device("cpu"):
        return DDPMScheduler(**SD_SCHEDULE).alphas_cumprod


@cache
def _schedule(device: torch.device) -> Tensor:
    """The table on a device, to which it is copied once: a copy makes the host wait for a GPU."""
    return training_schedule().to(device)
