"""What is timed: one denoising step, or the way from a prompt to an image, by our sampler or by diffusers."""

from contextlib import ExitStack
from typing import Any

import torch

from bench.blackbox.call import PROMPT, PipelineCall
from bench.case import Case
from bench.instruments.phases import CALL, Phases
from bench.measure import Workload
from bench.profiles import DIFFUSERS
from bench.profiles import get as get_profile
from koala.models.conditioning import random_condition
from koala.models.load import Components, load
from koala.models.networks import PARTS
from koala.models.spec import ClassLabels, ModelSpec
from koala.sampling import seeds
from koala.sampling.denoising import Denoising
from koala.sampling.pipelines import diffusers_pipeline
from koala.sampling.residency import resident
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import with_steps


class UNetStep:
    """One denoising step of the model's recipe: scaling, U-Net call(s), guidance and scheduler update.

    Each run is the next step of the recipe's schedule, from fresh noise when it begins again. Weights that a profile
    keeps elsewhere are brought to the device once, before the first run.
    """

    def __init__(self, components: Components, case: Case, phases: Phases):
        assert components.unet is not None
        self._components, self._case, self._recipe = components, case, components.spec.recipe
        rows = case.batch_size * (2 if self._recipe.guided else 1)
        torch.manual_seed(0)
        self._condition = random_condition(components.spec, rows, components.dtype, components.device)
        self._run: Denoising | None = None
        self._residence = ExitStack()
        self._residence.enter_context(resident((components.unet,), components.device))
        self.phases = phases

    def prepare(self) -> None:
        """Choose the step; a schedule that has ended begins again."""
        if self._run is None or self._run.done == len(self._run.timesteps):
            generators = [seeds.generator(seed) for seed in range(self._case.batch_size)]
            size, span = (self._case.resolution,) * 2, self.phases.span
            self._run = Denoising(self._components, self._condition, self._recipe, generators, size, span)

    def run(self) -> torch.Tensor:
        """The latents after the step."""
        assert self._run is not None
        return self._run.step()


class SampledImage:
    """Prompt to image by our sampler, which times itself by the `phases` it was made with: a batch of float images on
    the device, not yet bytes or PNG.
    """

    def __init__(self, sampler: Sampler, case: Case, phases: Phases):
        self._sampler, self._case, self.phases = sampler, case, phases
        self._recipe = with_steps(sampler.components.spec.recipe, case.steps)
        plan = sampler.components.spec.conditioning
        self._prompt = plan.names[0] if isinstance(plan, ClassLabels) else PROMPT

    def prepare(self) -> None:
        """Nothing: every image begins from its own seed."""

    def run(self) -> torch.Tensor:
        """Float images [n, 3, h, w] in [0, 1]."""
        n, side = self._case.batch_size, self._case.resolution
        with self.phases.span(CALL):
            condition = self._sampler.encode([self._prompt] * n, recipe=self._recipe)
            latents = self._sampler.denoise(condition, range(n), self._recipe, side, side)
            return self._sampler.decode(latents)


def build_workload(spec: ModelSpec, case: Case, phases: Phases) -> tuple[Workload, Components]:
    """The workload of `case` on freshly loaded components, under the case's profile."""
    profile = get_profile(case.profile)
    parts = ("unet",) if case.target == "unet" else PARTS
    components = load(profile.respec(spec), case.device, case.dtype, case.weights, parts, storage=profile.storage)
    if profile is DIFFUSERS:
        return diffusers_call(components, case, phases), components
    sampler = Sampler(components, profile, phases.span)
    if case.target == "unet":
        return UNetStep(sampler.components, case, phases), sampler.components
    return SampledImage(sampler, case, phases), sampler.components


def diffusers_call(components: Components, case: Case, phases: Phases) -> PipelineCall:
    """The workload of a model of the zoo through diffusers' own pipeline."""
    arguments = _pipeline_arguments(components.spec, case)
    return PipelineCall(diffusers_pipeline(components), arguments, components.device, phases)


def box_call(pipeline: Any, case: Case, phases: Phases) -> PipelineCall:
    """The workload of a pipeline that is a black box: its own defaults but for size, batch and number of steps."""
    arguments = {"prompt": [PROMPT] * case.batch_size, "height": case.resolution, "width": case.resolution}
    if case.steps is not None:
        arguments["num_inference_steps"] = case.steps
    return PipelineCall(pipeline, arguments, torch.device(case.device), phases)


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
