"""What one measurement is, and when two measurements are the same one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import orjson

from bench.blackbox.describe import BlackBox, describe
from bench.profiles import DIFFUSERS
from bench.profiles import get as get_profile
from koala.errors import KoalaError, UnknownName
from koala.models import zoo
from koala.models.spec import ModelSpec
from koala.sampling.profiles import EAGER

TARGETS = ("unet", "pipeline")
DTYPES = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a value
MEASUREMENT = 2  # raised when what is timed changes, so that old rows are measured again


@dataclass(frozen=True)
class Case:
    """One cell of a sweep. `unet` is one denoising step, guided where the recipe is; `pipeline` is prompt to image.

    A model that was trained here is the one in the folder `weights`, and its name tells its weights from others.
    `pipeline` is the folder or id of a diffusers pipeline that is no model of the zoo and is timed as a black box.
    """

    model: str
    target: str
    resolution: int  # side of the square image in pixels
    batch_size: int
    dtype: str
    steps: int | None  # denoising steps of a pipeline; a `unet` case has none
    device: str
    weights: str = "random"
    profile: str = EAGER.name
    pipeline: str | None = None
    vram_bytes: int | None = None  # memory of the smaller card that this one stands for; None: it stands for itself

    def __post_init__(self) -> None:
        if self.target not in TARGETS:
            raise UnknownName("target", self.target, TARGETS)
        if self.dtype not in DTYPES:
            raise UnknownName("dtype", self.dtype, DTYPES)
        self._check_subject()
        if self.batch_size < 1:
            raise KoalaError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.steps is not None and self.steps < 1:
            raise KoalaError(f"steps must be at least 1, not {self.steps}")
        if self.vram_bytes is not None and self.vram_bytes < 1:
            raise KoalaError(f"a card has at least 1 byte of memory, not {self.vram_bytes}")
        if not _goes_with(get_profile(self.profile).name, self.target):
            raise KoalaError(f"{self.profile} goes from prompt to image; it has no target {self.target}")

    def _check_subject(self) -> None:
        """Raise a `KoalaError` unless what the case names is there and can draw what is asked."""
        if self.pipeline is not None:
            box = self.box
            if box.name != self.model:
                raise KoalaError(f"{self.pipeline} holds {box.name} now, not {self.model}")
            if self.target != "pipeline" or self.profile != DIFFUSERS.name:
                raise KoalaError(f"{self.pipeline} is timed as it comes: target pipeline, profile {DIFFUSERS.name}")
            box.check_side(self.resolution)
            return
        spec = self.spec
        if spec.folder and spec.name != self.model:
            raise KoalaError(f"{self.weights} holds {spec.name} now, not {self.model}")
        spec.check_side(self.resolution)
        if self.steps is not None:
            replace(spec.recipe, steps=self.steps)  # a recipe refuses steps that it cannot take

    @property
    def box(self) -> BlackBox:
        """The pipeline of a case that has one."""
        assert self.pipeline is not None
        return describe(self.pipeline)

    @property
    def spec(self) -> ModelSpec:
        """The model: an entry of the zoo, or one that was trained here; a case with a `pipeline` has none."""
        assert self.pipeline is None, self.pipeline
        trained = not zoo.known(self.model) and Path(self.weights).is_dir()
        return zoo.get(self.weights if trained else self.model)

    @property
    def label(self) -> str:
        """A short name for progress lines: "sdxl unet 256px fp32"."""
        batch = f" x{self.batch_size}" if self.batch_size > 1 else ""
        steps = f" {self.steps} steps" if self.steps else ""
        profile = f" {self.profile}" if self.profile != EAGER.name and not self.pipeline else ""
        card = f" in {self.vram_bytes / 2**30:.4g} GiB" if self.vram_bytes else ""
        return f"{self.model} {self.target} {self.resolution}px{batch} {self.dtype}{steps}{profile}{card}"


@dataclass(frozen=True)
class Axes:
    """What to combine. No `resolutions` or `steps` means the model's or pipeline's own."""

    models: tuple[str, ...]
    targets: tuple[str, ...]
    resolutions: tuple[int, ...]
    batch_sizes: tuple[int, ...]
    dtypes: tuple[str, ...]
    steps: tuple[int, ...]
    device: str
    profiles: tuple[str, ...] = (EAGER.name,)
    vram: tuple[int | None, ...] = (None,)
    pipelines: tuple[str, ...] = ()


def grid(axes: Axes) -> list[Case]:
    """Every combination once, caps and profiles innermost, so that they are measured one right after the other.

    A model with fixed timesteps always takes its own steps. A profile that a target does not have is left out there.
    """
    return list(dict.fromkeys([*_boxes(axes), *_models(axes)]))


def _models(axes: Axes) -> Iterator[Case]:
    chosen = _canonical(axes.profiles)
    for target, model, dtype, batch_size in product(axes.targets, axes.models, axes.dtypes, axes.batch_sizes):
        spec = zoo.get(model)
        counts = _step_counts(spec, axes.steps) if target == "pipeline" else (None,)
        sides = axes.resolutions or (spec.resolution,)
        for side, count, profile, vram in product(sides, counts, chosen, axes.vram):
            if _goes_with(profile, target):
                weights = spec.home or "random"
                yield Case(
                    spec.name, target, side, batch_size, dtype, count, axes.device, weights, profile, vram_bytes=vram
                )


def _boxes(axes: Axes) -> Iterator[Case]:
    for name, dtype, batch_size in product(axes.pipelines, axes.dtypes, axes.batch_sizes):
        box = describe(name)
        sides = axes.resolutions or (box.resolution,)
        for side, count, vram in product(sides, axes.steps or (None,), axes.vram):
            yield Case(
                model=box.name,
                target="pipeline",
                resolution=side,
                batch_size=batch_size,
                dtype=dtype,
                steps=count,
                device=axes.device,
                weights=box.weights,
                profile=DIFFUSERS.name,
                pipeline=name,
                vram_bytes=vram,
            )


def keeps_its_steps(spec: ModelSpec) -> bool:
    """Whether the recipe names its timesteps one by one, so that it takes no other number of steps."""
    return spec.recipe.timesteps is not None


def _step_counts(spec: ModelSpec, steps: tuple[int, ...]) -> tuple[int, ...]:
    return (spec.recipe.steps,) if keeps_its_steps(spec) or not steps else steps


def _canonical(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(get_profile(name).name for name in names))


def _goes_with(profile: str, target: str) -> bool:
    """Whether a target has a profile: stock diffusers is timed as a whole pipeline only."""
    return target == "pipeline" or profile != DIFFUSERS.name


_LATER_FIELDS = {f.name: f.default for f in fields(Case) if f.default is not MISSING}  # that old rows may lack


def resume_key(row: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Rows with one key answer the same question: case, weights, device, driver, torch, diffusers, measurement.

    Of a profile that is another package's work, its version counts too. Neither the commit nor clocks are part of it,
    and a device counts by its name, not by its number. Of a case that is measured in several processes, each has its
    own key.
    """
    case = {**_LATER_FIELDS, **row["case"], "device": environment.get("device_kind")}
    del case["pipeline"]  # where a pipeline lay; what it was, its name says
    machine = {name: environment.get(name) for name in _machine(case["profile"])}
    facts = [case, machine, row.get("measurement"), row.get("process", 0)]
    return orjson.dumps(facts, option=orjson.OPT_SORT_KEYS).decode()


@cache
def _machine(profile: str) -> tuple[str, ...]:
    """The fields of an environment that tell two measurements under a profile apart."""
    return "device_name", "omp_num_threads", "driver", "torch", "diffusers", *get_profile(profile).packages


def case_key(case: Case, environment: Mapping[str, Any], process: int = 0) -> str:
    """The `resume_key` that a row of `case` measured in `environment` would have."""
    return resume_key({"case": asdict(case), "measurement": MEASUREMENT, "process": process}, environment)
