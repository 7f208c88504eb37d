"""What a training objective is to the trainer: networks to train, and the loss of each on a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from koala.distill.batch import Batch


@dataclass(frozen=True)
class Terms:
    """The loss of one micro-batch and what it is made of."""

    total: Tensor  # a scalar to differentiate
    parts: Mapping[str, Tensor]  # detached, unweighted scalars for the log: "task", "output", "feature", "feature/UP-1"


def in_training(network: nn.Module) -> nn.Module:
    """`network` in training mode, all of it where nothing of it requires a gradient yet (adapters do)."""
    if not any(parameter.requires_grad for parameter in network.parameters()):
        network.requires_grad_(True)
    return network.train()


@runtime_checkable
class Objective(Protocol):
    """What one step computes.

    The trainer wraps each network of `trained` (DDP, FSDP, compile), puts the wrapped one in its place, and gives each
    an optimizer of its own.
    """

    trained: dict[str, nn.Module]

    def turns(self, step: int) -> Sequence[str]:
        """The networks that are updated at this step, in order."""
        ...

    def terms(self, network: str, batch: Batch) -> Terms:
        """The loss by which `network` is updated."""
        ...
