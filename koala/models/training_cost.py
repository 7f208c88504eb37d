"""How much memory the activations of a training step take, counted on the meta device: no weights, no arithmetic."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from koala.models.cost import Traffic, unet_inputs
from koala.models.load import DTYPES
from koala.models.networks import meta_networks
from koala.models.spec import ModelSpec

_META = torch.device("meta")


@lru_cache(maxsize=64)
def training_bytes(spec: ModelSpec, resolution: int, batch_size: int, dtype: str, checkpointing: bool = False) -> int:
    """The most bytes alive beside weights and their gradients in a forward and backward pass of the U-Net.

    Everything is in `dtype`, where autocast keeps norms in fp32: a little less than is taken. Attention is one operator
    that keeps what it reads and writes, as fused kernels do.
    """
    unet: Any = meta_networks(spec, ("unet",), DTYPES[dtype])["unet"].train().requires_grad_(True)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    for parameter in unet.parameters():
        parameter.register_post_accumulate_grad_hook(_forget)
    inputs = unet_inputs(spec, resolution, batch_size, DTYPES[dtype], _META)
    traffic = Traffic(unet, inputs)
    with traffic, _kept_attention():
        prediction = unet(**inputs, return_dict=False)[0]
        prediction.backward(torch.empty_like(prediction))
    return traffic.peak_bytes


def _forget(parameter: Tensor) -> None:
    parameter.grad = None


@contextmanager
def _kept_attention() -> Iterator[None]:
    """Attention is one operator that keeps its inputs and its output for the way back.

    The function itself is replaced: a mode of torch's is off on the way back, where checkpointing runs it again.
    """
    before = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _Attention.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = before


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
