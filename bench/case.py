"""What one measurement is, and when two measurements are the same one."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

from koala.errors import KoalaError, UnknownName
from koala.models import zoo

TARGETS = ("unet", "pipeline")
DTYPES = {"fp32": 4, "bf16": 2, "fp16": 2}  # bytes of a value
MEASUREMENT = 1  # raised when what is timed changes, so that old rows are measured again


@dataclass(frozen=True)
class Case:
    """One cell of a sweep. `unet` is one denoising step, guided where the recipe is; `pipeline` is prompt to image."""

    model: str
    target: str
    resolution: int  # side of the square image in pixels
    batch_size: int
    dtype: str
    steps: int | None  # denoising steps of a pipeline; a `unet` case has none
    device: str
    weights: str = "random"

    def __post_init__(self) -> None:
        spec = zoo.get(self.model)
        if self.target not in TARGETS:
            raise UnknownName("target", self.target, TARGETS)
        if self.dtype not in DTYPES:
            raise UnknownName("dtype", self.dtype, DTYPES)
        unit = spec.autoencoder.downscale
        if self.resolution < unit or self.resolution % unit:
            raise KoalaError(f"{self.model} draws multiples of {unit} pixels, which {self.resolution} is not")
        for name in ("batch_size", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KoalaError(f"{name} must be at least 1, not {value}")

    @property
    def label(self) -> str:
        """A short name for progress lines: "sdxl unet 256px fp32"."""
        batch = f" x{self.batch_size}" if self.batch_size > 1 else ""
        steps = f" {self.steps} steps" if self.steps else ""
        return f"{self.model} {self.target} {self.resolution}px{batch} {self.dtype}{steps}"


def grid(
    models: Iterable[str],
    targets: Iterable[str],
    resolutions: Iterable[int],
    batch_sizes: Iterable[int],
    dtypes: Iterable[str],
    steps: Iterable[int],
    device: str,
) -> list[Case]:
    """Every combination once, cheap axes innermost; no `resolutions` or `steps` means the model's own."""
    cases: dict[Case, None] = {}
    resolutions, steps = tuple(resolutions), tuple(steps)
    for model, target, dtype, batch_size in product(models, targets, dtypes, batch_sizes):
        spec = zoo.get(model)
        for resolution in resolutions or (spec.resolution,):
            for count in (steps or (spec.recipe.steps,)) if target == "pipeline" else (None,):
                cases[Case(spec.name, target, resolution, batch_size, dtype, count, device)] = None
    return list(cases)


def resume_key(row: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
    """Rows with one key answer the same question: case, weights, device, driver, torch, diffusers, measurement.

    Neither the commit nor clocks are part of it, and a device counts by its name, not by its number.
    """
    case = {**row["case"], "device": environment.get("device_kind")}
    machine = {
        name: environment.get(name) for name in ("device_name", "omp_num_threads", "driver", "torch", "diffusers")
    }
    return json.dumps([case, machine, row.get("measurement")], sort_keys=True)


def case_key(case: Case, environment: Mapping[str, Any]) -> str:
    """The `resume_key` that a row of `case` measured in `environment` would have."""
    return resume_key({"case": asdict(case), "measurement": MEASUREMENT}, environment)
