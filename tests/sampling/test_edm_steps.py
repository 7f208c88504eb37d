"""EDM's samplers against the same written out, and against diffusers' scheduler around the layers alone."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from diffusers import EDMEulerScheduler, UNet2DModel
from hypothesis import given, settings
from hypothesis import strategies as st

from koala.errors import KoalaError, UnknownName
from koala.models import zoo
from koala.models.conditioning import Condition
from koala.models.load import load
from koala.models.noising import EDM
from koala.models.spec import Recipe
from koala.sampling import seeds
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import EDM_SCHEDULERS, build_scheduler, set_timesteps

SPEC = zoo.get("tiny-edm-imagenet64")
SEEDS, CLASSES = (7, 8), ("207", "3")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def components():
    return load(SPEC, "cpu")


def levels(steps):
    """EDM's equation 5, then 0."""
    if steps == 1:
        return [80.0, 0.0]
    lowest, highest = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return [(highest + i / (steps - 1) * (lowest - highest)) ** 7 for i in range(steps)] + [0.0]


def euler(denoise, x, steps):
    sigmas = levels(steps)
    for now, then in pairwise(sigmas):
        x = x + (then - now) * (x - denoise(x, now)) / now
    return x


def heun(denoise, x, steps):
    sigmas = levels(steps)
    for now, then in pairwise(sigmas):
        slope = (x - denoise(x, now)) / now
        end = x + (then - now) * slope
        if then:
            end = x + (then - now) * (slope + (end - denoise(end, then)) / then) / 2
        x = end
    return x


def timestep_of(sigma):
    lowest, highest = 0.002 ** (1 / 7), 80 ** (1 / 7)
    return torch.tensor(999 * (sigma ** (1 / 7) - lowest) / (highest - lowest))


@pytest.mark.parametrize(("scheduler", "loop"), [("euler", euler), ("heun", heun)])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_sampler_draws_what_the_loop_that_is_spelled_out_draws(components, scheduler, loop, steps):
    sampler, recipe = Sampler(components), Recipe(scheduler, steps, 0.0)
    found = sampler.denoise(sampler.encode(CLASSES, recipe=recipe), SEEDS, recipe)
    noise = seeds.noise([seeds.generator(seed) for seed in SEEDS], (3, 8, 8))

    def denoise(x, sigma):
        return components.unet(x, timestep_of(sigma), class_labels=torch.tensor([207, 3])).sample

    with torch.inference_mode():
        expected = loop(denoise, 80 * noise, steps)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)


def test_diffusers_scheduler_around_the_layers_alone_draws_the_same(components, tmp_path):
    components.unet.save_pretrained(tmp_path)
    layers, scheduler = UNet2DModel.from_pretrained(tmp_path).eval(), EDMEulerScheduler()
    scheduler.set_timesteps(6)
    x = 80 * seeds.noise([seeds.generator(seed) for seed in SEEDS], (3, 8, 8))
    with torch.inference_mode():
        for timestep in scheduler.timesteps:
            prediction = layers(scheduler.scale_model_input(x, timestep), timestep, torch.tensor([207, 3])).sample
            x = scheduler.step(prediction, timestep, x).prev_sample
        sampler, recipe = Sampler(components), Recipe("euler", 6, 0.0)
        found = sampler.denoise(sampler.encode(CLASSES, recipe=recipe), SEEDS, recipe)
    torch.testing.assert_close(found, x, atol=1e-4, rtol=1e-4)


def test_one_step_from_the_most_noise_is_one_call_and_two_steps_add_noise_between(components):
    sampler = Sampler(components)
    condition = sampler.encode(CLASSES)
    generators = [seeds.generator(seed) for seed in SEEDS]
    with torch.inference_mode():
        first = components.unet(80 * seeds.noise(generators, (3, 8, 8)), 999, class_labels=condition.labels).sample
        noisy = first + EDM.sigma(torch.tensor(499)).item() * seeds.noise(generators, (3, 8, 8))
        second = components.unet(noisy, 499, class_labels=condition.labels).sample
    one, two = (Recipe("lcm", len(t), 0.0, timesteps=t) for t in ((999,), (999, 499)))
    torch.testing.assert_close(sampler.denoise(condition, SEEDS, one), first)
    torch.testing.assert_close(sampler.denoise(condition, SEEDS, two), second)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(sorted(EDM_SCHEDULERS)), st.integers(1, 40), st.floats(-1, 1))
def test_every_sampler_finds_the_one_image_that_there_is(scheduler, steps, pixel):
    # Of data that are a single image the best prediction is that image, and all ways lead there.
    recipe = Recipe(scheduler, steps, 0.0)
    one = build_scheduler(recipe, "sample", "edm")
    timesteps = set_timesteps(one, recipe, CPU)
    image, state = torch.full((1, 1, 2, 2), pixel).double(), one.init_noise_sigma * torch.randn(1, 1, 2, 2).double()
    options = {"generator": [seeds.generator(0)]} if scheduler == "lcm" else {}
    for timestep in timesteps:
        state = one.step(image, timestep, one.scale_model_input(state, timestep), return_dict=False, **options)[0]
    torch.testing.assert_close(state, image, atol=1e-6, rtol=0)
    assert len(timesteps) == (2 * steps - 1 if scheduler == "heun" else steps)


def test_the_teachers_recipe_is_the_one_of_511_calls():
    recipe = zoo.get("edm-imagenet64").recipe
    assert len(set_timesteps(build_scheduler(recipe, "sample", "edm"), recipe, CPU)) == 511


def test_half_precision_keeps_the_state_in_full():
    half = load(SPEC, "cpu", "bf16")
    latents = Sampler(half).denoise(Condition(labels=torch.tensor([1])), [0], Recipe("heun", 3, 0.0))
    assert latents.dtype == torch.float32
    whole = Sampler(load(SPEC, "cpu")).denoise(Condition(labels=torch.tensor([1])), [0], Recipe("heun", 3, 0.0))
    assert (latents - whole).abs().mean() < 0.05  # bf16 has three digits, and the pixels are as large as 3


def test_schedulers_of_other_noise_and_guidance_without_a_contrast_are_refused(components):
    with pytest.raises(UnknownName, match="known: euler, heun, lcm"):
        build_scheduler(Recipe("ddim", 2, 0.0), "sample", "edm")
    guided = replace(SPEC.recipe, guidance=2.0, steps=1)
    with pytest.raises(KoalaError, match=r"no image without a class.*--guidance 1"):
        Sampler(components).sample(["207"], [0], recipe=guided)
    images = [Sampler(components).sample(["207"], [0], recipe=guided, negative=name) for name in ("3", "4")]
    assert not torch.equal(*images), "a negative class is a contrast"
