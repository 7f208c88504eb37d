"""Small models drawn under a profile."""

from dataclasses import replace

import torch

from koala.models import zoo
from koala.models.load import load
from koala.models.spec import Recipe
from koala.sampling import profiles
from koala.sampling.sampler import Sampler

CPU = torch.device("cpu")
RECIPE = Recipe("euler", 2, 3.0)


def draw(name, profile, size=64):
    return draw_with(zoo.get(name), profile, size)


def draw_with(spec, profile, size):
    profile = profiles.get(profile)
    profile.check(spec, CPU, "fp32")
    sampler = Sampler(load(profile.respec(spec), "cpu", storage=profile.storage), profile)
    return sampler, sampler.sample(["a red apple"], [1], recipe=RECIPE, height=size, width=size)


def least():
    """As little of a U-Net and an autoencoder as has every kind of layer: compilation takes its time."""
    spec = zoo.get("tiny-bk-sdm-tiny")
    unet = replace(spec.unet, channels=(32, 64), transformer_depths=(0, 1), heads=(2, 4))
    return replace(spec, unet=unet, autoencoder=replace(spec.autoencoder, channels=(32, 32)))
