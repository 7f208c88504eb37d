"""What a U-Net is asked to predict, and how one kind of prediction is told in terms of another.

With a sample x and noise e, the noisy sample is z = a x + s e, a and s being those of a noising at each timestep. A
network predicts e (epsilon), x (sample) or, where a^2 + s^2 = 1, v = a e - s x (v_prediction; Salimans and Ho, 2022).
"""

import torch
from torch import Tensor

from koala.errors import UnknownName
from koala.models.noising import SD, Noising
from koala.sampling.schedules import PREDICTIONS
from koala.types import Latents, Timesteps


def add_noise(clean: Latents, noise: Latents, timesteps: Timesteps, noising: Noising = SD) -> Latents:
    """The noisy samples that a U-Net sees, in the dtype of `clean`, at least fp32."""
    clean = _precise(clean)
    signal, spread = noising.levels(timesteps, clean)
    return signal * clean + spread * noise


def target(kind: str, clean: Latents, noise: Latents, timesteps: Timesteps, noising: Noising = SD) -> Latents:
    """What a U-Net that predicts `kind` ought to say of `add_noise(clean, noise, timesteps)`."""
    return _told(_known(kind), _precise(clean), _precise(noise), timesteps, noising)


def converted(
    prediction: Latents, kind: str, to: str, noisy: Latents, timesteps: Timesteps, noising: Noising = SD
) -> Latents:
    """A prediction of one kind about `noisy` in the words of another, in its own dtype, at least fp32.

    Errors grow where the one says little of the other: of the noise by a / s at the first timestep, of the sample by
    s / a at the last.
    """
    prediction = _precise(prediction)
    if _known(kind) == _known(to):
        return prediction
    noisy = noisy.to(prediction.dtype)
    signal, spread = noising.levels(timesteps, prediction)
    if kind == "epsilon":
        clean, noise = (noisy - spread * prediction) / signal, prediction
    elif kind == "sample":
        clean, noise = prediction, (noisy - signal * prediction) / spread
    else:
        clean, noise = signal * noisy - spread * prediction, spread * noisy + signal * prediction
    return _told(to, clean, noise, timesteps, noising)


def clean_of(kind: str, prediction: Latents, noisy: Latents, timesteps: Timesteps, noising: Noising = SD) -> Latents:
    """The clean sample that a prediction of `kind` stands for, float64: at the last timesteps fp32 would lose it."""
    return converted(prediction.double(), kind, "sample", noisy, timesteps, noising)


def _told(kind: str, clean: Latents, noise: Latents, timesteps: Timesteps, noising: Noising) -> Latents:
    if kind == "epsilon":
        return noise
    if kind == "sample":
        return clean
    signal, spread = noising.levels(timesteps, clean)
    return signal * noise - spread * clean


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _known(kind: str) -> str:
    if kind not in PREDICTIONS:
        raise UnknownName("prediction", kind, PREDICTIONS)
    return kind
