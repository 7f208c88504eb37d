"""The runs of the family that is trained here: whole with small twins, and one step each with the real networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from captioned import folder
from PIL import Image
from trained_runs import koala

from koala.distill import emoji_runs, runs
from koala.distill.data.cache import Cache
from koala.distill.data.images import crop
from koala.distill.training import train
from koala.models import zoo
from koala.models.patches import Patches

NAMES = [*emoji_runs.RUNS]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Encoded pictures for a model, with a random sentence encoder; made when they are asked for."""
    place, made = tmp_path_factory.mktemp("emoji"), {}
    folder(place / "photos", 2)

    def cache(model, pairs_of=""):
        spec = zoo.get(model)
        if pairs_of:
            if pairs_of not in made:
                made[pairs_of] = place / f"pairs-{len(made)}"
                (place / "prompts.txt").write_text("a red heart\n")
                options = ("--weights", "random", "--steps", 1, "--device", "cpu")
                prompts = ("--prompts", place / "prompts.txt")
                assert koala("pairs", pairs_of, *prompts, "--out", made[pairs_of], *options) == 0
            return str(made[pairs_of])
        key = (spec.conditioning, spec.resolution)
        if key not in made:
            made[key] = place / f"cache-{len(made)}"
            options = ("--weights", "random", "--device", "cpu")
            assert koala("encode", place / "photos", "--model", model, "--out", made[key], *options) == 0
        return str(made[key])

    return cache


def short(name, caches, out, **changes):
    run = runs.get(name)
    common = {"batch_size": 1, "workers": 0, "device": "cpu", "tracker": "none", "precision": "fp32", "sample_every": 0}
    pairs_of = run.teacher if run.regression_weight else ""
    return replace(run, data=caches(run.student, pairs_of), out=out, **{**common, **changes})


@pytest.mark.proves("run", param="name", weights="random", remark="one step of one image")
@pytest.mark.parametrize(
    "name", [n if not n.endswith("-64") else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]
)
def test_one_step_of_every_run_with_its_real_networks(name, caches, tmp_path):
    own = runs.get(name).student_weights
    weights = {"student_weights": own if own == "inherit" else "random", "teacher_weights": "random"}
    run = short(name, caches, tmp_path / "run", steps=1, log_every=1, **weights)
    assert train(run) == 0
    model = zoo.get(str(tmp_path / "run/final"))
    entry = zoo.get(runs.get(name).student)
    assert (model.unet, model.recipe, model.resolution) == (entry.unet, entry.recipe, entry.resolution)


def test_the_models_are_those_that_the_runs_leave():
    family = [name for name in zoo.names() if name.startswith("emoji-")]
    assert sorted(family) == sorted(name for name in NAMES if "pretrain" not in name)
    for name in family:
        run, spec = runs.get(name), zoo.get(name)
        assert run.student == name and spec.folder == str(run.folder / "final")
        assert spec.resolution == (64 if name.endswith("-64") else 32)
        if run.timesteps:
            assert spec.recipe.timesteps == run.timesteps


def test_a_student_of_few_steps_begins_where_the_one_of_many_ended():
    for size in ("", "-64"):
        one, first = runs.get(f"emoji-koala-1step{size}"), runs.get(f"emoji-koala-1step-pretrain{size}")
        assert one.student_weights == str(first.folder / "final")
        run = runs.get(f"emoji-koala-4step{size}")
        assert run.student_weights == first.student_weights == zoo.get(f"emoji-koala{size}").folder
        assert (run.critic, run.teacher) == (f"emoji-koala{size}", f"emoji-teacher{size}")


@pytest.mark.parametrize("name", ["tiny-emoji-teacher", "tiny-emoji-koala-4step"])
def test_a_tiny_run_ends_in_a_model(name, caches, tmp_path):
    assert train(short(name, caches, tmp_path / "run", steps=2)) == 0
    assert zoo.get(str(tmp_path / "run/final")).twin_of == name.removeprefix("tiny-")


def test_what_a_cache_holds_of_an_image_is_its_pixels(caches):
    cache = Cache(caches("tiny-emoji-teacher"))
    batch = cache.batch([0, 1], [0, 1])
    (pixels,) = Patches(2).decode(batch.clean.float())
    for key, found in zip(batch.keys, pixels, strict=True):
        (path,) = Path(caches("tiny-emoji-teacher")).with_name("photos").rglob(f"{Path(key).stem}.*")
        with Image.open(path) as image:
            expected = torch.from_numpy(crop(image.convert("RGB"), 16).pixels).permute(2, 0, 1).float() / 127.5 - 1
        assert (found - expected).abs().max() < 1e-3, "they are stored in half precision"
