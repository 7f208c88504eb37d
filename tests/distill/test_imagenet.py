"""DMD2 of EDM's ImageNet-64 against the same written out, and trained, resumed and sampled by its commands."""

from dataclasses import replace

import captioned
import pytest
import torch
from few_steps import SEED, matching_of
from random_batch import random_batch
from safetensors.torch import load_file
from trained_runs import koala, run

from koala.distill.assemble import models_of
from koala.distill.dmd2 import CRITIC, GENERATOR
from koala.distill.finetune import FineTuning
from koala.distill.kd import check_teacher
from koala.distill.noise import integers, normal
from koala.errors import KoalaError
from koala.models import zoo
from koala.models.load import load
from koala.sampling.gallery import Gallery

SPEC = zoo.get("tiny-edm-imagenet64")
ROWS = range(2)


def sigma_of(timestep):
    return (0.002 ** (1 / 7) + timestep / 999 * (80 ** (1 / 7) - 0.002 ** (1 / 7))) ** 7


def noise_of(stream):
    return normal(ROWS, SEED, stream, (3, 8, 8))


def times_of(stream, low, high):
    return integers(ROWS, SEED, f"{stream}, timestep", low, high)


def noisy(clean, stream, timesteps):
    return clean + sigma_of(timesteps.double()).float()[:, None, None, None] * noise_of(stream)


@pytest.fixture
def scene():
    """The objective and a batch; what the generator draws of it; how networks are called for it."""
    objective = matching_of(SPEC, SPEC, SPEC, timesteps=(999,), guidance=1.0, gan_weight=3e-3)
    batch = random_batch(SPEC)

    def seen(network, sample, timesteps):
        return network(sample, timesteps, class_labels=batch.condition.labels).sample

    objective.turns(0)
    with torch.no_grad():
        fake = seen(objective.trained[GENERATOR], 80 * noise_of("start"), torch.tensor([999, 999]))
    return objective, batch, fake, seen


def test_the_generators_loss_is_the_one_that_is_spelled_out(scene):
    objective, batch, fake, seen = scene
    terms = objective.terms(GENERATOR, batch)
    timesteps = times_of("matching", 20, 981)
    sample = noisy(fake, "matching", timesteps)
    with torch.no_grad():
        real = seen(objective.teacher, sample, timesteps)
        imagined = seen(objective.trained[CRITIC].unet, sample, timesteps)
    gradient = (imagined - real) / (fake - real).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(terms.parts["matching"], 0.5 * gradient.square().mean(), rtol=1e-4, atol=0)
    torch.testing.assert_close(terms.parts["brightness"], fake.mean(), rtol=1e-5, atol=1e-6)
    terms.total.backward()
    assert all(p.grad is not None for p in objective.trained[GENERATOR].parameters())


def test_the_critics_error_is_weighted_by_one_over_both_variances(scene):
    objective, batch, fake, seen = scene
    terms = objective.terms(CRITIC, batch)
    timesteps = times_of("critic", 0, 1000)
    predicted = seen(objective.trained[CRITIC].unet, noisy(fake, "critic", timesteps), timesteps)
    weights = [1 / sigma_of(t) ** 2 + 1 / 0.5**2 for t in timesteps.tolist()]
    errors = [(predicted[i] - fake[i]).square().mean() * weights[i] for i in ROWS]
    torch.testing.assert_close(terms.parts["task"], sum(errors) / 2, rtol=1e-4, atol=0)


def test_fine_tuning_has_edms_own_weights():
    unet = load(SPEC, "cpu", "fp32", "random", ("unet",), seed=1).unet
    batch, objective = random_batch(SPEC), FineTuning(SPEC, unet, SEED)
    task = objective.terms("unet", batch).total
    timesteps = integers(ROWS, SEED, "timestep", 0, 1000)
    sigma = sigma_of(timesteps.double()).float()[:, None, None, None]
    found = unet(batch.clean + sigma * noise_of("noise"), timesteps, class_labels=batch.condition.labels).sample
    # EDM table 1: lambda = (sigma^2 + sigma_data^2) / (sigma sigma_data)^2
    weights = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    torch.testing.assert_close(task, (weights * (found - batch.clean) ** 2).mean(), rtol=1e-4, atol=0)


def test_a_teacher_in_bf16_is_given_noisy_samples_in_full(scene):
    objective, batch, _, _ = scene
    given = []
    objective.teacher.bfloat16().register_forward_pre_hook(lambda module, args: given.append(args[0].dtype))
    objective.terms(GENERATOR, batch)
    assert given == [torch.float32]


