"""A generator of one step that learns its teacher's own images from their noise: how DMD2's single step begins.

DMD2's appendix calls it ODE pre-training. The papers measure the distance by LPIPS between decoded images (see
perceptual.py); the mean square between latents needs no further weights.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from koala.distill.batch import Batch
from koala.distill.finetune import Watch, unwatched
from koala.distill.objective import Terms, in_training
from koala.distill.prediction import clean_of
from koala.models.conditioning import size_ids
from koala.models.noising import noising
from koala.models.spec import ModelSpec
from koala.sampling import seeds
from koala.types import Latents

Distance = Callable[[Latents, Latents], Tensor]  # of what is drawn to what is wanted: a scalar


class Regression:
    """The objective of a generator that draws what the teacher drew from the same noise, in its first timestep."""

    def __init__(
        self,
        spec: ModelSpec,
        unet: nn.Module,
        timestep: int,
        distance: Distance = F.mse_loss,
        watch: Watch = unwatched,
    ):
        self.spec, self.trained, self._timestep = spec, {"unet": in_training(unet)}, timestep
        self._distance, self._watch = distance, watch

    def turns(self, step: int) -> Sequence[str]:
        """The one U-Net, at every step."""
        return tuple(self.trained)

    def terms(self, network: str, batch: Batch) -> Terms:
        """The distance to the teacher's images."""
        batch = drawn_size(batch.to(batch.clean.device, torch.float32), self.spec)
        with self._watch("generator"):
            loss = regression_loss(self.spec, self.trained[network], self._timestep, batch, self._distance)
        return Terms(loss, {"regression": loss.detach()})


def regression_loss(
    spec: ModelSpec, generator: nn.Module, timestep: int, pairs: Batch, distance: Distance = F.mse_loss
) -> Tensor:
    """The distance of what the generator draws from the noise of `pairs` in one step to what the teacher drew."""
    assert pairs.noise_seeds is not None, "these images were not drawn from noise"
    generators, added = [seeds.generator(seed) for seed in pairs.noise_seeds], noising(spec.noising)
    noise = seeds.noise(generators, tuple(pairs.clean.shape[1:])).to(pairs.clean.device)
    start, timesteps = added.start(noise, timestep), torch.full((len(noise),), timestep, device=noise.device)
    prediction = generator(start, timesteps, **pairs.condition.unet_arguments(pairs.sizes), return_dict=False)[0]
    return distance(clean_of(spec.prediction, prediction, start, timesteps, added).float(), pairs.clean)


def drawn_size(batch: Batch, spec: ModelSpec) -> Batch:
    """The batch told the size that is drawn, as all networks of DMD2 are, whatever the size of the images was."""
    if batch.sizes is None:
        return batch
    height, width = (side * spec.downscale for side in batch.clean.shape[2:])
    return replace(batch, sizes=size_ids((height, width), None, (0, 0), len(batch.clean)).to(batch.clean.device))
