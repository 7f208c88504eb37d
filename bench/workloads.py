"""What is timed: one denoising step, or the way from a prompt to an image, by our sampler or by diffusers."""

from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import torch

from bench.case import Case
from bench.instruments.clock import Clock
from bench.measure import Workload
from bench.profiles import DIFFUSERS
from bench.profiles import get as get_profile
from koala.models.conditioning import random_condition
from koala.models.load import Components, load
from koala.models.networks import PARTS
from koala.models.spec import ModelSpec
from koala.sampling import seeds
from koala.sampling.denoising import Denoising
from koala.sampling.pipelines import diffusers_pipeline
from koala.sampling.residency import resident
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import with_steps

PROMPT = "a photo of a red apple to the left of a blue car, golden hour, detailed"


class UNetStep:
    """One denoising step of the model's recipe: scaling, U-Net call(s), guidance and scheduler update.

    Each run is the next step of the recipe's schedule, from fresh noise when it begins again. Weights that a profile
    keeps elsewhere are brought to the device once, before the first run.
    """

    def __init__(self, components: Components, case: Case):
        assert components.unet is not None
        self._components, self._case, self._recipe = components, case, components.spec.recipe
        rows = case.batch_size * (2 if self._recipe.guided else 1)
        torch.manual_seed(0)
        self._condition = random_condition(components.spec, rows, components.dtype, components.device)
        self._run: Denoising | None = None
        self._residence = ExitStack()
        self._residence.enter_context(resident((components.unet,), components.device))

    def prepare(self) -> None:
        """Choose the step; a schedule that has ended begins again."""
        if self._run is None or self._run.done == len(self._run.timesteps):
            generators = [seeds.generator(seed) for seed in range(self._case.batch_size)]
            side = self._case.resolution
            self._run = Denoising(self._components, self._condition, self._recipe, generators, (side, side))

    def run(self) -> torch.Tensor:
        """The latents after the step."""
        assert self._run is not None
        return self._run.step()

    def step_seconds(self, clock: Clock) -> list[float]:
        """Empty: the whole run is one step."""
        return []

    def stage_seconds(self, clock: Clock) -> dict[str, float]:
        """Empty: the whole run is part of one stage."""
        return {}


class SampledImage:
    """Prompt to image by our sampler: a batch of float images on the device, not yet bytes or PNG.

    Marks stand between the stages, before the first step and after each one: N steps lie between N + 1 marks. What
    comes before the first step (noise, timesteps, weights brought to the device) belongs to `denoise` and to no step.
    """

    def __init__(self, sampler: Sampler, case: Case, clock: Clock):
        self._sampler, self._case, self._clock = sampler, case, clock
        self._recipe = with_steps(sampler.components.spec.recipe, case.steps)
        self._borders: list[Any] = []
        self._steps: list[Any] = []

    def prepare(self) -> None:
        """Forget the last run's marks."""
        self._borders.clear()
        self._steps.clear()

    def run(self) -> torch.Tensor:
        """Float images [n, 3, h, w] in [0, 1]."""
        n, side = self._case.batch_size, self._case.resolution
        self._borders.append(self._clock.mark())
        condition = self._sampler.encode([PROMPT] * n, recipe=self._recipe)
        self._borders.append(self._clock.mark())
        latents = self._sampler.denoise(condition, range(n), self._recipe, side, side, self._mark_step)
        self._borders.append(self._clock.mark())
        images = self._sampler.decode(latents)
        self._borders.append(self._clock.mark())
        return images

    def step_seconds(self, clock: Clock) -> list[float]:
        """Seconds of each step of the last run."""
        return _between(clock, self._steps)

    def stage_seconds(self, clock: Clock) -> dict[str, float]:
        """Seconds of `encode`, `denoise` and `decode` in the last run."""
        return dict(zip(("encode", "denoise", "decode"), _between(clock, self._borders), strict=True))

    def _mark_step(self, done: int, total: int, latents: torch.Tensor) -> None:
        self._steps.append(self._clock.mark())


class DiffusersPipeline:
    """Prompt to image through diffusers' own pipeline: float images on the device, like `SampledImage`.

    It is seen from outside: `encode` ends at the first U-Net call and so holds the pipeline's preparation (timesteps,
    noise), `denoise` ends with the last step's callback, `decode` is the rest.
    """

    def __init__(self, components: Components, case: Case, clock: Clock):
        assert components.unet is not None
        self._pipeline = diffusers_pipeline(components)
        self._pipeline.set_progress_bar_config(disable=True)
        self._case, self._clock = case, clock
        self._arguments = _pipeline_arguments(components.spec, case)
        self._marks: list[Any] = []
        self._begin: Any = None
        self._end: Any = None
        components.unet.register_forward_pre_hook(self._mark_start)

    def prepare(self) -> None:
        """Seed the noise and forget the last run's marks."""
        self._generator = torch.Generator(self._case.device).manual_seed(0)
        self._marks.clear()

    def run(self) -> Any:
        """Float images [n, 3, h, w] in [0, 1]."""
        self._begin = self._clock.mark()
        images = self._pipeline(
            **self._arguments,
            generator=self._generator,
            output_type="pt",
            callback_on_step_end=self._mark_end,
        ).images
        self._end = self._clock.mark()
        return images

    def step_seconds(self, clock: Clock) -> list[float]:
        """Seconds of each step of the last run: N steps lie between N + 1 marks."""
        return _between(clock, self._marks)

    def stage_seconds(self, clock: Clock) -> dict[str, float]:
        """Seconds of `encode`, `denoise` and `decode` in the last run, as they are seen from outside."""
        borders = [self._begin, self._marks[0], self._marks[-1], self._end]
        return dict(zip(("encode", "denoise", "decode"), _between(clock, borders), strict=True))

    def _mark_start(self, *_: object) -> None:
        if not self._marks:
            self._marks.append(self._clock.mark())

    def _mark_end(self, pipeline: object, step: int, timestep: object, values: dict) -> dict:
        self._marks.append(self._clock.mark())
        return values


def build_workload(spec: ModelSpec, case: Case, clock: Clock) -> tuple[Workload, Components]:
    """The workload of `case` on freshly loaded components, under the case's profile."""
    profile = get_profile(case.profile)
    parts = ("unet",) if case.target == "unet" else PARTS
    components = load(profile.respec(spec), case.device, case.dtype, case.weights, parts, storage=profile.storage)
    if profile is DIFFUSERS:
        return DiffusersPipeline(components, case, clock), components
    sampler = Sampler(components, profile)
    if case.target == "unet":
        return UNetStep(sampler.components, case), sampler.components
    return SampledImage(sampler, case, clock), sampler.components


def _pipeline_arguments(spec: ModelSpec, case: Case) -> dict[str, Any]:
    """The recipe in the words of diffusers' pipelines."""
    recipe = with_steps(spec.recipe, case.steps)
    arguments: dict[str, Any] = {
        "prompt": [PROMPT] * case.batch_size,
        "negative_prompt": None if recipe.negative is None else [recipe.negative] * case.batch_size,
        "height": case.resolution,
        "width": case.resolution,
        "guidance_scale": recipe.guidance,
        "num_inference_steps": recipe.steps,
        "timesteps": None if recipe.timesteps is None else list(recipe.timesteps),
    }
    if spec.unet.pooled_dim is not None:
        arguments |= {"original_size": recipe.original_size, "crops_coords_top_left": recipe.crop}
    return arguments


def _between(clock: Clock, marks: list[Any]) -> list[float]:
    return [clock.between(a, b) for a, b in pairwise(marks)]
