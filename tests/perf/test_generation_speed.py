"""Images of a suite per second: our drawing against a plain loop around diffusers' own pipeline, in turn in one run."""

import shutil
import time
from statistics import median

import pytest
import torch

from eval import suites
from eval.generation.pictures import pictures
from koala.harness.stats import ratio_interval
from koala.models import zoo
from koala.sampling import profiles
from koala.sampling.gallery import Gallery
from koala.sampling.job import Model, Settings, draw_batches
from koala.sampling.pipelines import diffusers_pipeline

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
# model, side, device, dtype, steps, prompts, images of each, batch, rounds
CASES = [
    pytest.param("tiny-koala-700m", 128, "cpu", "fp32", 2, 8, 2, 4, 5, id="tiny-cpu"),
    pytest.param(
        "koala-700m", 1024, "cuda", "fp16", 10, 12, 2, 4, 3, id="koala-700m-cuda", marks=[pytest.mark.gpu, GPU]
    ),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "side", "device", "dtype", "steps", "prompts", "each", "batch", "rounds"), CASES)
def test_a_suite_is_drawn_faster_than_by_a_plain_diffusers_loop(
    benchmark, tmp_path, capsys, name, side, device, dtype, steps, prompts, each, batch, rounds
):
    spec = zoo.get(name)
    recipe = zoo.get(name).recipe.__class__(**{**vars(spec.recipe), "steps": steps, "timesteps": None})
    settings = Settings(spec, recipe, "random", profiles.EAGER, device, dtype, side, side)
    todo = pictures(suites.limited(suites.load("koala-core"), prompts), each, 0)
    model = Model(settings, [picture.prompt for picture in todo])
    pipeline = diffusers_pipeline(model.sampler.components)
    pipeline.set_progress_bar_config(disable=True)

    def ours(folder):
        fresh = Model(settings, model.prompts)
        fresh.__dict__["sampler"] = model.sampler  # the same networks: encodings are made anew
        batches = [todo[start : start + batch] for start in range(0, len(todo), batch)]
        with Gallery(folder) as gallery:
            return sum(1 for _ in draw_batches(fresh, settings, batches, todo, gallery))

    def plain(folder, size):
        folder.mkdir()
        for start in range(0, len(todo), size):
            part = todo[start : start + size]
            images = pipeline(
                [picture.prompt for picture in part],
                generator=[torch.Generator("cpu").manual_seed(picture.seed) for picture in part],
                num_inference_steps=steps,
                guidance_scale=recipe.guidance,
                height=side,
                width=side,
            ).images
            for place, image in enumerate(images):
                image.save(folder / f"{start + place:05d}.png")
        return len(todo)

    ways = {
        "ours": ours,
        "plain": lambda folder: plain(folder, 1),
        f"plain, batch {batch}": lambda folder: plain(folder, batch),
    }
    seconds = {way: [] for way in ways}

    def timed(way, keep=True):
        folder = tmp_path / "images"
        shutil.rmtree(folder, ignore_errors=True)
        started = time.perf_counter()
        assert ways[way](folder) == len(todo)
        seconds[way] += [time.perf_counter() - started] if keep else []

    def one_round():
        for way in ways if len(seconds["ours"]) % 2 else reversed(ways):
            timed(way)

    for way in ways:
        timed(way, keep=False)  # warm up
    benchmark.pedantic(one_round, rounds=rounds)
    with capsys.disabled():
        print(f"\n{name}, {side} px, {steps} steps, {len(todo)} images, batch {batch}, {rounds} rounds:")
        for way, times in seconds.items():
            ratio = median(times) / median(seconds["ours"])
            interval = ratio_interval(times, seconds["ours"])
            said = f"{len(todo) / median(times):.3g} images/s"
            print(f"  {way}: {said}, takes {ratio:.2f} [{interval.low:.2f}, {interval.high:.2f}] of our time")
    benchmark.extra_info |= {"seconds": seconds, "images": len(todo)}
    assert median(seconds["plain"]) > median(seconds["ours"])
