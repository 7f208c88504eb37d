"""The moving average of a network's weights, which is published in their place."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn


class Average:
    """diffusers' exponential moving average, by the names of the parameters.

    Its decay grows as (1 + n) / (10 + n) over the first n updates, so that the beginning is soon forgotten.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float):
        self._parameters = parameters
        self._model = EMAModel(list(parameters.values()), decay=decay, foreach=True)

    @property
    def updates(self) -> int:
        """How many there were."""
        return self._model.optimization_step

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The average of each parameter."""
        return dict(zip(self._parameters, self._model.shadow_params, strict=True))

    def update(self) -> None:
        """Take the parameters in as they are now."""
        self._model.step(list(self._parameters.values()))

    def went_on(self, updates: int) -> None:
        """Count as if there had been so many; the values are written into `tensors`."""
        self._model.optimization_step = updates

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters hold the average while the block runs, and then, to the bit, what they held before."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for parameter, average in zip(self._parameters.values(), self._model.shadow_params, strict=True):
            held = parameter.detach().clone()  # one at a time: a second copy of all might not fit
            parameter.copy_(average)
            average.copy_(held)
