"""The two-dimensional world: its sampler and its distance, held against a denoiser that is exact."""

import math

import torch
from mixture import (
    JUDGED,
    MODES,
    RADIUS,
    SPEC,
    SPREAD,
    Denoiser,
    Points,
    many_steps,
    one_step,
    points,
    sliced_wasserstein,
)
from mixture_training import Judge, generator_of, of_pairs, teacher_of
from torch import nn

from koala.distill.critic import Critic
from koala.distill.dmd2 import CRITIC, GENERATOR, DistributionMatching, Matching
from koala.models.conditioning import Condition
from koala.models.noising import training_schedule

N = 20_000


class Exact(nn.Module):
    """The noise that is to be expected in a noisy point of the mixture."""

    def forward(self, samples, timesteps):
        a = training_schedule()[timesteps[0]]
        angle = 2 * math.pi * torch.arange(MODES) / MODES
        centres = a.sqrt() * RADIUS * torch.stack([angle.cos(), angle.sin()], 1)
        spread = a * SPREAD**2 + 1 - a
        offsets = samples.flatten(1)[:, None] - centres
        likely = (-offsets.square().sum(2) / (2 * spread)).softmax(1)
        return ((1 - a).sqrt() * (likely[..., None] * offsets).sum(1) / spread)[:, :, None, None], None


def test_many_steps_of_an_exact_denoiser_draw_the_mixture():
    noise, data, again = torch.randn(N, 2, 1, 1, generator=torch.Generator().manual_seed(0)), points(N, 1), points(N, 2)
    floor, drawn = sliced_wasserstein(again, data), sliced_wasserstein(many_steps(Exact(), noise), data)
    assert drawn < 3 * floor
    assert sliced_wasserstein(one_step(Exact(), noise, 999), data) > 10 * floor, "one step of it cannot"


def test_the_distance_is_that_of_a_shift_and_nothing_for_the_same_points():
    data = points(1000, 1)
    assert sliced_wasserstein(data, data.flip(0)) == 0
    shifted = sliced_wasserstein(data + torch.tensor([0.3, 0.0])[:, None, None], data)
    assert abs(shifted - 0.3 * 2 / math.pi) < 1e-3, "the mean of |cos| is 2 / pi"


def test_both_networks_learn_in_it():
    generator, teacher = Denoiser(0), Denoiser(1)
    numbers = Matching((399,), guidance=1.0)
    critic = Critic(Denoiser(2), (128, 1, 1), judged=JUDGED)
    objective = DistributionMatching(SPEC, generator, SPEC, teacher, SPEC, critic, Condition(), numbers)
    batch = Points(100).batch(range(8), range(8))
    assert objective.turns(0) == (GENERATOR, CRITIC)
    for name in (GENERATOR, CRITIC):
        objective.terms(name, batch).total.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in objective.trained[name].parameters())


def test_one_step_draws_what_many_steps_would_after_a_short_training():
    """How near it comes after a long one, over five seeds: scripts/dmd2_mixture.py."""
    teacher, judge = teacher_of(0, steps=300, batch_size=128), Judge(0, N)
    first = of_pairs(teacher, 0, steps=150, batch_size=128, pairs=2000)
    generator = generator_of(teacher, first, 0, steps=50, batch_size=64)
    many, before = judge.of_many_steps(teacher), judge.of_one_step(teacher)
    paired, after = judge.of_one_step(first), judge.of_one_step(generator)
    print(f"the teacher in 100 steps {many:.3f}, in one {before:.3f}; the generator {paired:.3f}, then {after:.3f}")
    assert many < before, "a teacher of many steps cannot do it in one"
    assert max(paired, after) < 0.5 * before
