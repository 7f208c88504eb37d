"""What one training step sees."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from koala.models.conditioning import Condition
from koala.types import Latents


@dataclass(frozen=True)
class Batch:
    """Clean samples and what describes them, one row each.

    `clean` is what the U-Net denoises: latents times the autoencoder's scaling factor, or pixels in [-1, 1].
    """

    clean: Latents
    condition: Condition
    sizes: Float[Tensor, "n 6"] | None  # SDXL's original size, crop corner and target size; None where unused
    positions: tuple[int, ...]  # place of each row in the whole training, whichever process has it: seeds its noise
    keys: tuple[str, ...]  # names of the images, for messages
    captions: tuple[str, ...]  # what `condition` was made of; empty text where the caption was dropped
    noise_seeds: tuple[int, ...] | None = None  # of the noise from which a model drew each; None: these are no pairs
    others: Mapping[str, "Batch"] = field(default_factory=dict)  # of further data, by what it is used for

    def to(self, device: torch.device, dtype: torch.dtype) -> "Batch":
        """The batch on `device`, its floating point values in `dtype`."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype if tensor.is_floating_point() else None, non_blocking=True)

        sizes = None if self.sizes is None else moved(self.sizes)
        others = {name: batch.to(device, dtype) for name, batch in self.others.items()}
        return replace(self, clean=moved(self.clean), condition=self.condition.map(moved), sizes=sizes, others=others)


@runtime_checkable
class Examples(Protocol):
    """Training data by number."""

    def __len__(self) -> int:
        """How many images there are."""
        ...

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        """The images with these numbers, on the CPU; `positions` seed the choice among captions and crops of each."""
        ...

    def empty(self) -> Condition:
        """One row that stands for no caption."""
        ...
