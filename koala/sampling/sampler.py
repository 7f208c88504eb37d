"""Prompts and seeds -> images, in three steps that can be called one by one: encode, denoise, decode."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from koala.errors import KoalaError
from koala.models.conditioning import Condition, Conditioner
from koala.models.load import Components
from koala.models.spec import Recipe
from koala.sampling import seeds as noise_seeds
from koala.sampling.denoising import Denoising
from koala.sampling.profiles import EAGER, Profile
from koala.sampling.residency import resident
from koala.sampling.spans import SpanOf, untimed
from koala.types import FloatImages, Images, Latents, StartNoise

OnStep = Callable[[int, int, torch.Tensor], object]


class Sampler:
    """Draws images with `components` under a speed `profile`, which changes the components in place.

    Row i of a batch depends on prompt i and seed i alone (to the rounding of batched arithmetic). Encoding, each
    denoising step with the U-Net inside it, and decoding run inside a `span` of that name, which may time them.
    """

    def __init__(self, components: Components, profile: Profile = EAGER, span: SpanOf = untimed):
        self.components, self.profile, self._span = profile.tune(components), profile, span

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        negative: str | Sequence[str] | None = None,
        recipe: Recipe | None = None,
        height: int | None = None,
        width: int | None = None,
        on_step: OnStep | None = None,
    ) -> Images:
        """uint8 images [n, h, w, 3], one per prompt and seed.

        `recipe` is the model's own unless given; `negative` replaces the recipe's negative prompt. Sizes are in pixels.
        `on_step(done, total, latents)` is called before the first step (done = 0) and after each one.
        """
        condition = self.encode(prompts, negative, recipe)
        latents = self.denoise(condition, seeds, recipe, height, width, on_step)
        return to_uint8(self.decode(latents))

    def encode(
        self, prompts: Sequence[str], negative: str | Sequence[str] | None = None, recipe: Recipe | None = None
    ) -> Condition:
        """What the U-Net is told: a row per prompt, the unconditional rows first where the recipe is guided."""
        recipe = recipe or self.components.spec.recipe
        with self._encoding() as conditioner:
            if not recipe.guided:
                return conditioner.encode(prompts)
            return conditioner.guided(prompts, self._negatives(prompts, negative, recipe))

    def encode_prompts(self, prompts: Sequence[str]) -> Condition:
        """A row per prompt, without what guidance contrasts it with."""
        with self._encoding() as conditioner:
            return conditioner.encode(prompts)

    def encode_contrast(self, prompt: str, negative: str | None) -> Condition:
        """The one row that guidance contrasts every prompt with, whichever `prompt` it is asked for."""
        with self._encoding() as conditioner:
            both = conditioner.guided([prompt], None if negative is None else [negative])
            return both.map(lambda field: field[:1])

    def denoise(
        self,
        condition: Condition,
        seeds: Sequence[int],
        recipe: Recipe | None = None,
        height: int | None = None,
        width: int | None = None,
        on_step: OnStep | None = None,
        start: StartNoise | None = None,
    ) -> Latents:
        """The final latents [n, channels, h / downscale, w / downscale] of the images with these seeds.

        `start`, of one row or n, replaces the standard normal noise that the images begin with.
        """
        components, recipe = self.components, recipe or self.components.spec.recipe
        assert components.unet is not None, "loaded without its U-Net"
        size = self._size(height, width)
        with resident((components.unet,), components.device):
            generators = [noise_seeds.generator(seed) for seed in seeds]
            run = Denoising(components, condition, recipe, generators, size, self._span, start)
            total = len(run.timesteps)
            while True:
                if on_step:
                    on_step(run.done, total, run.latents)
                if run.done == total:
                    return run.latents
                run.step()

    def decode(self, latents: Latents) -> FloatImages:
        """Images [n, 3, h, w] in [0, 1], in the autoencoder's precision; a model in pixel space has them already."""
        autoencoder = self.components.autoencoder
        if autoencoder is None:
            return (latents / 2 + 0.5).clamp(0, 1)
        with self._span("decode"), resident((autoencoder,), self.components.device), torch.inference_mode():
            scaled = latents.to(autoencoder.dtype) / autoencoder.config.scaling_factor
            return (autoencoder.decode(scaled, return_dict=False)[0] / 2 + 0.5).clamp(0, 1)

    @contextmanager
    def _encoding(self) -> Iterator[Conditioner]:
        """The conditioner, on its device until the block ends."""
        conditioner, device = self.components.conditioner, self.components.device
        assert conditioner is not None, "loaded without its text encoders"
        with self._span("encode"), resident(conditioner.networks, device), torch.inference_mode():
            yield conditioner

    def _negatives(
        self, prompts: Sequence[str], negative: str | Sequence[str] | None, recipe: Recipe
    ) -> list[str] | None:
        negative = recipe.negative if negative is None else negative
        if negative is None:
            return None
        negatives = [negative] * len(prompts) if isinstance(negative, str) else list(negative)
        if len(negatives) != len(prompts):
            raise KoalaError(f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one, or one for each")
        return negatives

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        spec = self.components.spec
        size = height or spec.resolution, width or spec.resolution
        for side in size:
            spec.check_side(side)
        return size


def to_uint8(images: FloatImages) -> Images:
    """Images in [0, 1], [n, 3, h, w], as rounded bytes [n, h, w, 3] on the CPU."""
    return (images.float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().contiguous()
