"""DMD2 against the same written out image by image, with diffusers' scheduler and plain sums."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from few_steps import KOALA, SD, SEED, matching_of
from random_batch import random_batch, some_rows

from koala.distill.dmd2 import CRITIC, GENERATOR, REAL
from koala.distill.noise import integers, normal
from koala.distill.objective import Objective

SCHEDULER = DDPMScheduler(1000, 0.00085, 0.012, "scaled_linear")
FOUR = (999, 749, 499, 249)
SCENES = {
    "a KOALA student of SDXL": {},
    "the first step": {"timesteps": (399,)},
    "SD v1.5 in one step": {"student": SD, "teacher": SD, "critic": SD, "timesteps": (999,), "guidance": 1.75},
    "without guidance": {"guidance": 1.0},
    "without a GAN": {"gan_weight": 0.0, "critic_gan_weight": 0.0},
}


def level(t):
    alpha = SCHEDULER.alphas_cumprod[t].double()
    return alpha.sqrt(), (1 - alpha).sqrt()


def noisy(clean, noise, t):
    return SCHEDULER.add_noise(clean, noise, torch.tensor([t]))


def clean_of(prediction, sample, t):
    a, s = level(t)
    return (sample.double() - s * prediction.double()) / a


class SpelledOut:
    """One image of a batch, with what is drawn for its position."""

    def __init__(self, objective, batch, row, index):
        self.objective, self.position, self.index = objective, batch.positions[row], index
        self.one = some_rows_of(batch, row)
        self.told = {"encoder_hidden_states": self.one.condition.context}
        self.empty = {"encoder_hidden_states": torch.zeros_like(self.one.condition.context)}
        side = self.one.clean.shape[-1] * objective.spec.downscale
        if self.one.sizes is not None:
            ids = torch.tensor([[side, side, 0.0, 0.0, side, side]])  # whatever the image's own size was
            pooled = self.one.condition.pooled
            self.told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
            self.empty["added_cond_kwargs"] = {"text_embeds": torch.zeros_like(pooled), "time_ids": ids}

    def noise(self, stream):
        return normal([self.position], SEED, stream, tuple(self.one.clean.shape[1:]))

    def time(self, stream, low, high):
        return int(integers([self.position], SEED, f"{stream}, timestep", low, high))

    def drawn(self, sample, t):
        prediction = self.objective.trained[GENERATOR](sample, torch.tensor([t]), **self.told).sample
        return clean_of(prediction, sample, t).float()

    def fake(self):
        times = self.objective.matching.timesteps
        state = self.noise("start")
        for i in range(self.index):
            with torch.no_grad():
                state = noisy(self.drawn(state, times[i]), self.noise(f"step {i + 1}"), times[i + 1])
        return self.drawn(state, times[self.index])

    def gradient(self, fake):
        t = self.time("matching", 20, 981)
        sample = noisy(fake, self.noise("matching"), t)
        teacher, critic = self.objective.teacher, self.objective.trained[CRITIC].unet
        with torch.no_grad():
            told, without = (teacher(sample, torch.tensor([t]), **w).sample for w in (self.told, self.empty))
            real = clean_of(without + self.objective.matching.guidance * (told - without), sample, t)
            imagined = clean_of(critic(sample, torch.tensor([t]), **self.told).sample, sample, t)
        return (imagined - real) / (fake.double() - real).abs().mean()

    def logit(self, clean, stream):
        critic, seen = self.objective.trained[CRITIC], []
        middle = critic.unet.mid_block or critic.unet.down_blocks[-1]
        handle = middle.register_forward_hook(lambda module, inputs, output: seen.append(output))
        t = self.time(stream, 0, 1000)
        critic.unet(noisy(clean, self.noise(stream), t), torch.tensor([t]), **self.told)
        handle.remove()
        features = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
        return critic.head(features).reshape(())


def some_rows_of(batch, row):
    return some_rows(batch, slice(row, row + 1))


def softplus(x):
    return (1 + x.exp()).log()


def gradients(loss, network):
    network.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("scene", SCENES)
def test_the_generators_loss_and_gradient_are_those_that_are_spelled_out(scene):
    objective = matching_of(**SCENES[scene])
    batch = random_batch(objective.spec, 2, positions=(4, 9))
    assert objective.turns(10)[0] == GENERATOR
    images = [SpelledOut(objective, batch, row, objective._index) for row in (0, 1)]
    fakes = [image.fake() for image in images]
    n = sum(fake.numel() for fake in fakes)
    matching = sum(
        ((fake - (fake.double() - image.gradient(fake.detach())).detach()) ** 2).sum()
        for image, fake in zip(images, fakes, strict=True)
    ) / (2 * n)
    weight = objective.matching.gan_weight
    expected = matching
    if weight:
        gan = sum(
            softplus(-image.logit(fake, "generator's gan")) for image, fake in zip(images, fakes, strict=True)
        ) / len(images)
        expected = matching + weight * gan
    theirs = gradients(expected, objective.trained[GENERATOR])
    objective.trained[CRITIC].zero_grad(set_to_none=True)
    terms = objective.terms(GENERATOR, batch)
    mine = gradients(terms.total, objective.trained[GENERATOR])
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert terms.parts["matching"].item() == pytest.approx(matching.item(), rel=1e-4)
    assert_near(mine, theirs)
    assert all(p.grad is None for p in objective.trained[CRITIC].parameters())
    assert all(p.grad is None and not p.requires_grad for p in objective.teacher.parameters())


@pytest.mark.parametrize("scene", SCENES)
def test_the_critics_loss_and_gradient_are_those_that_are_spelled_out(scene):
    objective = matching_of(**SCENES[scene])
    critic = objective.trained[CRITIC]
    batch = random_batch(objective.spec, 2, positions=(4, 9))
    assert objective.turns(11) == (CRITIC,)
    images = [SpelledOut(objective, batch, row, objective._index) for row in (0, 1)]
    errors, verdicts = [], []
    for image in images:
        with torch.no_grad():
            fake = image.fake()
        t, noise = image.time("critic", 0, 1000), image.noise("critic")
        prediction = critic.unet(noisy(fake, noise, t), torch.tensor([t]), **image.told).sample
        errors.append(((prediction - noise) ** 2).mean())
        if critic.head:
            verdicts.append(softplus(image.logit(fake, "fake")) + softplus(-image.logit(image.one.clean, "real")))
    expected = sum(errors) / 2
    if verdicts:
        expected = expected + objective.matching.critic_gan_weight * sum(verdicts) / 2
    theirs = gradients(expected, critic)
    objective.trained[GENERATOR].zero_grad(set_to_none=True)
    terms = objective.terms(CRITIC, batch)
    mine = gradients(terms.total, critic)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-4)
    assert_near(mine, theirs)
    assert all(p.grad is None for p in objective.trained[GENERATOR].parameters())


def assert_near(mine, theirs):
    assert mine.keys() == theirs.keys()
    scale = max(value.abs().max() for value in theirs.values())
    for name, value in mine.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-3, atol=1e-4 * scale.item(), msg=name)


def test_it_is_an_objective_of_two_networks():
    objective = matching_of()
    assert isinstance(objective, Objective)
    assert list(objective.trained) == [GENERATOR, CRITIC]
    assert all(p.requires_grad for network in objective.trained.values() for p in network.parameters())


@pytest.mark.parametrize("ratio", [1, 5, 10])
def test_the_generator_learns_at_every_so_many_steps_and_the_critic_at_all(ratio):
    objective = matching_of(ratio=ratio)
    turns = [objective.turns(step) for step in range(30)]
    assert [CRITIC in names for names in turns] == [True] * 30
    assert [step for step, names in enumerate(turns) if GENERATOR in names] == list(range(0, 30, ratio))
    assert all(names[0] == GENERATOR for names in turns if len(names) == 2)


def test_a_step_of_the_generator_is_the_same_in_every_process_and_all_steps_come():
    one, other = matching_of(), matching_of()
    indices = []
    for step in range(400):
        one.turns(step), other.turns(step)
        assert one._index == other._index
        indices.append(one._index)
    counts = [indices.count(i) for i in range(4)]
    assert sum(counts) == 400 and min(counts) > 60, "about a hundred each"


def test_the_critic_learns_from_the_images_that_the_generator_has_just_drawn():
    objective = matching_of()
    batch = random_batch(KOALA, 2)
    objective.turns(0)
    alone = objective.terms(CRITIC, batch)
    objective.terms(GENERATOR, batch)
    calls = []
    objective.trained[GENERATOR].register_forward_hook(lambda *_: calls.append(1))
    after = objective.terms(CRITIC, batch)
    assert not calls, "they are not drawn again"
    assert after.total.item() == alone.total.item()
    objective.terms(CRITIC, batch)
    assert calls, "and not kept for another batch"


def test_images_of_another_size_are_told_the_size_that_is_drawn():
    objective = matching_of()
    objective.turns(1)
    first, second = random_batch(KOALA, 2), random_batch(KOALA, 2)
    second.sizes[:] = 77.0
    assert objective.terms(CRITIC, first).total.item() == objective.terms(CRITIC, second).total.item()


def test_real_images_may_come_from_other_data():
    objective = matching_of()
    objective.turns(1)
    batch, real = random_batch(KOALA, 2), random_batch(KOALA, 2, seed=5, positions=(7, 8))
    batch.others[REAL] = real
    terms = objective.terms(CRITIC, batch)
    expected = [SpelledOut(objective, real, row, 0).logit(some_rows_of(real, row).clean, "real") for row in (0, 1)]
    assert terms.parts["logit/real"].item() == pytest.approx(sum(expected).item() / 2, rel=1e-4)


def test_without_simulation_the_inputs_are_real_images_with_noise_each_at_a_step_of_its_own():
    objective = matching_of(simulated=False)
    batch = random_batch(KOALA, 64)
    samples, timesteps = objective._inputs(batch)
    assert set(timesteps.tolist()) == set(FOUR)
    for row, t in enumerate(timesteps.tolist()):
        noise = normal([row], SEED, "start", (4, 8, 8))
        expected = noise if t == 999 else noisy(batch.clean[row : row + 1], noise, t)
        torch.testing.assert_close(samples[row : row + 1], expected)


def test_drift_is_told_as_brightness_and_variance_of_what_is_drawn():
    objective = matching_of(timesteps=(399,))
    batch = random_batch(KOALA, 2)
    objective.turns(0)
    parts = objective.terms(GENERATOR, batch).parts
    fakes = torch.cat([SpelledOut(objective, batch, row, 0).fake() for row in (0, 1)]).detach()
    assert parts["brightness"].item() == pytest.approx(fakes.mean().item(), rel=1e-4)
    assert parts["variance"].item() == pytest.approx(sum(f.var().item() for f in fakes) / 2, rel=1e-4)
    assert math.isfinite(parts["gradient"])


def test_looking_shows_the_generators_images_and_both_scores_of_them():
    objective = matching_of(timesteps=(399,))
    objective.turns(0)
    batch = random_batch(KOALA, 2)
    seen = objective.look(batch)
    assert list(seen) == ["generator", "teacher", "critic"]
    critic = objective.trained[CRITIC].unet
    for row in (0, 1):
        image = SpelledOut(objective, batch, row, 0)
        fake = image.fake().detach()
        sample, t = noisy(fake, image.noise("look"), 500), torch.tensor([500])
        with torch.no_grad():
            told, without = (objective.teacher(sample, t, **w).sample for w in (image.told, image.empty))
            imagined = clean_of(critic(sample, t, **image.told).sample, sample, 500)
        real = clean_of(without + 8.0 * (told - without), sample, 500)
        for name, expected in (("generator", fake), ("teacher", real), ("critic", imagined)):
            torch.testing.assert_close(seen[name][row : row + 1], expected.float(), rtol=1e-3, atol=1e-3)
