"""The critic's head and the features that it judges."""

import pytest
import torch
from few_steps import KOALA, SDXL, critic_of, unet_of
from random_batch import random_batch
from torch import nn

from koala.distill.critic import Critic, Seen, gan_head, narrowest
from koala.models import zoo
from koala.models.networks import count_params


@pytest.mark.parametrize(
    ("shape", "kernels"),
    [
        ((1280, 32, 32), [(4, 4)] * 4 + [(1, 1)]),  # SDXL at 1024 px: papers.md 5.1 of DMD2's code
        ((1280, 8, 8), [(4, 4)] * 2 + [(1, 1)]),  # Stable Diffusion v1.5 at 512 px
        ((768, 8, 8), [(4, 4)] * 2 + [(1, 1)]),  # ImageNet at 64 px
        ((64, 6, 6), [(4, 4), (3, 3), (1, 1)]),
        ((64, 5, 9), [(4, 4), (2, 4), (1, 1)]),
        ((48, 4, 4), [(4, 4), (1, 1)]),
        ((32, 1, 1), [(1, 1), (1, 1)]),
    ],
)
def test_the_head_is_made_for_the_shape_of_its_features(shape, kernels):
    with torch.device("meta"):
        head = gan_head(*shape)
        logits = head(torch.empty(3, *shape))
    convolutions = [layer for layer in head if isinstance(layer, nn.Conv2d)]
    assert [layer.kernel_size for layer in convolutions] == kernels
    assert logits.shape == (3, 1, 1, 1)
    norms = [layer.num_groups for layer in head if isinstance(layer, nn.GroupNorm)]
    assert set(norms) == {32 if shape[0] % 32 == 0 else 16}


@pytest.mark.parametrize("name", ["tiny-sdxl", "tiny-koala-700m", "tiny-bk-sdm-tiny", "tiny-sdm-v1.5"])
def test_features_are_the_last_ones_before_the_way_up(name):
    spec = zoo.get(name)
    unet, batch, seen = unet_of(spec, 1), random_batch(spec, 2), []
    last = unet.mid_block or unet.down_blocks[-1]
    handle = last.register_forward_hook(lambda module, inputs, output: seen.append(output))
    told = Seen(batch.clean, torch.tensor([3, 900]), batch.condition.unet_arguments(batch.sizes))
    with torch.no_grad():
        expected = unet(told.samples, told.timesteps, **told.arguments).sample
        features = narrowest(unet, told)
    handle.remove()
    output = seen[0][0] if isinstance(seen[0], tuple) else seen[0]
    assert torch.equal(features, output) and torch.equal(seen[0][0], seen[1][0])
    with torch.no_grad():
        assert torch.equal(unet(told.samples, told.timesteps, **told.arguments).sample, expected), "no hook is left"


def test_nothing_of_the_way_up_is_computed_for_a_verdict():
    critic, batch, calls = critic_of(SDXL, 2), random_batch(SDXL, 2), []
    for block in critic.unet.up_blocks:
        block.register_forward_hook(lambda *_: calls.append(1))
    seen = Seen(batch.clean, torch.tensor([3, 900]), batch.condition.unet_arguments(batch.sizes))
    prediction, logits = critic(None, seen)
    assert prediction is None and logits.shape == (2,) and not calls
    logits.sum().backward()
    reached = {name.split(".")[1] for name, p in critic.named_parameters() if p.grad is not None and "unet" in name}
    assert {"down_blocks", "mid_block", "conv_in"} <= reached and "up_blocks" not in reached


def test_both_answers_come_from_one_call_and_are_those_of_two():
    critic, batch = critic_of(KOALA, 2), random_batch(KOALA, 2)
    seen = Seen(batch.clean, torch.tensor([3, 900]), batch.condition.unet_arguments(batch.sizes))
    prediction, logits = critic(seen, seen)
    assert torch.equal(prediction, critic(seen)[0])
    assert torch.equal(logits, critic(None, seen)[1])
    torch.testing.assert_close(prediction, critic.unet(batch.clean, seen.timesteps, **seen.arguments).sample)


def test_heads_of_one_seed_are_equal_and_torchs_generator_stays_as_it_was():
    torch.manual_seed(4)
    before = torch.get_rng_state()
    one, same, other = (Critic(nn.Identity(), (32, 4, 4), seed).head[0].weight for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_gradient_checkpointing_is_that_of_the_unet():
    critic = critic_of(KOALA, 2)
    critic.enable_gradient_checkpointing()
    assert critic.unet.is_gradient_checkpointing
    batch = random_batch(KOALA, 2)
    seen = Seen(batch.clean, torch.tensor([3, 900]), batch.condition.unet_arguments(batch.sizes))
    plain, checkpointed = critic_of(KOALA, 2).train(), critic.train()
    for network in (plain, checkpointed):
        prediction, logits = network(seen, seen)
        (prediction.square().mean() + logits.square().mean()).backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad)


def test_the_heads_of_the_papers_have_their_sizes():
    with torch.device("meta"):
        assert count_params(gan_head(1280, 32, 32)) == 4 * (16 * 1280**2 + 1280) + 4 * 2 * 1280 + 1281
