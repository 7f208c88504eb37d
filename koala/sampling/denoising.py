"""The one denoising loop: noise, then U-Net, guidance and scheduler, step by step."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from koala.errors import KoalaError
from koala.models.conditioning import Condition, size_ids
from koala.models.load import Components
from koala.models.noising import noising
from koala.models.spec import Recipe
from koala.sampling import seeds
from koala.sampling.schedules import build_scheduler, set_timesteps
from koala.sampling.spans import SpanOf, untimed
from koala.types import StartNoise


class Denoising:
    """A batch on its way from noise to an image; `condition` holds the unconditional rows first where it is guided.

    `start`, of one row or of one an image, replaces the standard normal noise that images begin with. `latents` is the
    state, [n, channels, h, w]; each `step()` moves it one timestep on.
    """

    @torch.inference_mode()  # or the first step's tensors would differ in kind from the others', and compile apart
    def __init__(
        self,
        components: Components,
        condition: Condition,
        recipe: Recipe,
        generators: Sequence[torch.Generator],
        size: tuple[int, int],
        span: SpanOf = untimed,
        start: StartNoise | None = None,
    ):
        spec, device, dtype = components.spec, components.device, components.dtype
        self._unet: Any = components.unet
        self._span = span
        self._recipe, self._generators = recipe, list(generators)
        self._scheduler = build_scheduler(recipe, spec.prediction, spec.noising)
        timesteps = set_timesteps(self._scheduler, recipe, torch.device("cpu"))
        self.timesteps = list(timesteps)  # for the scheduler, which would read them back from a GPU at each step
        self._timesteps_there = list(timesteps.to(device))
        rows = len(self._generators) * (2 if recipe.guided else 1)
        sizes = size_ids(size, recipe.original_size, recipe.crop, rows).to(device, dtype)
        self._conditioning = condition.unet_arguments(sizes)
        shape = (spec.unet.sample_channels, size[0] // spec.downscale, size[1] // spec.downscale)
        noise = seeds.noise(self._generators, shape) if start is None else _repeated(start, shape, len(generators))
        state = noise.to(device, noising(spec.noising).sample_dtype(dtype))
        self.latents: Tensor = state * self._scheduler.init_noise_sigma
        takes_noise = "generator" in inspect.signature(self._scheduler.step).parameters
        self._step_options = {"generator": self._generators} if takes_noise else {}
        self.done = 0

    @torch.inference_mode()
    def step(self) -> Tensor:
        """The latents one timestep on."""
        with self._span("step"):
            self.latents = self._next()
        self.done += 1
        return self.latents

    def _next(self) -> Tensor:
        timestep, guided = self.timesteps[self.done], self._recipe.guided
        model_input = torch.cat([self.latents] * 2) if guided else self.latents
        model_input = self._scheduler.scale_model_input(model_input, timestep)
        there = self._timesteps_there[self.done]
        with self._span("unet"):
            prediction = self._unet(model_input, there, return_dict=False, **self._conditioning)[0]
        if guided:
            unconditional, conditional = prediction.chunk(2)
            prediction = unconditional + self._recipe.guidance * (conditional - unconditional)
        else:  # a scheduler may keep it, and the next replay of a CUDA graph overwrites it
            prediction = prediction.clone()
        moved = self._scheduler.step(prediction, timestep, self.latents, return_dict=False, **self._step_options)[0]
        return moved.to(self.latents.dtype)


def _repeated(start: StartNoise, shape: tuple[int, ...], n: int) -> Tensor:
    """`start` once for each of `n` images of that shape; a `KoalaError` where it is of another."""
    if tuple(start.shape[1:]) != shape or len(start) not in (1, n):
        raise KoalaError(f"start latents of shape {tuple(start.shape)} are not of the images' shape {(n, *shape)}")
    return start.expand(n, *shape)
