"""What one forward of a U-Net costs, counted from its operators on the meta device: no weights, no arithmetic."""

import weakref
from dataclasses import dataclass

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from koala.models.load import DTYPES, count_params, meta_networks
from koala.models.spec import ModelSpec
from koala.models.unet import LATENT_CHANNELS


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
    """Arguments of a U-Net call of the right shapes: random latents and text states, the last timestep."""
    side = resolution // spec.autoencoder.downscale
    plan = spec.unet

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(batch_size, *shape, device=device).to(dtype)

    inputs = {
        "sample": normal(LATENT_CHANNELS, side, side),
        "timestep": torch.tensor(999, device=device),
        "encoder_hidden_states": normal(spec.text_encoders[0].max_tokens, plan.context_dim),
    }
    if plan.pooled_dim is not None:
        size = torch.tensor([resolution, resolution, 0, 0, resolution, resolution], device=device)
        inputs["added_cond_kwargs"] = {
            "text_embeds": normal(plan.pooled_dim),
            "time_ids": size.to(dtype).repeat(batch_size, 1),
        }
    return inputs


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
