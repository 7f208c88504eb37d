"""Random weights that cost little more than touching the memory they fill.

The work of a network does not depend on the values of its weights, but a GPU's power and clocks do depend on
whether they vary: so they are never constant. Each matrix is scaled by one over the root of its fan-in, which
keeps activations of a deep U-Net finite in fp16 and far from denormals.
"""

import torch
from torch import Tensor, nn

from koala.models.weights.fill import restore_buffers

_BLOCK = 2**18 - 5  # a prime: rows of a matrix never line up with the block, so no two are alike
_STRIDE = 2**12 + 3
_NORM_SPREAD = 0.1
_BIAS_SPREAD = 0.02


@torch.no_grad()
def materialise(module: nn.Module, device: torch.device | str, seed: int = 0) -> nn.Module:
    """`module`, built on the meta device, with random weights on `device` and in evaluation mode."""
    module = module.to_empty(device=device).eval()
    source = _Noise(device, seed)
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.ndim > 1:
                source.fill(parameter, 0.0, parameter[0].numel() ** -0.5)
            elif name == "bias":
                source.fill(parameter, 0.0, _BIAS_SPREAD)
            else:
                source.fill(parameter, 1.0, _NORM_SPREAD)
    restore_buffers(module)
    return module.requires_grad_(False)


class _Noise:
    """A block of normal values, repeated from another place in it for each tensor.

    A tensor is filled by one or two copies: each is one parallel loop, and many short ones would wait for one another.
    """

    def __init__(self, device: torch.device | str, seed: int):
        generator = torch.Generator(device).manual_seed(seed)
        self._block = torch.randn(_BLOCK, generator=generator, device=device).repeat(2)
        self._scaled: dict[tuple, Tensor] = {}
        self._start = 0

    def fill(self, tensor: Tensor, mean: float, spread: float) -> None:
        key = (mean, spread, tensor.dtype)
        if key not in self._scaled:
            self._scaled[key] = (self._block * spread + mean).to(tensor.dtype)
        flat, block = tensor.view(-1), self._scaled[key][self._start : self._start + _BLOCK]
        repeats, rest = divmod(flat.numel(), _BLOCK)
        if repeats:
            flat[: repeats * _BLOCK].view(repeats, _BLOCK).copy_(block.expand(repeats, _BLOCK))
        if rest:
            flat[-rest:].copy_(block[:rest])
        self._start = (self._start + rest + _STRIDE) % _BLOCK
