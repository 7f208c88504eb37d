import numpy as np
import pytest

pytest.importorskip("gradio", reason="the demo has an extra of its own; tox -e demo installs it")

from koala.commands.demo import drawable
from koala.demo.page import LEAST_SHOWN, number, shown, told
from koala.demo.studio import KEPT, Drawn, Studio, Wish, recipe_of
from koala.errors import KoalaError
from koala.models import zoo
from koala.sampling import profiles
from koala.sampling.job import Settings, loaded

TINY, OTHER = "tiny-koala-700m", "tiny-sdxl-turbo"


@pytest.fixture(scope="module")
def studio():
    return Studio("cpu")


def test_it_draws_what_the_sampler_draws_and_says_how_long_it_took(studio):
    drawn = studio.draw(Wish(TINY, "a cat", seed=3, steps=2, guidance=2.0, negative="dog"))
    spec = zoo.get(TINY)
    recipe = recipe_of(spec, Wish(TINY, "a cat", steps=2, guidance=2.0, negative="dog"))
    side, eager = spec.resolution, profiles.EAGER
    sampler = loaded(Settings(spec, recipe, "random", eager, "cpu", "fp32", side, side), eager)
    theirs = sampler.sample(["a cat"], [3], recipe=recipe)[0].numpy().astype(int)
    assert np.abs(drawn.image - theirs).max() <= 1, "rounding by the size of a batch of texts"
    assert drawn.seconds > 0 and drawn.memory_bytes > 100e6 and "resident" in drawn.memory_kind
    assert any("2 steps, guidance 2" in remark for remark in drawn.remarks)
    assert "random weights: this is noise" in drawn.remarks


def test_another_prompt_is_another_image_and_the_same_one_the_same(studio):
    cat, dog, again = (studio.draw(Wish(TINY, prompt, steps=1)).image for prompt in ("a cat", "a dog", "a cat"))
    assert np.array_equal(cat, again) and not np.array_equal(cat, dog)


def test_no_more_than_two_models_stay_loaded(studio):
    for wish in (Wish(TINY, "x", steps=1), Wish(OTHER, "x"), Wish(TINY, "x", steps=1, tiny_vae=True)):
        studio.draw(wish)
    assert len(studio._loaded) == KEPT and (TINY, False) not in studio._loaded


def test_timesteps_that_a_model_was_trained_for_stay_its_own():
    spec = zoo.get("emoji-koala-4step")
    assert recipe_of(spec, Wish(spec.name, "x", steps=25)) == spec.recipe
    assert recipe_of(zoo.get("emoji-koala"), Wish("emoji-koala", "x", steps=4)).steps == 4


@pytest.mark.parametrize(
    ("wish", "words"),
    [
        (Wish(TINY, "  "), "say what to draw"),
        (Wish("nobody", "a cat"), "unknown model"),
        (Wish("emoji-teacher", "a cat", tiny_vae=True), "tiny-vae cannot work here"),
    ],
)
def test_what_cannot_be_had_is_said_below_the_image(studio, wish, words):
    image, text = shown(studio, wish)
    assert image is None and words in text


@pytest.mark.parametrize(("text", "scale"), [("", None), (" ", None), ("3.5", 3.5), ("3,5", 3.5), ("0", 0.0)])
def test_guidance_is_what_was_typed(text, scale):
    assert number(text) == scale


@pytest.mark.parametrize("text", ["much", "-1", "inf", "nan"])
def test_other_guidance_is_refused(text):
    with pytest.raises(KoalaError, match="guidance is a number"):
        number(text)


def test_small_images_are_shown_enlarged_pixel_by_pixel():
    small = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    image, text = told(Drawn(small, 0.5, 2**30, "resident", ()))
    assert image.shape[0] == LEAST_SHOWN and np.array_equal(image[::10, ::10], small)
    assert text == "**0.500 s**, 1.00 GiB resident at most"


def test_from_a_clone_the_student_in_the_repository_can_be_drawn_with():
    assert "emoji-koala" in drawable()
