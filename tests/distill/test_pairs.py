"""Pairs of noise and image: drawn by a teacher, kept as a cache, learnt by a generator of one step."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import trained_runs
from few_steps import KOALA, matching_of
from random_batch import random_batch
from torch.nn import functional as F

from koala.commands import pairs as command
from koala.distill import log
from koala.distill.data.cache import INDEX, Cache
from koala.distill.dmd2 import GENERATOR, PAIRS
from koala.distill.objective import Objective
from koala.distill.regression import Regression, regression_loss
from koala.errors import KoalaError
from koala.harness import records
from koala.models import zoo
from koala.models.load import load
from koala.models.noising import training_schedule
from koala.models.spec import Recipe
from koala.sampling import seeds
from koala.sampling.sampler import Sampler

TEACHER, SIDE = "tiny-sdxl", 32
PROMPTS = ("a red apple", "a blue cup", "a cat")
RECIPE = {"steps": 2, "guidance": 8.0, "resolution": SIDE}


def draw(out: Path, n: int = 70, prompts=PROMPTS, **more) -> int:
    file = out.with_suffix(".txt")
    file.write_text("\n".join(prompts))
    return command.run(command.Options(TEACHER, file, out, n, device="cpu", batch_size=8, **RECIPE | more))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    assert draw(out) == 0
    return out


def test_every_pair_is_what_the_teacher_draws_from_the_noise_of_its_seed(drawn):
    cache = Cache(drawn)
    assert len(cache) == 70
    sampler = Sampler(load(zoo.get(TEACHER), "cpu"))
    recipe = Recipe("euler", 2, 8.0)
    for index in (0, 5, 63, 64, 69):
        batch = cache.batch([index], [0])
        (seed,), (prompt,) = batch.noise_seeds, batch.captions
        assert (seed, prompt) == (index, PROMPTS[index % 3])
        expected = sampler.denoise(sampler.encode([prompt], None, recipe), [seed], recipe, SIDE, SIDE)
        torch.testing.assert_close(batch.clean.float(), expected, rtol=2e-3, atol=2e-3)
        told = sampler.encode_prompts([prompt])
        torch.testing.assert_close(batch.condition.context.float(), told.context, rtol=2e-3, atol=2e-3)
        assert batch.sizes.tolist() == [[SIDE, SIDE, 0, 0, SIDE, SIDE]]


def test_a_cache_of_images_knows_no_noise(tmp_path):
    assert Cache(trained_runs.cache(tmp_path / "cache", 2)).batch([0], [0]).noise_seeds is None


def test_again_draws_nothing_and_other_pairs_are_refused(drawn):
    before = {path.name: path.stat().st_mtime_ns for path in drawn.iterdir()}
    assert draw(drawn) == 0
    assert {path.name: path.stat().st_mtime_ns for path in drawn.iterdir()} == before
    for more in ({"n": 71}, {"seed": 5}, {"guidance": 7.0}, {"prompts": ("a dog",)}):
        with pytest.raises(KoalaError, match="made with other settings"):
            draw(drawn, **more)


def test_a_killed_command_goes_on_where_it_was(drawn, tmp_path):
    out, prompts = tmp_path / "pairs", tmp_path / "pairs.txt"
    prompts.write_text("\n".join(PROMPTS))
    line = [sys.executable, "-m", "koala", "pairs", TEACHER, "--prompts", prompts, "--out", out, "--n", 70]
    line += ["--device", "cpu", "--batch-size", 8, "--steps", 2, "--guidance", 8, "--resolution", SIDE]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(list(map(str, line)), env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (out / INDEX).exists() or not records.read([out / INDEX]).of_kind("unit").rows:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert draw(out) == 0
    for name in ("pairs-000000.safetensors", "pairs-000001.jsonl", "pairs-000001.safetensors"):
        assert (out / name).read_bytes() == (drawn / name).read_bytes(), name


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"n": -1}, "--n must be at least 0"),
        ({"resolution": 33}, "multiples of 8"),
        ({"prompts": ("  ",)}, "holds no prompt"),
        ({"steps": 0}, "at least 1 step"),
    ],
)
def test_a_mistake_is_one_clear_error(tmp_path, more, message):
    with pytest.raises(KoalaError, match=message):
        draw(tmp_path / "pairs", **more)
    assert not (tmp_path / "pairs").exists()


# ---- what is learnt from them


def spelled_out(generator, batch, timestep):
    alpha = training_schedule()[timestep].double()
    errors = []
    for row, seed in enumerate(batch.noise_seeds):
        noise = torch.randn(batch.clean.shape[1:], generator=seeds.generator(seed))[None]
        told = {"encoder_hidden_states": batch.condition.context[row : row + 1]}
        if batch.sizes is not None:
            told["added_cond_kwargs"] = {
                "text_embeds": batch.condition.pooled[row : row + 1],
                "time_ids": batch.sizes[row : row + 1],
            }
        prediction = generator(noise, torch.tensor([timestep]), **told).sample
        image = ((noise.double() - (1 - alpha).sqrt() * prediction.double()) / alpha.sqrt()).float()
        errors.append(F.mse_loss(image, batch.clean[row : row + 1].float()))
    return sum(errors) / len(errors)


def test_the_loss_is_the_distance_of_one_step_from_the_same_noise_to_the_teachers_image(drawn):
    objective = Regression(zoo.get(TEACHER), load(zoo.get(TEACHER), "cpu", seed=4, parts=("unet",)).unet, 399)
    assert isinstance(objective, Objective)
    batch = Cache(drawn).batch([3, 4], [0, 1]).to(torch.device("cpu"), torch.float32)
    terms = objective.terms("unet", batch)
    expected = spelled_out(objective.trained["unet"], batch, 399)
    assert terms.total.item() == pytest.approx(expected.item(), rel=1e-5)
    terms.total.backward()
    assert all(p.grad is not None for p in objective.trained["unet"].parameters())


def test_matching_and_regression_are_learnt_together():
    batch, other = random_batch(KOALA, 2), random_batch(KOALA, 2, seed=5)
    plain, both = matching_of(timesteps=(399,)), matching_of(timesteps=(399,), regression_weight=0.25)
    pairs = type(other)(**{**vars(other), "noise_seeds": (7, 8)})
    batch.others[PAIRS] = pairs
    for objective in (plain, both):
        objective.turns(0)
    without, terms = plain.terms(GENERATOR, batch), both.terms(GENERATOR, batch)
    regression = regression_loss(KOALA, both.trained[GENERATOR], 399, both._prepared(pairs))
    assert terms.parts["regression"].item() == pytest.approx(regression.item(), rel=1e-5)
    assert terms.total.item() == pytest.approx(without.total.item() + 0.25 * regression.item(), rel=1e-5)


def test_one_step_is_learnt_from_pairs_alone_without_a_critic(drawn, tmp_path):
    out = tmp_path / "out"
    options = ("--resolution", SIDE, "--steps", 2, "--batch-size", 2, "--device", "cpu", "--tracker", "none")
    run = "tiny-dmd2-sdxl-1step-pretrain"
    assert trained_runs.koala("train", run, "--data", drawn, "--out", out, "--workers", 0, *options) == 0
    rows = log.read(out / log.FILE)
    assert all(set(row["losses"]) == {"unet"} for row in rows)
    recipe = json.loads((out / "final/koala.json").read_text())["recipe"]
    assert (recipe["scheduler"], recipe["steps"], recipe["timesteps"]) == ("lcm", 1, [399])


def test_regression_wants_pairs(tmp_path, capsys):
    data = trained_runs.cache(tmp_path / "data", 2)
    run = ("train", "tiny-dmd2-koala-700m-1step", "--data", data, "--device", "cpu", "--out", tmp_path / "out")
    assert trained_runs.koala(*run, "--regression-weight", 0.25) == 2
    assert "`python -m koala pairs`" in capsys.readouterr().err
