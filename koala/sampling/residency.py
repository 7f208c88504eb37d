"""A network that is on its device only while it runs."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def resident(networks: Collection[nn.Module], device: torch.device) -> Iterator[None]:
    """Copies of the weights of `networks` on `device` until the block ends; weights that are there stay as they are.

    The weights themselves stay where they were, so that leaving costs no copy back.
    """
    away = [
        (holder, name, tensor)
        for network in networks
        for module in network.modules()
        for holder in (module._parameters, module._buffers)
        for name, tensor in holder.items()
        if tensor is not None and not _is_on(tensor, device)
    ]
    try:
        for holder, name, tensor in away:
            moved = tensor.to(device)
            holder[name] = nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
        yield
    finally:
        for holder, name, tensor in away:
            holder[name] = tensor
        if away and device.type == "cuda":
            torch.cuda.empty_cache()


def _is_on(tensor: Tensor, device: torch.device) -> bool:
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
