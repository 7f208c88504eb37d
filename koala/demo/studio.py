"""What the demo draws with: models that stay loaded, and for each image how long it took and what it needed."""

import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from threading import Lock

import torch
from jaxtyping import UInt8
from numpy import ndarray

from koala.errors import KoalaError
from koala.harness.memory import meter_for
from koala.models import zoo
from koala.models.spec import ModelSpec, Recipe
from koala.sampling import profiles
from koala.sampling.job import Model, Picture, Settings
from koala.sampling.schedules import with_steps

KEPT = 2  # models that stay loaded: the two that stand side by side
TINY = "tiny-vae"
_MEMORY = {"peak_reserved": "reserved by torch", "rss_peak": "resident in this process"}


@dataclass(frozen=True)
class Wish:
    """An image that somebody asks for; None: as the model's recipe has it."""

    model: str
    prompt: str
    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    tiny_vae: bool = False


@dataclass(frozen=True)
class Drawn:
    """An image [h, w, 3], its seconds, its peak memory in bytes and of which kind, and what else to know of it."""

    image: UInt8[ndarray, "h w 3"]
    seconds: float
    memory_bytes: int | None
    memory_kind: str
    remarks: tuple[str, ...]


class Studio:
    """Draws one image at a time, so that none disturbs the timing of another."""

    def __init__(self, device: str):
        self._device = torch.device(device)
        self._dtype = "fp32" if self._device.type == "cpu" else "fp16"
        self._loaded: OrderedDict[tuple[str, bool], Model] = OrderedDict()
        self._lock = Lock()

    def draw(self, wish: Wish) -> Drawn:
        """The image; a `KoalaError` says what cannot be had."""
        if not wish.prompt.strip():
            raise KoalaError("say what to draw")
        settings = self._settings(wish)
        settings.check()
        with self._lock:
            first = (wish.model, wish.tiny_vae) not in self._loaded
            model, meter = self._model(wish, settings), meter_for(self._device)
            meter.start()
            began = time.perf_counter()
            (image,) = model.draw(settings, [Picture(wish.prompt, wish.seed)], None)
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            seconds, peaks = time.perf_counter() - began, meter.read()
        kind = next(kind for kind in _MEMORY if kind in peaks)
        return Drawn(image, seconds, peaks[kind], _MEMORY[kind], tuple(_remarks(settings, first)))

    def _settings(self, wish: Wish) -> Settings:
        spec = zoo.get(wish.model)
        recipe = recipe_of(spec, wish)
        profile = profiles.get(TINY if wish.tiny_vae else profiles.EAGER.name)
        side = spec.resolution
        return Settings(spec, recipe, spec.own_weights, profile, str(self._device), self._dtype, side, side)

    def _model(self, wish: Wish, settings: Settings) -> Model:
        """The loaded model; the one that was not used for longest makes room."""
        key = wish.model, wish.tiny_vae
        if key not in self._loaded:
            while len(self._loaded) >= KEPT:
                self._loaded.popitem(last=False)
            model = Model(settings)
            _ = model.sampler  # loads it, outside of what is timed
            self._loaded[key] = model
        self._loaded.move_to_end(key)
        model = self._loaded[key]
        model.__dict__.pop("encodings", None)  # a text is encoded each time: it is part of what a user waits for
        model.prompts = (wish.prompt,)
        return model


def recipe_of(spec: ModelSpec, wish: Wish) -> Recipe:
    """The model's recipe as far as nothing else is wished for; of a model with timesteps of its own, steps stay."""
    recipe = spec.recipe
    if recipe.timesteps is None:
        recipe = with_steps(recipe, wish.steps)
    if wish.guidance is not None:
        recipe = replace(recipe, guidance=wish.guidance)
    return replace(recipe, negative=wish.negative.strip() or recipe.negative)


def _remarks(settings: Settings, first: bool) -> list[str]:
    recipe = settings.recipe
    steps = f"{recipe.steps} step{'s' if recipe.steps != 1 else ''}"
    fixed = ", which are its own" if recipe.timesteps is not None else ""
    guided = f"guidance {recipe.guidance:g}" if recipe.guided else "without guidance"
    said = [f"{steps}{fixed}, {guided}, {settings.height} px, {settings.dtype} on {settings.device}"]
    if settings.weights == "random":
        said.append("random weights: this is noise")
    if first:
        said.append("the first image of a model takes longer")
    if recipe.negative and not recipe.guided:
        said.append("without guidance a negative prompt has no effect")
    return said
