"""Many images into one gallery: what is there already is kept, and every image is on disk before the next batch."""

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

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
from koala.sampling.gallery import Gallery, image_key, settings_key
from koala.sampling.profiles import EAGER, Profile
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import build_scheduler, set_timesteps

OnStep = Callable[[int, int, int], object]
Picture = tuple[str, int]


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

    def check(self) -> None:
        """Raise a `KoalaError` for what would only come to light once the weights are loaded."""
        device = torch.device(self.device)
        if device.type == "cuda" and not torch.cuda.is_available():
            raise KoalaError("torch cannot use a GPU here; try --device cpu")
        for side in (self.height, self.width):
            self.spec.check_side(side)
        set_timesteps(build_scheduler(self.recipe, self.spec.prediction), self.recipe, torch.device("cpu"))
        self.profile.check(self.spec, device, self.dtype)

    def row(self, prompt: str, seed: int) -> Row:
        """What the manifest says of an image."""
        return {
            "prompt": prompt,
            "negative": self.recipe.negative if self.recipe.guided else None,
            "seed": seed,
            "model": self.spec.name,
            "weights": self.weights,
            "weights_hash": None,
            "adapters": [{"path": str(adapter.path), "scale": adapter.scale} for adapter in self.adapters],
            "recipe": asdict(self.recipe),
            "profile": self.profile.name,
            "height": self.height,
            "width": self.width,
            "dtype": self.dtype,
            "device": self.device,
            "koala": __version__,
        }

    def sampler(self, profile: Profile) -> Sampler:
        """The model, loaded for and run under `profile`."""
        components = load(
            profile.respec(self.spec),
            self.device,
            self.dtype,
            self.weights,
            storage=profile.storage,
            adapters=self.adapters,
        )
        return Sampler(components, profile)

    def sample(self, sampler: Sampler, pictures: Sequence[Picture], on_step: Any = None) -> np.ndarray:
        """uint8 images [n, h, w, 3]."""
        prompts, seeds = [prompt for prompt, _ in pictures], [seed for _, seed in pictures]
        images = sampler.sample(
            prompts, seeds, recipe=self.recipe, height=self.height, width=self.width, on_step=on_step
        )
        return images.numpy()


def unfinished(settings: Settings, pictures: Sequence[Picture], gallery: Gallery) -> list[Picture]:
    """Those of `pictures` that are not in the gallery; an error where another image has the name of one."""
    finished = gallery.finished()
    to_do = [picture for picture in pictures if image_key(settings.row(*picture)) not in finished]
    for picture in to_do:
        gallery.refuse_clash(settings.row(*picture))
    return to_do


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
    to_do = unfinished(settings, pictures, gallery)
    if not to_do:
        return
    comparison = _Comparison(settings, pictures[0], gallery) if compare else None
    sampler = settings.sampler(settings.profile)
    for start in range(0, len(to_do), batch_size):
        batch = to_do[start : start + batch_size]
        started = datetime.now(UTC).isoformat(timespec="seconds")
        follow = _follower(on_step, len(batch))
        images = settings.sample(sampler, batch, follow)
        difference = comparison.result(batch, images) if comparison else None
        for picture, image in zip(batch, images, strict=True):
            row = {**settings.row(*picture), **(facts or {})}
            yield gallery.write(image, {**row, "profile_difference": difference, "started_at": started})


def _follower(on_step: OnStep | None, n: int) -> Callable[[int, int, Any], object] | None:
    return (lambda done, total, latents: on_step(done, total, n)) if on_step else None


class _Comparison:
    """The difference of a profile's picture to the eager one, measured once a gallery; null for eager itself."""

    def __init__(self, settings: Settings, picture: Picture, gallery: Gallery):
        self._picture, self._eager = picture, None
        rows = gallery.rows()
        key = settings_key(settings.row(*picture))
        alike = (row.get("profile_difference") for row in rows if settings_key(row) == key)
        self._result: dict[str, Any] | None = next(filter(None, alike), None)
        if settings.profile is EAGER or self._result:
            return
        image, reason = _eager_picture(settings, picture)
        if image is None:
            self._result = {**self._subject(), "reason": reason}
            return
        drawn = next((row for row in rows if image_key(row) == image_key(settings.row(*picture))), None)
        if drawn:
            self._result = {**self._subject(), **image_difference(image, _read(gallery.folder / drawn["file"]))}
        self._eager = image

    def result(self, batch: Sequence[Picture], images: np.ndarray) -> dict[str, Any] | None:
        """The difference, which the first batch tells."""
        if self._result is None and self._eager is not None:
            image = images[list(batch).index(self._picture)]
            self._result = {**self._subject(), **image_difference(self._eager, image)}
        return self._result

    def _subject(self) -> dict[str, Any]:
        return {"to": EAGER.name, "prompt": self._picture[0], "seed": self._picture[1]}


def _eager_picture(settings: Settings, picture: Picture) -> tuple[np.ndarray | None, str]:
    """The picture without any profile; none and the reason where it does not fit into the GPU's memory."""
    try:
        return settings.sample(settings.sampler(EAGER), [picture])[0], ""
    except torch.OutOfMemoryError:
        return None, "the eager profile does not fit into this GPU's memory"
    finally:
        gc.collect()
        if torch.device(settings.device).type == "cuda":
            torch.cuda.empty_cache()


def _read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))
