"""EDM's samplers for networks that predict the clean sample, as diffusers' schedulers are used.

Timesteps are those of the noising "edm": numbers in [0, 999], of which N evenly spaced ones are the N noise levels of
EDM's equation 5. A state x at noise sigma moves along dx / dsigma = (x - D(x; sigma)) / sigma.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from koala.models.noising import EDM
from koala.sampling import seeds


class _Steps:
    """What the samplers have in common; `timesteps` are the network's calls in order."""

    def __init__(self) -> None:
        self.timesteps = torch.empty(0)
        self._sigmas: list[float] = []  # of each call, then 0
        self._done = 0

    @property
    def init_noise_sigma(self) -> float:
        """The standard deviation of the noise that the first call sees."""
        return self._sigmas[0]

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The sample: the network scales it itself."""
        return sample

    def _begin(self, timesteps: Tensor, device: torch.device | str | None) -> None:
        self.timesteps, self._done = timesteps.to(device), 0
        self._sigmas = [*EDM.sigma(timesteps).tolist(), 0.0]

    def _advance(self) -> tuple[float, float]:
        """The noise of this call and of the next one."""
        self._done += 1
        return self._sigmas[self._done - 1], self._sigmas[self._done]


class EdmEuler(_Steps):
    """One call a step, along the slope where it begins."""

    def set_timesteps(self, steps: int, device: torch.device | str | None = None) -> None:
        """Begin a schedule of that many steps."""
        self._begin(_levels(steps), device)

    def step(self, clean: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """The sample with the noise of the next call, where the network saw `clean` in it."""
        now, later = self._advance()
        return (sample + (later - now) * (sample - clean) / now,)


class EdmHeun(_Steps):
    """Two calls a step, along the mean of the slopes at both ends, and one for the last (EDM, algorithm 1)."""

    def __init__(self) -> None:
        super().__init__()
        self._start: tuple[float, Tensor, Tensor] | None = None  # noise, sample and slope where the step begins

    def set_timesteps(self, steps: int, device: torch.device | str | None = None) -> None:
        """Begin a schedule of that many steps, in which each level but the first is called twice."""
        self._start = None
        self._begin(_levels(steps).repeat_interleave(2)[1:], device)

    def step(self, clean: Tensor, timestep: Tensor, sample: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """The end of Euler's step after the first of two calls, Heun's after the second."""
        now, later = self._advance()
        slope = (sample - clean) / now
        if self._start is None:
            self._start = (now, sample, slope)
            return (sample + (later - now) * slope,)
        (before, origin, first), self._start = self._start, None
        return (origin + (now - before) * (first + slope) / 2,)


class EdmRenoise(_Steps):
    """Each call to a clean sample and, but for the last, back to the next one's noise (DMD2, section 4.4)."""

    def set_timesteps(
        self,
        steps: int | None = None,
        device: torch.device | str | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Begin a schedule of these timesteps, or of that many evenly spaced ones."""
        assert steps or timesteps
        self._begin(torch.tensor(timesteps) if timesteps else _levels(steps or 0), device)

    def step(
        self,
        clean: Tensor,
        timestep: Tensor,
        sample: Tensor,
        return_dict: bool = False,
        generator: Sequence[torch.Generator] = (),
    ) -> tuple[Tensor]:
        """`clean`, with the next call's noise from each image's own generator."""
        _, later = self._advance()
        if not later:
            return (clean,)
        return (clean + later * seeds.noise(list(generator), tuple(clean.shape[1:])).to(clean),)


def _levels(steps: int) -> Tensor:
    return torch.linspace(EDM.num_timesteps - 1, 0, steps, dtype=torch.float64).float()
