"""Everything random of a training step, from the run's seed and a row's position in the training alone.

Neither the batch size nor the number of processes nor accumulation changes the noise or the timestep of a row.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from koala.types import Latents


@dataclass(frozen=True)
class Draw:
    """What is drawn for a batch, on the CPU: a row's noise and how much of it is added."""

    noise: Latents  # fp32
    timesteps: Int[Tensor, "n"]  # noqa: F821


def generator(seed: int, position: int, stream: str) -> torch.Generator:
    """The source of what is random at `position` of the training under the name `stream`, on the CPU.

    The three are hashed, for torch's generator reads 32 bits of its seed, and neighbouring seeds should share nothing.
    """
    digest = hashlib.blake2b(f"{seed} {position} {stream}".encode(), digest_size=8).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest, "little"))


def draw(
    positions: Sequence[int], seed: int, shape: tuple[int, ...], num_timesteps: int, noise_offset: float = 0.0
) -> Draw:
    """Standard normal noise of `shape` (channels, height, width) and a timestep in [0, num_timesteps) for each row.

    Timesteps are uniform over the whole schedule (BK-SDM's training script). `noise_offset` is the spread of a
    constant that is added to the noise of each image and channel.
    """
    noise = normal(positions, seed, "noise", shape)
    if noise_offset:
        noise += noise_offset * normal(positions, seed, "offset", (shape[0], 1, 1))
    return Draw(noise, integers(positions, seed, "timestep", 0, num_timesteps))


def normal(positions: Sequence[int], seed: int, stream: str, shape: tuple[int, ...]) -> Tensor:
    """Standard normal values in fp32, `shape` for each row."""
    return torch.stack([torch.randn(shape, generator=generator(seed, p, stream)) for p in positions])


def integers(positions: Sequence[int], seed: int, stream: str, low: int, high: int) -> Int[Tensor, "n"]:  # noqa: F821
    """Uniform in [low, high), one for each row."""
    return torch.stack([torch.randint(low, high, (), generator=generator(seed, p, stream)) for p in positions])
