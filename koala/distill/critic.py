"""DMD2's critic: a U-Net that learns what the generator draws, and a head on its narrowest features that judges it.

The head reads what enters the first block of the way up: the output of the mid block, or of the last block of the way
down in a U-Net without a mid block (DMD2 section 4.3 and its code).
"""

from collections.abc import Mapping
from math import gcd
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from koala.types import Latents, Timesteps

JUDGED = "up_blocks.0"
_NARROW = 4  # pixels of a side from which one convolution sees all
_GROUPS = 32


class Seen(NamedTuple):
    """Noisy samples as a U-Net sees them; `arguments` are the U-Net's further ones."""

    samples: Latents
    timesteps: Timesteps
    arguments: Mapping[str, Any]


class Critic(nn.Module):
    """`unet` and a head for its features of `shape` (channels, height, width); None: no head.

    `judged` names the module whose input the head reads. The head's first weights depend on `seed` alone.
    """

    def __init__(self, unet: nn.Module, shape: tuple[int, int, int] | None, seed: int = 0, judged: str = JUDGED):
        super().__init__()
        self.unet, self._judged = unet, judged
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            self.head = None if shape is None else gan_head(*shape)

    def forward(
        self, denoised: Seen | None, judged: Seen | None = None
    ) -> tuple[Tensor | None, Float[Tensor, "n"] | None]:  # noqa: F821
        """What the U-Net predicts of `denoised`, and the logits of `judged`: high for real images, low for fakes.

        Both in one call, by which a wrapper for several processes sees each parameter once.
        """
        prediction = None if denoised is None else _run(self.unet, denoised)
        logits = None if judged is None else self.logits(judged)
        return prediction, logits

    def logits(self, seen: Seen) -> Float[Tensor, "n"]:  # noqa: F821
        """The head's verdict; the way up of the U-Net is not run."""
        assert self.head is not None, "a critic without a head judges nothing"
        return self.head(narrowest(self.unet, seen, self._judged)).flatten()

    def enable_gradient_checkpointing(self) -> None:
        """That of the U-Net."""
        self.unet.enable_gradient_checkpointing()


def narrowest(unet: nn.Module, seen: Seen, judged: str = JUDGED) -> Tensor:
    """What enters the module `judged` of `unet`, and nothing after that is computed."""

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        raise _Reached(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])

    # before the hooks of wrappers, which gather the module's weights for a call that never comes
    handle = unet.get_submodule(judged).register_forward_pre_hook(stop, prepend=True, with_kwargs=True)
    try:
        _run(unet, seen)
    except _Reached as reached:
        return reached.features
    finally:
        handle.remove()
    raise AssertionError(f"the network never came to {judged}")


def gan_head(channels: int, height: int, width: int) -> nn.Sequential:
    """Features [n, channels, height, width] -> logits [n, 1, 1, 1].

    Convolutions halve the side while it has more than 4 pixels, the next one sees all of the rest and the last gives
    the logit, with group norms and SiLU between them: for 32 x 32 (SDXL at 1024 px) three and for 8 x 8 one halving, as
    DMD2's code has them.
    """

    def stage(kernel: tuple[int, int], stride: tuple[int, int], padding: int) -> list[nn.Module]:
        convolution = nn.Conv2d(channels, channels, kernel, stride, padding)
        return [convolution, nn.GroupNorm(gcd(_GROUPS, channels), channels), nn.SiLU()]

    layers: list[nn.Module] = []
    while max(height, width) > _NARROW:
        layers += stage((4, 4), (2, 2), 1)
        height, width = max(1, height // 2), max(1, width // 2)
    return nn.Sequential(*layers, *stage((height, width), (height, width), 0), nn.Conv2d(channels, 1, 1))


class _Reached(Exception):
    def __init__(self, features: Tensor):
        super().__init__()
        self.features = features


def _run(unet: nn.Module, seen: Seen) -> Tensor:
    return unet(seen.samples, seen.timesteps, **seen.arguments, return_dict=False)[0]