def test_a_teacher_that_adds_noise_otherwise_is_refused():
    with pytest.raises(KoalaError, match=r"how noise is added \(sd and edm\)"):
        check_teacher(zoo.get("tiny-sdm-v1.5"), SPEC)


@pytest.mark.parametrize("wrong", [{"guidance": 2.0}, {"caption_dropout": 0.1}])
def test_a_run_that_needs_images_without_a_class_is_refused(wrong):
    models_of(run("tiny-dmd2-imagenet64"))
    with pytest.raises(KoalaError, match="knows no image without a class"):
        models_of(run("tiny-dmd2-imagenet64", **wrong))


@pytest.fixture(scope="module")
def finals(tmp_path_factory):
    """The results of a run that went through, and of one that stopped half way and went on."""
    folder = tmp_path_factory.mktemp("imagenet")
    rows = [{"file_name": f"{i}.png", "text": str(i % 4)} for i in range(6)]
    captioned.write_rows(folder / "photos" / "metadata.jsonl", rows)
    for i in range(6):
        captioned.picture(i).save(folder / "photos" / f"{i}.png")
    cache = folder / "cache"
    assert koala("encode", folder / "photos", "--model", SPEC.name, "--out", cache, "--device", "cpu") == 0
    common = ("--data", cache, "--device", "cpu", "--tracker", "none", "--workers", 0, "--save-every", 3)
    for name, steps in (("whole", 6), ("stopped", 3), ("stopped", 6)):
        assert koala("train", "tiny-dmd2-imagenet64", *common, "--out", folder / name, "--steps", steps) == 0
    return [folder / name / "final" for name in ("whole", "stopped")]


def tensors(final):
    return load_file(final / "diffusion_pytorch_model.safetensors")


def test_a_run_that_was_stopped_ends_as_one_that_went_through(finals):
    whole, stopped = map(tensors, finals)
    assert all(torch.equal(whole[key], stopped[key]) for key in whole)
    assert "diffusers.UNet2DModel.from_pretrained" in (finals[0] / "README.md").read_text()


def test_what_was_trained_draws_classes_by_number(finals, tmp_path, capsys):
    assert koala("sample", finals[0], "--classes", "3,0-1", "--device", "cpu", "--out", tmp_path) == 0
    assert "class 3: tiger shark" in capsys.readouterr().err
    pictures = Gallery(tmp_path).rows()
    assert [row["prompt"] for row in pictures] == ["3", "0", "1"]
    assert {tuple(row["recipe"]["timesteps"]) for row in pictures} == {(999,)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--classes", 1000), "have the numbers 0 to 999"),
        (("--classes", "3-1"), "neither a number nor a range"),
        (("cat", "--classes", 3), "not both"),
        (("cat",), "'cat' is none of them"),
        ((), "give numbers of classes"),
        (("--classes", 3, "--resolution", 20), "multiples of 8 pixels"),
        (("--classes", 3, "--scheduler", "ddim"), "known: euler, heun, lcm"),
    ],
)
def test_what_cannot_be_drawn_is_a_clear_error(arguments, said, tmp_path, capsys):
    assert koala("sample", "tiny-dmd2-imagenet64", *arguments, "--device", "cpu", "--out", tmp_path) == 2
    assert said in capsys.readouterr().err


def test_a_model_of_prompts_has_no_classes(tmp_path, capsys):
    assert koala("sample", "tiny-sdxl", "--classes", 3, "--device", "cpu", "--out", tmp_path) == 2
    assert "tiny-sdxl draws prompts" in capsys.readouterr().err


def test_it_is_exported_under_edms_names_and_diffusers_has_no_pipeline_for_it(finals, tmp_path, capsys):
    assert koala("export", finals[0], "--format", "diffusers", "--out", tmp_path / "exported") == 2
    assert "diffusers has no pipeline for" in capsys.readouterr().err
    file = tmp_path / "edm.safetensors"
    assert koala("export", finals[0], "--out", file, "--dtype", "fp32") == 0
    assert {"model.map_label.weight", "model.enc.8x8_conv.weight"} <= load_file(file).keys()
    spec = replace(zoo.get(str(finals[0])), folder=None)
    again = load(spec, "cpu", "fp32", str(file), ("unet",)).unet.state_dict()
    assert all(torch.equal(tensor, again[key]) for key, tensor in tensors(finals[0]).items())
