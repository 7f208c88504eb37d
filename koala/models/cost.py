"""What one forward of a U-Net costs, counted from its operators on the meta device: no weights, no arithmetic."""

import weakref
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from koala.models.conditioning import random_condition, size_ids
from koala.models.load import DTYPES
from koala.models.networks import count_params, meta_networks
from koala.models.spec import ModelSpec


@dataclass(frozen=True)
class Cost:
    """One forward: floating-point operations (2 a multiply-add), weights, and the most activation bytes alive."""

    params: int
    flops: int
    activation_bytes: int


def unet_cost(spec: ModelSpec, resolution: int, batch_size: int, dtype: str = "fp16") -> Cost:
    """Cost of one U-Net call on a batch of square images of `resolution` pixels; guidance doubles the batch."""
    unet = meta_networks(spec, ("unet",), DTYPES[dtype])["unet"]
    flops = FlopCounterMode(display=False)
    live = _LiveBytes(unet)
    with torch.device("meta"), torch.no_grad(), live, flops:
        unet(**unet_inputs(spec, resolution, batch_size, DTYPES[dtype], torch.device("meta")))
    return Cost(count_params(unet), flops.get_total_flops(), live.peak)


def unet_inputs(spec: ModelSpec, resolution: int, batch_size: int, dtype: torch.dtype, device: torch.device) -> dict:
    """Arguments of a U-Net call of the right shapes: random latents and conditioning, the last timestep."""
    side = resolution // spec.downscale
    sizes = size_ids((resolution, resolution), None, (0, 0), batch_size).to(device, dtype)
    return {
        "sample": torch.randn(batch_size, spec.unet.sample_channels, side, side, device=device).to(dtype),
        "timestep": torch.tensor(999, device=device),
        **random_condition(spec, batch_size, dtype, device).unet_arguments(sizes),
    }


class _LiveBytes(TorchDispatchMode):
    """Follows the bytes of every storage that an operator makes until it is freed; weights are not counted."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self._weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
        self._alive: dict[int, int] = {}
        self._now = 0
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._follow(tensor.untyped_storage())
        return out

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive and key not in self._weights:
            self._alive[key] = storage.nbytes()
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self._now -= self._alive.pop(key)
