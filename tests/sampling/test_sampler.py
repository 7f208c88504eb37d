from dataclasses import replace

import pytest
import torch

from koala.errors import KoalaError, UnknownName
from koala.models import zoo
from koala.models.conditioning import Condition
from koala.models.load import load
from koala.models.spec import ClassLabels, ModelSpec, Recipe, UNetPlan
from koala.sampling import seeds
from koala.sampling.denoising import Denoising
from koala.sampling.sampler import Sampler, to_uint8
from koala.sampling.schedules import SCHEDULERS, build_scheduler

PROMPTS = ["a red apple", "a blue car", "a green hat"]
SEEDS = [11, 12, 13]


@pytest.fixture(scope="module")
def small():
    return Sampler(load(zoo.get("tiny-bk-sdm-tiny"), "cpu"))


@pytest.fixture(scope="module")
def small_xl():
    return Sampler(load(zoo.get("tiny-koala-700m"), "cpu"))


PIXELS = ModelSpec(
    name="tiny-classes",
    title="A class-conditional model in pixel space",
    unet=UNetPlan(
        channels=(32, 64),
        transformer_depths=(0, 0),
        layers_per_block=1,
        mid_depth=0,
        heads=(2, 4),
        context_dim=None,
        class_labels=4,
        sample_channels=3,
    ),
    conditioning=ClassLabels(("goldfish", "heron", "lighthouse")),
    autoencoder=None,
    recipe=Recipe("euler", 3, 2.0),
    resolution=32,
    unet_params=None,
    weights=None,
    source="this test",
    license="Apache-2.0",
)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_an_image_is_the_same_in_a_batch_and_alone_also_where_steps_are_stochastic(small, scheduler):
    recipe = Recipe(scheduler, 4, 5.0)
    together = small.sample(PROMPTS, SEEDS, recipe=recipe)
    alone = [small.sample([p], [s], recipe=recipe)[0] for p, s in zip(PROMPTS, SEEDS, strict=True)]
    chunks = [
        *small.sample(PROMPTS[:2], SEEDS[:2], recipe=recipe),
        *small.sample(PROMPTS[2:], SEEDS[2:], recipe=recipe),
    ]
    assert together.float().std() > 10
    for other in (torch.stack(alone), torch.stack(chunks)):
        assert (together.int() - other.int()).abs().max() <= 1  # batched arithmetic rounds otherwise


def test_noise_is_bit_equal_whatever_the_batch_and_differs_between_seeds():
    together = seeds.noise([seeds.generator(s) for s in SEEDS], (4, 8, 8))
    for row, seed in zip(together, SEEDS, strict=True):
        assert torch.equal(row, seeds.noise([seeds.generator(seed)], (4, 8, 8))[0])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 2), (1.0, 2), (1.01, 4), (7.5, 4)])
def test_an_unconditional_half_is_computed_only_above_guidance_one(small, guidance, rows):
    seen = []
    hook = small.components.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    small.sample(PROMPTS[:2], SEEDS[:2], recipe=Recipe("euler", 3, guidance))
    hook.remove()
    assert seen == [rows] * 3


def test_guidance_one_and_below_give_the_plain_prediction(small):
    at_one, at_zero = (small.sample(["a hat"], [1], recipe=Recipe("euler", 2, g)) for g in (1.0, 0.0))
    assert torch.equal(at_one, at_zero)


def test_on_step_hears_of_the_start_and_of_each_step(small):
    heard = []
    small.sample(["a hat"], [1], recipe=Recipe("euler", 3, 0.0), on_step=lambda *step: heard.append(step[:2]))
    assert heard == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_one_step_model_takes_one_step():
    heard = []
    sampler = Sampler(load(zoo.get("tiny-dmd2-sd15"), "cpu"))
    sampler.sample(["a hat"], [1], on_step=lambda done, total, latents: heard.append((done, total)))
    assert heard == [(0, 1), (1, 1)]


