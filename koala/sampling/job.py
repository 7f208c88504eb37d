"""Many images into one gallery: what is there already is kept, and drawing goes on while images are written."""

import gc
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from koala import __version__
from koala.errors import KoalaError
from koala.harness.records import Row
from koala.models.load import load
from koala.models.spec import ModelSpec, Recipe
from koala.models.weights.lora import Adapter
from koala.sampling.difference import image_difference
from koala.sampling.encodings import Encodings
from koala.sampling.gallery import Gallery, image_key, settings_key
from koala.sampling.profiles import EAGER, Profile
from koala.sampling.sampler import Sampler, to_uint8
from koala.sampling.schedules import build_scheduler, set_timesteps
from koala.sampling.start import StartLatents
from koala.sampling.writer import Writer

OnStep = Callable[[int, int, int], object]


class Picture(NamedTuple):
    """What to draw, and what else its row is to say of it."""

    prompt: str
    seed: int
    facts: Row = {}  # noqa: RUF012 - never written to


@dataclass(frozen=True)
class Settings:
    """All that decides an image but its prompt and its seed, and the device that draws it."""

    spec: ModelSpec
    recipe: Recipe
    weights: str
    profile: Profile
    device: str
    dtype: str
    height: int
    width: int
    adapters: tuple[Adapter, ...] = ()
    weights_hash: str | None = None
    start: StartLatents | None = None  # what every image begins with, in the place of noise by its seed

    def check(self) -> None:
        """Raise a `KoalaError` for what would only come to light once the weights are loaded."""
        device = torch.device(self.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise KoalaError("torch cannot use a GPU here; try --device cpu")
        for side in (self.height, self.width):
            self.spec.check_side(side)
        set_timesteps(
            build_scheduler(self.recipe, self.spec.prediction, self.spec.noising), self.recipe, torch.device("cpu")
        )
        self.profile.check(self.spec, device, self.dtype)

    def row(self, prompt: str, seed: int) -> Row:
        """What the manifest says of an image."""
        return {
            "prompt": prompt,
            "negative": self.recipe.negative if self.recipe.guided else None,
            "seed": seed,
            "model": self.spec.name,
            "weights": self.weights,
            "weights_hash": self.weights_hash,
            "adapters": [{"path": str(adapter.path), "scale": adapter.scale} for adapter in self.adapters],
            "recipe": asdict(self.recipe),
            "profile": self.profile.name,
            "height": self.height,
            "width": self.width,
            "dtype": self.dtype,
            "start_latents": self.start.sha256 if self.start else None,
            "device": self.device,
            "koala": __version__,
        }


@dataclass
class Model:
    """A model as `settings` load it, when first needed; all settings that differ in recipe and size may share one."""

    settings: Settings
    prompts: Sequence[str] = ()  # all that will be asked for, which are encoded once

    @cached_property
    def sampler(self) -> Sampler:
        """The loaded model."""
        return loaded(self.settings, self.settings.profile)

    @cached_property
    def encodings(self) -> Encodings:
        """Its prompts, encoded."""
        return Encodings(self.sampler, self.prompts)

    def draw(self, settings: Settings, pictures: Sequence[Picture], on_step: OnStep | None) -> np.ndarray:
        """uint8 images [n, h, w, 3]."""
        prompts, seeds = [picture.prompt for picture in pictures], [picture.seed for picture in pictures]
        n = len(pictures)
        latents = self.sampler.denoise(
            self.encodings(prompts, settings.recipe),
            seeds,
            settings.recipe,
            settings.height,
            settings.width,
            (lambda done, total, latents: on_step(done, total, n)) if on_step else None,
            settings.start.latents if settings.start else None,
        )
        return to_uint8(self.sampler.decode(latents)).numpy()


def loaded(settings: Settings, profile: Profile) -> Sampler:
    """The model of `settings`, loaded for and run under `profile`."""
    components = load(
        profile.respec(settings.spec),
        settings.device,
        settings.dtype,
        settings.weights,
        storage=profile.storage,
        adapters=settings.adapters,
    )
    return Sampler(components, profile)


def unfinished(settings: Settings, pictures: Sequence[Picture], gallery: Gallery) -> list[Picture]:
    """Those of `pictures` that are not in the gallery; an error where another image has the name of one."""
    finished = gallery.finished()
    to_do = [picture for picture in pictures if _key(settings, picture) not in finished]
    for picture in to_do:
        gallery.refuse_clash(settings.row(picture.prompt, picture.seed))
    return to_do


def batches(
    pictures: Sequence[Picture], missing: Collection[Picture], size: int, rank: int = 0, ranks: int = 1
) -> list[list[Picture]]:
    """The batches of `pictures` in which something is missing; of `ranks` equal shares that of `rank`.

    Which pictures are drawn together never hangs on what is missing or on the number of processes: arithmetic rounds
    by the size of a batch, and so an image is the same to the bit however often a run was stopped.
    """
    wanted = {(picture.prompt, picture.seed) for picture in missing}
    whole = [list(pictures[start : start + size]) for start in range(0, len(pictures), size)]
    lacking = [batch for batch in whole if any((picture.prompt, picture.seed) in wanted for picture in batch)]
    return lacking[len(lacking) * rank // ranks : len(lacking) * (rank + 1) // ranks]


def draw(
    settings: Settings,
    pictures: Sequence[Picture],
    gallery: Gallery,
    batch_size: int = 1,
    facts: Row | None = None,
    compare: bool = True,
    on_step: OnStep | None = None,
) -> Iterator[Path]:
    """Draw what is missing of `pictures` and yield the path of each image once it and its row are on disk.

    `facts` go into every row. `compare`: the first picture is drawn with the eager profile too, and every row says how
    far the profile's picture is from it. `on_step(done, total, n)` follows the steps of a batch of n images.
    """
    missing = unfinished(settings, pictures, gallery)
    if not missing:
        return
    comparison = Comparison(settings, pictures[0], gallery) if compare else None
    model = Model(settings, [picture.prompt for picture in pictures])
    todo = batches(pictures, missing, batch_size)
    yield from draw_batches(model, settings, todo, missing, gallery, facts, comparison, on_step)


def draw_batches(
    model: Model,
    settings: Settings,
    todo: Sequence[Sequence[Picture]],
    missing: Collection[Picture],
    gallery: Gallery,
    facts: Row | None = None,
    comparison: "Comparison | None" = None,
    on_step: OnStep | None = None,
) -> Iterator[Path]:
    """Draw whole batches, write what is `missing` of them, and yield the paths of those that are on disk by then."""
    wanted = {(picture.prompt, picture.seed) for picture in missing}
    with Writer(gallery) as writer:
        for batch in todo:
            started = datetime.now(UTC).isoformat(timespec="seconds")
            images = model.draw(settings, batch, on_step)
            difference = comparison.result(batch, images) if comparison else None
            more = {**(facts or {}), "profile_difference": difference, "started_at": started}
            for picture, image in zip(batch, images, strict=True):
                if (picture.prompt, picture.seed) in wanted:
                    row = settings.row(picture.prompt, picture.seed)
                    writer.write(image, {**row, **picture.facts, **more})
            yield from writer.written()
        yield from writer.written(all_of_them=True)


def _key(settings: Settings, picture: Picture) -> str:
    return image_key(settings.row(picture.prompt, picture.seed))


class Comparison:
    """The difference of a profile's picture to the eager one, measured once a gallery; null for eager itself."""

    def __init__(self, settings: Settings, picture: Picture, gallery: Gallery):
        self._picture, self._eager = picture, None
        rows = gallery.rows()
        key = settings_key(settings.row(picture.prompt, picture.seed))
        alike = (row.get("profile_difference") for row in rows if settings_key(row) == key)
        self._result: dict[str, Any] | None = next(filter(None, alike), None)
        if settings.profile is EAGER or self._result:
            return
        image, reason = _eager_picture(settings, picture)
        if image is None:
            self._result = {**self._subject(), "reason": reason}
            return
        drawn = next((row for row in rows if image_key(row) == _key(settings, picture)), None)
        if drawn:
            self._result = {**self._subject(), **image_difference(image, _read(gallery.folder / drawn["file"]))}
        self._eager = image

    def result(self, batch: Sequence[Picture], images: np.ndarray) -> dict[str, Any] | None:
        """The difference, which the first batch tells."""
        if self._result is None and self._eager is not None:
            image = images[[one[:2] for one in batch].index(self._picture[:2])]
            self._result = {**self._subject(), **image_difference(self._eager, image)}
        return self._result

    def _subject(self) -> dict[str, Any]:
        return {"to": EAGER.name, "prompt": self._picture[0], "seed": self._picture[1]}


def _eager_picture(settings: Settings, picture: Picture) -> tuple[np.ndarray | None, str]:
    """The picture without any profile; none and the reason where it does not fit into the GPU's memory."""
    try:
        sampler = loaded(settings, EAGER)
        images = sampler.sample(
            [picture.prompt], [picture.seed], recipe=settings.recipe, height=settings.height, width=settings.width
        )
        return images.numpy()[0], ""
    except torch.OutOfMemoryError:
        return None, "the eager profile does not fit into this GPU's memory"
    finally:
        gc.collect()
        if torch.device(settings.device).type == "cuda":
            torch.cuda.empty_cache()


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
