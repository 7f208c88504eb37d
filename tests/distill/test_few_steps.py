"""Runs of DMD2: how their critic begins, what goes together, and what comes out of them."""

from dataclasses import asdict, replace

import pytest
import torch
import trained_runs
from diffusers import DiffusionPipeline, LCMScheduler
from few_steps import critic_of as any_critic
from few_steps import unet_of
from PIL import Image
from safetensors.torch import save_file
from toy import ToyExamples

from bench.case import Axes, grid
from bench.rule import Rule
from bench.worker import measure_case
from koala.distill import few_steps, log, runs
from koala.distill.assemble import models_of, student_unet
from koala.distill.critic import Critic
from koala.distill.data.beside import beside
from koala.distill.data.order import index_of
from koala.errors import KoalaError
from koala.harness.cli import Command, main
from koala.models import zoo
from koala.models.load import load
from koala.models.spec import Recipe
from koala.sampling.gallery import Gallery
from koala.sampling.sampler import Sampler

NAME = "tiny-dmd2-koala-700m-4step"
SHORT = {"steps": 2, "batch_size": 1, "workers": 0, "device": "cpu", "tracker": "none", "ratio": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return trained_runs.cache(tmp_path_factory.mktemp("data") / "cache")


def critic_of(**changes) -> Critic:
    run = replace(runs.get(NAME), **changes)
    models = models_of(run)
    return few_steps.critic_of(run, models.student, models.teacher, models.critic, student_unet(run, models))


# ---- the critic


@pytest.mark.parametrize(
    ("name", "resolution", "shape"),
    [
        ("sdxl", 1024, (1280, 32, 32)),
        ("koala-700m", 1024, (1280, 32, 32)),  # no mid block
        ("koala-1b", 1024, (1280, 32, 32)),
        ("sdm-v1.5", 512, (1280, 8, 8)),
        ("bk-sdm-tiny", 512, (1280, 16, 16)),  # no mid block, nor the last stage
        ("sdxl", 768, (1280, 24, 24)),
    ],
)
def test_the_features_that_are_judged_have_their_shape_at_full_size(name, resolution, shape):
    assert few_steps.judged_shape(zoo.get(name), resolution) == shape


def test_a_critic_built_like_the_student_begins_as_the_student():
    run = runs.get(NAME)
    models = models_of(run)
    unet = student_unet(run, models)
    critic = few_steps.critic_of(run, models.student, models.teacher, models.critic, unet)
    own, theirs = critic.unet.state_dict(), unet.state_dict()
    assert all(torch.equal(own[key], theirs[key]) for key in theirs)
    assert own["conv_in.weight"].data_ptr() != theirs["conv_in.weight"].data_ptr()


def test_a_critic_built_like_the_teacher_begins_with_the_teachers_weights():
    critic, teacher = critic_of(critic=""), load(zoo.get("tiny-sdxl"), "cpu", parts=("unet",), seed=10).unet
    assert torch.equal(critic.unet.state_dict()["conv_in.weight"], teacher.state_dict()["conv_in.weight"])


def test_a_critic_beside_an_adapter_begins_with_the_weights_below_it():
    critic = critic_of(lora_rank=2)
    assert not any("lora" in key for key in critic.state_dict())


def test_a_critic_like_neither_wants_its_weights_named():
    with pytest.raises(KoalaError, match="built like neither student nor teacher: give --critic-weights"):
        critic_of(critic="tiny-koala-1b")
    assert critic_of(critic="tiny-koala-1b", critic_weights="random").unet.mid_block is not None


def test_a_critic_goes_on_from_an_earlier_runs_checkpoint_with_its_head_or_without_one(tmp_path):
    spec = zoo.get("tiny-koala-700m")
    whole, headless = any_critic(spec, 8, side=16), any_critic(spec, 9, judges=False)
    for name, critic in (("whole", whole), ("headless", headless)):
        save_file(critic.state_dict(), tmp_path / f"{name}.safetensors")
    found = critic_of(critic_weights=str(tmp_path / "whole.safetensors"))
    assert all(torch.equal(value, whole.state_dict()[key]) for key, value in found.state_dict().items())
    found = critic_of(critic_weights=str(tmp_path / "headless.safetensors"))
    assert torch.equal(found.unet.conv_in.weight, headless.unet.conv_in.weight) and found.head is not None


def test_a_checkpoint_of_another_critic_is_a_clear_error(tmp_path):
    path = tmp_path / "critic.safetensors"
    save_file(any_critic(zoo.get("tiny-koala-700m"), 8, side=64).state_dict(), path)
    with pytest.raises(KoalaError, match="judges features of another shape"):
        critic_of(critic_weights=str(path))
    save_file(any_critic(zoo.get("tiny-sdxl"), 8).state_dict(), path)
    with pytest.raises(KoalaError):
        critic_of(critic_weights=str(path))


def test_a_file_of_a_unet_alone_is_taken_too(tmp_path):
    unet = unet_of(zoo.get("tiny-koala-700m"), 5)
    save_file(unet.state_dict(), tmp_path / "unet.safetensors")
    found = critic_of(critic_weights=str(tmp_path / "unet.safetensors"))
    assert torch.equal(found.unet.conv_in.weight, unet.conv_in.weight)


def test_no_head_is_made_where_nothing_is_judged():
    assert critic_of(gan_weight=0.0, critic_gan_weight=0.0).head is None


# ---- what goes together


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timesteps": (249, 999)}, "--timesteps fall from"),
        ({"timesteps": (999, 999)}, "--timesteps fall from"),
        ({"timesteps": (1000, 3)}, "--timesteps fall from"),
        ({"teacher": "", "student_weights": "random"}, "needs a --teacher"),
        ({"features": ("SA",)}, "leave one of them out"),
        ({"matching_weight": 0.0, "gan_weight": 0.0}, "nothing is learnt"),
        ({"critic_gan_weight": 0.0}, "give --critic-gan-weight too"),
        ({"precision": "fp16"}, "bf16"),
        ({"ratio": 0}, "--ratio must be at least 1"),
        ({"guidance": -1.0}, "--guidance must be at least 0"),
        ({"timesteps": ()}, "give --timesteps"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, message):
    with pytest.raises(KoalaError, match=message):
        replace(runs.get(NAME), **changes)


@pytest.mark.parametrize(
    "changes", [{"critic": "sdxl"}, {"real": "a"}, {"pairs": "a"}, {"lpips": "a"}, {"regression_weight": 0.5}]
)
def test_what_is_for_few_steps_is_refused_elsewhere(changes):
    flag = "--" + next(iter(changes)).replace("_", "-")
    with pytest.raises(KoalaError, match=f"{flag} is for few steps: give --timesteps"):
        replace(runs.get("koala-700m-base"), **changes)


def test_a_critic_of_another_family_is_refused():
    with pytest.raises(KoalaError, match="cannot teach"):
        models_of(replace(runs.get(NAME), critic="tiny-sdm-v1.5"))


def test_the_student_of_a_run_is_sampled_by_its_steps_without_guidance():
    recipe = models_of(runs.get("dmd2-koala-700m-4step")).student.recipe
    assert recipe == Recipe("lcm", 4, 0.0, timesteps=(999, 749, 499, 249))
    assert recipe == zoo.get("dmd2-sdxl-4step").recipe
    assert models_of(runs.get("dmd2-sdxl-1step")).student.recipe == zoo.get("dmd2-sdxl-1step").recipe
    assert models_of(runs.get("dmd2-sd15-stage1")).student.recipe == zoo.get("dmd2-sd15").recipe


# ---- real images beside the prompts


def test_other_data_come_along_in_an_order_of_their_own():
    both = beside(ToyExamples(50), {"real": ToyExamples(7)}, seed=3)
    batch = both.batch([4, 9], [20, 21])
    assert batch.keys == ("image-4", "image-9")
    assert batch.others["real"].keys == tuple(f"image-{index_of(place, 7, 3)}" for place in (20, 21))
    assert (len(both), both.empty().context.shape) == (50, (1, 2, 3))
    moved = batch.to(torch.device("cpu"), torch.float64)
    assert moved.others["real"].clean.dtype == torch.float64
    assert beside(both, {}, 3) is both


def test_real_images_of_another_size_are_refused(data, tmp_path):
    other = trained_runs.cache(tmp_path / "other", 2, trained_runs.STUDENT, "--resolution", 64)
    assert trained_runs.koala("train", NAME, "--data", data, "--real", other, "--out", tmp_path / "out") == 2


# ---- from data to pictures


@pytest.fixture(scope="module")
def made(data):
    out = data.parent / "made"
    real = trained_runs.cache(data.parent / "real", 3)
    options = [word for name, value in SHORT.items() for word in (f"--{name.replace('_', '-')}", value)]
    options += ["--sample-every", 2]
    assert trained_runs.koala("train", NAME, "--data", data, "--real", real, "--out", out, *options) == 0
    return out


def test_a_run_logs_both_networks_and_what_tells_drift(made):
    rows = log.read(made / log.FILE)
    assert [set(row["losses"]) for row in rows] == [{"unet", "critic"}] * 2
    assert {"matching", "gradient", "gan", "brightness", "variance"} < rows[0]["losses"]["unet"].keys()
    assert {"task", "gan", "logit/fake", "logit/real"} < rows[0]["losses"]["critic"].keys()
    assert set(rows[0]["gradient_norm"]) == {"unet", "critic"}
    assert {"generator", "critic", "teacher"} < rows[0]["shares"].keys()


def test_a_sheet_shows_what_teacher_and_critic_see_in_the_generators_images(made):
    assert sorted(path.name for path in (made / "samples").iterdir()) == ["scores-000002.png", "step-000002.png"]
    with Image.open(made / "samples/scores-000002.png") as sheet:
        width, height = sheet.size
    assert width == 3 * 256 + 2 * 24 + 2 * 40, "three columns"
    assert height > 4 * 256, "a row for each of four images"


def test_a_run_that_differs_in_its_real_images_is_another_one(made, data):
    options = ("--data", data, "--real", data, "--out", made, "--steps", 4, "--device", "cpu", "--tracker", "none")
    assert trained_runs.koala("train", NAME, *options) == 2


def test_the_result_is_sampled_by_its_own_recipe_here_and_in_diffusers(made):
    spec = zoo.get(str(made / "final"))
    assert spec.recipe == Recipe("lcm", 4, 0.0, timesteps=(999, 749, 499, 249))
    pipeline = DiffusionPipeline.from_pretrained(made / "final")
    assert isinstance(pipeline.scheduler, LCMScheduler)
    pipeline.set_progress_bar_config(disable=True)
    components = load(spec, "cpu", "fp32", spec.own_weights)
    ours = Sampler(components).sample(["a red apple"], [7])
    shape = (1, 4, spec.resolution // 8, spec.resolution // 8)
    generator = torch.Generator().manual_seed(7)
    theirs = pipeline(
        "a red apple",
        guidance_scale=0.0,
        timesteps=list(spec.recipe.timesteps),
        latents=torch.randn(shape, generator=generator),
        generator=generator,
        height=spec.resolution,
        width=spec.resolution,
        output_type="pt",
    ).images
    assert (ours.float() - (theirs * 255).permute(0, 2, 3, 1)).abs().max() < 1.0


def test_bench_and_eval_take_the_result_by_its_path_and_in_its_own_steps(made, tmp_path, capsys):
    final = str(made / "final")
    (case,) = grid(Axes((final,), ("pipeline",), (), (1,), ("fp32",), (25,), "cpu"))
    measured = measure_case(lambda message: None, asdict(case), asdict(Rule(warmup=0, repeats=1, most=1)))
    assert (measured["status"], case.steps) == ("ok", 4) and len(measured["samples_s"]["step"][0]) == 4
    options = ["--models", final, "--suite", "koala-smoke", "--limit", "1", "--device", "cpu", "--out", str(tmp_path)]
    commands = {"generate": Command("eval.commands.generate", "")}
    assert main("eval", "", commands, (), ["generate", *options]) == 0
    (row,) = Gallery(capsys.readouterr().out.strip()).rows()
    assert row["model"] == case.model and row["recipe"]["timesteps"] == [999, 749, 499, 249]


def test_the_card_says_how_few_steps_are_drawn(made):
    card = (made / "final/README.md").read_text()
    assert "timesteps=[999, 749, 499, 249]" in card and "guidance_scale=0" in card
    assert "x distribution matching (the teacher guided by 8)" in card
