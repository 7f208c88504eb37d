"""What a U-Net is asked to predict, and how one kind of prediction is told in terms of another.

With a sample x and noise e, the noisy sample is z = a x + s e, where a^2 + s^2 = 1 at each timestep. A network predicts
e (epsilon), x (sample) or v = a e - s x (v_prediction; Salimans and Ho, 2022).
"""

from functools import cache

import torch
from torch import Tensor

from koala.errors import UnknownName
from koala.sampling.schedules import PREDICTIONS, training_schedule
from koala.types import Latents, Timesteps


def add_noise(clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
    """The noisy samples that a U-Net sees, in the dtype of `clean`, at least fp32."""
    clean = _precise(clean)
    signal, spread = _levels(timesteps, clean)
    return signal * clean + spread * noise


def target(kind: str, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
    """What a U-Net that predicts `kind` ought to say of `add_noise(clean, noise, timesteps)`."""
    return _told(_known(kind), _precise(clean), _precise(noise), timesteps)


def converted(prediction: Latents, kind: str, to: str, noisy: Latents, timesteps: Timesteps) -> Latents:
    """A prediction of one kind about `noisy` in the words of another, in its own dtype, at least fp32.

    Errors grow where the one says little of the other: of the noise by a / s at the first timestep, of the sample by
    s / a at the last.
    """
    prediction = _precise(prediction)
    if _known(kind) == _known(to):
        return prediction
    noisy = noisy.to(prediction.dtype)
    signal, spread = _levels(timesteps, prediction)
    if kind == "epsilon":
        clean, noise = (noisy - spread * prediction) / signal, prediction
    elif kind == "sample":
        clean, noise = prediction, (noisy - signal * prediction) / spread
    else:
        clean, noise = signal * noisy - spread * prediction, spread * noisy + signal * prediction
    return _told(to, clean, noise, timesteps)


def clean_of(kind: str, prediction: Latents, noisy: Latents, timesteps: Timesteps) -> Latents:
    """The clean sample that a prediction of `kind` stands for, float64: at the last timesteps fp32 would lose it."""
    return converted(prediction.double(), kind, "sample", noisy, timesteps)


def signal_to_noise(timesteps: Timesteps) -> Tensor:
    """Power of the sample over that of the noise, one value a row."""
    alphas = _schedule(timesteps.device)[timesteps]
    return alphas / (1 - alphas)


def _told(kind: str, clean: Latents, noise: Latents, timesteps: Timesteps) -> Latents:
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return clean
    signal, spread = _levels(timesteps, clean)
    return signal * noise - spread * clean


def _levels(timesteps: Timesteps, like: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the sample and of the noise, one row each, to multiply `like` with."""
    alphas = _schedule(timesteps.device)[timesteps].to(like.dtype)[:, None, None, None]
    return alphas.sqrt(), (1 - alphas).sqrt()


@cache
def _schedule(device: torch.device) -> Tensor:
    """The noise schedule on a device, to which it is copied once: a copy makes the host wait for a GPU."""
    return training_schedule().to(device)


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _known(kind: str) -> str:
    if kind not in PREDICTIONS:
        raise UnknownName("prediction", kind, PREDICTIONS)
    return kind
