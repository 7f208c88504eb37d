"""Small generators, teachers and critics of DMD2."""

from dataclasses import replace

import torch
from random_batch import RandomExamples

from koala.distill.critic import Critic, Seen, narrowest
from koala.distill.dmd2 import DistributionMatching, Matching
from koala.models import zoo
from koala.models.load import load

KOALA, SDXL, SD = zoo.get("tiny-koala-700m"), zoo.get("tiny-sdxl"), zoo.get("tiny-sdm-v1.5")
SEED = 3


def unet_of(spec, seed):
    return load(spec, "cpu", "fp32", "random", ("unet",), seed=seed).unet


def critic_of(spec, seed, side=8, judges=True):
    """A critic around random weights; `side` is that of the latents."""
    unet = unet_of(spec, seed)
    batch = RandomExamples(spec, 1).batch([0], [0])
    seen = Seen(
        torch.zeros(1, spec.unet.sample_channels, side, side),
        torch.zeros(1).long(),
        batch.condition.unet_arguments(batch.sizes),
    )
    with torch.no_grad():
        shape = tuple(narrowest(unet, seen).shape[1:])
    return Critic(unet.requires_grad_(), shape if judges else None, seed)


def matching_of(student=KOALA, teacher=SDXL, critic=KOALA, **changes):
    """The objective on random weights, all of them other ones."""
    numbers = replace(Matching(), **changes)
    unconditional = RandomExamples(teacher, 1).empty()
    return DistributionMatching(
        student,
        unet_of(student, 1),
        teacher,
        unet_of(teacher, 2),
        critic,
        critic_of(critic, 3, judges=bool(numbers.critic_gan_weight)),
        unconditional,
        numbers,
        SEED,
    )
