"""A world of two dimensions: a mixture of Gaussians, denoisers of 38,000 weights, and a distance of samples."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from koala.distill.batch import Batch
from koala.models import zoo
from koala.models.conditioning import Condition
from koala.models.noising import training_schedule
from koala.sampling import seeds

SPEC = replace(zoo.get("tiny-sdm-v1.4"), name="mixture", autoencoder=None)  # of which the prediction counts
MODES, RADIUS, SPREAD = 8, 1.4, 0.2
JUDGED = "last"
CACHED = 2048  # points whose states stay near the processor


def points(n, seed):
    """Points of the mixture, [n, 2, 1, 1], of about unit variance."""
    source = torch.Generator().manual_seed(seed)
    angle = 2 * math.pi * torch.randint(MODES, (n,), generator=source) / MODES
    centre = RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
    return (centre + SPREAD * torch.randn(n, 2, generator=source))[:, :, None, None]


class Denoiser(nn.Module):
    """A point and a timestep -> the noise in it, called as diffusers' U-Nets are.

    It sees both as waves too: without them so small a network draws a ring where the islands are.
    """

    def __init__(self, seed=0, width=128, depth=2, octaves=4):
        super().__init__()
        self.octaves = octaves
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv2d(2 + 4 * octaves + 16, width, 1)
            self.body = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(depth))
            self.last = nn.Conv2d(width, 2, 1)

    def forward(self, samples, timesteps, encoder_hidden_states=None, class_labels=None, return_dict=False):
        phase = timesteps.float()[:, None] / 1000 * math.pi * 2 ** torch.arange(8)
        time = torch.cat([phase.sin(), phase.cos()], 1)[:, :, None, None]
        waves = [wave(samples * 2**octave) for octave in range(self.octaves) for wave in (torch.sin, torch.cos)]
        state = F.silu(self.first(torch.cat([samples, *waves, time], 1)))
        for layer in self.body:
            state = state + F.silu(layer(state))
        return (self.last(state),)


class Points:
    """Points of the mixture as training examples."""

    def __init__(self, n=50_000, seed=0):
        self._points = points(n, seed)

    def __len__(self):
        return len(self._points)

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        clean = self._points[list(indices)]
        names = tuple(map(str, indices))
        return Batch(clean, Condition(), None, tuple(positions), names, ("",) * len(names))

    def empty(self) -> Condition:
        return Condition()


class Pairs(Points):
    """What a teacher draws from noise, as training examples."""

    def __init__(self, teacher, n=2000):
        noises = seeds.noise([seeds.generator(place) for place in range(n)], (2, 1, 1))
        self._points = many_steps(teacher, noises)

    def batch(self, indices: Sequence[int], positions: Sequence[int]) -> Batch:
        return replace(super().batch(indices, positions), noise_seeds=tuple(indices))


@torch.no_grad()
def many_steps(network, noise, steps=100):
    """DDIM: what the teacher draws from `noise`."""
    if len(noise) > CACHED:
        return torch.cat([many_steps(network, some, steps) for some in noise.split(CACHED)])
    alphas = training_schedule()
    times = torch.linspace(999, 0, steps).round().long()
    state = noise
    for now, then in zip(times, [*times[1:], None], strict=True):
        a, b = alphas[now], alphas[then] if then is not None else torch.tensor(1.0)
        noise = network(state, now.repeat(len(state)))[0]
        clean = (state - (1 - a).sqrt() * noise) / a.sqrt()
        state = b.sqrt() * clean + (1 - b).sqrt() * noise
    return state


@torch.no_grad()
def one_step(network, noise, timestep):
    """What a generator draws from `noise`."""
    a = training_schedule()[timestep]
    return (noise - (1 - a).sqrt() * network(noise, torch.full((len(noise),), timestep))[0]) / a.sqrt()


def sliced_wasserstein(one, other, directions=64):
    """The mean over directions of the 1-D Wasserstein distance of equally many points."""
    angle = math.pi * torch.arange(directions) / directions
    lines = torch.stack([angle.cos(), angle.sin()])
    a, b = (points.flatten(1) @ lines for points in (one, other))
    return (a.sort(0).values - b.sort(0).values).abs().mean().item()
