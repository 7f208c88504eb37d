"""What one measurement is, and when two measurements are the same one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from bench.profiles import DIFFUSERS
from bench.profiles import get as get_profile
from koala.errors import KoalaError, UnknownName
from koala.models import zoo
from koala.models.spec import ModelSpec
from koala.sampling.profiles import EAGER

TARGETS = ("unet", "pipeline")
DTYPES = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a value
MEASUREMENT = 1  # raised when what is timed changes, so that old rows are measured again


@dataclass(frozen=True)
class Case:
    """One cell of a sweep. `unet` is one denoising step, guided where the recipe is; `pipeline` is prompt to image.

    A model that was trained here is the one in the folder `weights`, and its name tells its weights from others.
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

    def __post_init__(self) -> None:
        spec = self.spec
        if spec.folder and spec.name != self.model:
            raise KoalaError(f"{self.weights} holds {spec.name} now, not {self.model}")
        if self.target not in TARGETS:
            raise UnknownName("target", self.target, TARGETS)
        if self.dtype not in DTYPES:
            raise UnknownName("dtype", self.dtype, DTYPES)
        spec.check_side(self.resolution)
        if self.batch_size < 1:
            raise KoalaError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.steps is not None:
            replace(spec.recipe, steps=self.steps)  # a recipe refuses steps that it cannot take
        if not _goes_with(get_profile(self.profile).name, self.target):
            raise KoalaError(f"{self.profile} goes from prompt to image; it has no target {self.target}")

    @property
    def spec(self) -> ModelSpec:
        """The model: an entry of the zoo, or one that was trained here."""
        trained = not zoo.known(self.model) and Path(self.weights).is_dir()
        return zoo.get(self.weights if trained else self.model)

    @property
    def label(self) -> str:
        """A short name for progress lines: "sdxl unet 256px fp32"."""
        batch = f" x{self.batch_size}" if self.batch_size > 1 else ""
        steps = f" {self.steps} steps" if self.steps else ""
        profile = f" {self.profile}" if self.profile != EAGER.name else ""
        return f"{self.model} {self.target} {self.resolution}px{batch} {self.dtype}{steps}{profile}"


def grid(
    models: Iterable[str],
    targets: Iterable[str],
    resolutions: Iterable[int],
    batch_sizes: Iterable[int],
    dtypes: Iterable[str],
    steps: Iterable[int],
    device: str,
    profiles: Iterable[str] = (EAGER.name,),
) -> list[Case]:
    """Every combination once, profiles innermost, so that they are measured one right after the other.

    No `resolutions` or `steps` means the model's own; a model with fixed timesteps always takes its own steps. A
    profile that a target does not have is left out there.
    """
    cases: dict[Case, None] = {}
    resolutions, steps, chosen = tuple(resolutions), tuple(steps), _canonical(profiles)
    for target, model, dtype, batch_size in product(targets, models, dtypes, batch_sizes):
        spec = zoo.get(model)
        counts = _step_counts(spec, steps) if target == "pipeline" else (None,)
        for resolution, count, profile in product(resolutions or (spec.resolution,), counts, chosen):
            if _goes_with(profile, target):
                weights = spec.folder or "random"
                case = Case(spec.name, target, resolution, batch_size, dtype, count, device, weights, profile)
                cases[case] = None
    return list(cases)


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


def resume_key(row: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Rows with one key answer the same question: case, weights, device, driver, torch, diffusers, measurement.

    Of a profile that is another package's work, its version counts too. Neither the commit nor clocks are part of it,
    and a device counts by its name, not by its number.
    """
    case = {**row["case"], "device": environment.get("device_kind")}
    packages = get_profile(row["case"]["profile"]).packages
    machine = {
        name: environment.get(name)
        for name in ("device_name", "omp_num_threads", "driver", "torch", "diffusers", *packages)
    }
    return json.dumps([case, machine, row.get("measurement")], sort_keys=True)


def case_key(case: Case, environment: Mapping[str, Any]) -> str:
    """The `resume_key` that a row of `case` measured in `environment` would have."""
    return resume_key({"case": asdict(case), "measurement": MEASUREMENT}, environment)
