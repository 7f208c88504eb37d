"""Random weights that cost little more than touching the memory they fill.

The work of a network does not depend on the values of its weights, but a GPU's power and clocks do depend on
whether they vary: so they are never constant. Each matrix is scaled by one over the root of its fan-in, which
keeps activations of a deep U-Net finite in fp16 and far from denormals.
"""

import torch
from torch import Tensor, nn

_BLOCK = 2**20 - 3  # a prime: rows of a matrix never line up with the block, so no two are alike
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
    _restore_buffers(module)
    return module.requires_grad_(False)


def _restore_buffers(module: nn.Module) -> None:
    """`to_empty` leaves buffers undefined too; the only one these networks have is CLIP's table of positions."""
    for name, buffer in module.named_buffers():
        assert name.endswith("position_ids"), f"no rule restores the buffer {name}"
        buffer.copy_(torch.arange(buffer.shape[-1], device=buffer.device).expand_as(buffer))


class _Noise:
    """One block of normal values, copied again and again from a moving offset."""

    def __init__(self, device: torch.device | str, seed: int):
        generator = torch.Generator(device).manual_seed(seed)
        self._block = torch.randn(_BLOCK, generator=generator, device=device)
        self._scaled: dict[tuple, Tensor] = {}
        self._offset = 0

    def fill(self, tensor: Tensor, mean: float, spread: float) -> None:
        key = (mean, spread, tensor.dtype)
        if key not in self._scaled:
            self._scaled[key] = (self._block * spread + mean).to(tensor.dtype)
        block, flat, done = self._scaled[key], tensor.view(-1), 0
        while done < flat.numel():
            count = min(flat.numel() - done, _BLOCK - self._offset)
            flat[done : done + count].copy_(block[self._offset : self._offset + count])
            self._offset = (self._offset + count) % _BLOCK
            done += count
