"""Ours against diffusers' own pipelines on the same noise, in fp32: final latents and float images."""

from dataclasses import replace

import pytest

from koala.models import zoo
from koala.models.conditioning import PromptTruncated
from koala.models.load import load
from koala.models.spec import ClipText, Recipe
from koala.sampling import seeds
from koala.sampling.pipelines import diffusers_pipeline
from koala.sampling.sampler import Sampler
from koala.sampling.schedules import SCHEDULERS

TOLERANCE = 1e-5
PROMPTS = ["a red apple", "a blue car by the sea, golden hour"]
SEEDS = [7, 8]


def kinds():
    """One model for every distinct U-Net, conditioning and recipe of the zoo, where diffusers has a pipeline for it."""
    found = {}
    for name in zoo.names():
        spec = zoo.get(name)
        if not isinstance(spec.conditioning, ClipText):  # diffusers has no pipeline: test_pixels.py, test_edm_steps.py
            continue
        found[spec.unet, spec.conditioning, spec.recipe, spec.prediction] = name
    return sorted(found.values())


def of_ours(components, recipe, size, negative, prompts):
    sampler = Sampler(components)
    condition = sampler.encode(prompts, negative, recipe)
    latents = sampler.denoise(condition, SEEDS, recipe, *size)
    return latents, sampler.decode(latents)


def of_diffusers(components, recipe, size, negative, prompts):
    pipeline = diffusers_pipeline(components)
    pipeline.set_progress_bar_config(disable=True)
    steps = {"num_inference_steps": recipe.steps} if recipe.timesteps is None else {"timesteps": [*recipe.timesteps]}
    options = dict(
        negative_prompt=None if negative is None else [negative] * len(prompts),
        guidance_scale=recipe.guidance,
        height=size[0],
        width=size[1],
        return_dict=False,
        **steps,
    )
    latents = []

    def keep(pipeline, step, timestep, tensors):
        latents.append(tensors["latents"])
        return tensors

    generators = [seeds.generator(s) for s in SEEDS]
    images = pipeline(prompts, generator=generators, output_type="pt", callback_on_step_end=keep, **options)[0]
    return latents[-1], images


def assert_equal(components, recipe, size=(64, 64), negative=None, prompts=PROMPTS):
    components = replace(components, spec=replace(components.spec, recipe=recipe))
    ours = of_ours(components, recipe, size, negative, prompts)
    theirs = of_diffusers(components, recipe, size, negative, prompts)
    for name, a, b in zip(("latents", "images"), ours, theirs, strict=True):
        assert a.shape == b.shape
        assert a.std() > 0.01
        difference = (a - b).abs().max().item()
        print(f"{components.spec.name} {recipe.scheduler} {recipe.steps} steps {name}: {difference:.2e}")
        assert difference <= TOLERANCE, f"{name} differ by {difference:.2e}"


@pytest.mark.proves("profile", name="eager", weights="random", size="toy")
@pytest.mark.parametrize("name", kinds())
def test_every_family_with_its_own_recipe_draws_what_diffusers_draws(name):
    spec = zoo.get(f"tiny-{name}")
    few = spec.recipe if spec.recipe.timesteps else replace(spec.recipe, steps=min(spec.recipe.steps, 6))
    assert_equal(load(spec, "cpu"), few)


@pytest.fixture(scope="module")
def small():
    """One small model for each pipeline of diffusers."""
    return {name: load(zoo.get(name), "cpu") for name in ("tiny-koala-700m", "tiny-bk-sdm-tiny")}


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-bk-sdm-tiny"])
def test_every_scheduler_and_spacing_agrees(small, name, scheduler, spacing):
    assert_equal(small[name], Recipe(scheduler, 4, 5.0, spacing))


@pytest.mark.parametrize("guidance", [0.0, 1.0, 1.5])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_agrees_without_guidance_and_with_little(small, scheduler, guidance):
    assert_equal(small["tiny-koala-700m"], Recipe(scheduler, 3, guidance))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "euler", "euler-ancestral", "lcm", "pndm"])
def test_every_kind_of_prediction_agrees(small, scheduler, prediction):
    if prediction == "sample" and scheduler in ("pndm", "euler-ancestral"):
        pytest.skip("diffusers' scheduler does not support it")
    components = small["tiny-bk-sdm-tiny"]
    components = replace(components, spec=replace(components.spec, prediction=prediction))
    assert_equal(components, Recipe(scheduler, 4, 5.0))


@pytest.mark.parametrize("timesteps", [(999,), (399,), (999, 499), (999, 749, 499, 249)])
def test_lcm_with_explicit_timesteps_agrees(small, timesteps):
    for components in small.values():
        assert_equal(components, Recipe("lcm", len(timesteps), 0.0, timesteps=timesteps))


@pytest.mark.parametrize("name", ["tiny-koala-700m", "tiny-bk-sdm-tiny"])
@pytest.mark.parametrize("negative", ["", "blurry, low quality"])
def test_negative_prompts_agree_and_an_empty_one_is_not_none(small, name, negative):
    assert_equal(small[name], Recipe("euler", 3, 5.0), negative=negative)


def test_images_that_are_not_square_agree(small):
    for components in small.values():
        assert_equal(components, Recipe("euler", 2, 5.0), size=(64, 96))


def test_twenty_five_steps_agree(small):
    for components in small.values():
        assert_equal(components, Recipe("euler", 25, 7.5))


def test_a_long_prompt_is_cut_where_diffusers_cuts_it_and_its_end_is_named(small):
    words = [f"apple{i}" for i in range(20)] + ["the", "end", "of", "it"] * 20
    with pytest.warns(PromptTruncated, match="CLIP reads 77 tokens; this end of the prompt is left out: '.*of it'"):
        assert_equal(small["tiny-koala-700m"], Recipe("euler", 2, 5.0), prompts=[" ".join(words), "short"])
