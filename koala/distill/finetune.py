"""Training a U-Net on data alone: the error of its prediction, and nothing of a teacher."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from koala.distill.batch import Batch
from koala.distill.losses import min_snr_weights, task_loss
from koala.distill.noise import draw
from koala.distill.objective import Terms, in_training
from koala.distill.prediction import add_noise, target
from koala.models.noising import noising
from koala.models.spec import ModelSpec
from koala.types import Latents, Timesteps

Watch = Callable[[str], AbstractContextManager]


def unwatched(_: str) -> AbstractContextManager:
    """Where nobody takes the time."""
    return nullcontext()


@dataclass(frozen=True)
class Noisy:
    """A batch as the U-Nets see it, and what is right; floating point values are fp32."""

    samples: Latents
    timesteps: Timesteps
    target: Latents
    batch: Batch  # on the device of the samples

    @property
    def conditioning(self) -> dict[str, Any]:
        """Keyword arguments of diffusers' U-Net."""
        return self.batch.condition.unet_arguments(self.batch.sizes)


class FineTuning:
    """The objective of plain training: what `spec`'s U-Net predicts against what it ought to (the task term).

    Trains what of the U-Net requires a gradient; all of it where nothing does. `min_snr_gamma` weights the timesteps
    by min-SNR unless it is 0. `watch` takes the time of a forward pass under the name "student".
    """

    def __init__(
        self,
        spec: ModelSpec,
        unet: nn.Module,
        seed: int = 0,
        min_snr_gamma: float = 0.0,
        noise_offset: float = 0.0,
        watch: Watch = unwatched,
    ):
        self.spec, self.trained, self._watch = spec, {"unet": in_training(unet)}, watch
        self._noising = noising(spec.noising)
        self._seed, self._min_snr_gamma, self._noise_offset = seed, min_snr_gamma, noise_offset

    def turns(self, step: int) -> Sequence[str]:
        """The one U-Net, at every step."""
        return tuple(self.trained)

    def terms(self, network: str, batch: Batch) -> Terms:
        """The task term."""
        noisy = self._noisy(batch)
        task = self._task(self._student(noisy), noisy)
        return Terms(task, {"task": task.detach()})

    def _noisy(self, batch: Batch) -> Noisy:
        """The batch with the noise of its rows; all that is random is drawn here."""
        batch = batch.to(batch.clean.device, torch.float32)
        shape = tuple(batch.clean.shape[1:])
        drawn = draw(batch.positions, self._seed, shape, self._noising.num_timesteps, self._noise_offset)
        device = batch.clean.device
        noise, timesteps = drawn.noise.to(device, non_blocking=True), drawn.timesteps.to(device, non_blocking=True)
        goal = target(self.spec.prediction, batch.clean, noise, timesteps, self._noising)
        return Noisy(add_noise(batch.clean, noise, timesteps, self._noising), timesteps, goal, batch)

    def _student(self, noisy: Noisy) -> Tensor:
        """What the network in training predicts, as the trainer has wrapped it."""
        with self._watch("student"):
            return self.trained["unet"](noisy.samples, noisy.timesteps, **self._arguments(noisy), return_dict=False)[0]

    def _arguments(self, noisy: Noisy) -> dict[str, Any]:
        return noisy.conditioning

    def _task(self, prediction: Tensor, noisy: Noisy) -> Tensor:
        weights = self._noising.weights(noisy.timesteps)
        if self._min_snr_gamma:
            ratio = self._noising.signal_to_noise(noisy.timesteps)
            weights = min_snr_weights(ratio, self._min_snr_gamma, self.spec.prediction)
        return task_loss(prediction, noisy.target, weights)
