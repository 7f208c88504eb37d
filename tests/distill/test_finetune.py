from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from random_batch import random_batch

from koala.distill.finetune import FineTuning
from koala.distill.kd import Distillation, Weights
from koala.distill.noise import draw
from koala.distill.objective import Objective
from koala.models import zoo
from koala.models.load import load

NAMES = ("tiny-koala-700m", "tiny-bk-sdm-tiny", "tiny-sdm-v2.0")


def unet_of(name):
    return load(zoo.get(name), "cpu", parts=("unet",)).unet


def gradient(terms, unet):
    unet.zero_grad()
    terms.total.backward()
    return torch.cat([p.grad.flatten() for p in unet.parameters()])


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_is_the_mean_squared_error_of_the_prediction(name):
    spec, unet, batch = zoo.get(name), unet_of(name), random_batch(zoo.get(name))
    scheduler = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")
    drawn = draw(batch.positions, 5, tuple(batch.clean.shape[1:]), 1000)
    noisy = scheduler.add_noise(batch.clean, drawn.noise, drawn.timesteps)
    velocity = spec.prediction == "v_prediction"
    target = scheduler.get_velocity(batch.clean, drawn.noise, drawn.timesteps) if velocity else drawn.noise
    told = {"text_embeds": batch.condition.pooled, "time_ids": batch.sizes}
    context = batch.condition.context
    expected = F.mse_loss(unet(noisy, drawn.timesteps, context, added_cond_kwargs=told).sample, target)
    objective = FineTuning(spec, unet, seed=5)
    terms = objective.terms("unet", batch)
    assert isinstance(objective, Objective) and terms.parts.keys() == {"task"}
    torch.testing.assert_close(terms.total, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(terms.parts["task"], terms.total.detach())


@pytest.mark.parametrize("name", NAMES)
def test_it_is_distillation_with_the_task_term_alone(name):
    spec, unet, batch = zoo.get(name), unet_of(name), random_batch(zoo.get(name))
    options = {"seed": 5, "min_snr_gamma": 5.0, "noise_offset": 0.1}
    alone = FineTuning(spec, unet, **options)
    taught = Distillation(spec, unet, spec, unet_of(name), weights=Weights(1.0, 0.0, 0.0), **options)
    found, expected = (gradient(objective.terms("unet", batch), unet) for objective in (alone, taught))
    assert torch.equal(found, expected) and found.norm() > 0


def test_a_network_that_is_loaded_for_inference_trains_as_a_whole():
    unet = unet_of("tiny-bk-sdm-tiny")
    assert not unet.training
    FineTuning(zoo.get("tiny-bk-sdm-tiny"), unet)
    assert unet.training and all(p.requires_grad for p in unet.parameters())


def test_what_alone_requires_a_gradient_alone_trains():
    spec, unet = zoo.get("tiny-bk-sdm-tiny"), unet_of("tiny-bk-sdm-tiny")
    unet.conv_out.requires_grad_(True)
    FineTuning(spec, unet).terms("unet", random_batch(spec)).total.backward()
    assert {key for key, p in unet.named_parameters() if p.grad is not None} == {"conv_out.weight", "conv_out.bias"}


def test_half_precision_batches_are_trained_on_in_fp32():
    spec, unet = zoo.get("tiny-bk-sdm-tiny"), unet_of("tiny-bk-sdm-tiny")
    batch = random_batch(spec).to(torch.device("cpu"), torch.float16)
    objective = FineTuning(spec, unet)
    precise = batch.to(torch.device("cpu"), torch.float32)
    assert torch.equal(objective.terms("unet", batch).total, objective.terms("unet", precise).total)


def test_a_step_along_the_gradient_lowers_the_loss():
    spec, unet = zoo.get("tiny-bk-sdm-tiny"), unet_of("tiny-bk-sdm-tiny")
    objective, batch = FineTuning(spec, unet, seed=1), random_batch(spec, n=4)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        terms = objective.terms("unet", batch)
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        losses.append(terms.total.item())
    assert losses[-1] < 0.7 * losses[0]


def test_a_seed_of_its_own_gives_noise_of_its_own():
    spec, unet, batch = zoo.get("tiny-bk-sdm-tiny"), unet_of("tiny-bk-sdm-tiny"), random_batch(zoo.get(NAMES[1]))
    first, again, other = (FineTuning(spec, unet, seed=seed).terms("unet", batch).total for seed in (1, 1, 2))
    assert first == again != other
    moved = replace(batch, positions=(5, 6))
    assert FineTuning(spec, unet, seed=1).terms("unet", moved).total != first
