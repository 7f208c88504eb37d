"""Models and settings -> the galleries to fill, one for each combination."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from koala.errors import KoalaError, first_few
from koala.models.spec import ModelSpec, Recipe
from koala.models.weights.digest import weights_digest
from koala.models.zoo import get
from koala.sampling import profiles
from koala.sampling.job import Settings
from koala.sampling.start import StartLatents

_HASH_SHOWN = 8


@dataclass(frozen=True)
class Axes:
    """What is asked for; an empty axis is what the model's own recipe says."""

    models: tuple[str, ...]
    steps: tuple[int, ...] = ()
    guidance: tuple[float, ...] = ()
    resolutions: tuple[int, ...] = ()
    profile: str = profiles.EAGER.name
    weights: str = ""
    dtype: str = "auto"
    recipe: Callable[[Recipe], Recipe] = field(default=lambda own: own)  # a protocol's, in the place of the model's
    start: StartLatents | None = None

    @property
    def combinations(self) -> Iterator[tuple[int | None, float | None, int | None]]:
        """Steps, guidance and side, None where the model's own is wanted."""
        for steps in self.steps or (None,):
            for guidance in self.guidance or (None,):
                for side in self.resolutions or (None,):
                    yield steps, guidance, side


@dataclass(frozen=True)
class Variant:
    """A model with one combination of settings, and the name of its gallery."""

    name: str
    settings: Settings


def variants(axes: Axes, device: str, say: Callable[[str], object]) -> list[Variant]:
    """Every combination that is possible, those of one model together; the others are said with their reason.

    Weights are located, hashed and named here, so that a missing file is an error before anything is drawn.
    """
    found: dict[str, Variant] = {}
    impossible: list[str] = []
    for name in dict.fromkeys(axes.models):
        model = _Model(get(name), axes, device)
        for steps, guidance, side in axes.combinations:
            try:
                variant = model.variant(steps, guidance, side)
            except KoalaError as error:
                impossible.append(f"{model.spec.name}{_words(steps, guidance, side)}: {error}")
                continue
            found.setdefault(variant.name, variant)
    if not found:
        raise KoalaError(f"nothing can be drawn: {first_few(impossible) or 'say --models A,B'}")
    for line in impossible:
        say(f"left out {line}")
    return list(found.values())


class _Model:
    """One model of the axes: what all of its settings share."""

    def __init__(self, spec: ModelSpec, axes: Axes, device: str):
        self.spec, self._axes, self._device = spec, axes, device
        self._profile = profiles.get(axes.profile)
        self._weights = axes.weights or spec.own_weights
        self._dtype = axes.dtype if axes.dtype != "auto" else ("fp32" if device == "cpu" else "fp16")
        self._recipe = axes.recipe(spec.recipe)
        self._profile.check(spec, _torch_device(device), self._dtype)
        self._hash = weights_digest(self._profile.respec(spec), self._weights, self._dtype)

    def variant(self, steps: int | None, guidance: float | None, side: int | None) -> Variant:
        """One combination; a `KoalaError` where the model cannot do it."""
        if guidance is not None and not 0 <= guidance < float("inf"):
            raise KoalaError(f"--guidance must be 0 or more, not {guidance:g}")
        given: dict[str, Any] = {
            name: value for name, value in (("steps", steps), ("guidance", guidance)) if value is not None
        }
        recipe = replace(self._recipe, **given)
        side = side or self.spec.resolution
        settings = Settings(
            self.spec,
            recipe,
            self._weights,
            self._profile,
            self._device,
            self._dtype,
            side,
            side,
            weights_hash=self._hash,
            start=self._axes.start,
        )
        settings.check()
        return Variant("_".join([self.spec.name, *self._marks(recipe, side)]), settings)

    def _marks(self, recipe: Recipe, side: int) -> Iterator[str]:
        """What is not as the model has it by default."""
        if recipe.steps != self._recipe.steps:
            yield f"steps{recipe.steps}"
        if recipe.guidance != self._recipe.guidance:
            yield f"guidance{recipe.guidance:g}"
        if side != self.spec.resolution:
            yield f"{side}px"
        if self._profile is not profiles.EAGER:
            yield self._profile.name
        if self._weights != self.spec.own_weights:
            yield (self._hash or self._weights)[:_HASH_SHOWN]


def _words(steps: int | None, guidance: float | None, side: int | None) -> str:
    named = (("steps", steps), ("guidance", guidance), ("resolution", side))
    return "".join(f" {name} {value:g}" for name, value in named if value is not None)


def _torch_device(device: str) -> Any:
    import torch

    return torch.device(device)