@pytest.mark.parametrize("size", [(None, None), (64, 128), (32, 32)])
def test_images_have_the_size_asked_for(small, size):
    images = small.sample(["a hat"], [1], recipe=Recipe("euler", 1, 0.0), height=size[0], width=size[1])
    assert images.shape == (1, size[0] or 64, size[1] or 64, 3)
    assert images.dtype == torch.uint8
    assert images.device.type == "cpu"


@pytest.mark.parametrize("side", [65, 4, -8])
def test_a_side_that_the_autoencoder_cannot_draw_is_refused(small, side):
    with pytest.raises(KoalaError, match=f"multiples of 8 pixels, which {side} is not"):
        small.sample(["a hat"], [1], height=side)


def test_the_default_negative_prompt_of_a_recipe_is_used_and_can_be_replaced(small):
    plain = Recipe("euler", 2, 5.0)
    with_default = replace(plain, negative="blurry")
    default = small.sample(["a hat"], [1], recipe=with_default)
    assert torch.equal(default, small.sample(["a hat"], [1], negative="blurry", recipe=plain))
    assert not torch.equal(default, small.sample(["a hat"], [1], recipe=plain))
    assert not torch.equal(default, small.sample(["a hat"], [1], negative="dark", recipe=with_default))


def test_each_prompt_can_have_its_own_negative_prompt(small):
    recipe = Recipe("euler", 2, 5.0)
    both = small.sample(PROMPTS[:2], SEEDS[:2], negative=["dark", "bright"], recipe=recipe)
    second = small.sample(PROMPTS[1:2], SEEDS[1:2], negative="bright", recipe=recipe)
    assert (both[1].int() - second[0].int()).abs().max() <= 1
    with pytest.raises(KoalaError, match="3 negative prompts for 2 prompts"):
        small.sample(PROMPTS[:2], SEEDS[:2], negative=["a", "b", "c"], recipe=recipe)


def test_sdxl_contrasts_with_zeros_and_stable_diffusion_with_the_empty_prompt(small, small_xl):
    zeros = small_xl.encode(["a hat"])
    assert zeros.context.shape[0] == 2
    assert not zeros.context[0].any()
    assert not zeros.pooled[0].any()
    empty, given = small.encode(["a hat"]), small.encode(["a hat"], negative="")
    assert torch.equal(empty.context, given.context)
    assert empty.context[0].any()


def test_size_and_crop_reach_sdxls_unet(small_xl):
    seen = []
    unet = small_xl.components.unet

    def look(module, args, kwargs):
        seen.append(kwargs["added_cond_kwargs"]["time_ids"].tolist())

    hook = unet.register_forward_pre_hook(look, with_kwargs=True)
    recipe = Recipe("euler", 1, 0.0)
    small_xl.sample(["a hat"], [1], recipe=recipe, height=64, width=96)
    small_xl.sample(["a hat"], [1], recipe=replace(recipe, original_size=(512, 640), crop=(3, 5)), height=64, width=96)
    hook.remove()
    assert seen == [[[64, 96, 0, 0, 64, 96]], [[512, 640, 3, 5, 64, 96]]]


def test_equal_prompts_of_a_batch_are_encoded_once(small):
    encoder, seen = small.components.conditioner.encoders[0], []
    hook = encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0] if args else kwargs["input_ids"])), with_kwargs=True
    )
    condition = small.encode(["a hat"] * 5, recipe=Recipe("euler", 2, 5.0))
    hook.remove()
    assert seen == [2]
    assert condition.context.shape[0] == 10
    assert all(torch.equal(condition.context[5], row) for row in condition.context[5:])


