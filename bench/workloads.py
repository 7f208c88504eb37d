"""What is timed: one denoising step, or the way from a prompt to an image."""

import torch
from diffusers import StableDiffusionXLPipeline

from bench.case import Case
from bench.instruments.clock import Clock
from koala.models.cost import unet_inputs
from koala.models.load import DTYPES, Components, load
from koala.models.spec import ModelSpec
from koala.sampling.schedules import build_scheduler

PROMPT = "a photo of a red apple to the left of a blue car, golden hour, detailed"


class UNetStep:
    """One denoising step of the model's recipe: scaling, U-Net call(s), guidance and scheduler update.

    Each run is the next step of the recipe's schedule, from fresh noise when it begins again.
    """

    parts = ("unet",)

    def __init__(self, components: Components, case: Case):
        assert components.unet is not None
        self._recipe = components.spec.recipe
        self._unet = components.unet
        self._scheduler = build_scheduler(self._recipe)
        self._device = torch.device(case.device)
        rows = case.batch_size * (2 if self._recipe.guided else 1)
        torch.manual_seed(0)
        inputs = unet_inputs(components.spec, case.resolution, rows, DTYPES[case.dtype], self._device)
        self._noise = inputs.pop("sample")[: case.batch_size]
        inputs.pop("timestep")
        self._inputs = inputs
        self._left: list[torch.Tensor] = []

    def prepare(self) -> None:
        """Choose the step; a schedule that has ended begins again."""
        if not self._left:
            self._scheduler.set_timesteps(self._recipe.steps, device=self._device)
            self._left = list(self._scheduler.timesteps)
            self._latents = self._noise * self._scheduler.init_noise_sigma
        self._timestep = self._left.pop(0)

    @torch.inference_mode()
    def run(self) -> torch.Tensor:
        """The latents after the step."""
        guided = self._recipe.guided
        latents = torch.cat([self._latents] * 2) if guided else self._latents
        latents = self._scheduler.scale_model_input(latents, self._timestep)
        noise = self._unet(latents, self._timestep, return_dict=False, **self._inputs)[0]
        if guided:
            unconditional, conditional = noise.chunk(2)
            noise = unconditional + self._recipe.guidance * (conditional - unconditional)
        self._latents = self._scheduler.step(noise, self._timestep, self._latents, return_dict=False)[0]
        return self._latents

    def step_seconds(self, clock: Clock) -> list[float]:
        """Empty: the whole run is one step."""
        return []


class DiffusersPipeline:
    """Prompt to image through diffusers' own pipeline, with a mark at the end of every denoising step."""

    parts = ("unet", "text", "autoencoder")

    def __init__(self, components: Components, case: Case, clock: Clock):
        self._pipeline = diffusers_pipeline(components)
        self._pipeline.set_progress_bar_config(disable=True)
        self._case, self._recipe, self._clock = case, components.spec.recipe, clock
        self._marks: list = []
        assert components.unet is not None
        components.unet.register_forward_pre_hook(self._mark_start)

    def prepare(self) -> None:
        """Seed the noise and forget the last run's marks."""
        self._generator = torch.Generator(self._case.device).manual_seed(0)
        self._marks.clear()

    def run(self) -> object:
        """A batch of images as float tensors, decoded but not yet PNG or PIL."""
        return self._pipeline(
            prompt=[PROMPT] * self._case.batch_size,
            height=self._case.resolution,
            width=self._case.resolution,
            num_inference_steps=self._case.steps,
            guidance_scale=self._recipe.guidance,
            generator=self._generator,
            output_type="pt",
            callback_on_step_end=self._mark_end,
        )

    def step_seconds(self, clock: Clock) -> list[float]:
        """Seconds of each step of the last run: N steps lie between N + 1 marks."""
        return [clock.between(a, b) for a, b in zip(self._marks, self._marks[1:], strict=False)]

    def _mark_start(self, *_: object) -> None:
        if not self._marks:
            self._marks.append(self._clock.mark())

    def _mark_end(self, pipeline: object, step: int, timestep: object, values: dict) -> dict:
        self._marks.append(self._clock.mark())
        return values


def build_workload(spec: ModelSpec, case: Case, clock: Clock) -> tuple[UNetStep | DiffusersPipeline, Components]:
    """The workload of `case` on freshly loaded components."""
    parts = UNetStep.parts if case.target == "unet" else DiffusersPipeline.parts
    components = load(spec, case.device, case.dtype, case.weights, parts)
    if case.target == "unet":
        return UNetStep(components, case), components
    return DiffusersPipeline(components, case, clock), components


def diffusers_pipeline(components: Components) -> StableDiffusionXLPipeline:
    """diffusers' SDXL pipeline around our components; no watermark is drawn."""
    return StableDiffusionXLPipeline(
        vae=components.autoencoder,
        text_encoder=components.text_encoders[0],
        text_encoder_2=components.text_encoders[1],
        tokenizer=components.tokenizers[0],
        tokenizer_2=components.tokenizers[1],
        unet=components.unet,
        scheduler=build_scheduler(components.spec.recipe),
        add_watermarker=False,
    )
