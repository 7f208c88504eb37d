"""How a model is sampled, as frozen data."""

from dataclasses import dataclass

from koala.errors import KoalaError


@dataclass(frozen=True)
class Recipe:
    """How the authors sample: scheduler, number of denoising steps, guidance scale, default negative prompt.

    Explicit `timesteps` replace the scheduler's own. `original_size` and `crop` (height, width in pixels) are SDXL's
    size conditioning; None stands for the size of the image.
    """

    scheduler: str
    steps: int
    guidance: float
    timestep_spacing: str = "leading"
    timesteps: tuple[int, ...] | None = None
    negative: str | None = None
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise KoalaError(f"a recipe has at least 1 step, not {self.steps}")
        if self.timesteps is not None and self.steps != len(self.timesteps):
            listed = ", ".join(map(str, self.timesteps))
            raise KoalaError(f"this model is trained for the timesteps {listed}; it cannot take {self.steps} steps")

    @property
    def guided(self) -> bool:
        """Whether a step runs the U-Net on a conditional and an unconditional half (classifier-free guidance)."""
        return self.guidance > 1