def test_a_model_may_draw_pixels_from_class_names():
    sampler = Sampler(load(PIXELS, "cpu"))
    assert sampler.components.autoencoder is None
    images = sampler.sample(["goldfish", "heron"], [1, 2])
    assert images.shape == (2, 32, 32, 3)
    assert torch.equal(sampler.encode(["goldfish", "lighthouse"]).labels, torch.tensor([3, 3, 0, 2]))
    assert torch.equal(sampler.encode(["heron"], negative="goldfish").labels, torch.tensor([0, 1]))
    with pytest.raises(KoalaError, match="'cat' is none of them; the first ones: goldfish, heron"):
        sampler.sample(["cat"], [1])


def test_a_model_may_have_any_text_encoder():
    class Letters:
        networks = ()

        def encode(self, prompts):
            return Condition(torch.tensor([[[float(ord(p[0]))] * 32] * 5 for p in prompts]) / 128)

        def guided(self, prompts, negatives):
            return self.encode([*(negatives or ["-"] * len(prompts)), *prompts])

    components = load(zoo.get("tiny-bk-sdm-tiny"), "cpu", parts=("unet", "autoencoder"))
    sampler = Sampler(replace(components, conditioner=Letters()))
    a, b = sampler.sample(["apple", "boat"], [1, 1], recipe=Recipe("euler", 2, 3.0))
    assert (a.int() - b.int()).abs().max() > 1


def test_bytes_are_rounded_and_rows_are_images():
    image = torch.tensor([0.0, 0.5 / 255, 1.4 / 255, 1.6 / 255, 1.0, 1.0]).view(1, 3, 1, 2)
    assert to_uint8(image).tolist() == [[[[0, 1, 255], [0, 2, 255]]]]


def test_autoencoders_that_must_decode_in_fp32_give_fp32_images_of_fp16_latents():
    sampler = Sampler(load(zoo.get("tiny-sdxl"), "cpu", "fp16", parts=("autoencoder",)))
    latents = seeds.noise([seeds.generator(0)], (4, 8, 8)).half()
    assert sampler.decode(latents).dtype == torch.float32


@pytest.mark.parametrize("timesteps", [(999, 749), None])
def test_a_scheduler_without_explicit_timesteps_says_so(small, timesteps):
    recipe = Recipe("dpm++", 2, 0.0, timesteps=timesteps)
    if timesteps is None:
        small.sample(["a hat"], [1], recipe=recipe)
    else:
        with pytest.raises(KoalaError, match="pndm takes no explicit timesteps; lcm does"):
            small.sample(["a hat"], [1], recipe=replace(recipe, scheduler="pndm"))


def test_unknown_schedulers_and_predictions_are_answered_with_the_known_ones():
    with pytest.raises(UnknownName, match=r"did you mean 'euler'.*ddim, dpm"):
        build_scheduler(Recipe("eular", 2, 0.0))
    with pytest.raises(UnknownName, match="epsilon, sample, v_prediction"):
        build_scheduler(Recipe("euler", 2, 0.0), "velocity")


def test_pndm_takes_one_more_step_than_its_recipe_says(small):
    run = Denoising(
        small.components, small.encode(["a hat"]), Recipe("pndm", 25, 7.5), [seeds.generator(0)], size=(64, 64)
    )
    assert len(run.timesteps) == 26


def test_a_recipe_needs_a_step():
    with pytest.raises(KoalaError, match="at least 1 step, not 0"):
        Recipe("euler", 0, 1.0)


def test_images_may_begin_with_latents_that_are_given():
    spec = zoo.get("tiny-sdxl-turbo")
    sampler = Sampler(load(spec, "cpu"))
    condition = sampler.encode(["a cat", "a dog"])
    start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    given = sampler.denoise(condition, [0, 1], height=64, width=64, start=start)
    same = sampler.denoise(condition, [5, 6], height=64, width=64, start=start.expand(2, 4, 8, 8))
    torch.testing.assert_close(given, same)
    assert not torch.allclose(given, sampler.denoise(condition, [0, 1], height=64, width=64))
    with pytest.raises(KoalaError, match="are not of the images' shape"):
        sampler.denoise(condition, [0, 1], height=128, width=128, start=start)
