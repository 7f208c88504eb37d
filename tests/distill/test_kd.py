"""Distillation against the same written out with diffusers' scheduler, plain hooks and mean squared errors."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from distilled import CASES, SEED, distillation, near
from random_batch import random_batch

from koala.distill.kd import Weights
from koala.distill.noise import draw
from koala.distill.objective import Objective


@contextmanager
def hooked(network, names):
    seen, handles = {}, []
    for name in names:

        def keep(module, inputs, output, name=name):
            seen[name] = output[0] if isinstance(output, tuple) else output

        handles.append(network.get_submodule(name).register_forward_hook(keep))
    yield seen
    for handle in handles:
        handle.remove()


def reference(name, objective, batch, gamma=None, offset=0.0):
    """Task, output and feature term as one would write them."""
    spec, _, _, paths = CASES[name]
    velocity = spec.prediction == "v_prediction"
    scheduler = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")
    drawn = draw(batch.positions, SEED, tuple(batch.clean.shape[1:]), 1000, offset)
    t = drawn.timesteps
    noisy = scheduler.add_noise(batch.clean, drawn.noise, t)
    target = scheduler.get_velocity(batch.clean, drawn.noise, t) if velocity else drawn.noise
    told = {"encoder_hidden_states": batch.condition.context}
    if batch.condition.pooled is not None:
        told["added_cond_kwargs"] = {"text_embeds": batch.condition.pooled, "time_ids": batch.sizes}
    student, teacher = objective.trained["unet"], objective.teacher
    with hooked(teacher, [path for _, path in paths]) as theirs, torch.no_grad():
        expected = teacher(noisy, t, **told).sample
    with hooked(student, [path for path, _ in paths]) as own:
        prediction = student(noisy, t, **told).sample
    task = F.mse_loss(prediction, target)
    if gamma is not None:
        alphas = scheduler.alphas_cumprod[t]
        snr = alphas / (1 - alphas)
        weights = snr.clamp(max=gamma) / (snr + 1 if velocity else snr)
        task = (weights * ((prediction - target) ** 2).mean(dim=(1, 2, 3))).mean()
    feature = sum(F.mse_loss(own[a], theirs[b]) for a, b in paths)
    return {"task": task, "output": F.mse_loss(prediction, expected), "feature": feature}


def gradients(loss, network):
    network.zero_grad()
    loss.backward()
    return {key: p.grad.clone() for key, p in network.named_parameters() if p.grad is not None}


def check(name, objective, weights=(1.0, 1.0, 1.0), **reading):
    batch = random_batch(CASES[name][0])
    network = objective.trained["unet"]
    expected = reference(name, objective, batch, **reading)
    total = sum(weight * term for weight, term in zip(weights, expected.values(), strict=True))
    expected_gradients = gradients(total, network)
    terms = objective.terms("unet", batch)
    near(terms.total.detach(), total.detach())
    for part, value in expected.items():
        near(terms.parts[part], value.detach())
    stages = [value for part, value in terms.parts.items() if part.startswith("feature/")]
    near(sum(stages), expected["feature"].detach())
    found = gradients(terms.total, network)
    assert found.keys() == expected_gradients.keys()
    whole = torch.cat([gradient.flatten() for gradient in expected_gradients.values()])
    near(torch.cat([found[key].flatten() for key in expected_gradients]), whole)
    for key, gradient in expected_gradients.items():  # each alone; of some the true gradient is all but zero
        assert (found[key] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-8 * whole.norm(), key


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_are_those_of_the_reference(name):
    objective = distillation(name)
    assert isinstance(objective, Objective) and len(objective.pairs) == len(CASES[name][3])
    check(name, objective)


@pytest.mark.parametrize("name", ["bk-sdm-tiny", "velocity"])
def test_min_snr_weights_the_task_term_alone(name):
    check(name, distillation(name, min_snr_gamma=5.0), gamma=5.0)


@pytest.mark.parametrize("name", ["koala-700m", "bk-sdm-tiny"])
def test_gradient_checkpointing_changes_nothing(name):
    objective = distillation(name)
    objective.trained["unet"].enable_gradient_checkpointing()
    try:
        check(name, objective)
    finally:
        objective.trained["unet"].disable_gradient_checkpointing()


def test_terms_count_by_their_weights():
    check("bk-sdm-tiny", distillation("bk-sdm-tiny", weights=Weights(1.0, 0.5, 0.25)), weights=(1.0, 0.5, 0.25))


def test_noise_offset_is_part_of_what_is_predicted():
    check("bk-sdm-tiny", distillation("bk-sdm-tiny", noise_offset=0.3), offset=0.3)
