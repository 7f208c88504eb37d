"""Trainings in the two-dimensional world: a teacher of many steps, and DMD2's generator of one."""

import tempfile
from copy import deepcopy
from pathlib import Path

import torch
from mixture import JUDGED, SPEC, Denoiser, Pairs, Points, many_steps, one_step, points, sliced_wasserstein
from toy_training import trained

from koala.distill.critic import Critic
from koala.distill.data.beside import beside
from koala.distill.dmd2 import PAIRS, DistributionMatching, Matching
from koala.distill.finetune import FineTuning
from koala.distill.regression import Regression
from koala.models.conditioning import Condition

RATE = 3e-5  # constant, of generator and critic
AVERAGE = 0.95  # decay of the generator's average: at a constant rate its last weights alone are a matter of luck
TIMESTEP = 399  # from which the generator draws, as that of SDXL in one step
JUDGES = 200_000  # points that a distance compares: of 20,000, those of two fresh sets are as far as the teacher's


def fit(objective, examples, **changes):
    """Train by the trainer, and keep nothing of it but the networks, with the weights that it publishes."""
    rare = {"save_every": 10**9, "log_every": 100, "ema_decay": 0.0}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trained(Path(folder), objective, examples, **{**rare, **changes})
        for name, network in objective.trained.items():
            network.load_state_dict(trainer.weights(name))


def teacher_of(seed, steps=3000, batch_size=256):
    """A denoiser of the mixture, trained from nothing."""
    teacher = Denoiser(seed)
    rates = {"learning_rate": 2e-3, "schedule": "cosine"}
    fit(FineTuning(SPEC, teacher, seed), Points(seed=seed), steps=steps, batch_size=batch_size, seed=seed, **rates)
    return teacher.eval()


def of_pairs(teacher, seed, steps=3000, batch_size=512, pairs=50_000):
    """A generator that learnt the teacher's own pairs of noise and point, as DMD2's of one step begin (appendix)."""
    generator = deepcopy(teacher)
    rates = {"learning_rate": 2e-3, "schedule": "cosine"}
    examples = Pairs(teacher, pairs)
    fit(Regression(SPEC, generator, TIMESTEP), examples, steps=steps, batch_size=batch_size, seed=seed, **rates)
    return generator.eval()


def generator_of(teacher, first, seed, ratio=5, gan=True, regression=0.0, steps=1500, batch_size=256):
    """What DMD2 makes of the generator `first`: `ratio` updates of the critic for one of it."""
    weights = {} if gan else {"gan_weight": 0.0, "critic_gan_weight": 0.0}
    numbers = Matching((TIMESTEP,), guidance=1.0, ratio=ratio, regression_weight=regression, **weights)
    generator, unet = deepcopy(first), deepcopy(teacher)
    critic = Critic(unet, (unet.last.in_channels, 1, 1) if gan else None, seed, JUDGED)
    networks = (SPEC, generator, SPEC, teacher, SPEC, critic)
    objective = DistributionMatching(*networks, Condition(), numbers, seed)
    length = {"steps": steps, "batch_size": batch_size}
    examples = beside(Points(seed=seed), {PAIRS: Pairs(teacher)} if regression else {}, seed)
    rates = {"learning_rate": RATE, "ema_decay": AVERAGE, "weight_decay": 0.01, "clip_norm": 10.0}
    fit(objective, examples, seed=seed, **rates, **length)
    return generator.eval()


class Judge:
    """Distances to fresh points of the mixture, less that of two fresh sets of points."""

    def __init__(self, seed, n=JUDGES):
        self.data = points(n, 1000 + seed)
        self.floor = sliced_wasserstein(self.data, points(n, 2000 + seed))
        self.noise = torch.randn(n, 2, 1, 1, generator=torch.Generator().manual_seed(3000 + seed))

    def excess(self, drawn):
        return sliced_wasserstein(drawn, self.data) - self.floor

    def of_many_steps(self, network):
        return self.excess(many_steps(network, self.noise))

    def of_one_step(self, network):
        return self.excess(one_step(network, self.noise, TIMESTEP))
