"""Models of pixels told by a sentence encoder, for which diffusers has no pipeline: against the loop spelled out."""

from dataclasses import replace

import pytest
import torch
from diffusers import EulerDiscreteScheduler, LCMScheduler
from torch.nn import functional as F

from koala.models import zoo
from koala.models.load import load
from koala.models.tokenizers import sentence_tokenizer
from koala.sampling import seeds
from koala.sampling.profiles import get
from koala.sampling.sampler import Sampler, to_uint8

PROMPTS, SEEDS = ["a red heart", "a panda to the left of two cars"], [7, 8]
NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}


def states(components, texts):
    """The encoder's states text by text, alone, and zeros after them."""
    (encoder,), plan = components.conditioner.networks, components.spec.conditioning.encoder
    rows = torch.zeros(len(texts), plan.max_tokens, plan.width)
    for row, text in zip(rows, texts, strict=True):
        tokens = sentence_tokenizer(None, plan.vocabulary)(text)
        row[: len(tokens)] = encoder(torch.tensor([tokens])).last_hidden_state[0]
    return rows


def spelled_out(components, scheduler, steps, guidance):
    plan = components.spec.unet
    side = components.spec.resolution // components.spec.downscale
    generators = [seeds.generator(seed) for seed in SEEDS]
    told, untold = states(components, PROMPTS), states(components, ["", ""])
    scheduler.set_timesteps(**steps)
    samples = torch.cat([torch.randn(1, plan.sample_channels, side, side, generator=g) for g in generators])
    samples = samples * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        given = scheduler.scale_model_input(samples, timestep)
        noise = components.unet(given, timestep, encoder_hidden_states=told).sample
        if guidance > 1:
            without = components.unet(given, timestep, encoder_hidden_states=untold).sample
            noise = without + guidance * (noise - without)
        options = {"generator": generators} if isinstance(scheduler, LCMScheduler) else {}
        samples = scheduler.step(noise, timestep, samples, **options).prev_sample
    return (F.pixel_shuffle(samples, components.spec.autoencoder.side) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["emoji-teacher", "emoji-koala", "emoji-bk"])
def test_a_model_of_many_steps_draws_what_the_loop_draws(name):
    spec = zoo.get(f"tiny-{name}")
    components = load(spec, "cpu")
    recipe = replace(spec.recipe, steps=5)
    expected = spelled_out(components, EulerDiscreteScheduler(**NOISE), {"num_inference_steps": 5}, recipe.guidance)
    found = Sampler(components).sample(PROMPTS, SEEDS, recipe=recipe)
    assert found.shape == (2, spec.resolution, spec.resolution, 3)
    assert (found.int() - to_uint8(expected).int()).abs().max() <= 1
    assert expected.std() > 0.01


@torch.no_grad()
@pytest.mark.parametrize("name", ["emoji-teacher-4step", "emoji-koala-4step", "emoji-koala-1step"])
def test_a_model_of_few_steps_draws_what_the_loop_draws(name):
    spec = zoo.get(f"tiny-{name}")
    components = load(spec, "cpu")
    steps = {"timesteps": list(spec.recipe.timesteps)}
    expected = spelled_out(components, LCMScheduler(**NOISE), steps, 0.0)
    found = Sampler(components).sample(PROMPTS, SEEDS)
    assert (found.int() - to_uint8(expected).int()).abs().max() <= 1


@pytest.mark.parametrize("profile", ["low-vram", "eager"])
def test_it_draws_the_same_under_a_profile_that_saves_memory(profile):
    components = load(zoo.get("tiny-emoji-koala-1step"), "cpu")
    plain = Sampler(components).sample(PROMPTS, SEEDS)
    assert torch.equal(Sampler(components, get(profile)).sample(PROMPTS, SEEDS), plain)
